//! Open regular files of a tree in memory.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::contents::{Contents, Seals};
use super::node::TmpfsInode;
use crate::file::{AccessMode, Destination, FileObject, Mappable, Origin, Stat};
use crate::fs::{Inode, Place, SavedPlace};
use crate::object::{Object, RestoreError, Restorer, SaveError, Saver};

/// An open regular file in memory.
pub struct TmpfsFile {
    inode: Arc<TmpfsInode>,
    contents: Arc<Contents>,
    place: Place,
    access: AccessMode,
}

#[derive(Serialize, Deserialize)]
struct Saved {
    place: SavedPlace,
    access: AccessMode,
}

impl TmpfsFile {
    /// Registry key.
    pub const KIND: &'static str = "tmpfs-file";

    pub(super) fn new(inode: Arc<TmpfsInode>, place: Place, access: AccessMode) -> Result<Self, Errno> {
        let contents = inode.contents()?;
        Ok(Self { inode, contents, place, access })
    }

    /// F_GET_SEALS
    pub fn seals(&self) -> Seals {
        self.contents.seals()
    }

    /// F_ADD_SEALS
    ///
    /// # Errors
    /// EPERM when the file can't be sealed (any more) or isn't open for writing, EBUSY while shared writable mappings
    /// exist.
    pub fn add_seals(&self, seals: Seals) -> Result<(), Errno> {
        if self.access.writes() { self.contents.add_seals(seals) } else { Err(Errno::PERM) }
    }

    /// The file again.
    ///
    /// # Errors
    /// [`RestoreError`] when the saved form is damaged.
    pub fn restore(payload: &[u8], restorer: &mut Restorer<'_>) -> Result<Arc<dyn Object>, RestoreError> {
        let saved: Saved = Restorer::decode("open file in memory", payload)?;
        let place = Place::restore(&saved.place, restorer)?;
        let failed = |problem| RestoreError::FileChanged { path: place.display(), problem };
        let inode: Arc<dyn std::any::Any + Send + Sync> = place.inode.clone();
        let inode = inode.downcast::<TmpfsInode>().map_err(|_| failed("is no file in memory"))?;
        let file = Self::new(inode, place.clone(), saved.access).map_err(|_| failed("is no regular file"))?;
        Ok(Arc::new(file))
    }
}

impl Object for TmpfsFile {
    fn kind(&self) -> &'static str {
        Self::KIND
    }

    fn save(&self, saver: &mut Saver) -> Result<Vec<u8>, SaveError> {
        let saved = Saved { place: self.place.save(saver)?, access: self.access };
        saver.encode(Self::KIND, &saved)
    }

    fn as_file(self: Arc<Self>) -> Option<Arc<dyn FileObject>> {
        Some(self)
    }

    fn as_mappable(self: Arc<Self>) -> Option<Arc<dyn Mappable>> {
        Some(self)
    }
}

impl Mappable for TmpfsFile {
    fn host_file(&self) -> Result<BorrowedFd<'_>, Errno> {
        self.contents.host_file()
    }

    fn writable(&self) -> bool {
        self.access.writes()
    }

    fn path(&self) -> String {
        self.place.display()
    }

    fn identity(&self) -> (u64, u64) {
        self.inode.identity()
    }
}

impl FileObject for TmpfsFile {
    fn stat(&self) -> Result<Stat, Errno> {
        self.inode.metadata()
    }

    fn read(&self, position: Option<u64>, into: &mut Destination<'_>) -> Result<usize, Errno> {
        self.contents.read(position.unwrap_or(0), into)
    }

    fn write(&self, position: Option<u64>, from: &mut Origin<'_>) -> Result<usize, Errno> {
        let count = self.contents.write(position.unwrap_or(0), from)?;
        if count > 0 {
            self.inode.touch();
        }
        Ok(count)
    }

    fn seekable(&self) -> bool {
        true
    }

    fn size(&self) -> Result<u64, Errno> {
        Ok(self.contents.size())
    }

    fn seek_data(&self, offset: u64, hole: bool) -> Result<u64, Errno> {
        self.contents.seek_data(offset, hole)
    }

    fn truncate(&self, size: u64) -> Result<(), Errno> {
        self.inode.truncate(size)
    }

    fn allocate(&self, mode: u32, offset: u64, length: u64) -> Result<(), Errno> {
        self.contents.allocate(mode, offset, length)?;
        self.inode.touch();
        Ok(())
    }

    fn sync(&self) -> Result<(), Errno> {
        Ok(())
    }

    fn mappable(self: Arc<Self>) -> Option<Arc<dyn Mappable>> {
        Some(self)
    }

    fn place(&self) -> Option<&Place> {
        Some(&self.place)
    }

    fn describe(&self) -> String {
        self.place.display()
    }
}
