//! Changing metadata and sizes: chmod, chown, utimensat, truncate, fallocate, and making contents durable.

use std::os::raw::c_long;

use rustix::io::Errno;

use super::path::{Target, has, only};
use super::{Arguments, Cx, SysResult};
use crate::file::Fd;
use crate::fs::{AttributeChange, FileType, Permission};

const HERE: Fd = libc::AT_FDCWD;
const NOFOLLOW: u64 = libc::AT_SYMLINK_NOFOLLOW as u64;

pub(super) fn dispatch(cx: &mut Cx<'_>, number: c_long, a: Arguments) -> Option<SysResult> {
    Some(match number {
        libc::SYS_chmod => chmod(cx, HERE, a[0], a[1], 0),
        libc::SYS_fchmod => fchmod(cx, a[0] as Fd, a[1]),
        libc::SYS_fchmodat => chmod(cx, a[0] as Fd, a[1], a[2], 0),
        libc::SYS_fchmodat2 => chmod(cx, a[0] as Fd, a[1], a[2], a[3]),
        libc::SYS_chown => chown(cx, HERE, a[0], a[1], a[2], 0),
        libc::SYS_lchown => chown(cx, HERE, a[0], a[1], a[2], NOFOLLOW),
        libc::SYS_fchownat => chown(cx, a[0] as Fd, a[1], a[2], a[3], a[4]),
        libc::SYS_fchown => fchown(cx, a[0] as Fd, a[1], a[2]),
        libc::SYS_utimensat => utimensat(cx, a),
        libc::SYS_utime => utime(cx, a[0], a[1]),
        libc::SYS_utimes => utimes(cx, HERE, a[0], a[1]),
        libc::SYS_futimesat => utimes(cx, a[0] as Fd, a[1], a[2]),
        libc::SYS_truncate => truncate(cx, a[0], a[1]),
        libc::SYS_ftruncate => ftruncate(cx, a[0] as Fd, a[1]),
        libc::SYS_fallocate => fallocate(cx, a),
        libc::SYS_fsync | libc::SYS_fdatasync => sync(cx, a[0] as Fd),
        libc::SYS_sync_file_range => sync_file_range(cx, a[0] as Fd),
        // What is to last is written by fsync; the rest ends with the instance anyway.
        libc::SYS_sync => Ok(0),
        libc::SYS_syncfs => cx.file(a[0] as Fd).map(|_| 0).map_err(Into::into),
        libc::SYS_fadvise64 => advise(cx, a[0] as Fd, a[3] as i32),
        libc::SYS_readahead => advise(cx, a[0] as Fd, libc::POSIX_FADV_WILLNEED),
        _ => return None,
    })
}

fn chmod(cx: &Cx<'_>, directory: Fd, path: u64, mode: u64, flags: u64) -> SysResult {
    only(flags, libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH)?;
    change_mode(cx, &cx.target(directory, path, flags)?, mode)
}

fn fchmod(cx: &Cx<'_>, fd: Fd, mode: u64) -> SysResult {
    change_mode(cx, &Target::File(cx.usable_file(fd)?), mode)
}

fn change_mode(cx: &Cx<'_>, target: &Target, mode: u64) -> SysResult {
    let (caller, stat) = (cx.caller(), target.stat()?);
    target.writable()?;
    if FileType::of_mode(stat.mode) == Some(FileType::Symlink) {
        return Err(Errno::OPNOTSUPP.into());
    }
    caller.owns(&stat)?;
    let mut mode = mode as u32 & 0o7777;
    if caller.uid != 0 && caller.gid != stat.gid {
        mode &= !0o2000;
    }
    target.set_attributes(&AttributeChange { mode: Some(mode), ..AttributeChange::default() })?;
    Ok(0)
}

fn chown(cx: &Cx<'_>, directory: Fd, path: u64, uid: u64, gid: u64, flags: u64) -> SysResult {
    only(flags, libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH)?;
    change_owner(cx, &cx.target(directory, path, flags)?, uid as u32, gid as u32)
}

fn fchown(cx: &Cx<'_>, fd: Fd, uid: u64, gid: u64) -> SysResult {
    change_owner(cx, &Target::File(cx.usable_file(fd)?), uid as u32, gid as u32)
}

fn change_owner(cx: &Cx<'_>, target: &Target, uid: u32, gid: u32) -> SysResult {
    let (caller, stat) = (cx.caller(), target.stat()?);
    target.writable()?;
    // -1 leaves an id as it is.
    let (uid, gid) = (Some(uid).filter(|uid| *uid != u32::MAX), Some(gid).filter(|gid| *gid != u32::MAX));
    if caller.uid != 0 {
        let keeps_owner = uid.is_none_or(|uid| uid == stat.uid);
        let own_group = gid.is_none_or(|gid| gid == caller.gid || gid == stat.gid);
        if (uid.is_some() || gid.is_some()) && !(caller.uid == stat.uid && keeps_owner && own_group) {
            return Err(Errno::PERM.into());
        }
    }
    let set_id_bits = if stat.mode & 0o010 != 0 { 0o6000 } else { 0o4000 };
    let loses_set_id =
        FileType::of_mode(stat.mode) == Some(FileType::Regular) && stat.mode & set_id_bits != 0;
    let mode = loses_set_id.then_some(stat.mode & 0o7777 & !set_id_bits);
    target.set_attributes(&AttributeChange { uid, gid, mode, ..AttributeChange::default() })?;
    Ok(0)
}

/// A time for utimensat.
#[derive(Clone, Copy)]
enum NewTime {
    Now,
    Omit,
    At(i64, u32),
}

impl NewTime {
    fn from_timespec([seconds, nanoseconds]: [i64; 2]) -> Result<Self, Errno> {
        match nanoseconds {
            libc::UTIME_NOW => Ok(Self::Now),
            libc::UTIME_OMIT => Ok(Self::Omit),
            0..1_000_000_000 => Ok(Self::At(seconds, nanoseconds as u32)),
            _ => Err(Errno::INVAL),
        }
    }

    fn from_timeval([seconds, microseconds]: [i64; 2]) -> Result<Self, Errno> {
        match microseconds {
            0..1_000_000 => Ok(Self::At(seconds, microseconds as u32 * 1000)),
            _ => Err(Errno::INVAL),
        }
    }

    fn resolve(self, now: u64) -> Option<(i64, u32)> {
        match self {
            Self::Now => Some(((now / 1_000_000_000) as i64, (now % 1_000_000_000) as u32)),
            Self::Omit => None,
            Self::At(seconds, nanoseconds) => Some((seconds, nanoseconds)),
        }
    }
}

fn set_times(cx: &Cx<'_>, target: &Target, atime: NewTime, mtime: NewTime) -> SysResult {
    if matches!((atime, mtime), (NewTime::Omit, NewTime::Omit)) {
        return Ok(0);
    }
    let (caller, stat) = (cx.caller(), target.stat()?);
    target.writable()?;
    if matches!((atime, mtime), (NewTime::Now, NewTime::Now)) {
        // Whoever may write could have made these times by writing.
        caller.owns(&stat).or_else(|_| caller.may(&stat, Permission::WRITE))?;
    } else {
        caller.owns(&stat)?;
    }
    let now = cx.process.clock.realtime();
    let change = AttributeChange {
        atime: atime.resolve(now),
        mtime: mtime.resolve(now),
        ..AttributeChange::default()
    };
    target.set_attributes(&change)?;
    Ok(0)
}

fn utimensat(cx: &Cx<'_>, a: Arguments) -> SysResult {
    let [directory, path, times, flags, ..] = a;
    only(flags, libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH)?;
    let (atime, mtime) = match times {
        0 => (NewTime::Now, NewTime::Now),
        address => {
            let [atime, mtime]: [[i64; 2]; 2] = cx.mm().read_value(address)?;
            (NewTime::from_timespec(atime)?, NewTime::from_timespec(mtime)?)
        }
    };
    // futimens passes no path at all.
    let target = if path == 0 && !has(flags, libc::AT_EMPTY_PATH) {
        Target::File(cx.usable_file(directory as Fd)?)
    } else {
        cx.target(directory as Fd, path, flags)?
    };
    set_times(cx, &target, atime, mtime)
}

fn utime(cx: &Cx<'_>, path: u64, times: u64) -> SysResult {
    let (atime, mtime) = match times {
        0 => (NewTime::Now, NewTime::Now),
        address => {
            let [atime, mtime]: [i64; 2] = cx.mm().read_value(address)?;
            (NewTime::At(atime, 0), NewTime::At(mtime, 0))
        }
    };
    set_times(cx, &cx.target(HERE, path, 0)?, atime, mtime)
}

fn utimes(cx: &Cx<'_>, directory: Fd, path: u64, times: u64) -> SysResult {
    let (atime, mtime) = match times {
        0 => (NewTime::Now, NewTime::Now),
        address => {
            let [atime, mtime]: [[i64; 2]; 2] = cx.mm().read_value(address)?;
            (NewTime::from_timeval(atime)?, NewTime::from_timeval(mtime)?)
        }
    };
    set_times(cx, &cx.target(directory, path, 0)?, atime, mtime)
}

/// # Errors
/// EINVAL for a negative size, EFBIG with SIGXFSZ beyond RLIMIT_FSIZE.
fn check_size(cx: &Cx<'_>, size: u64) -> Result<(), Errno> {
    if size > i64::MAX as u64 {
        return Err(Errno::INVAL);
    }
    super::file::check_size_limit(cx, size, 0)
}

fn truncate(cx: &Cx<'_>, path: u64, size: u64) -> SysResult {
    check_size(cx, size)?;
    let path = cx.path(path)?;
    let place = cx.find(HERE, &path, true)?;
    match place.inode.file_type() {
        FileType::Regular => {}
        FileType::Directory => return Err(Errno::ISDIR.into()),
        _ => return Err(Errno::INVAL.into()),
    }
    cx.caller().may(&place.inode.metadata()?, Permission::WRITE)?;
    place.writable()?;
    place.inode.truncate(size)?;
    Ok(0)
}

fn ftruncate(cx: &Cx<'_>, fd: Fd, size: u64) -> SysResult {
    let file = cx.usable_file(fd)?;
    if !file.access.writes() {
        return Err(Errno::INVAL.into());
    }
    check_size(cx, size)?;
    file.object.truncate(size)?;
    Ok(0)
}

fn fallocate(cx: &Cx<'_>, a: Arguments) -> SysResult {
    let [fd, mode, offset, length, ..] = a;
    let file = cx.usable_file(fd as Fd)?;
    if !file.access.writes() {
        return Err(Errno::BADF.into());
    }
    if offset > i64::MAX as u64 || length == 0 || length > i64::MAX as u64 {
        return Err(Errno::INVAL.into());
    }
    let end = offset + length;
    if end > i64::MAX as u64 {
        return Err(Errno::FBIG.into());
    }
    const KEEP_SIZE: u64 = 1;
    if mode & KEEP_SIZE == 0 {
        super::file::check_size_limit(cx, end, 0)?;
    }
    if !file.object.seekable() {
        return Err(if file.object.wait_queue().is_some() { Errno::SPIPE } else { Errno::NODEV }.into());
    }
    file.object.allocate(mode as u32, offset, length)?;
    Ok(0)
}

fn sync(cx: &Cx<'_>, fd: Fd) -> SysResult {
    cx.usable_file(fd)?.object.sync()?;
    Ok(0)
}

fn sync_file_range(cx: &Cx<'_>, fd: Fd) -> SysResult {
    let file = cx.usable_file(fd)?;
    if !file.object.seekable() {
        return Err(Errno::SPIPE.into());
    }
    file.object.sync()?;
    Ok(0)
}

/// Advice about reading ahead: the host's page cache decides for itself.
fn advise(cx: &Cx<'_>, fd: Fd, advice: i32) -> SysResult {
    let file = cx.usable_file(fd)?;
    if !file.object.seekable() {
        return Err(Errno::SPIPE.into());
    }
    if !(libc::POSIX_FADV_NORMAL..=libc::POSIX_FADV_NOREUSE).contains(&advice) {
        return Err(Errno::INVAL.into());
    }
    Ok(0)
}
