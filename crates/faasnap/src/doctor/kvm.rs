//! /dev/kvm and which module is behind it.

use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;

use super::{Finding, read};

const GROUP: &str = "virtual machines";

/// What runs the guests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// Software: guest code at CPL3 at native speed, page tables shadowed.
    Pvm,
    /// AMD's hardware.
    Amd,
    /// Intel's hardware.
    Intel,
}

impl Kind {
    fn detect(modules: &Path) -> Option<Self> {
        [("kvm_pvm", Self::Pvm), ("kvm_amd", Self::Amd), ("kvm_intel", Self::Intel)]
            .into_iter()
            .find(|(module, _)| modules.join(module).exists())
            .map(|(_, kind)| kind)
    }

    fn describe(self) -> &'static str {
        match self {
            Self::Pvm => {
                "kvm_pvm: software, guests run at native speed at CPL3, exits and faults cost more than on hardware"
            }
            Self::Amd => "kvm_amd: hardware",
            Self::Intel => "kvm_intel: hardware",
        }
    }
}

pub(super) fn examine() -> Vec<Finding> {
    let kind = Kind::detect(Path::new("/sys/module"));
    let device = File::options().read(true).write(true).open("/dev/kvm").map(drop);
    let problem = device.err().map(|error| error.kind());
    vec![kind_finding(kind), device_finding(problem), linux_finding(kind), cpu_finding()]
}

fn kind_finding(kind: Option<Kind>) -> Finding {
    match kind {
        Some(kind) => Finding::good(GROUP, "KVM module", kind.describe()),
        None => Finding::missing(GROUP, "KVM module", "none", "nothing can run: every function is a virtual machine")
            .mend("as root: modprobe kvm_amd or modprobe kvm_intel; in a virtual machine, switch nested virtualisation on"),
    }
}

fn linux_finding(kind: Option<Kind>) -> Finding {
    let name = "linux guests";
    match kind {
        Some(Kind::Amd | Kind::Intel) => Finding::good(GROUP, name, "can run"),
        Some(Kind::Pvm) | None => {
            let meaning = "an unmodified kernel can't run here; process guests don't need that";
            Finding::limited(GROUP, name, "no hardware KVM", meaning)
                .mend("use a machine with AMD's or Intel's virtualisation")
        }
    }
}

fn device_finding(problem: Option<ErrorKind>) -> Finding {
    let bad = |found: &str| Finding::missing(GROUP, "/dev/kvm", found, "virtual machines can't be made");
    match problem {
        None => Finding::good(GROUP, "/dev/kvm", "can be opened"),
        Some(ErrorKind::NotFound) => {
            bad("not there").mend("load a KVM module; in a container, start it with --device /dev/kvm")
        }
        Some(ErrorKind::PermissionDenied) => bad("this user may not open it")
            .mend("as root: usermod -aG kvm $USER, then log in again; or chmod 666 /dev/kvm for everybody"),
        Some(other) => bad(&format!("can't be opened: {other}")),
    }
}

fn cpu_finding() -> Finding {
    let text = read("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        text.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            (found.trim() == name).then(|| value.trim().to_owned())
        })
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    match field("model name") {
        Some(model) if cfg!(target_arch = "x86_64") => {
            Finding::good(GROUP, "CPU", format!("{model}, {cores} usable"))
        }
        _ => Finding::missing(GROUP, "CPU", std::env::consts::ARCH, "only x86-64 is supported"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn the_module_names_the_kind() {
        let modules = tempfile::tempdir().unwrap();
        assert_eq!(Kind::detect(modules.path()), None);
        std::fs::create_dir(modules.path().join("kvm_intel")).unwrap();
        assert_eq!(Kind::detect(modules.path()), Some(Kind::Intel));
        // kvm_pvm can only be there when the others can't work.
        std::fs::create_dir(modules.path().join("kvm_pvm")).unwrap();
        assert_eq!(Kind::detect(modules.path()), Some(Kind::Pvm));
        assert_eq!(kind_finding(None).state, State::Missing);
    }

    #[test]
    fn each_problem_with_the_device_has_its_remedy() {
        assert_eq!(device_finding(None).state, State::Good);
        for (problem, remedy) in [(ErrorKind::NotFound, "--device"), (ErrorKind::PermissionDenied, "usermod")]
        {
            let finding = device_finding(Some(problem));
            assert_eq!(finding.state, State::Missing);
            assert!(finding.mend.unwrap().contains(remedy));
        }
    }
}
