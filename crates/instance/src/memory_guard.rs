//! The memory limit: a thread that looks at the resident set of this process and ends a guest that has too much.
//!
//! The guest's pages are pages of this process, so the kernel counts them here. What the process had before the guest
//! began is its own and does not count against the guest; what serving the guest costs later (buffers of pipes, names of
//! files) does. Files in memory are memfds of the host, whose pages this process has only where it maps them: those
//! that memfd_create made count by what they hold, those of /tmp and /dev/shm have a size of their own instead.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;
use std::{fs, io};

use jail::WaitingThread;
use parking_lot::{Condvar, Mutex};
use process_kernel::task::{ExitStatus, Process};

/// How often is looked. A guest can go over its limit by what it can touch in this time.
const PERIOD: Duration = Duration::from_millis(20);

const SIGKILL: i32 = 9;

/// What the guard and its owner share.
#[derive(Default)]
struct Watched {
    over: AtomicBool,
    peak: AtomicU64,
    stopped: Mutex<bool>,
    stop: Condvar,
}

/// Ends a guest that uses more memory than it may. Dropping it ends the guard.
pub struct MemoryGuard {
    baseline: u64,
    watched: Arc<Watched>,
    /// Until there is something to watch.
    waiting: Option<WaitingThread>,
    thread: Option<JoinHandle<()>>,
}

fn started() -> io::Result<WaitingThread> {
    WaitingThread::start(Builder::new().name("memory-guard".to_owned()).stack_size(128 << 10), None, || {})
}

/// Bytes of this process that are in memory, but for pages of files in memory; 0 when the kernel doesn't say.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kibibytes = |field: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(0)
    };
    (kibibytes("RssAnon:") + kibibytes("RssFile:")) << 10
}

impl MemoryGuard {
    /// Takes what this process has now as its own. Make one before the guest is booted or restored.
    pub fn new() -> Self {
        Self { baseline: resident(), watched: Arc::default(), waiting: None, thread: None }
    }

    /// Starts its thread, which waits for a process to watch.
    ///
    /// # Errors
    /// The host's, when a thread can't be started.
    pub fn start(&mut self) -> io::Result<()> {
        self.waiting = Some(started()?);
        Ok(())
    }

    /// Watches `process`, which may use `limit` bytes, until the guard is dropped.
    ///
    /// # Errors
    /// The host's, when a thread can't be started.
    pub fn watch(&mut self, process: &Arc<Process>, limit: u64) -> io::Result<()> {
        let (process, watched, baseline) = (Arc::downgrade(process), self.watched.clone(), self.baseline);
        let work = move || {
            let mut stopped = watched.stopped.lock();
            while !*stopped {
                let Some(process) = process.upgrade() else { return };
                let used = resident().saturating_sub(baseline).saturating_add(process.vfs.memfd_bytes());
                watched.peak.fetch_max(used, Ordering::Relaxed);
                if used > limit {
                    watched.over.store(true, Ordering::SeqCst);
                    process.exit(ExitStatus::Signal(SIGKILL));
                    return;
                }
                drop(process);
                watched.stop.wait_for(&mut stopped, PERIOD);
            }
        };
        let waiting = self.waiting.take().map_or_else(started, Ok)?;
        self.thread = Some(waiting.give(work)?);
        Ok(())
    }

    /// Whether the guest was ended for its memory.
    pub fn was_exceeded(&self) -> bool {
        self.watched.over.load(Ordering::SeqCst)
    }

    /// The most bytes that the guest was seen to use so far, this moment included.
    pub fn peak(&self) -> u64 {
        let now = resident().saturating_sub(self.baseline);
        self.watched.peak.fetch_max(now, Ordering::Relaxed).max(now)
    }
}

impl Default for MemoryGuard {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for MemoryGuard {
    fn drop(&mut self) {
        *self.watched.stopped.lock() = true;
        self.watched.stop.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic of the guard was reported by its own thread; here is nothing to do about it.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_touched_is_seen() {
        let guard = MemoryGuard::new();
        let touched = vec![1u8; 32 << 20];
        assert!(guard.peak() >= 24 << 20);
        drop(touched);
        assert!(guard.peak() >= 24 << 20, "the peak stays");
        assert!(!guard.was_exceeded());
    }
}
