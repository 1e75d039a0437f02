//! The guest's one process.
//!
//! Run states: running -> pausing (all threads are told to come to a safe point) -> paused (all rest) -> running; from any
//! of them -> exiting (all threads are told to end) -> ended (none is left). One lock decides; see docs/process-guest.md.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::futex::FutexTable;
use super::signal::{ProcessSignalSource, ProcessSignals};
use super::{CpuState, Limits, SignalTimers, Thread, UnsupportedCalls};
use crate::clock::Clock;
use crate::file::FdTable;
use crate::fs::{FsContext, Vfs};
use crate::ipc::Ipc;
use crate::mm::Mm;
use crate::net::Network;
use crate::vdso::VdsoClock;

/// Time between two looks at whether a program has settled.
const SETTLING_POLL: Duration = Duration::from_micros(500);

/// What the process needs from whoever runs it: vCPUs for threads.
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

    /// Ticks per millisecond of the guest's time-stamp counter; `None` unless it reads as the host's.
    fn tsc_khz(&self) -> Option<u32> {
        None
    }
}

/// Who the process is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Identity {
    /// Process id; the main thread's id too.
    pub pid: i32,
    /// User id: real, effective and saved alike.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Node name (uname).
    pub hostname: String,
}

impl Default for Identity {
    /// Lambda's sandbox user (shared fact sheet lambda-api.md, section 9).
    fn default() -> Self {
        Self { pid: 1, uid: 993, gid: 990, hostname: "faasnap".to_owned() }
    }
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
    /// Threads at rest at a safe point.
    resting: usize,
    /// Why the guest's processor could not go on, if that ended it.
    fatal: Option<String>,
}

/// The parts that a process is made of.
pub struct ProcessParts {
    /// Memory.
    pub mm: Mm,
    /// Descriptors.
    pub files: FdTable,
    /// Mounted file systems.
    pub vfs: Arc<Vfs>,
    /// Current directory and umask.
    pub fs: FsContext,
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
    /// The most memory that the guest may use, bytes; enforced by whoever runs it.
    pub memory_limit: u64,
    /// The way to vCPUs.
    pub hooks: Arc<dyn Hooks>,
}

impl ProcessParts {
    /// What a new process has: memory and a file tree; nothing open, loopback only, default limits and identity.
    pub fn new(mm: Mm, vfs: Arc<Vfs>, memory_limit: u64, hooks: Arc<dyn Hooks>) -> Self {
        let clock = Arc::new(Clock::default());
        let ipc = Ipc::new(clock.clone());
        Self {
            mm,
            files: FdTable::new(),
            fs: FsContext::new(vfs.root()),
            vfs,
            network: Network::new(&ipc),
            ipc,
            clock,
            limits: Limits::default(),
            identity: Identity::default(),
            memory_limit,
            hooks,
        }
    }
}

/// The guest's process: everything its threads share.
pub struct Process {
    /// Memory.
    pub mm: Mm,
    /// Descriptors.
    pub files: FdTable,
    /// Mounted file systems.
    pub vfs: Arc<Vfs>,
    /// Current directory and umask.
    pub fs: FsContext,
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
    /// The most memory that the guest may use, bytes; enforced by whoever runs it.
    pub memory_limit: u64,
    /// Signal actions and signals pending for any thread.
    pub signals: ProcessSignals,
    /// Timers that send signals.
    pub(super) timers: SignalTimers,
    /// Threads asleep on words of guest memory.
    pub futexes: FutexTable,
    /// The program that runs: path, arguments and the like, for /proc.
    pub program: Mutex<ProgramImage>,
    /// The vDSO's clock.
    vdso: VdsoClock,
    /// What was asked for and is not there.
    pub unsupported: UnsupportedCalls,
    /// The way to vCPUs.
    pub hooks: Arc<dyn Hooks>,
    /// Held by the thread that replaces the program.
    executing: Mutex<()>,
    threads: Mutex<BTreeMap<i32, Arc<Thread>>>,
    next_tid: AtomicI32,
    /// What getpid answers.
    pid: AtomicI32,
    state: Mutex<RunState>,
    changed: Condvar,
}

/// What execve put in place.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ProgramImage {
    /// Absolute path of the executable.
    pub path: Vec<u8>,
    /// Arguments.
    pub arguments: Vec<Vec<u8>>,
    /// Environment, as NAME=VALUE.
    pub environment: Vec<Vec<u8>>,
    /// Where the vDSO lies, or 0.
    pub vdso: u64,
    /// Auxiliary vector, for /proc/self/auxv.
    pub auxiliary: Vec<(u64, u64)>,
}

/// Why a pause did not come about.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PauseError {
    /// The process has ended or is ending.
    #[error("the process has ended")]
    Ended,
    /// Some thread did not come to rest in time.
    #[error("{resting} of {threads} threads came to rest in time")]
    TimedOut {
        /// Threads at rest.
        resting: usize,
        /// Threads there are.
        threads: usize,
    },
}

impl Process {
    /// A process without threads.
    pub fn new(parts: ProcessParts) -> Arc<Self> {
        Self::again(parts, ProcessSignals::default(), ProgramImage::default())
    }

    /// A process from a snapshot, still without threads.
    pub(super) fn again(parts: ProcessParts, signals: ProcessSignals, program: ProgramImage) -> Arc<Self> {
        parts.mm.set_memory_limit(parts.memory_limit);
        let process = Arc::new(Self {
            mm: parts.mm,
            files: parts.files,
            vfs: parts.vfs,
            fs: parts.fs,
            network: parts.network,
            ipc: parts.ipc,
            clock: parts.clock,
            limits: parts.limits,
            next_tid: AtomicI32::new(parts.identity.pid),
            pid: AtomicI32::new(parts.identity.pid),
            identity: parts.identity,
            memory_limit: parts.memory_limit,
            signals,
            timers: SignalTimers::default(),
            futexes: FutexTable::default(),
            program: Mutex::new(program),
            vdso: VdsoClock::new(parts.hooks.tsc_khz()),
            unsupported: UnsupportedCalls::default(),
            hooks: parts.hooks,
            executing: Mutex::new(()),
            threads: Mutex::new(BTreeMap::new()),
            state: Mutex::new(RunState::default()),
            changed: Condvar::new(),
        });
        process.vfs.attach(&process);
        let source = ProcessSignalSource(Arc::downgrade(&process));
        process.ipc.signals.set_source(Arc::new(source));
        process
    }

    /// Writes the vDSO's data page: after a restore, at each invocation, and every second in between.
    pub fn refresh_vdso(&self) {
        let image = self.program.lock().vdso;
        self.vdso.refresh(&self.mm, &self.clock, image);
    }

    /// Lets it be written every second from now on.
    pub fn keep_vdso_fresh(self: &Arc<Self>) {
        crate::vdso::keep_fresh(self);
    }

    /// What getpid answers: [`Identity::pid`], and another number after each restore. A restored process is a copy, as a
    /// forked one is, and libraries with a random generator of their own (OpenSSL's) look at this number alone to see it:
    /// with the old one, two instances of a snapshot would draw the same keys.
    pub fn pid(&self) -> i32 {
        self.pid.load(Ordering::SeqCst)
    }

    /// Whether `pid` means this process: the id that it has, or the one that it began with, which it may have kept.
    pub fn has_pid(&self, pid: i32) -> bool {
        pid == self.identity.pid || pid == self.pid()
    }

    /// Gives a restored process its new id; call it after [`Process::set_next_tid`].
    pub(super) fn renew_pid(&self) {
        self.pid.store(self.new_tid(), Ordering::SeqCst);
    }

    /// A thread id that was never given out; the first is the process id.
    pub fn new_tid(&self) -> i32 {
        self.next_tid.fetch_add(1, Ordering::SeqCst)
    }

    /// The next thread id, for a snapshot.
    pub fn next_tid(&self) -> i32 {
        self.next_tid.load(Ordering::SeqCst)
    }

    /// Goes on with thread ids after a restore.
    pub fn set_next_tid(&self, tid: i32) {
        self.next_tid.store(tid, Ordering::SeqCst);
    }

    /// Adds a thread that is about to run.
    ///
    /// # Errors
    /// EAGAIN beyond the limit of RLIMIT_NPROC.
    pub fn add_thread(&self, thread: &Arc<Thread>) -> Result<(), Errno> {
        let limit = self.limits.get(super::Resource::Processes as u32).map_or(u64::MAX, |limit| limit.soft);
        let mut threads = self.threads.lock();
        if threads.len() as u64 >= limit {
            return Err(Errno::AGAIN);
        }
        threads.insert(thread.tid, thread.clone());
        Ok(())
    }

    /// All threads in the order of their ids.
    pub fn threads(&self) -> Vec<Arc<Thread>> {
        self.threads.lock().values().cloned().collect()
    }

    /// The thread with id `tid`.
    pub fn thread(&self, tid: i32) -> Option<Arc<Thread>> {
        self.threads.lock().get(&tid).cloned()
    }

    /// Takes a thread that has ended out. When it was the last, the process has ended with `status` unless something else
    /// ended it before.
    pub fn remove_thread(&self, tid: i32, status: ExitStatus) {
        let last = {
            let mut threads = self.threads.lock();
            threads.remove(&tid);
            threads.is_empty()
        };
        let mut state = self.state.lock();
        if last {
            state.exit.get_or_insert(status);
        }
        self.changed.notify_all();
    }

    /// Ends the process: all threads are told; the first status counts.
    pub fn exit(&self, status: ExitStatus) {
        self.state.lock().exit.get_or_insert(status);
        self.mm.stop_waiting();
        self.changed.notify_all();
        for thread in self.threads() {
            thread.notify();
        }
    }

    /// Ends the process because the guest's processor can't go on.
    pub fn fail(&self, reason: String) {
        self.state.lock().fatal.get_or_insert(reason);
        self.exit(ExitStatus::Signal(libc::SIGKILL));
    }

    /// Why the guest's processor could not go on, if that ended the process.
    pub fn failure(&self) -> Option<String> {
        self.state.lock().fatal.clone()
    }

    /// The status that the process ends or has ended with.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.state.lock().exit
    }

    /// Waits until every thread has ended, at most for `limit`; the status, or `None` when the time is over.
    pub fn wait_ended(&self, limit: Option<Duration>) -> Option<ExitStatus> {
        let deadline = limit.map(|limit| Instant::now() + limit);
        let mut state = self.state.lock();
        loop {
            if let Some(status) = state.exit
                && self.threads.lock().is_empty()
            {
                return Some(status);
            }
            match deadline {
                None => self.changed.wait(&mut state),
                Some(deadline) => {
                    if self.changed.wait_until(&mut state, deadline).timed_out() {
                        return None;
                    }
                }
            }
        }
    }

    /// Makes the calling thread the one that replaces the program, until the guard is dropped.
    ///
    /// # Errors
    /// EAGAIN when another thread does so already; it is about to end this one.
    pub(super) fn begin_exec(&self) -> Result<MutexGuard<'_, ()>, Errno> {
        self.executing.try_lock().ok_or(Errno::AGAIN)
    }

    /// Waits until the calling thread is the only one (execve ends the others).
    pub(super) fn wait_alone(&self) -> Result<(), Errno> {
        let mut state = self.state.lock();
        while self.threads.lock().len() > 1 {
            if state.exit.is_some() {
                return Err(Errno::AGAIN);
            }
            self.changed.wait(&mut state);
        }
        Ok(())
    }

    /// Waits, at most for `limit`, until every thread sleeps in a system call: what the program had begun when it was last
    /// heard of is done then, and need not be done again by every copy that goes on from a snapshot. Whether it came to that;
    /// a program that computes in the background never does.
    pub fn settle(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            if self.threads().iter().all(|thread| thread.parker().is_asleep()) {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(SETTLING_POLL);
        }
    }

    /// Brings every thread to rest at a safe point and keeps them there until [`Process::resume`].
    ///
    /// # Errors
    /// [`PauseError`]; after a time-out the threads run on.
    pub fn pause(&self, limit: Duration) -> Result<(), PauseError> {
        let deadline = Instant::now() + limit;
        self.state.lock().pausing = true;
        for thread in self.threads() {
            thread.notify();
        }
        let mut state = self.state.lock();
        loop {
            if state.exit.is_some() {
                state.pausing = false;
                return Err(PauseError::Ended);
            }
            let threads = self.threads.lock().len();
            if state.resting == threads {
                return Ok(());
            }
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                let resting = state.resting;
                state.pausing = false;
                self.changed.notify_all();
                return Err(PauseError::TimedOut { resting, threads });
            }
        }
    }

    /// Lets paused threads run on.
    pub fn resume(&self) {
        self.state.lock().pausing = false;
        self.changed.notify_all();
    }

    /// Whether a pause is wanted.
    pub(super) fn is_pausing(&self) -> bool {
        self.state.lock().pausing
    }

    /// Rests until the pause is over or the process ends.
    pub(super) fn rest(&self) {
        let mut state = self.state.lock();
        if !state.pausing || state.exit.is_some() {
            return;
        }
        state.resting += 1;
        self.changed.notify_all();
        while state.pausing && state.exit.is_none() {
            self.changed.wait(&mut state);
        }
        state.resting -= 1;
        self.changed.notify_all();
    }
}
