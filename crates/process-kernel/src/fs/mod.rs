//! File systems: mounts, path walking, inodes.
//!
//! A guest's file tree is put together from [`mount`]ed file systems: host directories ([`host_directory`]), trees in
//! memory ([`tmpfs`]) and synthetic ones ([`synthetic`]: /proc, /sys, /dev). Paths are walked here, component by
//! component ([`walk`]); a file system only ever looks up single names.
//!
//! Architecture invariants: no path that a guest wrote reaches the host; a host directory is asked for one plain relative
//! path that was walked here before. Nothing of the host's /proc, /sys and /dev is ever opened for a guest.

mod context;
mod directory_file;
pub mod host_directory;
mod mount;
mod object_inode;
mod operations;
mod path_file;
mod permission;
mod place;
pub mod synthetic;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub mod tmpfs;
mod vfs;
mod walk;

use std::sync::Arc;

use rustix::io::Errno;

pub use context::{FsContext, SavedFsContext};
pub use directory_file::DirectoryFile;
pub use mount::{Mount, MountEntry, MountSource, MountTable};
pub use object_inode::ObjectInode;
pub use operations::OpenHow;
pub use path_file::PathFile;
pub use permission::{Caller, Permission};
pub use place::{Place, SavedPlace};
pub use vfs::{DirectoryOpener, SavedVfs, Vfs, VfsError, open_by_path};
pub use walk::{Last, Walk, Walked};

use crate::file::{AccessMode, DirectoryEntry, FileObject, Stat};
use crate::object::{Object, RestoreFn};

/// Longest name of a directory entry, bytes (NAME_MAX).
pub const NAME_MAX: usize = 255;
/// Longest path that a system call takes, bytes, the terminating NUL included (PATH_MAX).
pub const PATH_MAX: usize = 4096;

/// What kind of file an inode is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[allow(missing_docs)]
pub enum FileType {
    Fifo,
    CharacterDevice,
    Directory,
    BlockDevice,
    Regular,
    Symlink,
    Socket,
}

impl FileType {
    /// The type in `mode`'s S_IFMT bits.
    pub const fn of_mode(mode: u32) -> Option<Self> {
        Some(match mode & 0o170_000 {
            0o010_000 => Self::Fifo,
            0o020_000 => Self::CharacterDevice,
            0o040_000 => Self::Directory,
            0o060_000 => Self::BlockDevice,
            0o100_000 => Self::Regular,
            0o120_000 => Self::Symlink,
            0o140_000 => Self::Socket,
            _ => return None,
        })
    }

    /// S_IFMT bits.
    pub const fn mode_bits(self) -> u32 {
        match self {
            Self::Fifo => 0o010_000,
            Self::CharacterDevice => 0o020_000,
            Self::Directory => 0o040_000,
            Self::BlockDevice => 0o060_000,
            Self::Regular => 0o100_000,
            Self::Symlink => 0o120_000,
            Self::Socket => 0o140_000,
        }
    }

    /// DT_* value of directory listings.
    pub const fn entry_type(self) -> u8 {
        (self.mode_bits() >> 12) as u8
    }
}

/// Where a symbolic link leads.
pub enum Link {
    /// A path, walked from the link's directory.
    Path(Vec<u8>),
    /// Straight to a file, whatever its path (the magic links of /proc/self).
    Magic(Place),
}

/// A file to be created.
pub struct NewFile<'a> {
    /// What it is, with what comes with it.
    pub kind: NewKind<'a>,
    /// Permission bits, the umask already applied.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// See [`NewFile`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NewKind<'a> {
    /// An empty regular file.
    Regular,
    /// An empty directory.
    Directory,
    /// A symbolic link to this path.
    Symlink(&'a [u8]),
    /// The name of a Unix socket; which socket has it, the network knows by device and inode number.
    Socket,
}

/// Changes to metadata; `None` leaves a field as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AttributeChange {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Last access: seconds, nanoseconds.
    pub atime: Option<(i64, u32)>,
    /// Last change of contents.
    pub mtime: Option<(i64, u32)>,
}

/// How rename treats an existing target (renameat2's flags).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RenameMode {
    /// It is replaced.
    Replace,
    /// EEXIST.
    NoReplace,
    /// Both change places.
    Exchange,
}

/// Figures for statfs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FsStatistics {
    /// f_type: the file system's magic number.
    pub magic: u64,
    /// Bytes per block.
    pub block_size: u64,
    /// Blocks in all.
    pub blocks: u64,
    /// Free blocks.
    pub free: u64,
    /// Inodes in all.
    pub files: u64,
    /// Free inodes.
    pub free_files: u64,
}

/// A mounted file system.
pub trait FileSystem: Send + Sync {
    /// Its top.
    fn root(&self) -> Arc<dyn Inode>;

    /// Type as /proc/self/mounts shows it.
    fn type_name(&self) -> &'static str;

    /// For statfs.
    ///
    /// # Errors
    /// The host's errno.
    fn statistics(&self) -> Result<FsStatistics, Errno>;

    /// The file system as the tree in memory that it may be: those are saved whole.
    fn as_any(&self) -> &dyn std::any::Any;
}

/// A file, directory or symbolic link of a mounted file system. Operations on names are called on the directory;
/// permissions and read-only mounts have been checked by the caller.
#[allow(unused_variables)]
pub trait Inode: Object {
    /// Metadata.
    ///
    /// # Errors
    /// The host's errno.
    fn metadata(&self) -> Result<Stat, Errno>;

    /// What it is; never changes.
    fn file_type(&self) -> FileType;

    /// The file called `name`, which is neither empty, "." nor "..", and has no slash.
    ///
    /// # Errors
    /// ENOTDIR, ENOENT.
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        Err(Errno::NOTDIR)
    }

    /// For a directory: the directory that holds it and its name there; `None` for a file system's top.
    fn parent(&self) -> Option<(Arc<dyn Inode>, Vec<u8>)> {
        None
    }

    /// Where a symbolic link leads when `caller` follows it.
    ///
    /// # Errors
    /// EINVAL for everything else.
    fn follow(&self, caller: &Caller) -> Result<Link, Errno> {
        Err(Errno::INVAL)
    }

    /// What readlink(2) shows.
    ///
    /// # Errors
    /// EINVAL for anything but a symbolic link.
    fn read_link(&self, caller: &Caller) -> Result<Vec<u8>, Errno> {
        match self.follow(caller)? {
            Link::Path(path) => Ok(path),
            Link::Magic(place) => Ok(place.path()),
        }
    }

    /// A directory's entries without "." and "..".
    ///
    /// # Errors
    /// ENOTDIR.
    fn entries(&self) -> Result<Vec<DirectoryEntry>, Errno> {
        Err(Errno::NOTDIR)
    }

    /// Opens a file that is no directory. `place` is where it was found.
    ///
    /// # Errors
    /// ENXIO for what has nothing to open.
    fn open(
        self: Arc<Self>,
        place: &Place,
        access: AccessMode,
        caller: &Caller,
    ) -> Result<Arc<dyn FileObject>, Errno> {
        Err(Errno::NXIO)
    }

    /// Makes a file in this directory.
    ///
    /// # Errors
    /// EEXIST, ENOSPC, EROFS.
    fn create(&self, name: &[u8], file: &NewFile<'_>) -> Result<Arc<dyn Inode>, Errno> {
        Err(Errno::PERM)
    }

    /// Makes a regular file without a name on this directory's file system (O_TMPFILE).
    ///
    /// # Errors
    /// EOPNOTSUPP.
    fn create_unnamed(&self, file: &NewFile<'_>) -> Result<Arc<dyn Inode>, Errno> {
        Err(Errno::OPNOTSUPP)
    }

    /// Gives `inode`, which is of the same mount, another name here.
    ///
    /// # Errors
    /// EEXIST, EPERM for directories.
    fn link(&self, name: &[u8], inode: &Arc<dyn Inode>) -> Result<(), Errno> {
        Err(Errno::PERM)
    }

    /// Takes the name of a file that is no directory away.
    ///
    /// # Errors
    /// ENOENT, EISDIR.
    fn unlink(&self, name: &[u8]) -> Result<(), Errno> {
        Err(Errno::PERM)
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// ENOENT, ENOTDIR, ENOTEMPTY.
    fn remove_directory(&self, name: &[u8]) -> Result<(), Errno> {
        Err(Errno::PERM)
    }

    /// Moves the file called `from` to `directory`, which is of the same mount, as `to`.
    ///
    /// # Errors
    /// As rename(2).
    fn rename(
        &self,
        from: &[u8],
        directory: &Arc<dyn Inode>,
        to: &[u8],
        mode: RenameMode,
    ) -> Result<(), Errno> {
        Err(Errno::PERM)
    }

    /// Changes metadata.
    ///
    /// # Errors
    /// EPERM where that can't be.
    fn set_attributes(&self, change: &AttributeChange) -> Result<(), Errno> {
        Err(Errno::PERM)
    }

    /// Sets a regular file's size, bytes.
    ///
    /// # Errors
    /// EISDIR, EINVAL, ENOSPC.
    fn truncate(&self, size: u64) -> Result<(), Errno> {
        Err(if self.file_type() == FileType::Directory { Errno::ISDIR } else { Errno::INVAL })
    }

    /// Whether the last name of it is gone.
    fn is_deleted(&self) -> bool {
        false
    }

    /// What /proc/self/fd shows instead of a path, for files that have none.
    fn pseudo_path(&self) -> Option<Vec<u8>> {
        None
    }
}

/// The kinds of saved objects that this module makes again.
pub fn restore_functions() -> Vec<(&'static str, RestoreFn)> {
    vec![
        (DirectoryFile::KIND, DirectoryFile::restore as RestoreFn),
        (PathFile::KIND, PathFile::restore),
        (ObjectInode::KIND, ObjectInode::restore),
        (host_directory::HostNode::KIND, host_directory::HostNode::restore),
        (host_directory::HostFile::KIND, host_directory::HostFile::restore),
        mount::PLACEHOLDER,
        (synthetic::SyntheticInode::KIND, synthetic::SyntheticInode::restore),
        (synthetic::TextFile::KIND, synthetic::TextFile::restore),
        (synthetic::DeviceFile::KIND, synthetic::DeviceFile::restore),
        (tmpfs::TmpfsInode::KIND, tmpfs::TmpfsInode::restore),
        (tmpfs::TmpfsFile::KIND, tmpfs::TmpfsFile::restore),
    ]
}
