//! Descriptor numbers.

use std::sync::Arc;

use parking_lot::RwLock;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::OpenFile;
use crate::object::{ObjectId, RestoreError, Restorer, SaveError, Saver};

/// A guest's descriptor number.
pub type Fd = i32;

#[derive(Clone)]
struct Slot {
    file: Arc<OpenFile>,
    close_on_exec: bool,
}

/// The guest's descriptors.
pub struct FdTable {
    slots: RwLock<Vec<Option<Slot>>>,
}

/// Saved form: descriptor, open file, close-on-exec.
#[derive(Serialize, Deserialize, Default, Debug)]
pub struct SavedFdTable(Vec<(Fd, ObjectId, bool)>);

/// No table grows beyond this, whatever RLIMIT_NOFILE says: each entry costs the worker's own memory.
pub const MAX_DESCRIPTORS: usize = 65_536;

impl Default for FdTable {
    fn default() -> Self {
        Self::new()
    }
}

impl FdTable {
    /// An empty table.
    pub fn new() -> Self {
        Self { slots: RwLock::new(Vec::new()) }
    }

    /// The open file behind `fd`.
    ///
    /// # Errors
    /// EBADF.
    pub fn get(&self, fd: Fd) -> Result<Arc<OpenFile>, Errno> {
        let slots = self.slots.read();
        let slot = usize::try_from(fd).ok().and_then(|fd| slots.get(fd)?.as_ref());
        slot.map(|slot| slot.file.clone()).ok_or(Errno::BADF)
    }

    /// Puts `file` at the lowest free number that is at least `from` and below `limit` (RLIMIT_NOFILE).
    ///
    /// # Errors
    /// EMFILE when there is none, EINVAL when `from` is not below the limit.
    pub fn insert(
        &self,
        file: Arc<OpenFile>,
        from: Fd,
        limit: u64,
        close_on_exec: bool,
    ) -> Result<Fd, Errno> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX).min(MAX_DESCRIPTORS);
        let from = usize::try_from(from).map_err(|_| Errno::INVAL)?;
        if from >= limit {
            return Err(if from == 0 { Errno::MFILE } else { Errno::INVAL });
        }
        let mut slots = self.slots.write();
        let free = (from..slots.len()).find(|fd| slots[*fd].is_none()).unwrap_or(slots.len().max(from));
        if free >= limit {
            return Err(Errno::MFILE);
        }
        if free >= slots.len() {
            slots.resize(free + 1, None);
        }
        slots[free] = Some(Slot { file, close_on_exec });
        Ok(free as Fd)
    }

    /// Puts `file` at exactly `fd`, closing what was there (dup2).
    ///
    /// # Errors
    /// EBADF when `fd` is out of range.
    pub fn replace(&self, fd: Fd, file: Arc<OpenFile>, limit: u64, close_on_exec: bool) -> Result<(), Errno> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX).min(MAX_DESCRIPTORS);
        let index = usize::try_from(fd).ok().filter(|fd| *fd < limit).ok_or(Errno::BADF)?;
        let mut slots = self.slots.write();
        if index >= slots.len() {
            slots.resize(index + 1, None);
        }
        let old = slots[index].replace(Slot { file, close_on_exec });
        drop(slots);
        // The old file's last reference may end here: outside the lock, since closing wakes waiters.
        drop(old);
        Ok(())
    }

    /// Closes `fd`.
    ///
    /// # Errors
    /// EBADF.
    pub fn close(&self, fd: Fd) -> Result<(), Errno> {
        let mut slots = self.slots.write();
        let slot = usize::try_from(fd).ok().and_then(|fd| slots.get_mut(fd)?.take());
        drop(slots);
        slot.map(drop).ok_or(Errno::BADF)
    }

    /// Whether `fd` is closed by execve.
    ///
    /// # Errors
    /// EBADF.
    pub fn close_on_exec(&self, fd: Fd) -> Result<bool, Errno> {
        let slots = self.slots.read();
        let slot = usize::try_from(fd).ok().and_then(|fd| slots.get(fd)?.as_ref());
        slot.map(|slot| slot.close_on_exec).ok_or(Errno::BADF)
    }

    /// Sets whether `fd` is closed by execve.
    ///
    /// # Errors
    /// EBADF.
    pub fn set_close_on_exec(&self, fd: Fd, close_on_exec: bool) -> Result<(), Errno> {
        let mut slots = self.slots.write();
        let slot = usize::try_from(fd).ok().and_then(|fd| slots.get_mut(fd)?.as_mut());
        slot.map(|slot| slot.close_on_exec = close_on_exec).ok_or(Errno::BADF)
    }

    /// All open descriptors in order.
    pub fn open_descriptors(&self) -> Vec<Fd> {
        let slots = self.slots.read();
        slots.iter().enumerate().filter(|(_, slot)| slot.is_some()).map(|(fd, _)| fd as Fd).collect()
    }

    /// Closes the descriptors that execve closes.
    pub fn close_for_exec(&self) {
        let mut closed = Vec::new();
        for slot in self.slots.write().iter_mut() {
            if slot.as_ref().is_some_and(|slot| slot.close_on_exec) {
                closed.extend(slot.take());
            }
        }
        drop(closed);
    }

    /// Closes everything.
    pub fn close_all(&self) {
        let closed = std::mem::take(&mut *self.slots.write());
        drop(closed);
    }

    /// The table's saved form.
    ///
    /// # Errors
    /// [`SaveError`] naming the descriptor's object that can't be saved.
    pub fn save(&self, saver: &mut Saver) -> Result<SavedFdTable, SaveError> {
        let slots = self.slots.read().clone();
        let mut saved = Vec::new();
        for (fd, slot) in slots.into_iter().enumerate() {
            if let Some(slot) = slot {
                saved.push((fd as Fd, saver.save(slot.file)?, slot.close_on_exec));
            }
        }
        Ok(SavedFdTable(saved))
    }

    /// Makes the table again.
    ///
    /// # Errors
    /// [`RestoreError`] when the saved form is damaged.
    pub fn restore(saved: &SavedFdTable, restorer: &mut Restorer<'_>) -> Result<Self, RestoreError> {
        let table = Self::new();
        for (fd, id, close_on_exec) in &saved.0 {
            let file = restorer.concrete::<OpenFile>(*id, "open file")?;
            table
                .replace(*fd, file, MAX_DESCRIPTORS as u64, *close_on_exec)
                .map_err(|_| RestoreError::BadReference { id: id.0, wanted: "descriptor number" })?;
        }
        Ok(table)
    }
}
