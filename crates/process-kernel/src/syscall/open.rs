//! Opening and closing: open and its kin, close, dup.

use std::os::raw::c_long;

use bytemuck::{Pod, Zeroable};
use rustix::io::Errno;

use super::{Arguments, Cx, SysResult};
use crate::file::Fd;
use crate::fs::{OpenHow, Walk};

pub(super) fn dispatch(cx: &mut Cx<'_>, number: c_long, a: Arguments) -> Option<SysResult> {
    const CREAT: u64 = (libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC) as u64;
    Some(match number {
        libc::SYS_open => open(cx, libc::AT_FDCWD, a[0], a[1], a[2]),
        libc::SYS_openat => open(cx, a[0] as Fd, a[1], a[2], a[3]),
        libc::SYS_creat => open(cx, libc::AT_FDCWD, a[0], CREAT, a[1]),
        libc::SYS_openat2 => openat2(cx, a[0] as Fd, a[1], a[2], a[3]),
        libc::SYS_memfd_create => memfd_create(cx, a[0], a[1] as u32),
        libc::SYS_close => close(cx, a[0] as Fd),
        libc::SYS_close_range => close_range(cx, a[0] as u32, a[1] as u32, a[2] as u32),
        libc::SYS_dup => dup(cx, a[0] as Fd, 0, false),
        libc::SYS_dup2 => dup2(cx, a[0] as Fd, a[1] as Fd),
        libc::SYS_dup3 => dup3(cx, a[0] as Fd, a[1] as Fd, a[2]),
        _ => return None,
    })
}

fn open(cx: &Cx<'_>, directory: Fd, path: u64, flags: u64, mode: u64) -> SysResult {
    let path = cx.path(path)?;
    // open and openat ignore bits that they don't know.
    let how = OpenHow::decode(flags as u32, mode as u32, cx.process.fs.umask())?;
    open_at(cx, directory, &path, &how, flags)
}

fn open_at(cx: &Cx<'_>, directory: Fd, path: &[u8], how: &OpenHow, flags: u64) -> SysResult {
    let start = cx.start(directory, path)?;
    let file = cx.process.vfs.open(&cx.caller(), &start, path, how)?;
    Ok(cx.install(file, flags & libc::O_CLOEXEC as u64 != 0)?)
}

/// `struct open_how`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct RawOpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// Flags that openat2 knows; it refuses all others.
const OPEN_FLAGS: i32 = libc::O_ACCMODE
    | libc::O_CREAT
    | libc::O_EXCL
    | libc::O_NOCTTY
    | libc::O_TRUNC
    | libc::O_APPEND
    | libc::O_NONBLOCK
    | libc::O_SYNC
    | libc::O_ASYNC
    | libc::O_DIRECT
    | 0o100_000 // O_LARGEFILE, which the C library defines as 0 here
    | libc::O_DIRECTORY
    | libc::O_NOFOLLOW
    | libc::O_NOATIME
    | libc::O_CLOEXEC
    | libc::O_PATH
    | libc::O_TMPFILE;

/// RESOLVE_CACHED: only what needs no disk. We can't tell, so the caller is asked to come again without it.
const RESOLVE_CACHED: u64 = 0x20;

fn openat2(cx: &Cx<'_>, directory: Fd, path: u64, how: u64, size: u64) -> SysResult {
    const KNOWN: usize = size_of::<RawOpenHow>();
    let size = usize::try_from(size).map_err(|_| Errno::TOOBIG)?;
    if size < KNOWN {
        return Err(Errno::INVAL.into());
    }
    if size > 4096 {
        return Err(Errno::TOOBIG.into());
    }
    let mut bytes = vec![0; size];
    cx.mm().read(how, &mut bytes)?;
    let (known, unknown) = bytes.split_at(KNOWN);
    if unknown.iter().any(|byte| *byte != 0) {
        return Err(Errno::TOOBIG.into());
    }
    let raw: RawOpenHow = bytemuck::pod_read_unaligned(known);
    let path = cx.path(path)?;
    let creates = raw.flags & (libc::O_CREAT | libc::O_TMPFILE & !libc::O_DIRECTORY) as u64 != 0;
    if raw.flags & !(OPEN_FLAGS as u64) != 0 || raw.mode & !0o7777 != 0 || (raw.mode != 0 && !creates) {
        return Err(Errno::INVAL.into());
    }
    if raw.resolve & RESOLVE_CACHED != 0 {
        return Err(Errno::AGAIN.into());
    }
    let restrictions = Walk::from_bits(raw.resolve as u32).filter(|walk| !walk.contains(Walk::FOLLOW));
    let restrictions = restrictions.filter(|_| raw.resolve <= u64::from(u32::MAX)).ok_or(Errno::INVAL)?;
    if restrictions.contains(Walk::BENEATH | Walk::IN_ROOT) {
        return Err(Errno::INVAL.into());
    }
    let mut how = OpenHow::decode(raw.flags as u32, raw.mode as u32, cx.process.fs.umask())?;
    how.walk |= restrictions;
    if restrictions.intersects(Walk::IN_ROOT | Walk::BENEATH) && path.first() == Some(&b'/') {
        // An absolute path begins at the descriptor here.
        let start = cx.start(directory, b".")?;
        let file = cx.process.vfs.open(&cx.caller(), &start, &path, &how)?;
        return Ok(cx.install(file, raw.flags & libc::O_CLOEXEC as u64 != 0)?);
    }
    open_at(cx, directory, &path, &how, raw.flags)
}

/// Longest name of a memfd, bytes: NAME_MAX less "memfd:".
const MEMFD_NAME_MAX: usize = 249;
/// MFD_NOEXEC_SEAL and MFD_EXEC: whether it may be run. Mode bits don't stop anything here, so both are taken.
const MFD_EXECUTION: u32 = 0x8 | 0x10;

fn memfd_create(cx: &Cx<'_>, name: u64, flags: u32) -> SysResult {
    let known = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING | MFD_EXECUTION;
    // Huge pages (MFD_HUGETLB) are not offered.
    if flags & !known != 0 || flags & MFD_EXECUTION == MFD_EXECUTION {
        return Err(Errno::INVAL.into());
    }
    let name = match cx.mm().read_string(name, MEMFD_NAME_MAX + 1) {
        Err(Errno::NAMETOOLONG) => return Err(Errno::INVAL.into()),
        name => name?,
    };
    let sealable = flags & (libc::MFD_ALLOW_SEALING | 0x8) != 0;
    let file = cx.process.vfs.create_memfd(&name, &cx.caller(), sealable)?;
    Ok(cx.install(file, flags & libc::MFD_CLOEXEC != 0)?)
}

fn close(cx: &Cx<'_>, fd: Fd) -> SysResult {
    cx.process.files.close(fd)?;
    Ok(0)
}

const CLOSE_RANGE_UNSHARE: u32 = 2;
const CLOSE_RANGE_CLOEXEC: u32 = 4;

fn close_range(cx: &Cx<'_>, first: u32, last: u32, flags: u32) -> SysResult {
    if flags & !(CLOSE_RANGE_UNSHARE | CLOSE_RANGE_CLOEXEC) != 0 || first > last {
        return Err(Errno::INVAL.into());
    }
    if flags & CLOSE_RANGE_UNSHARE != 0 && cx.process.threads().len() > 1 {
        // Threads with descriptor tables of their own are not offered.
        return Err(Errno::NOMEM.into());
    }
    let files = &cx.process.files;
    for fd in files.open_descriptors() {
        if (first..=last).contains(&fd.unsigned_abs()) {
            // Another thread may have closed it in between.
            let _ = match flags & CLOSE_RANGE_CLOEXEC {
                0 => files.close(fd),
                _ => files.set_close_on_exec(fd, true),
            };
        }
    }
    Ok(0)
}

/// dup and fcntl(F_DUPFD): the lowest free descriptor that is at least `from`.
pub(super) fn dup(cx: &Cx<'_>, fd: Fd, from: Fd, close_on_exec: bool) -> SysResult {
    let file = cx.file(fd)?;
    let limit = cx.process.limits.open_files();
    Ok(cx.process.files.insert(file, from, limit, close_on_exec)? as u64)
}

fn dup2(cx: &Cx<'_>, old: Fd, new: Fd) -> SysResult {
    if old == new {
        cx.file(old)?;
        return Ok(new as u64);
    }
    dup3(cx, old, new, 0)
}

fn dup3(cx: &Cx<'_>, old: Fd, new: Fd, flags: u64) -> SysResult {
    if old == new || flags & !(libc::O_CLOEXEC as u64) != 0 {
        return Err(Errno::INVAL.into());
    }
    let file = cx.file(old)?;
    cx.process.files.replace(new, file, cx.process.limits.open_files(), flags != 0)?;
    Ok(new as u64)
}
