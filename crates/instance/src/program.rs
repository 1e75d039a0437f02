//! An ordinary Linux program in a process guest of this very process: what `faasnap exec` runs.

use std::collections::BTreeMap;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;

use machine::{Kvm, MachineError};
use process_guest::{GuestError, ProcessConfig, ProcessGuest};
use process_kernel::fs::{Caller, MountTable, Walk, open_by_path};
use process_kernel::ipc::HostStream;
use process_kernel::task::{ExecRequest, ExitStatus, Identity, Process};
use rustix::io::Errno;
use thiserror::Error;

use crate::memory_guard::MemoryGuard;

/// Where programs are looked for when the environment has no PATH (confstr(3), _CS_PATH).
const DEFAULT_PATH: &[u8] = b"/bin:/usr/bin";

/// A program to be run.
#[derive(Debug)]
pub struct Program {
    /// What it sees of files.
    pub mounts: MountTable,
    /// As whom it runs.
    pub identity: Identity,
    /// The most memory that it may use, bytes.
    pub memory_limit: u64,
    /// A path in the guest, or a name to look up in the environment's PATH.
    pub program: Vec<u8>,
    /// Arguments, the program's own name first.
    pub arguments: Vec<Vec<u8>>,
    /// Environment variables.
    pub environment: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Absolute path of its first working directory.
    pub directory: Vec<u8>,
    /// The descriptors that it starts with, by number.
    pub descriptors: BTreeMap<RawFd, OwnedFd>,
}

/// How a program ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProgramEnd {
    /// Its status.
    pub status: ExitStatus,
    /// It was ended because it used more memory than it may.
    pub out_of_memory: bool,
    /// Its processor could not go on, for this reason; then `status` says SIGKILL.
    pub failure: Option<String>,
    /// System calls that are not there: name and how often it was called.
    pub unsupported: Vec<(String, u64)>,
}

/// A program that could not be run.
#[derive(Debug, Error)]
pub enum ProgramError {
    /// KVM can't be used.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The guest can't be made, or the program can't be loaded.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// The working directory can't be entered.
    #[error("the working directory {path:?} can't be entered in the guest")]
    Directory {
        /// Its path in the guest.
        path: String,
        /// Why.
        #[source]
        source: Errno,
    },
    /// A descriptor of the caller can't be handed on.
    #[error("descriptor {number} can't be handed on to the program")]
    Descriptor {
        /// Its number.
        number: RawFd,
        /// Why.
        #[source]
        source: Errno,
    },
    /// Nothing of that name is in PATH.
    #[error("{name:?} is in none of the guest's directories {path}")]
    NotFound {
        /// What was looked for.
        name: String,
        /// PATH.
        path: String,
    },
    /// The thread that enforces the memory limit can't be started.
    #[error("the memory guard can't be started")]
    MemoryGuard(#[source] std::io::Error),
}

impl Program {
    /// Runs it to its end.
    ///
    /// # Errors
    /// [`ProgramError`] when it can't be started.
    pub fn run(self) -> Result<ProgramEnd, ProgramError> {
        let kvm = Kvm::open()?;
        let guest = ProcessGuest::new(&kvm)?;
        let mut guard = MemoryGuard::new();
        let config = ProcessConfig {
            mounts: self.mounts.clone(),
            identity: self.identity.clone(),
            memory_limit: self.memory_limit,
        };
        let process = guest.process(&config, &open_by_path)?;
        enter(&process, &self.directory)?;
        for (number, fd) in self.descriptors {
            let failed = |source| ProgramError::Descriptor { number, source };
            let file = HostStream::inherit(&process.ipc, fd).map_err(failed)?;
            let limit = process.limits.open_files();
            process.files.replace(number, file, limit, false).map_err(failed)?;
        }
        guard.watch(&process, self.memory_limit).map_err(ProgramError::MemoryGuard)?;
        start(&guest, &process, &self.program, self.arguments, &self.environment)?;
        let status = loop {
            if let Some(status) = process.wait_ended(None) {
                break status;
            }
        };
        Ok(ProgramEnd {
            status,
            out_of_memory: guard.was_exceeded(),
            failure: process.failure(),
            unsupported: unsupported(&process),
        })
    }
}

/// What a guest asked for and did not get.
pub(crate) fn unsupported(process: &Process) -> Vec<(String, u64)> {
    let calls = process.unsupported.counts();
    calls.into_iter().map(|(number, count)| (process_kernel::syscall::syscall_name(number), count)).collect()
}

/// Makes `directory` the working directory.
pub(crate) fn enter(process: &Process, directory: &[u8]) -> Result<(), ProgramError> {
    let identity = &process.identity;
    let caller = Caller { tid: identity.pid, uid: identity.uid, gid: identity.gid };
    let place = process.vfs.walk(&caller, &process.vfs.root(), directory, Walk::FOLLOW);
    place.and_then(|walked| process.fs.set_directory(walked.found()?)).map_err(|source| {
        ProgramError::Directory { path: String::from_utf8_lossy(directory).into_owned(), source }
    })
}

/// Starts `program`, looked up in PATH as execvp(3) does when it has no slash.
pub(crate) fn start(
    guest: &ProcessGuest,
    process: &Arc<Process>,
    program: &[u8],
    arguments: Vec<Vec<u8>>,
    environment: &BTreeMap<Vec<u8>, Vec<u8>>,
) -> Result<(), ProgramError> {
    let pairs = environment.iter().map(|(name, value)| [&name[..], b"=", value].concat());
    let mut request = ExecRequest { path: program.to_vec(), arguments, environment: pairs.collect() };
    if program.contains(&b'/') {
        return Ok(guest.start(process, &request)?);
    }
    let path = environment.get(&b"PATH"[..]).map_or(DEFAULT_PATH, Vec::as_slice);
    let mut refused = None;
    for directory in path.split(|byte| *byte == b':') {
        let directory = if directory.is_empty() { b"." } else { directory };
        request.path = [directory, b"/", program].concat();
        match guest.start(process, &request) {
            Ok(()) => return Ok(()),
            Err(GuestError::Program(error)) if matches!(error.errno, Errno::NOENT | Errno::NOTDIR) => {}
            Err(GuestError::Program(error)) if error.errno == Errno::ACCESS => {
                refused.get_or_insert(GuestError::Program(error));
            }
            Err(other) => return Err(other.into()),
        }
    }
    Err(refused.map_or_else(
        || ProgramError::NotFound {
            name: String::from_utf8_lossy(program).into_owned(),
            path: String::from_utf8_lossy(path).into_owned(),
        },
        ProgramError::Guest,
    ))
}
