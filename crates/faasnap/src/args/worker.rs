//! `faasnap worker`, as a node starts it.
//!
//! Its command line is written by [`jail::launch`] and whoever calls it, so it is not clap's: building the tree of all commands
//! would cost each worker more than a megabyte of touched program and heap.

use std::ffi::OsString;

use anyhow::{Context, Result, bail};
use jail::Confinement;
use worker_protocol::MachineKind;

/// The command's name.
const NAME: &str = "worker";

/// What a worker is told when it is started.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct WorkerArguments {
    /// What its machine is made for.
    pub(crate) machine: MachineKind,
    /// The namespaces it was started in.
    pub(crate) jail: Confinement,
    /// Names of the descriptors from 3 on, in order.
    pub(crate) passed: Vec<String>,
}

impl WorkerArguments {
    /// The arguments of a worker if `words`, the program's name first, start one; `None` for every other command.
    pub(crate) fn typed(mut words: impl Iterator<Item = OsString>) -> Option<Result<Self>> {
        (words.nth(1)? == NAME).then(|| Self::parse(words))
    }

    fn parse(mut words: impl Iterator<Item = OsString>) -> Result<Self> {
        let (mut machine, mut jail) = (None, None);
        let mut passed = Vec::new();
        while let Some(option) = words.next() {
            let value = words.next().and_then(|value| value.into_string().ok());
            match (option.to_str(), value) {
                (Some("--jail"), Some(name)) => {
                    jail = Some(name.parse::<Confinement>().map_err(anyhow::Error::msg)?);
                }
                (Some("--machine"), Some(name)) => machine = Some(name.parse::<MachineKind>()?),
                (Some("--passed"), Some(name)) => passed.push(name),
                _ => bail!("faasnap worker is started by faasnap itself, not by hand"),
            }
        }
        let told = machine.zip(jail).context("faasnap worker is started by faasnap itself, not by hand")?;
        let (machine, jail) = told;
        Ok(Self { machine, jail, passed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(line: &str) -> Option<Result<WorkerArguments>> {
        WorkerArguments::typed(line.split(' ').map(OsString::from))
    }

    #[test]
    fn what_the_jail_writes_is_understood() {
        let worker =
            typed("faasnap worker --machine linux:128 --jail namespaces --passed kvm --passed userfaultfd");
        let machine = MachineKind::Linux { memory_mib: 128 };
        let passed = vec!["kvm".to_owned(), "userfaultfd".to_owned()];
        assert_eq!(
            worker.unwrap().unwrap(),
            WorkerArguments { machine, jail: Confinement::Namespaces, passed }
        );
    }

    #[test]
    fn other_commands_are_left_alone_and_mistakes_found() {
        assert!(typed("faasnap").is_none());
        assert!(typed("faasnap function worker").is_none());
        for wrong in [
            "",
            " --jail",
            " --machine x --jail namespaces",
            " --jail namespaces",
            " --jail none",
            " --help",
            " --passed kvm",
        ] {
            assert!(typed(&format!("faasnap worker{wrong}")).unwrap().is_err(), "{wrong}");
        }
    }
}
