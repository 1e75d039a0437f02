//! Locks on files that belong to open files: flock(2) and open-file-description locks.
//!
//! POSIX record locks belong to a process. A guest is one process, so they never stand in anybody's way and are not kept.
//!
//! Snapshot rule: an open file's locks are saved with it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::wait::WaitQueue;

/// Which system call a lock came from; the two kinds don't see each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum LockKind {
    /// flock(2): the whole file.
    Whole,
    /// fcntl(F_OFD_SETLK): a range of bytes.
    Range,
}

/// A lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Lock {
    /// Where it came from.
    pub kind: LockKind,
    /// First byte.
    pub start: u64,
    /// Last byte; `u64::MAX` reaches to the end, wherever that will be.
    pub last: u64,
    /// Whether nobody else may hold one.
    pub exclusive: bool,
}

impl Lock {
    fn conflicts(&self, other: &Self) -> bool {
        self.kind == other.kind
            && (self.exclusive || other.exclusive)
            && self.start <= other.last
            && other.start <= self.last
    }

    /// What is left of the lock outside `start..=last`.
    fn without(self, start: u64, last: u64) -> impl Iterator<Item = Self> {
        let (lock, from, to) = (self, start, last);
        let before = (lock.start < from).then(|| Self { last: lock.last.min(from - 1), ..lock });
        let after = (lock.last > to).then(|| Self { start: lock.start.max(to + 1), ..lock });
        let apart = lock.last < from || lock.start > to;
        let whole = apart.then_some(lock);
        let pieces = if apart { [None, None] } else { [before, after] };
        whole.into_iter().chain(pieces.into_iter().flatten())
    }
}

/// Device and inode number.
type FileId = (u64, u64);

/// All locks of a guest.
#[derive(Default, Debug)]
pub struct FileLocks {
    held: Mutex<HashMap<FileId, Vec<(u64, Lock)>>>,
    changed: WaitQueue,
    next_owner: AtomicU64,
}

/// Locks one guest may hold: each costs the worker's own memory.
const MAX_LOCKS: usize = 16_384;

impl FileLocks {
    /// Notified when a lock is given up.
    pub fn changed(&self) -> &WaitQueue {
        &self.changed
    }

    /// A lock of another owner that `wanted` would conflict with.
    pub fn conflict(&self, file: FileId, owner: u64, wanted: &Lock) -> Option<Lock> {
        let held = self.held.lock();
        let locks = held.get(&file)?;
        locks.iter().find(|(other, lock)| *other != owner && lock.conflicts(wanted)).map(|(_, lock)| *lock)
    }

    /// Takes `wanted` for `owner`, in place of what it held in that range.
    fn take(&self, file: FileId, owner: u64, wanted: Lock) -> Result<(), Errno> {
        if self.conflict(file, owner, &wanted).is_some() {
            return Err(Errno::AGAIN);
        }
        let mut held = self.held.lock();
        if held.values().map(Vec::len).sum::<usize>() >= MAX_LOCKS {
            return Err(Errno::NOLCK);
        }
        let locks = held.entry(file).or_default();
        // Between the look above and now another thread may have been faster.
        if locks.iter().any(|(other, lock)| *other != owner && lock.conflicts(&wanted)) {
            return Err(Errno::AGAIN);
        }
        let weakened = replace(locks, owner, &wanted);
        locks.push((owner, wanted));
        drop(held);
        if weakened {
            self.changed.notify();
        }
        Ok(())
    }

    fn release(&self, file: FileId, owner: u64, range: &Lock) {
        let mut held = self.held.lock();
        if let Some(locks) = held.get_mut(&file) {
            replace(locks, owner, range);
            if locks.is_empty() {
                held.remove(&file);
            }
        }
        drop(held);
        self.changed.notify();
    }

    fn release_all(&self, owner: u64) {
        self.held.lock().retain(|_, locks| {
            locks.retain(|(other, _)| *other != owner);
            !locks.is_empty()
        });
        self.changed.notify();
    }
}

/// Cuts `range` out of the owner's locks of the same kind; whether anything was there.
fn replace(locks: &mut Vec<(u64, Lock)>, owner: u64, range: &Lock) -> bool {
    let (own, others): (Vec<_>, Vec<_>) =
        locks.drain(..).partition(|(other, lock)| *other == owner && lock.kind == range.kind);
    *locks = others;
    let before = own.len();
    locks.extend(
        own.into_iter().flat_map(|(_, lock)| lock.without(range.start, range.last)).map(|lock| (owner, lock)),
    );
    before > 0
}

/// One open file's part in the locks; dropping it gives them all up.
#[derive(Debug)]
pub struct LockHolder {
    locks: Arc<FileLocks>,
    owner: u64,
    file: FileId,
}

impl LockHolder {
    /// A holder of locks on the file with this device and inode number.
    pub fn new(locks: &Arc<FileLocks>, file: FileId) -> Self {
        let owner = locks.next_owner.fetch_add(1, Ordering::Relaxed);
        Self { locks: locks.clone(), owner, file }
    }

    /// Takes a lock.
    ///
    /// # Errors
    /// EAGAIN when another open file holds one that conflicts, ENOLCK when there are too many.
    pub fn take(&self, lock: Lock) -> Result<(), Errno> {
        self.locks.take(self.file, self.owner, lock)
    }

    /// Gives up what is held in the range of `lock`.
    pub fn release(&self, lock: &Lock) {
        self.locks.release(self.file, self.owner, lock);
    }

    /// What `wanted` would conflict with.
    pub fn conflict(&self, wanted: &Lock) -> Option<Lock> {
        self.locks.conflict(self.file, self.owner, wanted)
    }

    /// The locks held.
    pub fn held(&self) -> Vec<Lock> {
        let held = self.locks.held.lock();
        let locks = held.get(&self.file).into_iter().flatten();
        locks.filter(|(owner, _)| *owner == self.owner).map(|(_, lock)| *lock).collect()
    }
}

impl Drop for LockHolder {
    fn drop(&mut self) {
        self.locks.release_all(self.owner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, last: u64, exclusive: bool) -> Lock {
        Lock { kind: LockKind::Range, start, last, exclusive }
    }

    #[test]
    fn readers_share_and_writers_exclude() {
        let locks = Arc::new(FileLocks::default());
        let (one, two) = (LockHolder::new(&locks, (1, 1)), LockHolder::new(&locks, (1, 1)));
        let elsewhere = LockHolder::new(&locks, (1, 2));
        one.take(range(0, 9, false)).unwrap();
        two.take(range(5, 20, false)).unwrap();
        assert_eq!(two.take(range(0, 3, true)), Err(Errno::AGAIN));
        assert_eq!(two.conflict(&range(0, 3, true)), Some(range(0, 9, false)));
        assert_eq!(elsewhere.take(range(0, u64::MAX, true)), Ok(()));
        let whole = Lock { kind: LockKind::Whole, start: 0, last: u64::MAX, exclusive: true };
        assert_eq!(two.take(whole), Ok(()), "flock and range locks don't see each other");
        drop(one);
        assert_eq!(two.take(range(0, 3, true)), Ok(()));
    }

    #[test]
    fn unlocking_the_middle_leaves_both_ends() {
        let locks = Arc::new(FileLocks::default());
        let one = LockHolder::new(&locks, (1, 1));
        one.take(range(0, u64::MAX, true)).unwrap();
        one.release(&range(10, 19, true));
        assert_eq!(one.held(), [range(0, 9, true), range(20, u64::MAX, true)]);
        one.take(range(5, 30, false)).unwrap();
        let mut held = one.held();
        held.sort_by_key(|lock| lock.start);
        assert_eq!(held, [range(0, 4, true), range(5, 30, false), range(31, u64::MAX, true)]);
        one.release(&range(0, u64::MAX, false));
        assert!(locks.held.lock().is_empty());
    }
}
