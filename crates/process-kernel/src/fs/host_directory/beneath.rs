//! The only way from a guest's file tree to the host's: openat2 below a held directory.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags, fstat, fstatfs, openat2};
use rustix::io::Errno;

use crate::file::Stat;

/// A host directory that nothing leads out of.
pub(super) struct Beneath {
    root: OwnedFd,
    resolve: ResolveFlags,
    device: u64,
}

/// File systems that guests may walk into below a mount: those that hold plain files. Whatever else is mounted there
/// (procfs, sysfs, debugfs, cgroup, ...) does not exist for the guest.
const PLAIN_FILE_SYSTEMS: &[u64] = &[
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // xfs
    0x9123_683e, // btrfs
    0xf2f5_2010, // f2fs
    0x2fc1_2fc1, // zfs
    0xca45_1a4e, // bcachefs
    0x0102_1994, // tmpfs
    0x8584_58f6, // ramfs
    0x794c_7630, // overlayfs
    0x7371_7368, // squashfs
    0xe0f5_e1e2, // erofs
    0x9660,      // iso9660
    0x4d44,      // vfat
    0x2011_bab0, // exfat
    0x6969,      // nfs
    0xff53_4d42, // cifs
    0xfe53_4d42, // smb2
    0x0102_1997, // 9p
    0x6573_5546, // fuse, virtiofs
];

pub(super) fn stat_of(stat: &rustix::fs::Stat) -> Stat {
    Stat {
        dev: stat.st_dev,
        ino: stat.st_ino,
        mode: stat.st_mode,
        nlink: stat.st_nlink,
        uid: stat.st_uid,
        gid: stat.st_gid,
        rdev: stat.st_rdev,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        blksize: u32::try_from(stat.st_blksize).unwrap_or(4096),
        blocks: u64::try_from(stat.st_blocks).unwrap_or(0),
        atime: (stat.st_atime, stat.st_atime_nsec as u32),
        mtime: (stat.st_mtime, stat.st_mtime_nsec as u32),
        ctime: (stat.st_ctime, stat.st_ctime_nsec as u32),
    }
}

impl Beneath {
    /// Everything below `root`; into other disks only with `cross_devices`.
    pub fn new(root: OwnedFd, cross_devices: bool) -> Result<Self, Errno> {
        let device = fstat(&root)?.st_dev;
        let mut resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
        resolve.set(ResolveFlags::NO_XDEV, !cross_devices);
        Ok(Self { root, resolve, device })
    }

    /// Opens the file at the plain relative `path` ("" is the directory itself), never through a link.
    ///
    /// # Errors
    /// The host's; ENOENT for what lies on a file system that holds no plain files.
    pub fn open(&self, path: &[u8], flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { b"." } else { path };
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = openat2(&self.root, path, flags, mode, self.resolve).map_err(|error| match error {
            // Another disk, or a link where there was none a moment ago: not there for the guest.
            Errno::XDEV | Errno::LOOP => Errno::NOENT,
            other => other,
        })?;
        Ok(fd)
    }

    /// Holds the file at `path` without opening it, and tells what it is.
    ///
    /// # Errors
    /// As [`Beneath::open`].
    pub fn look_up(&self, path: &[u8]) -> Result<(OwnedFd, Stat), Errno> {
        let fd = self.open(path, OFlags::PATH, Mode::empty())?;
        let stat = stat_of(&fstat(&fd)?);
        if stat.dev != self.device {
            let magic = fstatfs(&fd)?.f_type as u64 & 0xffff_ffff;
            if !PLAIN_FILE_SYSTEMS.contains(&magic) {
                return Err(Errno::NOENT);
            }
        }
        Ok((fd, stat))
    }

    /// The directory itself.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}
