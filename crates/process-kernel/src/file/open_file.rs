//! Open file descriptions.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bitflags::bitflags;
use parking_lot::Mutex;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::locks::{FileLocks, Lock, LockHolder};
use super::{Destination, FileObject, Origin};
use crate::object::{Object, ObjectId, RestoreError, Restorer, SaveError, Saver};

bitflags! {
    /// The flags of an open file that fcntl(F_SETFL) may change, with Linux's values.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct StatusFlags: u32 {
        /// O_APPEND
        const APPEND = 0o2000;
        /// O_NONBLOCK
        const NONBLOCK = 0o4000;
        /// O_ASYNC
        const ASYNC = 0o20000;
        /// O_DIRECT
        const DIRECT = 0o40000;
        /// O_NOATIME
        const NOATIME = 0o1000000;
    }
}

/// What an open file may be used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum AccessMode {
    /// O_RDONLY
    Read,
    /// O_WRONLY
    Write,
    /// O_RDWR
    ReadWrite,
    /// O_PATH: only a place in the file tree.
    Path,
}

impl AccessMode {
    /// Whether read(2) is allowed.
    pub const fn reads(self) -> bool {
        matches!(self, Self::Read | Self::ReadWrite)
    }

    /// Whether write(2) is allowed.
    pub const fn writes(self) -> bool {
        matches!(self, Self::Write | Self::ReadWrite)
    }

    /// The access bits that fcntl(F_GETFL) reports.
    pub const fn bits(self) -> u32 {
        match self {
            Self::Read => 0,
            Self::Write => 1,
            Self::ReadWrite => 2,
            Self::Path => 0o10000000,
        }
    }
}

/// An open file description: an object, how it was opened, and a position. Duplicated descriptors share it.
pub struct OpenFile {
    /// The thing itself.
    pub object: Arc<dyn FileObject>,
    /// What it may be used for.
    pub access: AccessMode,
    flags: AtomicU32,
    /// Held while a positioned read or write runs, as Linux's f_pos lock is.
    position: Mutex<u64>,
    /// Made with the first lock.
    locks: Mutex<Option<LockHolder>>,
}

#[derive(Serialize, Deserialize)]
struct SavedOpenFile {
    object: ObjectId,
    access: AccessMode,
    flags: u32,
    position: u64,
    locks: Vec<Lock>,
}

impl OpenFile {
    /// An open file at position 0.
    pub fn new(object: Arc<dyn FileObject>, access: AccessMode, flags: StatusFlags) -> Arc<Self> {
        Arc::new(Self {
            object,
            access,
            flags: AtomicU32::new(flags.bits()),
            position: Mutex::new(0),
            locks: Mutex::new(None),
        })
    }

    /// Current status flags.
    pub fn flags(&self) -> StatusFlags {
        StatusFlags::from_bits_truncate(self.flags.load(Ordering::Relaxed))
    }

    /// Replaces the status flags.
    pub fn set_flags(&self, flags: StatusFlags) {
        self.flags.store(flags.bits(), Ordering::Relaxed);
    }

    /// Whether operations that would have to wait answer EAGAIN instead.
    pub fn nonblocking(&self) -> bool {
        self.flags().contains(StatusFlags::NONBLOCK)
    }

    /// The position, locked for as long as the guard lives.
    pub fn position(&self) -> parking_lot::MutexGuard<'_, u64> {
        self.position.lock()
    }

    /// The position, unless a read or write holds it at this moment.
    pub fn try_position(&self) -> Option<u64> {
        self.position.try_lock().map(|position| *position)
    }

    /// read(2): at the current position, which moves.
    ///
    /// # Errors
    /// EBADF when it is not open for reading, else the object's.
    pub fn read(&self, into: &mut Destination<'_>) -> Result<usize, Errno> {
        if !self.access.reads() {
            return Err(Errno::BADF);
        }
        if !self.object.seekable() {
            return self.object.read(None, into);
        }
        let mut position = self.position.lock();
        let count = self.object.read(Some(*position), into)?;
        *position += count as u64;
        Ok(count)
    }

    /// write(2): at the current position or, with O_APPEND, at the end; the position moves.
    ///
    /// # Errors
    /// EBADF when it is not open for writing, else the object's.
    pub fn write(&self, from: &mut Origin<'_>) -> Result<usize, Errno> {
        if !self.access.writes() {
            return Err(Errno::BADF);
        }
        if !self.object.seekable() {
            return self.object.write(None, from);
        }
        let mut position = self.position.lock();
        if self.flags().contains(StatusFlags::APPEND) {
            *position = self.object.size()?;
        }
        let count = self.object.write(Some(*position), from)?;
        *position += count as u64;
        Ok(count)
    }

    /// Runs `ask` with this file's part in the guest's locks.
    fn with_holder<T>(&self, all: &Arc<FileLocks>, ask: impl FnOnce(&LockHolder) -> T) -> Result<T, Errno> {
        let mut holder = self.locks.lock();
        if let Some(holder) = &*holder {
            return Ok(ask(holder));
        }
        let stat = self.object.stat()?;
        Ok(ask(holder.insert(LockHolder::new(all, (stat.dev, stat.ino)))))
    }

    /// Takes a lock on the file for this open file.
    ///
    /// # Errors
    /// EAGAIN when another open file's lock conflicts, ENOLCK.
    pub fn lock(&self, all: &Arc<FileLocks>, lock: Lock) -> Result<(), Errno> {
        self.with_holder(all, |holder| holder.take(lock))?
    }

    /// Another open file's lock that `lock` would conflict with.
    ///
    /// # Errors
    /// The host's errno.
    pub fn lock_conflict(&self, all: &Arc<FileLocks>, lock: &Lock) -> Result<Option<Lock>, Errno> {
        self.with_holder(all, |holder| holder.conflict(lock))
    }

    /// Gives up what this open file holds in the range of `lock`.
    pub fn unlock(&self, lock: &Lock) {
        if let Some(holder) = &*self.locks.lock() {
            holder.release(lock);
        }
    }

    /// Makes an open file again.
    ///
    /// # Errors
    /// [`RestoreError`] when the payload is damaged.
    pub fn restore(payload: &[u8], restorer: &mut Restorer<'_>) -> Result<Arc<dyn Object>, RestoreError> {
        let saved: SavedOpenFile = Restorer::decode("open file", payload)?;
        let object = restorer.file(saved.object)?;
        let file = Self {
            object,
            access: saved.access,
            flags: AtomicU32::new(saved.flags),
            position: Mutex::new(saved.position),
            locks: Mutex::new(None),
        };
        for lock in saved.locks {
            file.lock(restorer.context.vfs.locks(), lock)
                .map_err(|errno| RestoreError::Host { what: "a lock on a file", source: errno.into() })?;
        }
        Ok(Arc::new(file))
    }

    /// Registry key of saved open files.
    pub const KIND: &'static str = "open-file";
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        self.object.closed();
    }
}

impl Object for OpenFile {
    fn kind(&self) -> &'static str {
        Self::KIND
    }

    fn save(&self, saver: &mut Saver) -> Result<Vec<u8>, SaveError> {
        let saved = SavedOpenFile {
            object: saver.save(self.object.clone())?,
            access: self.access,
            flags: self.flags.load(Ordering::Relaxed),
            position: *self.position.lock(),
            locks: self.locks.lock().as_ref().map(LockHolder::held).unwrap_or_default(),
        };
        saver.encode(Self::KIND, &saved)
    }
}
