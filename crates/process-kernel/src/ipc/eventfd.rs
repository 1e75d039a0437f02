//! eventfd(2): a counter.

use std::sync::Arc;

use parking_lot::Mutex;
use rustix::io::Errno;

use super::anonymous;
use crate::file::{Destination, FileObject, Origin, Readiness, Stat};
use crate::object::{Object, RestoreError, Restorer, SaveError, Saver};
use crate::wait::WaitQueue;

/// Largest value of the counter.
const MAX: u64 = u64::MAX - 1;

/// An event counter. Snapshot rule: saved with its value.
pub struct EventFd {
    value: Mutex<u64>,
    /// EFD_SEMAPHORE: a read takes 1.
    semaphore: bool,
    queue: WaitQueue,
}

impl EventFd {
    /// Registry key.
    pub const KIND: &'static str = "eventfd";

    /// A counter that starts at `value`.
    pub fn new(value: u64, semaphore: bool) -> Arc<Self> {
        Arc::new(Self { value: Mutex::new(value), semaphore, queue: WaitQueue::default() })
    }

    /// See [`crate::object::RestoreFn`].
    ///
    /// # Errors
    /// [`RestoreError::Decode`].
    pub fn restore(payload: &[u8], _: &mut Restorer<'_>) -> Result<Arc<dyn Object>, RestoreError> {
        let (value, semaphore) = Restorer::decode(Self::KIND, payload)?;
        Ok(Self::new(value, semaphore))
    }
}

impl Object for EventFd {
    fn kind(&self) -> &'static str {
        Self::KIND
    }

    fn save(&self, saver: &mut Saver) -> Result<Vec<u8>, SaveError> {
        saver.encode(Self::KIND, &(*self.value.lock(), self.semaphore))
    }

    fn as_file(self: Arc<Self>) -> Option<Arc<dyn FileObject>> {
        Some(self)
    }
}

impl FileObject for EventFd {
    fn stat(&self) -> Result<Stat, Errno> {
        Ok(anonymous::stat())
    }

    fn read(&self, _: Option<u64>, into: &mut Destination<'_>) -> Result<usize, Errno> {
        if into.remaining() < 8 {
            return Err(Errno::INVAL);
        }
        let mut value = self.value.lock();
        let taken = match *value {
            0 => return Err(Errno::AGAIN),
            _ if self.semaphore => 1,
            all => all,
        };
        // Copied before it is taken: a bad pointer must not lose events.
        into.put(&taken.to_ne_bytes())?;
        *value -= taken;
        drop(value);
        self.queue.notify();
        Ok(8)
    }

    fn write(&self, _: Option<u64>, from: &mut Origin<'_>) -> Result<usize, Errno> {
        if from.remaining() < 8 {
            return Err(Errno::INVAL);
        }
        // Read without being used up: the call comes again after EAGAIN.
        let added = from.peek_u64()?;
        if added == u64::MAX {
            return Err(Errno::INVAL);
        }
        let mut value = self.value.lock();
        *value = value.checked_add(added).filter(|sum| *sum <= MAX).ok_or(Errno::AGAIN)?;
        drop(value);
        self.queue.notify();
        Ok(8)
    }

    fn readiness(&self) -> Readiness {
        let value = *self.value.lock();
        let mut ready = Readiness::empty();
        if value > 0 {
            ready |= Readiness::IN | Readiness::RDNORM;
        }
        if value < MAX {
            ready |= Readiness::OUT | Readiness::WRNORM;
        }
        ready
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.queue)
    }

    fn describe(&self) -> String {
        "anon_inode:[eventfd]".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::testing::{self, read, write};

    fn number(bytes: Vec<u8>) -> u64 {
        u64::from_ne_bytes(bytes.try_into().unwrap())
    }

    #[test]
    fn a_counter_is_read_whole_and_a_semaphore_by_one() {
        let counter = EventFd::new(3, false);
        write(&*counter, &4_u64.to_ne_bytes()).unwrap();
        assert_eq!(number(read(&*counter, 8).unwrap()), 7);
        assert_eq!(read(&*counter, 8), Err(Errno::AGAIN));
        let semaphore = EventFd::new(2, true);
        assert_eq!(number(read(&*semaphore, 8).unwrap()), 1);
        assert_eq!(number(read(&*semaphore, 100).unwrap()), 1);
        assert_eq!(read(&*semaphore, 8), Err(Errno::AGAIN));
    }

    #[test]
    fn a_full_counter_waits() {
        let counter = EventFd::new(0, false);
        assert_eq!(write(&*counter, &MAX.to_ne_bytes()), Ok(8));
        assert_eq!(write(&*counter, &1_u64.to_ne_bytes()), Err(Errno::AGAIN));
        assert_eq!(counter.readiness(), Readiness::IN | Readiness::RDNORM);
        assert_eq!(write(&*counter, &u64::MAX.to_ne_bytes()), Err(Errno::INVAL));
        assert_eq!(write(&*counter, &[0; 7]), Err(Errno::INVAL));
        assert_eq!(read(&*counter, 7), Err(Errno::INVAL));
    }

    #[test]
    fn a_restored_counter_has_its_value() {
        let (_, restored) = testing::round_trip(&EventFd::new(41, false));
        assert_eq!(number(read(&*restored, 8).unwrap()), 41);
    }
}
