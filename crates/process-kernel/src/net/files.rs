//! What all sockets look like as files.

use rustix::io::Errno;

use super::socket::Socket;
use crate::file::Stat;
use crate::syscall::Cx;

/// Metadata of a socket.
pub(super) fn stat(inode: u64) -> Stat {
    Stat { ino: inode, mode: libc::S_IFSOCK | 0o777, nlink: 1, blksize: 4096, ..Stat::default() }
}

/// What /proc/self/fd shows.
pub(super) fn describe(inode: u64) -> String {
    format!("socket:[{inode}]")
}

/// FIONREAD (SIOCINQ).
///
/// # Errors
/// EINVAL for listeners, as Linux has it; ENOTTY for all else.
pub(super) fn ioctl(socket: &dyn Socket, cx: &Cx<'_>, request: u32, argument: u64) -> Result<u64, Errno> {
    if u64::from(request) != libc::FIONREAD {
        return Err(Errno::NOTTY);
    }
    if socket.listening() {
        return Err(Errno::INVAL);
    }
    let count = i32::try_from(socket.readable_bytes()).unwrap_or(i32::MAX);
    cx.mm().write_value(argument, &count)?;
    Ok(0)
}
