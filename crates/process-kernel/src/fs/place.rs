//! A file and where it was found.

use std::sync::Arc;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::mount::{Mount, PointId};
use super::{FileType, Inode};
use crate::object::{ObjectId, RestoreError, Restorer, SaveError, Saver};

/// A file together with the mount and name it was found under: what Linux calls a path.
#[derive(Clone)]
pub struct Place {
    /// The mount.
    pub mount: Arc<Mount>,
    /// The file.
    pub inode: Arc<dyn Inode>,
    /// For what is no directory: the directory it was found in, and its name there.
    pub(super) entry: Option<(Arc<dyn Inode>, Arc<[u8]>)>,
    /// The node of the mount tree at this path, if mounts are here or below.
    pub(super) point: Option<PointId>,
}

/// Saved form of a [`Place`].
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct SavedPlace {
    mount: String,
    inode: ObjectId,
    entry: Option<(ObjectId, Vec<u8>)>,
}

impl Place {
    /// Whether both are the same file found on the same mount.
    pub fn is(&self, other: &Self) -> bool {
        let identity = |place: &Self| place.inode.metadata().map(|stat| (stat.dev, stat.ino)).ok();
        Arc::ptr_eq(&self.mount, &other.mount)
            && (Arc::ptr_eq(&self.inode, &other.inode)
                || identity(self).is_some_and(|id| Some(id) == identity(other)))
    }

    /// The absolute path inside the guest; followed by " (deleted)" when that path leads there no more.
    pub fn path(&self) -> Vec<u8> {
        if let Some(path) = self.inode.pseudo_path() {
            return path;
        }
        let mut names: Vec<Vec<u8>> = Vec::new();
        let mut deleted = self.inode.is_deleted();
        let mut directory = self.inode.clone();
        if let Some((parent, name)) = &self.entry {
            deleted |= parent.lookup(name).is_err();
            names.push(name.to_vec());
            directory = parent.clone();
        }
        while let Some((parent, name)) = directory.parent() {
            names.push(name);
            directory = parent;
        }
        let mut path = self.mount.path.trim_end_matches('/').as_bytes().to_vec();
        for name in names.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        if path.is_empty() {
            path.push(b'/');
        }
        if deleted {
            path.extend_from_slice(b" (deleted)");
        }
        path
    }

    /// [`Place::path`] for messages and /proc.
    pub fn display(&self) -> String {
        String::from_utf8_lossy(&self.path()).into_owned()
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.inode.file_type() == FileType::Directory
    }

    /// # Errors
    /// EROFS when the mount is read-only.
    pub fn writable(&self) -> Result<(), Errno> {
        if self.mount.writable { Ok(()) } else { Err(Errno::ROFS) }
    }

    /// The place's saved form.
    ///
    /// # Errors
    /// [`SaveError`] when an inode can't be saved.
    pub fn save(&self, saver: &mut Saver) -> Result<SavedPlace, SaveError> {
        let entry = match &self.entry {
            Some((directory, name)) => Some((saver.save(directory.clone())?, name.to_vec())),
            None => None,
        };
        Ok(SavedPlace { mount: self.mount.path.clone(), inode: saver.save(self.inode.clone())?, entry })
    }

    /// The place again.
    ///
    /// # Errors
    /// [`RestoreError`] when the saved form is damaged or a file changed.
    pub fn restore(saved: &SavedPlace, restorer: &mut Restorer<'_>) -> Result<Self, RestoreError> {
        let inode = restorer.inode(saved.inode)?;
        let entry = match &saved.entry {
            Some((directory, name)) => Some((restorer.inode(*directory)?, Arc::from(name.as_slice()))),
            None => None,
        };
        let vfs = &restorer.context.vfs;
        let mount = vfs.mount_by_path(&saved.mount).ok_or_else(|| RestoreError::FileChanged {
            path: saved.mount.clone(),
            problem: "is no mount point any more",
        })?;
        Ok(vfs.place(mount, inode, entry))
    }
}
