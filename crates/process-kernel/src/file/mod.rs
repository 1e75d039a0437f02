//! Open files: what a descriptor refers to.
//!
//! A [`FileObject`] is the thing itself (a regular file, a pipe end, a socket, an epoll set). An [`OpenFile`] is Linux's
//! "open file description": the object plus flags and position, shared by duplicated descriptors. The [`FdTable`] maps
//! descriptor numbers to open files.
//!
//! Rule: no object ever blocks. What can't be done now answers `EAGAIN`; the system-call layer waits on the object's
//! [`WaitQueue`] and tries again, so every wait can be interrupted and saved in a snapshot.

mod buffer;
mod fd_table;
mod locks;
mod open_file;

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use bitflags::bitflags;
use rustix::io::Errno;

pub use buffer::{Destination, Origin};
pub use fd_table::{Fd, FdTable, SavedFdTable};
pub use locks::{FileLocks, Lock, LockKind};
pub use open_file::{AccessMode, OpenFile, StatusFlags};

use crate::object::Object;
use crate::syscall::Cx;
use crate::wait::WaitQueue;

bitflags! {
    /// What can be done without waiting; the bits of poll(2).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Readiness: u32 {
        /// POLLIN
        const IN = 0x1;
        /// POLLPRI
        const PRI = 0x2;
        /// POLLOUT
        const OUT = 0x4;
        /// POLLERR
        const ERR = 0x8;
        /// POLLHUP
        const HUP = 0x10;
        /// POLLNVAL
        const NVAL = 0x20;
        /// POLLRDNORM
        const RDNORM = 0x40;
        /// POLLWRNORM
        const WRNORM = 0x100;
        /// POLLRDHUP
        const RDHUP = 0x2000;
    }
}

/// File metadata in the form of x86-64's `struct stat`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stat {
    /// Device number.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Type and permission bits.
    pub mode: u32,
    /// Hard links.
    pub nlink: u64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node.
    pub rdev: u64,
    /// Bytes.
    pub size: u64,
    /// Preferred I/O size, bytes.
    pub blksize: u32,
    /// 512-byte blocks in use.
    pub blocks: u64,
    /// Last access: seconds, nanoseconds.
    pub atime: (i64, u32),
    /// Last change of contents.
    pub mtime: (i64, u32),
    /// Last change of metadata.
    pub ctime: (i64, u32),
}

/// One entry of a directory listing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirectoryEntry {
    /// Inode number.
    pub ino: u64,
    /// DT_* type.
    pub file_type: u8,
    /// Name, without a slash.
    pub name: Vec<u8>,
}

/// A file whose bytes can be mapped into guest memory.
pub trait Mappable: Object {
    /// The host file behind it; the descriptor lives as long as the object.
    ///
    /// # Errors
    /// ENOSPC when it had to be made now and the worker has no descriptor left.
    fn host_file(&self) -> Result<BorrowedFd<'_>, Errno>;

    /// Whether a shared mapping may write to it.
    fn writable(&self) -> bool;

    /// The path as /proc/self/maps shows it.
    fn path(&self) -> String;

    /// Metadata, for /proc/self/maps.
    fn identity(&self) -> (u64, u64);
}

/// What a descriptor refers to. See the module's rule: no method blocks.
// Methods that refuse by default have no use for their arguments.
#[allow(unused_variables)]
pub trait FileObject: Object {
    /// Metadata for fstat.
    ///
    /// # Errors
    /// The host's errno.
    fn stat(&self) -> Result<Stat, Errno>;

    /// Reads at `position` (`None` for objects without a position: pipes, sockets) into `into`; the caller moves the
    /// position. 0 is end of file.
    ///
    /// # Errors
    /// EAGAIN when it would have to wait; EISDIR, EINVAL, EFAULT, ...
    fn read(&self, position: Option<u64>, into: &mut Destination<'_>) -> Result<usize, Errno> {
        Err(Errno::INVAL)
    }

    /// Writes at `position`. See [`FileObject::read`]. `append` asks for the end of the file, whatever the position;
    /// the answer is the number of bytes and, for appends, the new position.
    ///
    /// # Errors
    /// EAGAIN when it would have to wait; EPIPE (the system-call layer raises SIGPIPE), ENOSPC, EFAULT, ...
    fn write(&self, position: Option<u64>, from: &mut Origin<'_>) -> Result<usize, Errno> {
        Err(Errno::INVAL)
    }

    /// Whether it has a position: lseek, pread and pwrite work.
    fn seekable(&self) -> bool {
        false
    }

    /// Size for SEEK_END and O_APPEND, bytes; SEEK_DATA and SEEK_HOLE by [`FileObject::seek_data`].
    ///
    /// # Errors
    /// ESPIPE where there is no position.
    fn size(&self) -> Result<u64, Errno> {
        if self.seekable() { Ok(self.stat()?.size) } else { Err(Errno::SPIPE) }
    }

    /// The offset of the next byte at or after `offset` that holds data or, with `hole`, lies in a hole.
    ///
    /// # Errors
    /// ENXIO at or behind the end of the file.
    fn seek_data(&self, offset: u64, hole: bool) -> Result<u64, Errno> {
        let size = self.size()?;
        if offset >= size {
            return Err(Errno::NXIO);
        }
        Ok(if hole { size } else { offset })
    }

    /// What is possible now without waiting.
    fn readiness(&self) -> Readiness {
        Readiness::IN | Readiness::OUT | Readiness::RDNORM | Readiness::WRNORM
    }

    /// The queue that is notified when readiness may have changed; `None` when it never changes (regular files; epoll
    /// refuses them with EPERM).
    fn wait_queue(&self) -> Option<&WaitQueue> {
        None
    }

    /// Bytes of the directory from `cookie`: entries with the cookie that continues after each. `None` ends.
    ///
    /// # Errors
    /// ENOTDIR for everything else.
    fn next_entry(&self, cookie: u64) -> Result<Option<(DirectoryEntry, u64)>, Errno> {
        Err(Errno::NOTDIR)
    }

    /// Sets the size, bytes.
    ///
    /// # Errors
    /// EINVAL where there is none, EROFS, ENOSPC.
    fn truncate(&self, size: u64) -> Result<(), Errno> {
        Err(Errno::INVAL)
    }

    /// fallocate(2).
    ///
    /// # Errors
    /// EOPNOTSUPP unless it is a writable regular file.
    fn allocate(&self, mode: u32, offset: u64, length: u64) -> Result<(), Errno> {
        Err(Errno::OPNOTSUPP)
    }

    /// Makes contents durable.
    ///
    /// # Errors
    /// EINVAL where that means nothing.
    fn sync(&self) -> Result<(), Errno> {
        Err(Errno::INVAL)
    }

    /// Device-specific control; the argument may be a guest pointer, reached through `cx`.
    ///
    /// # Errors
    /// ENOTTY for requests that the object doesn't know.
    fn ioctl(&self, cx: &mut Cx<'_>, request: u32, argument: u64) -> Result<u64, Errno> {
        Err(Errno::NOTTY)
    }

    /// The object that memory mappings of this file use.
    fn mappable(self: Arc<Self>) -> Option<Arc<dyn Mappable>> {
        None
    }

    /// The inode behind it, for the *at system calls and for fchmod and its like.
    fn inode(&self) -> Option<Arc<dyn crate::fs::Inode>> {
        self.place().map(|place| place.inode.clone())
    }

    /// Where in the file tree it was opened, for files that come from there.
    fn place(&self) -> Option<&crate::fs::Place> {
        None
    }

    /// The object as a socket, if it is one.
    fn as_socket(&self) -> Option<&dyn crate::net::Socket> {
        None
    }

    /// Whether a blocking write goes on until every byte is taken (pipes, stream sockets, terminals): the system-call
    /// layer then waits and calls [`FileObject::write`] again after a partial write. Messages and counters are taken
    /// whole or not at all.
    fn writes_fully(&self) -> bool {
        false
    }

    /// What /proc/self/fd shows, e.g. "pipe:[12]" or an absolute path.
    fn describe(&self) -> String;

    /// Called when the last descriptor of an open file is closed (also when a snapshot's process ends). Objects that
    /// several open files may share (pipe ends reached through /proc/self/fd) count by `Drop` instead.
    fn closed(&self) {}
}
