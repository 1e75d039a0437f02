//! Directories and names: listing, current directory, making, linking, renaming, removing.

use std::os::raw::c_long;

use rustix::io::Errno;

use super::path::{Target, has, only};
use super::{Arguments, Cx, SysResult};
use crate::file::{DirectoryEntry, Fd};
use crate::fs::{FileType, NewKind, PATH_MAX, Permission, Place, RenameMode};

/// The current directory.
const HERE: Fd = libc::AT_FDCWD;

pub(super) fn dispatch(cx: &mut Cx<'_>, number: c_long, a: Arguments) -> Option<SysResult> {
    Some(match number {
        libc::SYS_getdents64 => getdents(cx, a, encode_entry64),
        libc::SYS_getdents => getdents(cx, a, encode_entry),
        libc::SYS_getcwd => getcwd(cx, a[0], a[1]),
        libc::SYS_chdir => chdir(cx, a[0]),
        libc::SYS_fchdir => fchdir(cx, a[0] as Fd),
        libc::SYS_mkdir => mkdir(cx, HERE, a[0], a[1]),
        libc::SYS_mkdirat => mkdir(cx, a[0] as Fd, a[1], a[2]),
        libc::SYS_mknod => mknod(cx, HERE, a[0], a[1]),
        libc::SYS_mknodat => mknod(cx, a[0] as Fd, a[1], a[2]),
        libc::SYS_rmdir => unlink(cx, HERE, a[0], libc::AT_REMOVEDIR as u64),
        libc::SYS_unlink => unlink(cx, HERE, a[0], 0),
        libc::SYS_unlinkat => unlink(cx, a[0] as Fd, a[1], a[2]),
        libc::SYS_rename => rename(cx, (HERE, a[0]), (HERE, a[1]), 0),
        libc::SYS_renameat => rename(cx, (a[0] as Fd, a[1]), (a[2] as Fd, a[3]), 0),
        libc::SYS_renameat2 => rename(cx, (a[0] as Fd, a[1]), (a[2] as Fd, a[3]), a[4]),
        libc::SYS_link => link(cx, (HERE, a[0]), (HERE, a[1]), 0),
        libc::SYS_linkat => link(cx, (a[0] as Fd, a[1]), (a[2] as Fd, a[3]), a[4]),
        libc::SYS_symlink => symlink(cx, a[0], HERE, a[1]),
        libc::SYS_symlinkat => symlink(cx, a[0], a[1] as Fd, a[2]),
        libc::SYS_readlink => readlink(cx, HERE, a[0], a[1], a[2]),
        libc::SYS_readlinkat => readlink(cx, a[0] as Fd, a[1], a[2], a[3]),
        // A guest is no superuser of its file tree, whatever its user id.
        libc::SYS_chroot | libc::SYS_pivot_root | libc::SYS_mount | libc::SYS_umount2 => {
            Err(Errno::PERM.into())
        }
        _ => return None,
    })
}

/// `struct linux_dirent64`: number, next cookie, length, type, name.
fn encode_entry64(entry: &DirectoryEntry, next: u64) -> Vec<u8> {
    let length = (19 + entry.name.len() + 1).next_multiple_of(8);
    let mut bytes = Vec::with_capacity(length);
    bytes.extend_from_slice(&entry.ino.to_le_bytes());
    bytes.extend_from_slice(&next.to_le_bytes());
    bytes.extend_from_slice(&(length as u16).to_le_bytes());
    bytes.push(entry.file_type);
    bytes.extend_from_slice(&entry.name);
    bytes.resize(length, 0);
    bytes
}

/// `struct linux_dirent`: as above, with the type in the last byte.
fn encode_entry(entry: &DirectoryEntry, next: u64) -> Vec<u8> {
    let length = (18 + entry.name.len() + 2).next_multiple_of(8);
    let mut bytes = Vec::with_capacity(length);
    bytes.extend_from_slice(&entry.ino.to_le_bytes());
    bytes.extend_from_slice(&next.to_le_bytes());
    bytes.extend_from_slice(&(length as u16).to_le_bytes());
    bytes.extend_from_slice(&entry.name);
    bytes.resize(length - 1, 0);
    bytes.push(entry.file_type);
    bytes
}

/// Bytes that one getdents call gives at most.
const MAX_LISTING: usize = 1 << 20;

fn getdents(cx: &Cx<'_>, a: Arguments, encode: fn(&DirectoryEntry, u64) -> Vec<u8>) -> SysResult {
    let file = cx.usable_file(a[0] as Fd)?;
    let room = usize::try_from(a[2] & 0xffff_ffff).unwrap_or(MAX_LISTING).min(MAX_LISTING);
    let mut position = file.position();
    let mut cookie = *position;
    let mut listing = Vec::new();
    while let Some((entry, next)) = file.object.next_entry(cookie)? {
        let bytes = encode(&entry, next);
        if listing.len() + bytes.len() > room {
            if listing.is_empty() {
                return Err(Errno::INVAL.into());
            }
            break;
        }
        listing.extend_from_slice(&bytes);
        cookie = next;
    }
    cx.mm().write(a[1], &listing)?;
    *position = cookie;
    Ok(listing.len() as u64)
}

fn getcwd(cx: &Cx<'_>, buffer: u64, size: u64) -> SysResult {
    let directory = cx.process.fs.directory();
    if directory.inode.is_deleted() {
        return Err(Errno::NOENT.into());
    }
    let mut path = directory.path();
    path.push(0);
    if path.len() > PATH_MAX {
        return Err(Errno::NAMETOOLONG.into());
    }
    if path.len() as u64 > size {
        return Err(Errno::RANGE.into());
    }
    cx.mm().write(buffer, &path)?;
    Ok(path.len() as u64)
}

fn enter(cx: &Cx<'_>, place: Place) -> SysResult {
    if !place.is_directory() {
        return Err(Errno::NOTDIR.into());
    }
    cx.caller().may(&place.inode.metadata()?, Permission::EXECUTE)?;
    cx.process.fs.set_directory(place)?;
    Ok(0)
}

fn chdir(cx: &Cx<'_>, path: u64) -> SysResult {
    let path = cx.path(path)?;
    enter(cx, cx.find(HERE, &path, true)?)
}

fn fchdir(cx: &Cx<'_>, fd: Fd) -> SysResult {
    let file = cx.file(fd)?;
    enter(cx, file.object.place().cloned().ok_or(Errno::NOTDIR)?)
}

fn make(cx: &Cx<'_>, directory: Fd, path: u64, kind: NewKind<'_>, mode: u64) -> SysResult {
    let path = cx.path(path)?;
    let start = cx.start(directory, &path)?;
    let mode = mode as u32 & 0o7777 & !cx.process.fs.umask();
    cx.process.vfs.make(&cx.caller(), &start, &path, kind, mode)?;
    Ok(0)
}

fn mkdir(cx: &Cx<'_>, directory: Fd, path: u64, mode: u64) -> SysResult {
    // mkdir knows the sticky bit, but no set-ID bits.
    make(cx, directory, path, NewKind::Directory, mode & 0o1777)
}

fn mknod(cx: &Cx<'_>, directory: Fd, path: u64, mode: u64) -> SysResult {
    match FileType::of_mode(mode as u32) {
        Some(FileType::Regular) => make(cx, directory, path, NewKind::Regular, mode),
        None if mode & 0o170_000 == 0 => make(cx, directory, path, NewKind::Regular, mode),
        None | Some(FileType::Directory | FileType::Symlink) => Err(Errno::INVAL.into()),
        Some(FileType::Socket) => make(cx, directory, path, NewKind::Socket, mode),
        // Named pipes in the file tree are not offered; devices never will be.
        Some(_) => Err(Errno::PERM.into()),
    }
}

fn symlink(cx: &Cx<'_>, target: u64, directory: Fd, path: u64) -> SysResult {
    let target = cx.path(target)?;
    if target.is_empty() {
        return Err(Errno::NOENT.into());
    }
    let path = cx.path(path)?;
    let start = cx.start(directory, &path)?;
    cx.process.vfs.make(&cx.caller(), &start, &path, NewKind::Symlink(&target), 0o777)?;
    Ok(0)
}

fn unlink(cx: &Cx<'_>, directory: Fd, path: u64, flags: u64) -> SysResult {
    only(flags, libc::AT_REMOVEDIR)?;
    let path = cx.path(path)?;
    let start = cx.start(directory, &path)?;
    let vfs = &cx.process.vfs;
    if has(flags, libc::AT_REMOVEDIR) {
        vfs.remove_directory(&cx.caller(), &start, &path)?;
    } else {
        vfs.unlink(&cx.caller(), &start, &path)?;
    }
    Ok(0)
}

fn rename(cx: &Cx<'_>, from: (Fd, u64), to: (Fd, u64), flags: u64) -> SysResult {
    let mode = match flags as u32 {
        0 => RenameMode::Replace,
        libc::RENAME_NOREPLACE => RenameMode::NoReplace,
        libc::RENAME_EXCHANGE => RenameMode::Exchange,
        // RENAME_WHITEOUT makes a device node, which no guest may.
        _ => return Err(Errno::INVAL.into()),
    };
    let (old, new) = (cx.path(from.1)?, cx.path(to.1)?);
    let (old_start, new_start) = (cx.start(from.0, &old)?, cx.start(to.0, &new)?);
    cx.process.vfs.rename(&cx.caller(), (&old_start, &old), (&new_start, &new), mode)?;
    Ok(0)
}

fn link(cx: &Cx<'_>, from: (Fd, u64), to: (Fd, u64), flags: u64) -> SysResult {
    only(flags, libc::AT_SYMLINK_FOLLOW | libc::AT_EMPTY_PATH)?;
    // linkat is the one call that does not follow unless told to.
    let nofollow = if has(flags, libc::AT_SYMLINK_FOLLOW) { 0 } else { libc::AT_SYMLINK_NOFOLLOW as u64 };
    let target = cx.target(from.0, from.1, flags & libc::AT_EMPTY_PATH as u64 | nofollow)?;
    let target = match &target {
        Target::Place(place) => place,
        Target::File(file) => file.object.place().ok_or(Errno::XDEV)?,
    };
    let path = cx.path(to.1)?;
    let start = cx.start(to.0, &path)?;
    cx.process.vfs.link(&cx.caller(), target, &start, &path)?;
    Ok(0)
}

fn readlink(cx: &Cx<'_>, directory: Fd, path: u64, buffer: u64, size: u64) -> SysResult {
    if size as i32 <= 0 {
        return Err(Errno::INVAL.into());
    }
    let target = cx.target(directory, path, (libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW) as u64)?;
    let place = match &target {
        // Only a descriptor that was opened with O_PATH | O_NOFOLLOW refers to a link.
        Target::File(file) => {
            file.object.place().filter(|place| place.inode.file_type() == FileType::Symlink)
        }
        Target::Place(place) => Some(place),
    };
    let mut link = place.ok_or(Errno::NOENT)?.inode.read_link(&cx.caller())?;
    link.truncate(size as i32 as usize);
    cx.mm().write(buffer, &link)?;
    Ok(link.len() as u64)
}
