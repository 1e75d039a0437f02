//! Reading metadata: stat and its kin, access, statfs, extended attributes.

use std::os::raw::c_long;

use rustix::io::Errno;

use super::path::{Target, only};
use super::{Arguments, Cx, SysResult};
use crate::file::{Fd, Stat};
use crate::fs::{FsStatistics, Permission, Place};

const HERE: Fd = libc::AT_FDCWD;
const NOFOLLOW: u64 = libc::AT_SYMLINK_NOFOLLOW as u64;

pub(super) fn dispatch(cx: &mut Cx<'_>, number: c_long, a: Arguments) -> Option<SysResult> {
    Some(match number {
        libc::SYS_stat => stat_at(cx, HERE, a[0], a[1], 0),
        libc::SYS_lstat => stat_at(cx, HERE, a[0], a[1], NOFOLLOW),
        libc::SYS_newfstatat => stat_at(cx, a[0] as Fd, a[1], a[2], a[3]),
        libc::SYS_fstat => fstat(cx, a[0] as Fd, a[1]),
        libc::SYS_statx => statx(cx, a),
        libc::SYS_access => access(cx, HERE, a[0], a[1], 0),
        libc::SYS_faccessat => access(cx, a[0] as Fd, a[1], a[2], 0),
        libc::SYS_faccessat2 => access(cx, a[0] as Fd, a[1], a[2], a[3]),
        libc::SYS_statfs => statfs(cx, a[0], a[1]),
        libc::SYS_fstatfs => fstatfs(cx, a[0] as Fd, a[1]),
        libc::SYS_umask => Ok(u64::from(cx.process.fs.set_umask(a[0] as u32))),
        libc::SYS_getxattr | libc::SYS_lgetxattr | libc::SYS_fgetxattr => xattr(cx, number, a, Errno::NODATA),
        libc::SYS_removexattr | libc::SYS_lremovexattr | libc::SYS_fremovexattr => {
            xattr(cx, number, a, Errno::NODATA)
        }
        libc::SYS_setxattr | libc::SYS_lsetxattr | libc::SYS_fsetxattr => xattr(cx, number, a, Errno::NOTSUP),
        // No file has extended attributes: an empty list.
        libc::SYS_listxattr | libc::SYS_llistxattr | libc::SYS_flistxattr => {
            match xattr(cx, number, a, Errno::NODATA) {
                Err(super::Stop::Errno(Errno::NODATA)) => Ok(0),
                other => other,
            }
        }
        libc::SYS_name_to_handle_at | libc::SYS_open_by_handle_at => Err(Errno::OPNOTSUPP.into()),
        _ => return None,
    })
}

/// `struct stat` of x86-64.
fn encode_stat(stat: &Stat) -> [u8; 144] {
    let words = [
        stat.dev,
        stat.ino,
        stat.nlink,
        u64::from(stat.mode) | u64::from(stat.uid) << 32,
        u64::from(stat.gid),
        stat.rdev,
        stat.size,
        u64::from(stat.blksize),
        stat.blocks,
        stat.atime.0 as u64,
        u64::from(stat.atime.1),
        stat.mtime.0 as u64,
        u64::from(stat.mtime.1),
        stat.ctime.0 as u64,
        u64::from(stat.ctime.1),
        0,
        0,
        0,
    ];
    let mut bytes = [0; 144];
    bytes.copy_from_slice(bytemuck::cast_slice(&words));
    bytes
}

fn stat_at(cx: &Cx<'_>, directory: Fd, path: u64, to: u64, flags: u64) -> SysResult {
    only(flags, libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT)?;
    let stat = cx.target(directory, path, flags)?.stat()?;
    cx.mm().write(to, &encode_stat(&stat))?;
    Ok(0)
}

fn fstat(cx: &Cx<'_>, fd: Fd, to: u64) -> SysResult {
    let stat = cx.file(fd)?.object.stat()?;
    cx.mm().write(to, &encode_stat(&stat))?;
    Ok(0)
}

/// `struct statx`. The birth time is not known, so its mask bit is off.
fn encode_statx(stat: &Stat, mount: u64) -> [u8; 256] {
    const BASIC_STATS: u32 = 0x7ff;
    const MNT_ID: u32 = 0x1000;
    let mut bytes = [0; 256];
    let mut put = |at: usize, value: &[u8]| {
        if let Some(field) = bytes.get_mut(at..at + value.len()) {
            field.copy_from_slice(value);
        }
    };
    put(0x00, &(BASIC_STATS | MNT_ID).to_le_bytes());
    put(0x04, &stat.blksize.to_le_bytes());
    put(0x10, &u32::try_from(stat.nlink).unwrap_or(u32::MAX).to_le_bytes());
    put(0x14, &stat.uid.to_le_bytes());
    put(0x18, &stat.gid.to_le_bytes());
    put(0x1c, &(stat.mode as u16).to_le_bytes());
    put(0x20, &stat.ino.to_le_bytes());
    put(0x28, &stat.size.to_le_bytes());
    put(0x30, &stat.blocks.to_le_bytes());
    for (at, (seconds, nanoseconds)) in [(0x40, stat.atime), (0x60, stat.ctime), (0x70, stat.mtime)] {
        put(at, &seconds.to_le_bytes());
        put(at + 8, &nanoseconds.to_le_bytes());
    }
    for (at, device) in [(0x80, stat.rdev), (0x88, stat.dev)] {
        put(at, &libc::major(device).to_le_bytes());
        put(at + 4, &libc::minor(device).to_le_bytes());
    }
    put(0x90, &mount.to_le_bytes());
    bytes
}

fn statx(cx: &Cx<'_>, a: Arguments) -> SysResult {
    let [directory, path, flags, mask, to, _] = a;
    const RESERVED: u64 = 0x8000_0000;
    let known = libc::AT_EMPTY_PATH
        | libc::AT_SYMLINK_NOFOLLOW
        | libc::AT_NO_AUTOMOUNT
        | libc::AT_STATX_FORCE_SYNC
        | libc::AT_STATX_DONT_SYNC;
    only(flags, known)?;
    if mask & RESERVED != 0 {
        return Err(Errno::INVAL.into());
    }
    let target = cx.target(directory as Fd, path, flags)?;
    let mount = target.place().map_or(0, |place| u64::from(place.mount.id));
    cx.mm().write(to, &encode_statx(&target.stat()?, mount))?;
    Ok(0)
}

fn access(cx: &Cx<'_>, directory: Fd, path: u64, mode: u64, flags: u64) -> SysResult {
    only(flags, libc::AT_EACCESS | libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW)?;
    let wanted = Permission::from_bits(mode as u32).ok_or(Errno::INVAL)?;
    let target = cx.target(directory, path, flags)?;
    let stat = target.stat()?;
    cx.caller().may(&stat, wanted)?;
    let holds_data = matches!(stat.mode & 0o170_000, 0o100_000 | 0o040_000 | 0o120_000);
    if wanted.contains(Permission::WRITE) && holds_data {
        target.writable()?;
    }
    Ok(0)
}

/// `struct statfs` of x86-64.
fn encode_statfs(figures: &FsStatistics, writable: bool) -> [u8; 120] {
    const RDONLY: u64 = 1;
    const NOSUID_NODEV_VALID: u64 = 0x2 | 0x4 | 0x20;
    let words = [
        figures.magic,
        figures.block_size,
        figures.blocks,
        figures.free,
        figures.free,
        figures.files,
        figures.free_files,
        0,
        crate::fs::NAME_MAX as u64,
        figures.block_size,
        NOSUID_NODEV_VALID | if writable { 0 } else { RDONLY },
        0,
        0,
        0,
        0,
    ];
    let mut bytes = [0; 120];
    bytes.copy_from_slice(bytemuck::cast_slice(&words));
    bytes
}

fn write_statfs(cx: &Cx<'_>, place: Option<&Place>, to: u64) -> SysResult {
    // Pipes, sockets and their kin lie on file systems of the kernel's own without figures (pipefs's magic number).
    let nowhere = FsStatistics { magic: 0x5049_5045, block_size: 4096, ..FsStatistics::default() };
    let figures = place.map_or(Ok(nowhere), |place| place.mount.fs.statistics())?;
    cx.mm().write(to, &encode_statfs(&figures, place.is_none_or(|place| place.mount.writable)))?;
    Ok(0)
}

fn statfs(cx: &Cx<'_>, path: u64, to: u64) -> SysResult {
    let path = cx.path(path)?;
    write_statfs(cx, Some(&cx.find(HERE, &path, true)?), to)
}

fn fstatfs(cx: &Cx<'_>, fd: Fd, to: u64) -> SysResult {
    let file = cx.file(fd)?;
    write_statfs(cx, file.object.place(), to)
}

/// Extended attributes: the file has to exist, but none has any.
fn xattr(cx: &Cx<'_>, number: c_long, a: Arguments, answer: Errno) -> SysResult {
    let by_descriptor =
        [libc::SYS_fgetxattr, libc::SYS_fsetxattr, libc::SYS_flistxattr, libc::SYS_fremovexattr];
    let of_link = [libc::SYS_lgetxattr, libc::SYS_lsetxattr, libc::SYS_llistxattr, libc::SYS_lremovexattr];
    let target = if by_descriptor.contains(&number) {
        Target::File(cx.usable_file(a[0] as Fd)?)
    } else {
        cx.target(HERE, a[0], if of_link.contains(&number) { NOFOLLOW } else { 0 })?
    };
    if answer == Errno::NOTSUP {
        target.writable()?;
    }
    Err(answer.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_c_librarys_layout() {
        let stat = Stat {
            dev: 0x802,
            ino: 77,
            mode: 0o100_644,
            nlink: 3,
            uid: 5,
            gid: 6,
            rdev: 0,
            size: 1234,
            blksize: 4096,
            blocks: 8,
            atime: (1, 2),
            mtime: (3, 4),
            ctime: (5, 6),
        };
        let bytes = encode_stat(&stat);
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        assert_eq!(size_of::<libc::stat>(), bytes.len());
        assert_eq!(word(std::mem::offset_of!(libc::stat, st_size)), 1234);
        assert_eq!(word(std::mem::offset_of!(libc::stat, st_mtime_nsec)), 4);
        assert_eq!(word(std::mem::offset_of!(libc::stat, st_gid)) as u32, 6);
        assert_eq!(size_of::<libc::statfs>(), encode_statfs(&FsStatistics::default(), true).len());

        let bytes = encode_statx(&stat, 20);
        assert_eq!(size_of::<libc::statx>(), bytes.len());
        let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        assert_eq!(long(std::mem::offset_of!(libc::statx, stx_size)), 1234);
        assert_eq!(long(std::mem::offset_of!(libc::statx, stx_mtime)), 3);
        assert_eq!(long(std::mem::offset_of!(libc::statx, stx_mnt_id)), 20);
        assert_eq!(long(std::mem::offset_of!(libc::statx, stx_dev_major)), 8 | 2 << 32);
    }
}
