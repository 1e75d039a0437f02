//! From path arguments to places: what all system calls that take a path share.

use std::sync::Arc;

use rustix::io::Errno;

use super::Cx;
use crate::file::{AccessMode, Fd, OpenFile, Stat};
use crate::fs::{AttributeChange, Inode, PATH_MAX, Place, Walk};

/// What an *at system call is about: a place in the tree or, with AT_EMPTY_PATH, an open file.
pub(super) enum Target {
    /// Found by its path.
    Place(Place),
    /// The descriptor itself.
    File(Arc<OpenFile>),
}

/// AT_* flags as the bits of the register's low half.
pub(super) fn has(flags: u64, flag: i32) -> bool {
    flags & flag as u64 == flag as u64
}

/// # Errors
/// EINVAL when `flags` has others than `known`.
pub(super) fn only(flags: u64, known: i32) -> Result<(), Errno> {
    if flags & 0xffff_ffff & !(known as u64) == 0 { Ok(()) } else { Err(Errno::INVAL) }
}

impl Cx<'_> {
    /// The path string at `address`.
    ///
    /// # Errors
    /// EFAULT, ENAMETOOLONG.
    pub(super) fn path(&self, address: u64) -> Result<Vec<u8>, Errno> {
        self.mm().read_string(address, PATH_MAX)
    }

    /// Where a relative path begins for an *at system call. An absolute path does not look at the descriptor.
    ///
    /// # Errors
    /// EBADF, ENOTDIR.
    pub(super) fn start(&self, directory: Fd, path: &[u8]) -> Result<Place, Errno> {
        if directory == libc::AT_FDCWD || path.first() == Some(&b'/') {
            return Ok(self.process.fs.directory());
        }
        let file = self.file(directory)?;
        let place = file.object.place().filter(|place| place.is_directory());
        place.cloned().ok_or(Errno::NOTDIR)
    }

    /// Finds the file at `path`, following a link in the last place or not.
    ///
    /// # Errors
    /// As path_resolution(7) lists.
    pub(super) fn find(&self, directory: Fd, path: &[u8], follow: bool) -> Result<Place, Errno> {
        let start = self.start(directory, path)?;
        let flags = if follow { Walk::FOLLOW } else { Walk::empty() };
        self.process.vfs.walk(&self.caller(), &start, path, flags)?.found()
    }

    /// Finds what an *at system call is about by AT_EMPTY_PATH and AT_SYMLINK_NOFOLLOW in `flags`.
    ///
    /// # Errors
    /// As path_resolution(7) lists.
    pub(super) fn target(&self, directory: Fd, path: u64, flags: u64) -> Result<Target, Errno> {
        let may_be_empty = has(flags, libc::AT_EMPTY_PATH);
        let path = if may_be_empty && path == 0 { Vec::new() } else { self.path(path)? };
        if path.is_empty() && may_be_empty {
            return if directory == libc::AT_FDCWD {
                Ok(Target::Place(self.process.fs.directory()))
            } else {
                Ok(Target::File(self.file(directory)?))
            };
        }
        self.find(directory, &path, !has(flags, libc::AT_SYMLINK_NOFOLLOW)).map(Target::Place)
    }

    /// The open file behind `fd`, unless it was opened with O_PATH.
    ///
    /// # Errors
    /// EBADF.
    pub(super) fn usable_file(&self, fd: Fd) -> Result<Arc<OpenFile>, Errno> {
        let file = self.file(fd)?;
        if file.access == AccessMode::Path { Err(Errno::BADF) } else { Ok(file) }
    }
}

impl Target {
    /// Metadata.
    ///
    /// # Errors
    /// The host's errno.
    pub fn stat(&self) -> Result<Stat, Errno> {
        match self {
            Self::Place(place) => place.inode.metadata(),
            Self::File(file) => file.object.stat(),
        }
    }

    /// The place, if it has one.
    pub fn place(&self) -> Option<&Place> {
        match self {
            Self::Place(place) => Some(place),
            Self::File(file) => file.object.place(),
        }
    }

    fn inode(&self) -> Option<Arc<dyn Inode>> {
        match self {
            Self::Place(place) => Some(place.inode.clone()),
            Self::File(file) => file.object.inode(),
        }
    }

    /// # Errors
    /// EROFS when it lies on a read-only mount.
    pub fn writable(&self) -> Result<(), Errno> {
        self.place().map_or(Ok(()), Place::writable)
    }

    /// Changes metadata; what the caller may change has been checked.
    ///
    /// # Errors
    /// EROFS, EPERM for objects without an inode.
    pub fn set_attributes(&self, change: &AttributeChange) -> Result<(), Errno> {
        self.writable()?;
        self.inode().ok_or(Errno::PERM)?.set_attributes(change)
    }
}
