//! Locks on files: flock, and fcntl's POSIX and open-file-description locks.

use std::os::raw::c_long;

use bytemuck::{Pod, Zeroable};
use rustix::io::Errno;

use super::{Arguments, Cx, Restart, Stop, SysResult};
use crate::file::{Fd, Lock, LockKind, OpenFile};

pub(super) fn dispatch(cx: &mut Cx<'_>, number: c_long, a: Arguments) -> Option<SysResult> {
    Some(match number {
        libc::SYS_flock => flock(cx, a[0] as Fd, a[1] as i32),
        _ => return None,
    })
}

fn flock(cx: &Cx<'_>, fd: Fd, operation: i32) -> SysResult {
    let file = cx.usable_file(fd)?;
    let lock = |exclusive| Lock { kind: LockKind::Whole, start: 0, last: u64::MAX, exclusive };
    match operation & !libc::LOCK_NB {
        libc::LOCK_UN => file.unlock(&lock(false)),
        libc::LOCK_SH | libc::LOCK_EX => {
            let wanted = lock(operation & libc::LOCK_EX != 0);
            take(cx, &file, wanted, operation & libc::LOCK_NB == 0)?;
        }
        _ => return Err(Errno::INVAL.into()),
    }
    Ok(0)
}

fn take(cx: &Cx<'_>, file: &OpenFile, lock: Lock, waits: bool) -> Result<(), Stop> {
    let locks = cx.process.vfs.locks();
    if !waits {
        return Ok(file.lock(locks, lock)?);
    }
    let taken = cx.wait(&[locks.changed()], None, Restart::WithFlag, || file.lock(locks, lock))?;
    taken.ok_or(Stop::Errno(Errno::AGAIN))
}

/// `struct flock`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct RawLock {
    kind: i16,
    whence: i16,
    padding: i32,
    start: i64,
    length: i64,
    pid: i32,
    padding_behind: i32,
}

const READ_LOCK: i16 = libc::F_RDLCK as i16;
const WRITE_LOCK: i16 = libc::F_WRLCK as i16;
const UNLOCK: i16 = libc::F_UNLCK as i16;

/// The range that `raw` means for `file`.
fn range_of(file: &OpenFile, raw: &RawLock) -> Result<(u64, u64), Errno> {
    let base = match i32::from(raw.whence) {
        libc::SEEK_SET => 0,
        libc::SEEK_CUR => *file.position(),
        libc::SEEK_END => file.object.size()?,
        _ => return Err(Errno::INVAL),
    };
    let start = base.checked_add_signed(raw.start).filter(|start| *start <= i64::MAX as u64);
    let start = start.ok_or(Errno::INVAL)?;
    match raw.length {
        0 => Ok((start, u64::MAX)),
        // A negative length means the bytes before the start.
        ..0 => {
            let first = start.checked_add_signed(raw.length).ok_or(Errno::INVAL)?;
            Ok((first, start.checked_sub(1).ok_or(Errno::INVAL)?))
        }
        length => {
            let last = start.checked_add(length as u64 - 1).filter(|last| *last <= i64::MAX as u64);
            Ok((start, last.ok_or(Errno::OVERFLOW)?))
        }
    }
}

/// fcntl's lock commands.
pub(super) fn fcntl_lock(cx: &Cx<'_>, file: &OpenFile, command: i32, argument: u64) -> SysResult {
    let mut raw: RawLock = cx.mm().read_value(argument)?;
    let (start, last) = range_of(file, &raw)?;
    let exclusive = match raw.kind {
        READ_LOCK => false,
        WRITE_LOCK => true,
        UNLOCK => false,
        _ => return Err(Errno::INVAL.into()),
    };
    let posix = matches!(command, libc::F_GETLK | libc::F_SETLK | libc::F_SETLKW);
    if !posix && raw.pid != 0 {
        return Err(Errno::INVAL.into());
    }
    let lock = Lock { kind: LockKind::Range, start, last, exclusive };
    if matches!(command, libc::F_GETLK | libc::F_OFD_GETLK) {
        if raw.kind == UNLOCK && posix {
            return Err(Errno::INVAL.into());
        }
        // A process never stands in its own way.
        match if posix { None } else { file.lock_conflict(cx.process.vfs.locks(), &lock)? } {
            None => raw.kind = UNLOCK,
            Some(other) => {
                let length = if other.last == u64::MAX { 0 } else { (other.last - other.start + 1) as i64 };
                let kind = if other.exclusive { WRITE_LOCK } else { READ_LOCK };
                raw = RawLock { kind, whence: 0, start: other.start as i64, length, pid: -1, ..raw };
            }
        }
        cx.mm().write_value(argument, &raw)?;
        return Ok(0);
    }
    let allowed = match raw.kind {
        READ_LOCK => file.access.reads(),
        WRITE_LOCK => file.access.writes(),
        _ => true,
    };
    if !allowed {
        return Err(Errno::BADF.into());
    }
    if posix {
        return Ok(0);
    }
    if raw.kind == UNLOCK {
        file.unlock(&lock);
    } else {
        take(cx, file, lock, command == libc::F_OFD_SETLKW)?;
    }
    Ok(0)
}
