//! What system calls do with paths: open, make, remove, rename.

use std::sync::Arc;

use rustix::io::Errno;

use super::{
    Caller, DirectoryFile, FileType, Last, NewFile, NewKind, PathFile, Permission, Place, RenameMode, Vfs,
    Walk,
};
use crate::file::{AccessMode, FileObject, OpenFile, StatusFlags};

/// open's flags, decoded, with the values of x86-64.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenHow {
    /// O_RDONLY, O_WRONLY, O_RDWR or O_PATH.
    pub access: AccessMode,
    /// O_APPEND, O_NONBLOCK and the other flags that stay with the open file.
    pub status: StatusFlags,
    /// O_CREAT
    pub create: bool,
    /// O_EXCL
    pub exclusive: bool,
    /// O_TRUNC
    pub truncate: bool,
    /// O_DIRECTORY
    pub directory: bool,
    /// O_TMPFILE
    pub unnamed: bool,
    /// Permission bits of a created file, the umask already applied.
    pub mode: u32,
    /// How the path is walked; O_NOFOLLOW is the absence of [`Walk::FOLLOW`].
    pub walk: Walk,
}

impl OpenHow {
    /// Plain reading.
    pub const READ: Self = Self {
        access: AccessMode::Read,
        status: StatusFlags::empty(),
        create: false,
        exclusive: false,
        truncate: false,
        directory: false,
        unnamed: false,
        mode: 0,
        walk: Walk::FOLLOW,
    };

    /// Decodes open(2)'s `flags` and `mode`.
    ///
    /// # Errors
    /// EINVAL for flags that contradict each other.
    pub fn decode(flags: u32, mode: u32, umask: u32) -> Result<Self, Errno> {
        let has = |flag: i32| flags & flag as u32 == flag as u32;
        let mut walk = if has(libc::O_NOFOLLOW) { Walk::empty() } else { Walk::FOLLOW };
        let access = match flags & 3 {
            _ if has(libc::O_PATH) => AccessMode::Path,
            0 => AccessMode::Read,
            1 => AccessMode::Write,
            // 3 is Linux's "for ioctl only", which needs both permissions.
            _ => AccessMode::ReadWrite,
        };
        let path_only = access == AccessMode::Path;
        let how = Self {
            access,
            status: if path_only { StatusFlags::empty() } else { StatusFlags::from_bits_truncate(flags) },
            create: has(libc::O_CREAT) && !path_only,
            exclusive: has(libc::O_EXCL),
            truncate: has(libc::O_TRUNC) && !path_only,
            directory: has(libc::O_DIRECTORY),
            unnamed: has(libc::O_TMPFILE) && !path_only,
            mode: mode & 0o7777 & !umask,
            walk,
        };
        if how.unnamed {
            if !access.writes() || how.create {
                return Err(Errno::INVAL);
            }
        } else if how.create && how.directory {
            return Err(Errno::INVAL);
        }
        if how.create && how.exclusive {
            walk.remove(Walk::FOLLOW);
        }
        Ok(Self { walk, ..how })
    }

    /// What the mode bits must allow.
    fn permission(&self) -> Permission {
        let mut wanted = Permission::empty();
        wanted.set(Permission::READ, self.access.reads());
        wanted.set(Permission::WRITE, self.access.writes() || self.truncate);
        wanted
    }
}

impl Vfs {
    /// open(2).
    ///
    /// # Errors
    /// As open(2).
    pub fn open(
        self: &Arc<Self>,
        caller: &Caller,
        start: &Place,
        path: &[u8],
        how: &OpenHow,
    ) -> Result<Arc<OpenFile>, Errno> {
        let walked = self.walk(caller, start, path, how.walk)?;
        if how.unnamed {
            return self.open_unnamed(caller, &walked.found()?, how);
        }
        if how.create {
            if walked.directory || !matches!(walked.last, Last::Name(_) | Last::None) {
                return Err(if walked.target.is_none() || walked.directory {
                    Errno::ISDIR
                } else {
                    Errno::EXIST
                });
            }
            let Some(target) = &walked.target else {
                let name = walked.new_name()?;
                let file =
                    NewFile { kind: NewKind::Regular, mode: how.mode, uid: caller.uid, gid: caller.gid };
                let place = match self.create(caller, &walked.parent, &name, &file) {
                    Ok(place) => place,
                    // Another thread was faster.
                    Err(Errno::EXIST) if !how.exclusive => {
                        return self.open_existing(caller, start, path, how);
                    }
                    Err(error) => return Err(error),
                };
                // A new file may be used as asked, whatever its mode says.
                return self.open_place(caller, &place, &OpenHow { truncate: false, ..*how });
            };
            if how.exclusive {
                return Err(Errno::EXIST);
            }
            if target.is_directory() {
                return Err(Errno::ISDIR);
            }
        }
        let target = walked.found()?;
        self.open_checked(caller, &target, how)
    }

    fn open_existing(
        self: &Arc<Self>,
        caller: &Caller,
        start: &Place,
        path: &[u8],
        how: &OpenHow,
    ) -> Result<Arc<OpenFile>, Errno> {
        let target = self.walk(caller, start, path, how.walk)?.found()?;
        self.open_checked(caller, &target, how)
    }

    /// Opens a file that exists, if its permissions allow that.
    ///
    /// # Errors
    /// ELOOP for a symbolic link, ENOTDIR, EISDIR, EACCES, EROFS, ETXTBSY and what opening answers.
    pub fn open_checked(
        self: &Arc<Self>,
        caller: &Caller,
        target: &Place,
        how: &OpenHow,
    ) -> Result<Arc<OpenFile>, Errno> {
        let kind = target.inode.file_type();
        if how.directory && kind != FileType::Directory {
            return Err(if kind == FileType::Symlink && how.access != AccessMode::Path {
                Errno::LOOP
            } else {
                Errno::NOTDIR
            });
        }
        if how.access != AccessMode::Path {
            if kind == FileType::Symlink {
                return Err(Errno::LOOP);
            }
            let wanted = how.permission();
            if kind == FileType::Directory && wanted.contains(Permission::WRITE) {
                return Err(Errno::ISDIR);
            }
            caller.may(&target.inode.metadata()?, wanted)?;
            if wanted.contains(Permission::WRITE) && kind == FileType::Regular {
                target.writable()?;
            }
            if how.status.contains(StatusFlags::NOATIME) {
                caller.owns(&target.inode.metadata()?)?;
            }
        }
        self.open_place(caller, target, how)
    }

    /// Opens a program for execution.
    ///
    /// # Errors
    /// EACCES when it is no regular file or may not be run, else as open(2).
    pub fn open_program(
        self: &Arc<Self>,
        caller: &Caller,
        start: &Place,
        path: &[u8],
        walk: Walk,
    ) -> Result<Arc<OpenFile>, Errno> {
        let place = self.walk(caller, start, path, walk)?.found()?;
        match place.inode.file_type() {
            FileType::Regular => {}
            FileType::Symlink => return Err(Errno::LOOP),
            _ => return Err(Errno::ACCESS),
        }
        caller.may(&place.inode.metadata()?, Permission::EXECUTE)?;
        self.open_place(caller, &place, &OpenHow::READ)
    }

    fn open_place(
        self: &Arc<Self>,
        caller: &Caller,
        place: &Place,
        how: &OpenHow,
    ) -> Result<Arc<OpenFile>, Errno> {
        let kind = place.inode.file_type();
        let object: Arc<dyn FileObject> = if how.access == AccessMode::Path {
            Arc::new(PathFile::new(place.clone()))
        } else if kind == FileType::Directory {
            Arc::new(DirectoryFile::new(self.clone(), place.clone()))
        } else {
            if how.truncate && kind == FileType::Regular {
                place.inode.truncate(0)?;
            }
            place.inode.clone().open(place, how.access, caller)?
        };
        Ok(OpenFile::new(object, how.access, how.status))
    }

    fn open_unnamed(
        self: &Arc<Self>,
        caller: &Caller,
        directory: &Place,
        how: &OpenHow,
    ) -> Result<Arc<OpenFile>, Errno> {
        if !directory.is_directory() {
            return Err(Errno::NOTDIR);
        }
        directory.writable()?;
        caller.may(&directory.inode.metadata()?, Permission::WRITE | Permission::EXECUTE)?;
        let file = NewFile { kind: NewKind::Regular, mode: how.mode, uid: caller.uid, gid: caller.gid };
        let inode = directory.inode.create_unnamed(&file)?;
        let place = Place { mount: directory.mount.clone(), inode, entry: None, point: None };
        self.open_place(caller, &place, how)
    }

    /// Checks that the caller may change entries of `directory`.
    fn may_change(&self, caller: &Caller, directory: &Place) -> Result<(), Errno> {
        caller.may(&directory.inode.metadata()?, Permission::WRITE | Permission::EXECUTE)?;
        directory.writable()
    }

    /// Makes a file called `name` in `parent`.
    ///
    /// # Errors
    /// EEXIST, EACCES, EROFS, ENOSPC.
    pub fn create(
        &self,
        caller: &Caller,
        parent: &Place,
        name: &Arc<[u8]>,
        file: &NewFile<'_>,
    ) -> Result<Place, Errno> {
        if parent.inode.is_deleted() {
            return Err(Errno::NOENT);
        }
        self.may_change(caller, parent)?;
        let directory = parent.inode.metadata()?;
        // A set-group-id directory hands its group down.
        let inherits = directory.mode & 0o2000 != 0;
        let file = NewFile {
            gid: if inherits { directory.gid } else { file.gid },
            mode: if inherits && file.kind == NewKind::Directory { file.mode | 0o2000 } else { file.mode },
            ..*file
        };
        let inode = parent.inode.create(name, &file)?;
        let entry = (file.kind != NewKind::Directory).then(|| (parent.inode.clone(), name.clone()));
        Ok(Place { mount: parent.mount.clone(), inode, entry, point: None })
    }

    /// mkdir(2), symlink(2), and mknod(2) of a regular file.
    ///
    /// # Errors
    /// As those.
    pub fn make(
        &self,
        caller: &Caller,
        start: &Place,
        path: &[u8],
        kind: NewKind<'_>,
        mode: u32,
    ) -> Result<(), Errno> {
        let walked = self.walk(caller, start, path, Walk::empty())?;
        let name = walked.new_name()?;
        if walked.directory && kind != NewKind::Directory {
            return Err(Errno::NOENT);
        }
        let file = NewFile { kind, mode, uid: caller.uid, gid: caller.gid };
        self.create(caller, &walked.parent, &name, &file).map(drop)
    }

    /// unlink(2).
    ///
    /// # Errors
    /// As unlink(2).
    pub fn unlink(&self, caller: &Caller, start: &Place, path: &[u8]) -> Result<(), Errno> {
        let walked = self.walk(caller, start, path, Walk::empty())?;
        let Last::Name(name) = walked.last.clone() else { return Err(Errno::ISDIR) };
        let (parent, target) = (walked.parent.clone(), walked.found()?);
        if target.is_directory() {
            return Err(Errno::ISDIR);
        }
        self.may_remove(caller, &parent, &target)?;
        parent.inode.unlink(&name)
    }

    /// rmdir(2).
    ///
    /// # Errors
    /// As rmdir(2).
    pub fn remove_directory(&self, caller: &Caller, start: &Place, path: &[u8]) -> Result<(), Errno> {
        let walked = self.walk(caller, start, path, Walk::empty())?;
        let name = match walked.last.clone() {
            Last::Name(name) => name,
            Last::Dot => return Err(Errno::INVAL),
            Last::DotDot => return Err(Errno::NOTEMPTY),
            Last::None => return Err(Errno::BUSY),
        };
        let (parent, target) = (walked.parent.clone(), walked.found()?);
        if !target.is_directory() {
            return Err(Errno::NOTDIR);
        }
        self.may_remove(caller, &parent, &target)?;
        parent.inode.remove_directory(&name)
    }

    fn may_remove(&self, caller: &Caller, parent: &Place, target: &Place) -> Result<(), Errno> {
        self.may_change(caller, parent)?;
        caller.may_remove(&parent.inode.metadata()?, &target.inode.metadata()?)?;
        if self.is_busy(target) || !Arc::ptr_eq(&parent.mount, &target.mount) {
            return Err(Errno::BUSY);
        }
        Ok(())
    }

    /// link(2): another name for `target`, which was found by the caller.
    ///
    /// # Errors
    /// As link(2).
    pub fn link(&self, caller: &Caller, target: &Place, start: &Place, path: &[u8]) -> Result<(), Errno> {
        let walked = self.walk(caller, start, path, Walk::empty())?;
        let name = walked.new_name()?;
        if walked.directory {
            return Err(Errno::NOENT);
        }
        if !Arc::ptr_eq(&walked.parent.mount, &target.mount) {
            return Err(Errno::XDEV);
        }
        if target.is_directory() {
            return Err(Errno::PERM);
        }
        self.may_change(caller, &walked.parent)?;
        walked.parent.inode.link(&name, &target.inode)
    }

    /// renameat2(2).
    ///
    /// # Errors
    /// As rename(2).
    pub fn rename(
        &self,
        caller: &Caller,
        from: (&Place, &[u8]),
        to: (&Place, &[u8]),
        mode: RenameMode,
    ) -> Result<(), Errno> {
        let source = self.walk(caller, from.0, from.1, Walk::empty())?;
        let target = self.walk(caller, to.0, to.1, Walk::empty())?;
        let (Last::Name(old_name), Last::Name(new_name)) = (source.last.clone(), target.last.clone()) else {
            return Err(Errno::BUSY);
        };
        if !Arc::ptr_eq(&source.parent.mount, &target.parent.mount) {
            return Err(Errno::XDEV);
        }
        let (old_parent, source_slash) = (source.parent.clone(), source.directory);
        let moved = source.found()?;
        if !moved.is_directory() && (target.directory || source_slash) {
            return Err(Errno::NOTDIR);
        }
        match (&target.target, mode) {
            (Some(_), RenameMode::NoReplace) => return Err(Errno::EXIST),
            (None, RenameMode::Exchange) => return Err(Errno::NOENT),
            (Some(existing), _) => self.may_remove(caller, &target.parent, existing)?,
            (None, _) => self.may_change(caller, &target.parent)?,
        }
        self.may_remove(caller, &old_parent, &moved)?;
        old_parent.inode.rename(&old_name, &target.parent.inode, &new_name, mode)
    }
}
