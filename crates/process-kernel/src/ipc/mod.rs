//! Objects that carry bytes or events between threads: pipes, eventfd, timerfd, epoll, signalfd; the log; the caller's
//! own streams. Nothing here blocks; see [`crate::file`] for the rule and [`crate::wait`] for how threads sleep.
//!
//! [`Ipc`] is what these objects share within one process.

mod account;
mod anonymous;
pub(crate) mod chunk_queue;
mod epoll;
mod eventfd;
mod expiry;
mod host_stream;
mod log_sink;
mod pipe;
mod reactor;
mod signalfd;
#[cfg(test)]
pub(crate) mod testing;
mod timer_queue;
mod timerfd;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use account::{Charge, MemoryAccount};
pub use epoll::{Epoll, Event, Interest};
pub use eventfd::EventFd;
pub use expiry::{Expiry, TimerClock};
pub use host_stream::HostStream;
pub use log_sink::{LogOutput, LogSink, LogStream};
pub use pipe::{Pipe, PipeEnd};
pub use reactor::{Reactor, Watch};
pub use signalfd::{SignalFd, SignalHook, SignalRecord, SignalSource};
pub use timer_queue::{TimerId, TimerQueue};
pub use timerfd::TimerFd;

use crate::clock::Clock;
use crate::object::RestoreFn;

/// Buffered bytes that one guest may keep in the worker, all pipes and sockets together; Linux stops enlarging pipes at
/// the same figure (pipe-user-pages-soft).
pub const BUFFER_LIMIT: usize = 64 << 20;

/// What pipes, timers, sockets and their kin share within one process.
pub struct Ipc {
    /// Pays for buffered bytes and queue entries.
    pub account: Arc<MemoryAccount>,
    /// Runs timers.
    pub timers: Arc<TimerQueue>,
    /// Watches the host's descriptors.
    pub reactor: Reactor,
    /// Where the function's standard output and error go.
    pub log: Arc<LogOutput>,
    /// What signal files read.
    pub signals: Arc<SignalHook>,
    /// Inode numbers of pipes, sockets and anonymous objects.
    next_inode: AtomicU64,
}

impl Ipc {
    /// The shared state of a new process whose clocks are `clock`. No thread is started before it is needed.
    pub fn new(clock: Arc<Clock>) -> Arc<Self> {
        Arc::new(Self {
            account: MemoryAccount::new(BUFFER_LIMIT),
            timers: TimerQueue::new(clock),
            reactor: Reactor::default(),
            log: Arc::default(),
            signals: Arc::default(),
            next_inode: AtomicU64::new(FIRST_INODE),
        })
    }

    /// An inode number that no other object of the process has.
    pub fn inode(&self) -> u64 {
        self.next_inode.fetch_add(1, Ordering::Relaxed)
    }

    /// Makes sure that [`Ipc::inode`] never gives `used` again (a restored object has it).
    pub fn reserve_inode(&self, used: u64) {
        self.next_inode.fetch_max(used.saturating_add(1), Ordering::Relaxed);
    }
}

/// Where numbering starts; small numbers look like special inodes to some programs.
const FIRST_INODE: u64 = 4096;

/// How the object kinds of this module are restored.
pub fn registry() -> Vec<(&'static str, RestoreFn)> {
    vec![
        (LogSink::KIND, LogSink::restore as RestoreFn),
        (Epoll::KIND, Epoll::restore),
        (EventFd::KIND, EventFd::restore),
        (SignalFd::KIND, SignalFd::restore),
        (TimerFd::KIND, TimerFd::restore),
        (Pipe::KIND, Pipe::restore),
        (PipeEnd::KIND, PipeEnd::restore),
    ]
}
