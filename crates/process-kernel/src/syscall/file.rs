//! Reading, writing and seeking.

use std::os::raw::c_long;

use rustix::io::Errno;

use super::{Arguments, Cx, SysResult};
use crate::file::{Destination, Fd, OpenFile, Origin, StatusFlags};

pub(super) fn dispatch(cx: &mut Cx<'_>, number: c_long, a: Arguments) -> Option<SysResult> {
    let one = Buffer::One { address: a[1], length: a[2] };
    let many = Buffer::Vector { address: a[1], count: a[2] };
    Some(match number {
        libc::SYS_read => read(cx, a[0] as Fd, one, None),
        libc::SYS_readv => read(cx, a[0] as Fd, many, None),
        libc::SYS_pread64 => read(cx, a[0] as Fd, one, Some(a[3])),
        libc::SYS_preadv => read(cx, a[0] as Fd, many, Some(a[3])),
        libc::SYS_preadv2 => flagged(cx, a, read),
        libc::SYS_write => write(cx, a[0] as Fd, one, None),
        libc::SYS_writev => write(cx, a[0] as Fd, many, None),
        libc::SYS_pwrite64 => write(cx, a[0] as Fd, one, Some(a[3])),
        libc::SYS_pwritev => write(cx, a[0] as Fd, many, Some(a[3])),
        libc::SYS_pwritev2 => flagged(cx, a, write),
        libc::SYS_lseek => lseek(cx, a[0] as Fd, a[1] as i64, a[2] as i32),
        _ => return None,
    })
}

/// The guest's buffers.
#[derive(Clone, Copy)]
pub(super) enum Buffer {
    /// One piece.
    One {
        /// Where.
        address: u64,
        /// Bytes.
        length: u64,
    },
    /// An array of `struct iovec`.
    Vector {
        /// Where the array is.
        address: u64,
        /// Its elements.
        count: u64,
    },
}

impl Buffer {
    fn destination<'a>(&self, cx: &'a Cx<'_>) -> Result<Destination<'a>, Errno> {
        match *self {
            Self::One { address, length } => cx.mm().destination(address, clamp(length)),
            Self::Vector { address, count } => cx.mm().destination_vector(address, clamp(count)),
        }
    }

    fn origin<'a>(&self, cx: &'a Cx<'_>) -> Result<Origin<'a>, Errno> {
        match *self {
            Self::One { address, length } => cx.mm().origin(address, clamp(length)),
            Self::Vector { address, count } => cx.mm().origin_vector(address, clamp(count)),
        }
    }
}

fn clamp(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

/// preadv2 and pwritev2: position -1 is the current one. The RWF_* flags ask for things that are always or never so here.
fn flagged(cx: &Cx<'_>, a: Arguments, serve: fn(&Cx<'_>, Fd, Buffer, Option<u64>) -> SysResult) -> SysResult {
    let harmless = libc::RWF_HIPRI | libc::RWF_DSYNC | libc::RWF_SYNC;
    if a[5] & !(harmless as u64) != 0 {
        return Err(Errno::OPNOTSUPP.into());
    }
    let position = (a[3] != u64::MAX).then_some(a[3]);
    serve(cx, a[0] as Fd, Buffer::Vector { address: a[1], count: a[2] }, position)
}

/// # Errors
/// ESPIPE for what has no position, EINVAL for a negative one.
fn check_position(file: &OpenFile, position: u64) -> Result<(), Errno> {
    if position > i64::MAX as u64 {
        return Err(Errno::INVAL);
    }
    if file.object.seekable() { Ok(()) } else { Err(Errno::SPIPE) }
}

fn read(cx: &Cx<'_>, fd: Fd, buffer: Buffer, position: Option<u64>) -> SysResult {
    let file = cx.file(fd)?;
    if !file.access.reads() {
        return Err(Errno::BADF.into());
    }
    if let Some(position) = position {
        check_position(&file, position)?;
        return Ok(file.object.read(Some(position), &mut buffer.destination(cx)?)? as u64);
    }
    // The buffer is looked at anew after a wait: it may have been unmapped meanwhile.
    let deadline = cx.receive_deadline(&file);
    let count = cx.wait_file(&file, deadline, || file.read(&mut buffer.destination(cx)?))?;
    Ok(count as u64)
}

fn write(cx: &Cx<'_>, fd: Fd, buffer: Buffer, position: Option<u64>) -> SysResult {
    let file = cx.file(fd)?;
    if !file.access.writes() {
        return Err(Errno::BADF.into());
    }
    let mut origin = buffer.origin(cx)?;
    let Some(position) = position else {
        if file.object.seekable() {
            let at = *file.position();
            check_size_limit(cx, at, origin.remaining())?;
        }
        return cx.write_file(&file, &mut origin, None, false, |file, origin| file.write(origin));
    };
    check_position(&file, position)?;
    // As Linux does, against POSIX: O_APPEND wins over the position.
    let at = if file.flags().contains(StatusFlags::APPEND) { file.object.size()? } else { position };
    check_size_limit(cx, at, origin.remaining())?;
    Ok(file.object.write(Some(at), &mut origin)? as u64)
}

/// RLIMIT_FSIZE: nothing is written that would reach beyond it (Linux first writes up to it).
///
/// # Errors
/// EFBIG, with SIGXFSZ raised.
pub(super) fn check_size_limit(cx: &Cx<'_>, at: u64, length: usize) -> Result<(), Errno> {
    let limit = cx.process.limits.file_size();
    if limit == u64::MAX || at.saturating_add(length as u64) <= limit {
        return Ok(());
    }
    cx.raise_on_self(libc::SIGXFSZ);
    Err(Errno::FBIG)
}

fn lseek(cx: &Cx<'_>, fd: Fd, offset: i64, whence: i32) -> SysResult {
    let file = cx.usable_file(fd)?;
    if !file.object.seekable() {
        return Err(Errno::SPIPE.into());
    }
    let mut position = file.position();
    let from_start = || u64::try_from(offset).map_err(|_| Errno::NXIO);
    let target = match whence {
        libc::SEEK_SET => u64::try_from(offset).ok(),
        libc::SEEK_CUR => position.checked_add_signed(offset),
        libc::SEEK_END => file.object.size()?.checked_add_signed(offset),
        libc::SEEK_DATA => Some(file.object.seek_data(from_start()?, false)?),
        libc::SEEK_HOLE => Some(file.object.seek_data(from_start()?, true)?),
        _ => None,
    };
    let target = target.filter(|target| *target <= i64::MAX as u64).ok_or(Errno::INVAL)?;
    *position = target;
    Ok(target)
}
