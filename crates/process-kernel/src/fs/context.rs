//! What a process has of its own in the file tree: current directory and umask.

use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::RwLock;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::place::{Place, SavedPlace};
use crate::object::{RestoreError, Restorer, SaveError, Saver};

/// Current directory and umask of a process.
pub struct FsContext {
    directory: RwLock<Place>,
    umask: AtomicU32,
}

/// Saved form of an [`FsContext`].
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct SavedFsContext {
    directory: SavedPlace,
    umask: u32,
}

impl FsContext {
    /// A process that starts in `directory` with umask 022.
    pub fn new(directory: Place) -> Self {
        Self { directory: RwLock::new(directory), umask: AtomicU32::new(0o022) }
    }

    /// The current directory.
    pub fn directory(&self) -> Place {
        self.directory.read().clone()
    }

    /// chdir(2), the permissions already checked.
    ///
    /// # Errors
    /// ENOTDIR.
    pub fn set_directory(&self, place: Place) -> Result<(), Errno> {
        if !place.is_directory() {
            return Err(Errno::NOTDIR);
        }
        *self.directory.write() = place;
        Ok(())
    }

    /// Permission bits that new files don't get.
    pub fn umask(&self) -> u32 {
        self.umask.load(Ordering::Relaxed)
    }

    /// umask(2): sets it and returns the old one.
    pub fn set_umask(&self, umask: u32) -> u32 {
        self.umask.swap(umask & 0o777, Ordering::Relaxed)
    }

    /// Its saved form.
    ///
    /// # Errors
    /// [`SaveError`].
    pub fn save(&self, saver: &mut Saver) -> Result<SavedFsContext, SaveError> {
        Ok(SavedFsContext { directory: self.directory().save(saver)?, umask: self.umask() })
    }

    /// The context again.
    ///
    /// # Errors
    /// [`RestoreError`] when the saved form is damaged.
    pub fn restore(saved: &SavedFsContext, restorer: &mut Restorer<'_>) -> Result<Self, RestoreError> {
        let directory = Place::restore(&saved.directory, restorer)?;
        Ok(Self { directory: RwLock::new(directory), umask: AtomicU32::new(saved.umask & 0o777) })
    }
}
