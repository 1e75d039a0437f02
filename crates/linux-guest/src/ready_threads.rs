//! A machine's threads, for its processors, devices and disks: as many as are likely are started before there is a guest.

use std::io;
use std::thread::{Builder, JoinHandle};

use jail::{Role, WaitingThread};
use parking_lot::Mutex;

/// One processor, the devices, and four disks: a runtime's, a function's code, its layers and its own.
const LIKELY: usize = 6;

/// Threads that wait for work, one as good as the other.
#[derive(Debug, Default)]
pub(crate) struct ReadyThreads(Mutex<Vec<WaitingThread>>);

impl ReadyThreads {
    /// Starts the likely ones. This process must be as confined as it is to be.
    pub fn start() -> io::Result<Self> {
        let threads = (0..LIKELY).map(|_| started("machine"));
        Ok(Self(Mutex::new(threads.collect::<io::Result<_>>()?)))
    }

    /// Has `job` done by one of them, or by a new one with this name.
    pub fn run(&self, name: &str, job: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
        let ready = self.0.lock().pop();
        ready.map_or_else(|| started(name), Ok)?.give(job)
    }
}

fn started(name: &str) -> io::Result<WaitingThread> {
    WaitingThread::start(Builder::new().name(name.to_owned()), Some(Role::Microvm), || {})
}
