//! An open file without a name in any file system, as the magic links of /proc/self/fd lead to it.

use std::sync::Arc;

use rustix::io::Errno;

use super::{Caller, FileType, Inode, Place};
use crate::file::{AccessMode, FileObject, OpenFile, Stat};
use crate::object::{Object, ObjectId, RestoreError, Restorer, SaveError, Saver};

/// A pipe, socket or other object seen as a file of the tree. Opening it gives the same object a new open file.
pub struct ObjectInode {
    file: Arc<OpenFile>,
}

impl ObjectInode {
    /// Registry key.
    pub const KIND: &'static str = "object-inode";

    /// The object behind `file`.
    pub fn new(file: Arc<OpenFile>) -> Self {
        Self { file }
    }

    /// The inode again.
    ///
    /// # Errors
    /// [`RestoreError`] when the saved form is damaged.
    pub fn restore(payload: &[u8], restorer: &mut Restorer<'_>) -> Result<Arc<dyn Object>, RestoreError> {
        let file: ObjectId = Restorer::decode("object inode", payload)?;
        Ok(Arc::new(Self { file: restorer.concrete(file, "open file")? }))
    }
}

impl Object for ObjectInode {
    fn kind(&self) -> &'static str {
        Self::KIND
    }

    fn save(&self, saver: &mut Saver) -> Result<Vec<u8>, SaveError> {
        let file = saver.save(self.file.clone())?;
        saver.encode(Self::KIND, &file)
    }

    fn as_inode(self: Arc<Self>) -> Option<Arc<dyn Inode>> {
        Some(self)
    }
}

impl Inode for ObjectInode {
    fn metadata(&self) -> Result<Stat, Errno> {
        self.file.object.stat()
    }

    fn file_type(&self) -> FileType {
        let mode = self.file.object.stat().map_or(0, |stat| stat.mode);
        // Anonymous objects (eventfd, epoll) have no type; Linux lets nobody open them through /proc.
        FileType::of_mode(mode).filter(|kind| *kind != FileType::Directory).unwrap_or(FileType::Socket)
    }

    fn open(
        self: Arc<Self>,
        _: &Place,
        access: AccessMode,
        _: &Caller,
    ) -> Result<Arc<dyn FileObject>, Errno> {
        // Sockets and anonymous objects can't be opened; a pipe's end not for the other direction.
        match self.file_type() {
            FileType::Fifo | FileType::CharacterDevice | FileType::Regular => {}
            _ => return Err(Errno::NXIO),
        }
        let allowed =
            (self.file.access.reads() || !access.reads()) && (self.file.access.writes() || !access.writes());
        if allowed { Ok(self.file.object.clone()) } else { Err(Errno::ACCESS) }
    }

    fn truncate(&self, size: u64) -> Result<(), Errno> {
        self.file.object.truncate(size)
    }

    fn pseudo_path(&self) -> Option<Vec<u8>> {
        Some(self.file.object.describe().into_bytes())
    }
}
