//! signalfd: signals that are read.

use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use rustix::io::Errno;

use super::anonymous;
use crate::file::{Destination, FileObject, Readiness, Stat};
use crate::object::{Object, RestoreError, Restorer, SaveError, Saver};
use crate::wait::WaitQueue;

/// One signal as signalfd shows it: `struct signalfd_siginfo`.
pub type SignalRecord = [u8; 128];

/// Where signals come from: the process, which knows what is pending for the calling thread. Bit `n - 1` of a set stands
/// for signal `n`.
pub trait SignalSource: Send + Sync {
    /// Takes a pending signal of `set`, for the calling thread or the process.
    fn take(&self, set: u64) -> Option<SignalRecord>;

    /// Whether a signal of `set` is pending.
    fn pending(&self, set: u64) -> bool;
}

/// The process's signals as signal files see them. Until a source is set no signal is ever pending.
#[derive(Default)]
pub struct SignalHook {
    source: RwLock<Option<Arc<dyn SignalSource>>>,
    queue: WaitQueue,
}

impl SignalHook {
    /// Sets where signals come from.
    pub fn set_source(&self, source: Arc<dyn SignalSource>) {
        *self.source.write() = Some(source);
    }

    /// To be called by the source when a signal has become pending.
    pub fn signal_arrived(&self) {
        self.queue.notify();
    }

    fn source(&self) -> Option<Arc<dyn SignalSource>> {
        self.source.read().clone()
    }
}

/// A signal file. Snapshot rule: saved as its set; pending signals belong to the process.
pub struct SignalFd {
    set: Mutex<u64>,
    hook: Arc<SignalHook>,
}

/// SIGKILL and SIGSTOP, which can't be taken.
const NEVER: u64 = 1 << (libc::SIGKILL - 1) | 1 << (libc::SIGSTOP - 1);

impl SignalFd {
    /// Registry key.
    pub const KIND: &'static str = "signalfd";

    /// A file for the signals of `set`.
    pub fn new(hook: &Arc<SignalHook>, set: u64) -> Arc<Self> {
        Arc::new(Self { set: Mutex::new(set & !NEVER), hook: hook.clone() })
    }

    /// Replaces the set.
    pub fn set(&self, set: u64) {
        *self.set.lock() = set & !NEVER;
        self.hook.queue.notify();
    }

    /// See [`crate::object::RestoreFn`].
    ///
    /// # Errors
    /// [`RestoreError::Decode`].
    pub fn restore(payload: &[u8], restorer: &mut Restorer<'_>) -> Result<Arc<dyn Object>, RestoreError> {
        let set = Restorer::decode(Self::KIND, payload)?;
        Ok(Self::new(&restorer.context.ipc.signals, set))
    }
}

impl Object for SignalFd {
    fn kind(&self) -> &'static str {
        Self::KIND
    }

    fn save(&self, saver: &mut Saver) -> Result<Vec<u8>, SaveError> {
        saver.encode(Self::KIND, &*self.set.lock())
    }

    fn as_file(self: Arc<Self>) -> Option<Arc<dyn FileObject>> {
        Some(self)
    }
}

impl FileObject for SignalFd {
    fn stat(&self) -> Result<Stat, Errno> {
        Ok(anonymous::stat())
    }

    fn read(&self, _: Option<u64>, into: &mut Destination<'_>) -> Result<usize, Errno> {
        if into.remaining() < size_of::<SignalRecord>() {
            return Err(Errno::INVAL);
        }
        let set = *self.set.lock();
        let source = self.hook.source().ok_or(Errno::AGAIN)?;
        let mut count = 0;
        while into.remaining() >= size_of::<SignalRecord>()
            && let Some(record) = source.take(set)
        {
            count += into.put(&record)?;
        }
        if count == 0 { Err(Errno::AGAIN) } else { Ok(count) }
    }

    fn readiness(&self) -> Readiness {
        let set = *self.set.lock();
        if self.hook.source().is_some_and(|source| source.pending(set)) {
            Readiness::IN | Readiness::RDNORM
        } else {
            Readiness::empty()
        }
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.hook.queue)
    }

    fn describe(&self) -> String {
        "anon_inode:[signalfd]".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::testing::{self, read};

    /// Signals 10 and 12 are pending.
    struct Two(Mutex<Vec<u8>>);

    impl SignalSource for Two {
        fn take(&self, set: u64) -> Option<SignalRecord> {
            let mut pending = self.0.lock();
            let found = pending.iter().position(|signal| set & 1 << (signal - 1) != 0)?;
            let mut record = [0; 128];
            record[0] = pending.remove(found);
            Some(record)
        }

        fn pending(&self, set: u64) -> bool {
            self.0.lock().iter().any(|signal| set & 1 << (signal - 1) != 0)
        }
    }

    #[test]
    fn only_signals_of_the_set_are_read() {
        let ipc = testing::ipc();
        let file = SignalFd::new(&ipc.signals, 1 << 11);
        assert_eq!(read(&*file, 128), Err(Errno::AGAIN));
        ipc.signals.set_source(Arc::new(Two(Mutex::new(vec![10, 12]))));
        assert_eq!(file.readiness(), Readiness::IN | Readiness::RDNORM);
        let records = read(&*file, 300).unwrap();
        assert_eq!((records.len(), records[0]), (128, 12));
        assert_eq!(file.readiness(), Readiness::empty());
        file.set(u64::MAX);
        assert_eq!(read(&*file, 128).unwrap()[0], 10);
        assert_eq!(read(&*file, 127), Err(Errno::INVAL));
    }

    #[test]
    fn a_restored_file_has_its_set() {
        let file = SignalFd::new(&testing::ipc().signals, 1 << 9);
        let (context, restored) = testing::round_trip(&file);
        context.ipc.signals.set_source(Arc::new(Two(Mutex::new(vec![12, 10]))));
        assert_eq!(read(&*restored, 300).unwrap()[0], 10);
    }
}
