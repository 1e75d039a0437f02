//! Changes to writable host directories. Each is made on one plain name in a directory that was opened below the root.

use std::any::Any;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{
    AtFlags, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, UTIME_OMIT, Uid, chownat, fchmod,
    ftruncate, linkat, mkdirat, openat, renameat_with, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

use super::HostNode;
use crate::fs::{AttributeChange, FileType, Inode, NewFile, NewKind, RenameMode};

/// Permission bits of new files: never set-user-ID or set-group-ID on the host's disk.
fn plain_mode(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & 0o1777)
}

fn timespec(time: Option<(i64, u32)>) -> Timespec {
    let (tv_sec, tv_nsec) =
        time.map_or((0, UTIME_OMIT), |(seconds, nanoseconds)| (seconds, nanoseconds.into()));
    Timespec { tv_sec, tv_nsec }
}

impl HostNode {
    fn directory(&self) -> Result<OwnedFd, Errno> {
        self.shared.beneath.open(&self.path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
    }

    /// The other node of an operation on two: rename and link stay on one mount.
    fn sibling(inode: &Arc<dyn Inode>) -> Result<Arc<Self>, Errno> {
        let inode: Arc<dyn Any + Send + Sync> = inode.clone();
        inode.downcast().map_err(|_| Errno::XDEV)
    }

    pub(super) fn create_entry(&self, name: &[u8], file: &NewFile<'_>) -> Result<(), Errno> {
        let directory = self.directory()?;
        let mode = plain_mode(file.mode);
        let flags = OFlags::CLOEXEC | OFlags::NOFOLLOW;
        match file.kind {
            // A socket that the guest binds must not appear in the host's file tree.
            NewKind::Socket => Err(Errno::PERM),
            NewKind::Symlink(target) => symlinkat(target, &directory, name),
            NewKind::Regular => {
                let flags = flags | OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
                // The worker's own umask must not take bits away that the guest asked for.
                fchmod(openat(&directory, name, flags, mode)?, mode)
            }
            NewKind::Directory => {
                mkdirat(&directory, name, mode)?;
                fchmod(
                    openat(&directory, name, flags | OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty())?,
                    mode,
                )
            }
        }
    }

    pub(super) fn link_entry(&self, name: &[u8], inode: &Arc<dyn Inode>) -> Result<(), Errno> {
        let source = Self::sibling(inode)?;
        let (Some((parent, old_name)), directory) = (source.parent(), self.directory()?) else {
            return Err(Errno::PERM);
        };
        linkat(Self::sibling(&parent)?.directory()?, old_name, &directory, name, AtFlags::empty())
    }

    pub(super) fn remove_entry(&self, name: &[u8], flags: AtFlags) -> Result<(), Errno> {
        unlinkat(self.directory()?, name, flags)
    }

    pub(super) fn rename_entry(
        &self,
        from: &[u8],
        directory: &Arc<dyn Inode>,
        to: &[u8],
        mode: RenameMode,
    ) -> Result<(), Errno> {
        let flags = match mode {
            RenameMode::Replace => RenameFlags::empty(),
            RenameMode::NoReplace => RenameFlags::NOREPLACE,
            RenameMode::Exchange => RenameFlags::EXCHANGE,
        };
        renameat_with(self.directory()?, from, Self::sibling(directory)?.directory()?, to, flags)
    }

    pub(super) fn change_attributes(&self, change: &AttributeChange) -> Result<(), Errno> {
        let kind = self.file_type();
        let (held, _) = self.shared.beneath.look_up(&self.path)?;
        if change.uid.is_some() || change.gid.is_some() {
            let (uid, gid) = (change.uid.map(Uid::from_raw), change.gid.map(Gid::from_raw));
            chownat(&held, "", uid, gid, AtFlags::EMPTY_PATH)?;
        }
        if let Some(mode) = change.mode {
            let flags = match kind {
                FileType::Directory => OFlags::RDONLY | OFlags::DIRECTORY,
                FileType::Regular => OFlags::RDONLY,
                _ => return Err(Errno::OPNOTSUPP),
            };
            let opened = self.shared.open(&self.path, kind, flags);
            // A file that may be written but not read can be changed too.
            let opened = opened.or_else(|_| self.shared.open(&self.path, kind, OFlags::WRONLY));
            fchmod(opened?.0, plain_mode(mode))?;
        }
        if change.atime.is_some() || change.mtime.is_some() {
            let times =
                Timestamps { last_access: timespec(change.atime), last_modification: timespec(change.mtime) };
            utimensat(&held, "", &times, AtFlags::EMPTY_PATH)?;
        }
        Ok(())
    }

    pub(super) fn set_size(&self, size: u64) -> Result<(), Errno> {
        let (fd, _) = self.shared.open(&self.path, FileType::Regular, OFlags::WRONLY)?;
        ftruncate(fd, size)
    }
}
