//! Things in the making, and things on their way out.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};

use crate::error::StoreError;
use crate::home::Store;
use crate::lease::Lease;
use crate::manifest::sync_parent;

/// A folder below `staging/` that belongs to one running operation. Dropped without being published, it is deleted;
/// after a crash the next writer deletes it, because its lock is free.
#[derive(Debug)]
pub(crate) struct Staging {
    path: PathBuf,
    lock_path: PathBuf,
    /// Held as long as the operation runs.
    _lock: File,
}

impl Staging {
    pub(crate) fn new(store: &Store) -> Result<Self, StoreError> {
        let _home = store.lock()?;
        let name = uuid::Uuid::new_v4().simple().to_string();
        let path = store.staging().join(&name);
        let lock_path = store.staging().join(format!("{name}.lock"));
        let lock = File::create_new(&lock_path).map_err(StoreError::io("creating", &lock_path))?;
        lock.lock().map_err(StoreError::io("locking", &lock_path))?;
        make_folder(&path)?;
        Ok(Self { path, lock_path, _lock: lock })
    }

    /// The folder to make things in.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Moves `name` of this folder to `target`, which must not exist.
    pub(crate) fn publish_new(&self, name: &str, target: &Path) -> Result<(), StoreError> {
        rustix::fs::renameat_with(CWD, self.path.join(name), CWD, target, RenameFlags::NOREPLACE)
            .map_err(io::Error::from)
            .map_err(StoreError::io("publishing", target))?;
        sync_parent(target)
    }

    /// Puts `name` of this folder in the place of `target` in one step, and what was there into the trash.
    pub(crate) fn publish_over(&self, store: &Store, name: &str, target: &Path) -> Result<(), StoreError> {
        let staged = self.path.join(name);
        rustix::fs::renameat_with(CWD, &staged, CWD, target, RenameFlags::EXCHANGE)
            .map_err(io::Error::from)
            .map_err(StoreError::io("publishing", target))?;
        sync_parent(target)?;
        discard(store, &staged)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Whatever can't be deleted now is deleted by the next writer: its lock is free from here on.
        if fs::remove_dir_all(&self.path).is_ok() {
            let _ = fs::remove_file(&self.lock_path);
        }
    }
}

/// Makes a folder that only its owner may enter.
pub(crate) fn make_folder(path: &Path) -> Result<(), StoreError> {
    DirBuilder::new().mode(0o700).recursive(true).create(path).map_err(StoreError::io("creating", path))
}

/// Takes a thing away in one step. Its bytes go when nobody uses them any more. The caller holds the home's lock.
pub(crate) fn discard(store: &Store, path: &Path) -> Result<(), StoreError> {
    let grave = store.trash().join(uuid::Uuid::new_v4().simple().to_string());
    fs::rename(path, &grave).map_err(StoreError::io("removing", path))?;
    sync_parent(path)
}

/// Deletes what is in the trash and unused (a function's snapshots are discarded together, so leases one level down
/// count too), and what crashed operations left in staging. The caller holds the home's
/// lock. Failures are no error: whatever stays is tried again next time.
pub(crate) fn sweep(store: &Store) {
    for entry in entries(&store.trash()) {
        if Lease::is_free(&entry) && entries(&entry).iter().all(|child| Lease::is_free(child)) {
            let _ = if entry.is_dir() { fs::remove_dir_all(&entry) } else { fs::remove_file(&entry) };
        }
    }
    let has_extension = |path: &Path, wanted: &str| path.extension().is_some_and(|found| found == wanted);
    for lock_path in entries(&store.staging()) {
        if !has_extension(&lock_path, "lock") {
            continue;
        }
        let Ok(lock) = File::open(&lock_path) else { continue };
        if lock.try_lock().is_ok() {
            let left_behind = lock_path.with_extension("");
            if !left_behind.exists() || fs::remove_dir_all(&left_behind).is_ok() {
                let _ = fs::remove_file(&lock_path);
            }
        }
    }
}

/// The entries of a folder; none when it can't be read.
fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default()
}
