//! What workers' machines are made for: a word of a worker's command line.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// What a worker's machine is made for, before it is known which function will run in it. A worker is told when it is started.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum MachineKind {
    /// Any process guest.
    Process,
    /// A linux guest of a function of this size: its memory is part of the machine.
    Linux {
        /// The function's memory, MiB.
        memory_mib: u64,
    },
}

impl fmt::Display for MachineKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process => write!(formatter, "process"),
            Self::Linux { memory_mib } => write!(formatter, "linux:{memory_mib}"),
        }
    }
}

impl FromStr for MachineKind {
    type Err = UnknownMachine;

    fn from_str(name: &str) -> Result<Self, UnknownMachine> {
        let memory = |text: &str| text.parse().map_err(|_| UnknownMachine);
        match name.split_once(':') {
            None if name == "process" => Ok(Self::Process),
            Some(("linux", size)) => Ok(Self::Linux { memory_mib: memory(size)? }),
            _ => Err(UnknownMachine),
        }
    }
}

/// A name that no kind of machine has.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("there is no such kind of machine")]
pub struct UnknownMachine;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_what_its_word_says() {
        for kind in [MachineKind::Process, MachineKind::Linux { memory_mib: 128 }] {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        for wrong in ["", "linux", "linux:", "linux:x", "linux:-1", "process:1"] {
            assert_eq!(wrong.parse::<MachineKind>(), Err(UnknownMachine), "{wrong}");
        }
    }
}
