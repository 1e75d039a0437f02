//! Threads that are started, and confined, before there is work for them: that costs a restore 0.1 to 0.2 ms otherwise, and as
//! much again for the first touches of a new thread's heap. With them the memory that is read into: each first touch of it would
//! wait for the address space's lock, and hold up the thread that maps.

use std::io;
use std::num::NonZero;
use std::sync::{OnceLock, mpsc};
use std::thread::{self, Builder, JoinHandle};

use jail::{Role, WaitingThread};
use parking_lot::Mutex;

use crate::loading_set::CHUNK;

/// Bytes of heap that a thread touches ahead; what is given back stays with its arena up to 128 KiB (glibc's
/// M_TRIM_THRESHOLD).
const HEAP: usize = 96 << 10;

fn started(name: &str, role: Option<Role>) -> io::Result<WaitingThread> {
    WaitingThread::start(Builder::new().name(name.to_owned()), role, touch_heap)
}

fn touch_heap() {
    drop(touched(HEAP));
}

/// Not zeros: memory of zeros is given out untouched.
fn touched(bytes: usize) -> Vec<u8> {
    std::hint::black_box(vec![1; bytes])
}

/// The threads of one restore. Those that are missing are started when they are needed.
#[derive(Default)]
pub struct ReadyThreads {
    processors: OnceLock<usize>,
    planner: Mutex<Option<WaitingThread>>,
    loaders: Mutex<Vec<WaitingThread>>,
    buffer: Mutex<Option<Vec<u8>>>,
}

impl ReadyThreads {
    /// Starts one to plan, one to read and one to map, and touches the caller's own heap ahead, too. This process must be as confined as it is to be.
    ///
    /// # Errors
    /// When the host has no thread left.
    pub fn start() -> io::Result<Self> {
        touch_heap();
        let loaders = [Self::loader()?, Self::loader()?];
        let planner = Some(started("planner", None)?);
        let buffer = Some(touched(CHUNK.bytes() as usize));
        let threads = Self {
            planner: Mutex::new(planner),
            loaders: Mutex::new(loaders.into()),
            buffer: Mutex::new(buffer),
            ..Self::default()
        };
        threads.processors();
        Ok(threads)
    }

    /// How many processors they and the guest have between them. The host's files are asked once.
    pub(crate) fn processors(&self) -> usize {
        let asked = || thread::available_parallelism().map_or(usize::MAX, NonZero::get);
        *self.processors.get_or_init(asked)
    }

    /// Memory for one chunk of a loading set; the first time it is the one that was touched ahead.
    pub(crate) fn buffer(&self) -> Vec<u8> {
        self.buffer.lock().take().unwrap_or_else(|| vec![0; CHUNK.bytes() as usize])
    }

    fn loader() -> io::Result<WaitingThread> {
        started("loader", Some(Role::Loader))
    }

    /// Has `plan` worked out beside the caller.
    ///
    /// # Errors
    /// When the host has no thread left.
    pub fn plan<T: Send + 'static>(
        &self,
        plan: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<Planning<T>> {
        let ready = self.planner.lock().take();
        let (sender, planned) = mpsc::sync_channel(1);
        // Who doesn't wait for the plan has no use for it.
        let job = move || drop(sender.send(plan()));
        let waiting = ready.map_or_else(|| started("planner", None), Ok)?;
        Ok(Planning { planned, thread: waiting.give(job)? })
    }

    /// Has `job` done by a thread that is confined to bringing memory in.
    ///
    /// # Errors
    /// When the host has no thread left.
    pub(crate) fn load(&self, job: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
        let ready = self.loaders.lock().pop();
        ready.map_or_else(Self::loader, Ok)?.give(job)
    }
}

/// A plan under way.
pub struct Planning<T> {
    planned: mpsc::Receiver<T>,
    thread: JoinHandle<()>,
}

impl<T> Planning<T> {
    /// Waits for it.
    ///
    /// # Panics
    /// As planning did.
    pub fn join(self) -> T {
        match (self.planned.recv(), self.thread) {
            (Ok(planned), _) => planned,
            (Err(_), thread) => match thread.join() {
                Err(panic) => std::panic::resume_unwind(panic),
                Ok(()) => unreachable!("a thread that planned to its end has sent what it planned"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_done_with_and_without_ready_threads() {
        for threads in [ReadyThreads::default(), ReadyThreads::start().unwrap()] {
            for number in 0..3 {
                assert_eq!(threads.plan(move || number).unwrap().join(), number);
                let (sender, done) = mpsc::channel();
                threads.load(move || sender.send(number).unwrap()).unwrap().join().unwrap();
                assert_eq!(done.recv(), Ok(number));
                assert_eq!(threads.buffer().len() as u64, CHUNK.bytes());
            }
        }
    }

    #[test]
    #[should_panic(expected = "planning failed")]
    fn a_panic_is_the_callers() {
        ReadyThreads::default().plan(|| panic!("planning failed")).unwrap().join()
    }
}
