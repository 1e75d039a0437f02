//! The guest's one process.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::{CpuState, Limits, Thread, UnsupportedCalls};
use crate::clock::Clock;
use crate::file::FdTable;
use crate::fs::Vfs;
use crate::ipc::Ipc;
use crate::mm::Mm;
use crate::net::Network;

/// What the process needs from whoever runs it: vCPUs for threads, and a place for its log.
pub trait Hooks: Send + Sync {
    /// Runs `thread` on a vCPU of its own, starting with `cpu` and the vector state `fpu`.
    ///
    /// # Errors
    /// EAGAIN when no vCPU can be had.
    fn spawn(
        &self,
        process: &Arc<Process>,
        thread: &Arc<Thread>,
        cpu: CpuState,
        fpu: Vec<u8>,
    ) -> Result<(), Errno>;
}

/// Who the process is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Identity {
    /// Process id; the main thread's id too.
    pub pid: i32,
    /// User and group id, real, effective and saved alike.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Node name (uname).
    pub hostname: String,
}

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ExitStatus {
    /// exit or exit_group with this code, 0 to 255.
    Code(u8),
    /// Killed by this signal.
    Signal(i32),
}

/// Run state, which all threads obey.
#[derive(Default)]
struct RunState {
    exit: Option<ExitStatus>,
    pausing: bool,
    /// Threads that run guest code or serve a call.
    running: usize,
}

/// The guest's process: everything its threads share.
pub struct Process {
    /// Memory.
    pub mm: Mm,
    /// Descriptors.
    pub files: FdTable,
    /// Mounted file systems.
    pub vfs: Arc<Vfs>,
    /// Network.
    pub network: Arc<Network>,
    /// What pipes, timers, sockets and their kin share.
    pub ipc: Arc<Ipc>,
    /// Clocks.
    pub clock: Arc<Clock>,
    /// Resource limits.
    pub limits: Limits,
    /// Ids and names.
    pub identity: Identity,
    /// What was asked for and is not there.
    pub unsupported: UnsupportedCalls,
    /// The way to vCPUs.
    pub hooks: Arc<dyn Hooks>,
    threads: Mutex<BTreeMap<i32, Arc<Thread>>>,
    state: Mutex<RunState>,
    changed: Condvar,
}
