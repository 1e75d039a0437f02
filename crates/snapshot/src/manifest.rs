//! What a snapshot says about where and when it was taken.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::sync::OnceLock;

use pages::PAGE_SIZE;
use serde::{Deserialize, Serialize};

/// What a snapshot's contents depend on: guest programs have probed the CPU, and saved vCPU state fits one kernel's KVM.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MachineIdentity {
    /// "GenuineIntel", "AuthenticAMD".
    pub cpu_vendor: String,
    /// The model's name with family, model and stepping.
    pub cpu_model: String,
    /// The CPU's feature flags as the kernel names them, separated by spaces.
    pub cpu_features: String,
    /// `uname -r`.
    pub kernel_release: String,
    /// Bytes in a page.
    pub page_size: u64,
}

impl MachineIdentity {
    /// Reads this machine's identity from /proc/cpuinfo (its first processor) and uname, once per process: it does not
    /// change, and a jailed process can't read it again.
    ///
    /// # Errors
    /// When /proc/cpuinfo can't be read.
    pub fn of_this_machine() -> io::Result<Self> {
        static KNOWN: OnceLock<MachineIdentity> = OnceLock::new();
        if let Some(known) = KNOWN.get() {
            return Ok(known.clone());
        }
        // The first processor's block is a few KiB; the file of a large machine is megabytes, made while it is read.
        let mut start = Vec::new();
        File::open("/proc/cpuinfo")?.take(16 << 10).read_to_end(&mut start)?;
        let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
        let identity = Self::from_cpuinfo(&String::from_utf8_lossy(&start), kernel);
        Ok(KNOWN.get_or_init(|| identity).clone())
    }

    fn from_cpuinfo(text: &str, kernel_release: String) -> Self {
        let first_processor = text.split("\n\n").next().unwrap_or_default();
        let value = |key: &str| {
            first_processor
                .lines()
                .filter_map(|line| line.split_once(':'))
                .find(|(name, _)| name.trim() == key)
                .map_or("unknown", |(_, value)| value.trim())
        };
        Self {
            cpu_vendor: value("vendor_id").to_owned(),
            cpu_model: format!(
                "{} (family {}, model {}, stepping {})",
                value("model name"),
                value("cpu family"),
                value("model"),
                value("stepping")
            ),
            cpu_features: value("flags").to_owned(),
            kernel_release,
            page_size: PAGE_SIZE,
        }
    }

    /// In words, each thing in which `current` differs from the recorded identity; empty when a snapshot fits.
    pub fn differences(&self, current: &Self) -> Vec<String> {
        let mut found = Vec::new();
        let mut compare = |what: &str, recorded: &str, now: &str| {
            if recorded != now {
                found.push(format!("{what} was \"{recorded}\", is \"{now}\""));
            }
        };
        compare("CPU vendor", &self.cpu_vendor, &current.cpu_vendor);
        compare("CPU model", &self.cpu_model, &current.cpu_model);
        compare("kernel", &self.kernel_release, &current.kernel_release);
        compare("page size", &self.page_size.to_string(), &current.page_size.to_string());
        let flags = |identity: &'_ Self| -> BTreeSet<String> {
            identity.cpu_features.split_ascii_whitespace().map(str::to_owned).collect()
        };
        let (recorded, now) = (flags(self), flags(current));
        let list = |flags: Vec<&String>| flags.iter().map(|flag| flag.as_str()).collect::<Vec<_>>().join(" ");
        if recorded != now {
            found.push(format!(
                "CPU features: missing here [{}], new here [{}]",
                list(recorded.difference(&now).collect()),
                list(now.difference(&recorded).collect())
            ));
        }
        found
    }
}

/// The manifest section.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// The machine that the snapshot was taken on, and can be restored on.
    pub machine: MachineIdentity,
    /// Seconds since 1970 when it was taken.
    pub created_unix_seconds: u64,
}

/// Version of the manifest section.
pub(crate) const MANIFEST_VERSION: u16 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    const CPUINFO: &str = "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 143\n\
        model name\t: A CPU\nstepping\t: 8\nflags\t\t: fpu avx avx2\n\nprocessor\t: 1\nvendor_id\t: other\n";

    #[test]
    fn identity_is_read_from_the_first_processor() {
        let identity = MachineIdentity::from_cpuinfo(CPUINFO, "6.1".into());
        assert_eq!(identity.cpu_vendor, "GenuineIntel");
        assert_eq!(identity.cpu_model, "A CPU (family 6, model 143, stepping 8)");
        assert_eq!(identity.cpu_features, "fpu avx avx2");
    }

    #[test]
    fn differences_name_the_flags_and_nothing_else() {
        let recorded = MachineIdentity::from_cpuinfo(CPUINFO, "6.1".into());
        let current = MachineIdentity { cpu_features: "avx fpu sse".into(), ..recorded.clone() };
        assert_eq!(recorded.differences(&current), ["CPU features: missing here [avx2], new here [sse]"]);
        assert!(recorded.differences(&recorded).is_empty());
    }

    #[test]
    fn this_machine_equals_itself() {
        let identity = MachineIdentity::of_this_machine().unwrap();
        assert_ne!(identity.cpu_vendor, "unknown");
        assert!(identity.differences(&MachineIdentity::of_this_machine().unwrap()).is_empty());
    }
}
