//! An open regular file of a host directory.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, OFlags, SeekFrom, fallocate, fstat, fsync, ftruncate, seek};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::HostNode;
use super::beneath::stat_of;
use crate::file::{AccessMode, Destination, FileObject, Mappable, Origin, Stat};
use crate::fs::{FileType, Place, SavedPlace};
use crate::host;
use crate::object::{Object, ObjectId, RestoreError, Restorer, SaveError, Saver};

/// An open regular file of the host.
pub struct HostFile {
    node: Arc<HostNode>,
    place: Place,
    access: AccessMode,
    file: OwnedFd,
    identity: (u64, u64),
}

#[derive(Serialize, Deserialize)]
struct Saved {
    node: ObjectId,
    place: SavedPlace,
    access: AccessMode,
}

impl HostFile {
    /// Registry key.
    pub const KIND: &'static str = "host-file";

    pub(super) fn open(node: Arc<HostNode>, place: Place, access: AccessMode) -> Result<Self, Errno> {
        let flags = match access {
            AccessMode::Read | AccessMode::Path => OFlags::RDONLY,
            // The node's mount is writable, or the system call would have failed before.
            AccessMode::Write | AccessMode::ReadWrite if !node.shared.writable => return Err(Errno::ROFS),
            // Mapping a file needs it readable on the host too.
            AccessMode::Write | AccessMode::ReadWrite => OFlags::RDWR,
        };
        let (file, stat) = match node.shared.open(&node.path, FileType::Regular, flags) {
            Err(Errno::ACCESS) if access == AccessMode::Write => {
                node.shared.open(&node.path, FileType::Regular, OFlags::WRONLY)?
            }
            opened => opened?,
        };
        Ok(Self { node, place, access, file, identity: (stat.dev, stat.ino) })
    }

    /// The file again.
    ///
    /// # Errors
    /// [`RestoreError::FileChanged`].
    pub fn restore(payload: &[u8], restorer: &mut Restorer<'_>) -> Result<Arc<dyn Object>, RestoreError> {
        let saved: Saved = Restorer::decode("open host file", payload)?;
        let node = restorer.concrete::<HostNode>(saved.node, "host file")?;
        let place = Place::restore(&saved.place, restorer)?;
        let path = node.guest_path();
        Self::open(node, place, saved.access)
            .map(|file| Arc::new(file) as Arc<dyn Object>)
            .map_err(|_| RestoreError::FileChanged { path, problem: "can't be opened any more" })
    }
}

impl Object for HostFile {
    fn kind(&self) -> &'static str {
        Self::KIND
    }

    fn save(&self, saver: &mut Saver) -> Result<Vec<u8>, SaveError> {
        if fstat(&self.file).is_ok_and(|stat| stat.st_nlink == 0) {
            return Err(SaveError::NotSnapshotable {
                object: self.node.guest_path(),
                reason: "the file is deleted but still open; use /tmp for such files",
            });
        }
        let node = saver.save(self.node.clone())?;
        let saved = Saved { node, place: self.place.save(saver)?, access: self.access };
        saver.encode(Self::KIND, &saved)
    }

    fn as_file(self: Arc<Self>) -> Option<Arc<dyn FileObject>> {
        Some(self)
    }

    fn as_mappable(self: Arc<Self>) -> Option<Arc<dyn Mappable>> {
        Some(self)
    }
}

impl Mappable for HostFile {
    fn host_file(&self) -> Result<BorrowedFd<'_>, Errno> {
        Ok(self.file.as_fd())
    }

    fn writable(&self) -> bool {
        self.access.writes()
    }

    fn path(&self) -> String {
        self.place.display()
    }

    fn identity(&self) -> (u64, u64) {
        self.identity
    }
}

impl FileObject for HostFile {
    fn stat(&self) -> Result<Stat, Errno> {
        Ok(stat_of(&fstat(&self.file)?))
    }

    fn read(&self, position: Option<u64>, into: &mut Destination<'_>) -> Result<usize, Errno> {
        into.with_iovecs(|vector| host::preadv(self.file.as_fd(), vector, position.unwrap_or(0)))
    }

    fn write(&self, position: Option<u64>, from: &mut Origin<'_>) -> Result<usize, Errno> {
        from.with_iovecs(|vector| host::pwritev(self.file.as_fd(), vector, position.unwrap_or(0)))
    }

    fn seekable(&self) -> bool {
        true
    }

    fn size(&self) -> Result<u64, Errno> {
        Ok(self.stat()?.size)
    }

    fn seek_data(&self, offset: u64, hole: bool) -> Result<u64, Errno> {
        // Nothing else uses the host descriptor's own position.
        seek(&self.file, if hole { SeekFrom::Hole(offset) } else { SeekFrom::Data(offset) })
    }

    fn truncate(&self, size: u64) -> Result<(), Errno> {
        ftruncate(&self.file, size)
    }

    fn allocate(&self, mode: u32, offset: u64, length: u64) -> Result<(), Errno> {
        fallocate(&self.file, FallocateFlags::from_bits_retain(mode), offset, length)
    }

    fn sync(&self) -> Result<(), Errno> {
        if self.node.shared.writable { fsync(&self.file) } else { Ok(()) }
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
