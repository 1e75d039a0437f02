//! Hardware KVM on a machine without it: QEMU emulates a host with AMD's virtualisation, a Debian kernel boots in it, and steps run
//! there against its `kvm_amd`.
//!
//! What runs inside is carried in on a disk image, made from a folder ([`Staging`]) that has to have a root with a shell's
//! libraries in it. What happens inside comes out on the serial port as it happens. Times there mean nothing: guest code runs
//! some twenty times slower than on a processor where it has run before, several times that where it is new to the emulator (which
//! translates it, by physical address), and exits cost more still.
//!
//! Architecture invariant: knows nothing of functions or snapshots; what is carried in and what runs is its callers'.
#![forbid(unsafe_code)]

mod debian;
mod error;
mod machine;
mod report;
mod staging;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

pub use error::RigError;
pub use machine::SLOW_DISK;
pub use staging::Staging;

use debian::Kernel;
use machine::Boot;

/// How often the emulated host is booted at most. Its kernel panics now and then ("corrupted stack end detected inside
/// scheduler", with several vCPUs at work; seen with QEMU 7.2): a program at CPL3 behind nested paging can't do that, QEMU's
/// emulation of both can. Or QEMU falls silent. The steps that had not ended run again then; a step that *fails* is never repeated.
const BOOTS: u32 = 3;

/// A program of the machine that the rig needs.
#[derive(Clone, Copy, Debug)]
pub struct Need {
    /// The program.
    pub program: &'static str,
    /// Arguments with which it succeeds when it is there and usable.
    pub probe: &'static [&'static str],
    /// The Debian package that has it.
    pub package: &'static str,
}

/// All of them.
pub const NEEDS: [Need; 4] = [
    Need { program: "qemu-system-x86_64", probe: &["--version"], package: "qemu-system-x86" },
    Need { program: "sh", probe: &["-c", "PATH=$PATH:/usr/sbin:/sbin mke2fs -V"], package: "e2fsprogs" },
    Need { program: "strip", probe: &["--version"], package: "binutils" },
    Need { program: "dpkg-deb", probe: &["--version"], package: "dpkg" },
];

/// The Debian packages that are missing here.
pub fn missing() -> Vec<&'static str> {
    let is_there = |need: &&Need| {
        let mut probe = Command::new(need.program);
        probe.args(need.probe).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        probe.status().is_ok_and(|status| status.success())
    };
    NEEDS.iter().filter(|need| !is_there(need)).map(|need| need.package).collect()
}

/// Something that the shell runs inside; it has succeeded when its exit status is 0.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// Its name, one word.
    pub name: String,
    /// One line.
    pub line: String,
}

/// What a run shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shown<'a> {
    /// A line that a step said.
    Line(&'a str),
    /// What the rig itself has to say.
    Rig(&'a str),
    /// How each step ended, and after how many seconds: a line for each.
    Ended(&'a str),
}

/// An emulated host, and the folder in which its parts are kept from run to run.
pub struct Rig {
    folder: PathBuf,
    kernel: Kernel,
    initrd: PathBuf,
}

impl Rig {
    /// Gets what it boots: Debian's kernel and busybox, downloaded once.
    ///
    /// # Errors
    /// [`RigError`].
    pub fn new(folder: &Path) -> Result<Self, RigError> {
        std::fs::create_dir_all(folder).map_err(RigError::file("creating", folder))?;
        let kernel = debian::kernel(folder)?;
        let initrd = machine::initramfs(folder, &kernel)?;
        Ok(Self { folder: folder.to_owned(), kernel, initrd })
    }

    /// Runs `steps`, in which `environment` is set. `carry` puts in what they need, given the names of those that will run: all of
    /// them, or, when the emulated host itself ended, the rest. Inside, a kernel and its modules for guests are `/rig/kernel/image` and
    /// `/rig/kernel/modules`, and an empty slow disk ([`SLOW_DISK`]) is `/dev/vdb`.
    ///
    /// # Errors
    /// [`RigError`], or what `carry` gave, when one of them fails or does not end within `limit`.
    pub fn run<E: From<RigError>>(
        &self,
        steps: &[Step],
        environment: &str,
        limit: Duration,
        mut carry: impl FnMut(&Staging, &[Step]) -> Result<(), E>,
        show: &mut dyn FnMut(Shown<'_>),
    ) -> Result<(), E> {
        let [disk, slow_disk] = ["disk", "slow-disk"].map(|name| self.folder.join(name));
        let mut rest = steps;
        for boot in 1.. {
            // Each boot's is kept: one that died is looked into.
            let log = self.folder.join(if boot == 1 { "log".to_owned() } else { format!("log-{boot}") });
            let staging = Staging::new(&self.folder)?;
            carry(&staging, rest)?;
            self.furnish(&staging, rest, environment)?;
            staging.image(&disk)?;
            staging::empty(&self.folder, &slow_disk)?;
            let version = &self.kernel.version;
            show(Shown::Rig(&format!(
                "the rig: QEMU's emulated AMD host with Debian's kernel {version}; steps inside:"
            )));
            let (kernel, initrd) = (&self.kernel, &self.initrd);
            let boot_of = Boot { kernel, initrd, disk: &disk, slow_disk: &slow_disk, log: &log, limit };
            let report = machine::run(&boot_of, &mut |line| show(Shown::Line(line)))?;
            show(Shown::Ended(report.to_string().trim_end()));
            match report.host_died_after() {
                _ if report.is_good(rest.len()) => break,
                Some(ended) if boot < BOOTS => {
                    show(Shown::Rig(&format!(
                        "the rig: the emulated host itself ended, no step failed; it boots again for the others. Its log is in {}",
                        log.display()
                    )));
                    rest = rest.get(ended..).unwrap_or_default();
                }
                _ => return Err(RigError::Step { log }.into()),
            }
        }
        Ok(())
    }

    /// Puts in what every run has.
    fn furnish(&self, staging: &Staging, steps: &[Step], environment: &str) -> Result<(), RigError> {
        let rig = Path::new("/rig");
        staging.file(&self.kernel.image, &rig.join("kernel/image"))?;
        staging.tree(&self.kernel.modules, &rig.join("kernel/modules"), &[])?;
        staging.file(&debian::busybox(&self.folder)?, Path::new("/usr/bin/busybox"))?;
        staging.text(&rig.join("run"), include_str!("inside.sh"))?;
        staging.text(&rig.join("environment"), environment)?;
        let lines: String = steps.iter().map(|Step { name, line }| format!("{name} {line}\n")).collect();
        staging.text(&rig.join("steps"), &lines)
    }
}
