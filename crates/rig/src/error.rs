//! What can go wrong in making the emulated host and in running it.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use initramfs::{ArchiveError, ModuleError};
use runtime_builder::BuildError;
use thiserror::Error;

/// Why there is no run, or none that came to its end.
#[derive(Debug, Error)]
pub enum RigError {
    /// A file or folder.
    #[error("{action} {}", path.display())]
    File {
        /// What was done, in the present participle.
        action: &'static str,
        /// To which.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A folder can't be walked through.
    #[error("reading a folder")]
    Walk(#[from] walkdir::Error),
    /// A program of the machine can't be started.
    #[error("starting {program}")]
    Start {
        /// Its name.
        program: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A program of the machine did not succeed.
    #[error("{program} ended with {status}")]
    Program {
        /// Its name.
        program: &'static str,
        /// How it ended.
        status: ExitStatus,
    },
    /// A Debian package can't be had.
    #[error("getting a package of the emulated host")]
    Package(#[from] BuildError),
    /// A package is not made as it used to be.
    #[error("the package of Debian's kernel has no modules in {}", .0.display())]
    NoModules(PathBuf),
    /// The kernel's modules.
    #[error("choosing the emulated host's modules")]
    Modules(#[from] ModuleError),
    /// What the kernel starts with.
    #[error("making what the emulated host starts with")]
    Archive(#[from] ArchiveError),
    /// A mark of the script inside that makes no sense.
    #[error("the emulated host said {0:?}, which is no mark of a step")]
    Mark(String),
    /// It took too long.
    #[error("the rig did not end within {minutes} minutes; its log is in {}", log.display())]
    Late {
        /// How long it was waited for.
        minutes: u64,
        /// Where all that it said is.
        log: PathBuf,
    },
    /// The emulator failed.
    #[error("QEMU ended with {status}; its log is in {}", log.display())]
    Emulator {
        /// How.
        status: ExitStatus,
        /// Where all that was said is.
        log: PathBuf,
    },
    /// A step failed, or the emulated host ended before all had ended.
    #[error("not every step succeeded inside the rig; the log above is in {}", log.display())]
    Step {
        /// Where all that was said is.
        log: PathBuf,
    },
}

impl RigError {
    /// Says what was done to `path`.
    pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { action, path, source }
    }

    /// Says which program could not be started, or not waited for.
    pub(crate) fn start(program: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Start { program, source }
    }
}
