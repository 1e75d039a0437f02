//! The file system: what the kernel asks is done in the folder behind, and reads take their time.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenAccMode, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, Request,
    TimeOrNow, WriteFlags,
};
use parking_lot::Mutex;
use rustix::fs::SeekFrom;

use super::files::{Files, attributes};
use super::pace::Pace;
use crate::throttle::ReadLimits;

/// How long the kernel may remember names and attributes. Only the benchmark and its workers change them, through here.
const REMEMBERED: Duration = Duration::from_secs(60);
/// What lseek(2) calls them.
const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;
/// The largest single read and write, in bytes.
const LARGEST: u32 = 1 << 20;

/// The folder behind.
pub(super) struct Behind {
    files: Mutex<Files>,
    pace: Mutex<Pace>,
}

/// Sends what was found, or why it was not.
macro_rules! answer {
    ($reply:ident, $result:expr, $found:pat => $sent:expr) => {
        match $result {
            Ok($found) => $sent,
            Err(error) => $reply.error(Errno::from(io::Error::from(error))),
        }
    };
}

impl Behind {
    pub(super) fn new(folder: &Path, limits: ReadLimits) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        Ok(Self {
            files: Mutex::new(Files::new(folder.canonicalize()?)),
            pace: Mutex::new(Pace::new(limits)),
        })
    }

    fn slow_read(&self, handle: FileHandle, offset: u64, size: u32) -> io::Result<Vec<u8>> {
        let file = self.files.lock().file(handle)?;
        let asked = Instant::now();
        let mut data = vec![0; size as usize];
        let mut filled = 0;
        while let Some(rest) = data.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match file.read_at(rest, offset + filled as u64)? {
                0 => break,
                count => filled += count,
            }
        }
        data.truncate(filled);
        let done = self.pace.lock().done_at(asked, filled as u64);
        std::thread::sleep(done.saturating_duration_since(Instant::now()));
        Ok(data)
    }

    fn change(
        &self,
        inode: INodeNo,
        handle: Option<FileHandle>,
        mode: Option<u32>,
        size: Option<u64>,
    ) -> io::Result<FileAttr> {
        let mut files = self.files.lock();
        let path = files.path(inode)?;
        if let Some(mode) = mode {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode & 0o7777))?;
        }
        if let Some(size) = size {
            match handle {
                Some(handle) => files.file(handle)?.set_len(size)?,
                None => OpenOptions::new().write(true).open(&path)?.set_len(size)?,
            }
        }
        files.look(path)
    }

    fn renamed(&self, from: (INodeNo, &OsStr), to: (INodeNo, &OsStr), flags: RenameFlags) -> io::Result<()> {
        let mut files = self.files.lock();
        let (old, new) = (files.child(from.0, from.1)?, files.child(to.0, to.1)?);
        let flags = rustix::fs::RenameFlags::from_bits_retain(flags.bits());
        rustix::fs::renameat_with(rustix::fs::CWD, &old, rustix::fs::CWD, &new, flags)?;
        files.moved(&old, &new);
        Ok(())
    }

    fn removed(
        &self,
        parent: INodeNo,
        name: &OsStr,
        remove: impl FnOnce(&Path) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut files = self.files.lock();
        let path = files.child(parent, name)?;
        remove(&path)?;
        files.removed(&path);
        Ok(())
    }

    fn entries(&self, inode: INodeNo) -> io::Result<Vec<(OsString, FileAttr)>> {
        let mut files = self.files.lock();
        let mut entries = Vec::new();
        for entry in fs::read_dir(files.path(inode)?)? {
            let entry = entry?;
            entries.push((entry.file_name(), files.look(entry.path())?));
        }
        entries.sort_by(|one, other| one.0.cmp(&other.0));
        Ok(entries)
    }
}

// What the kernel knows of user and umask has come to its end when it asks: permissions are checked by it.
impl Filesystem for Behind {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Whatever the kernel takes at most, where that is less.
        let _ = config.set_max_write(LARGEST);
        // Folders are handed to jailed workers by mounts that map owners (Linux 6.12 has them for FUSE): before that only
        // workers without user namespaces of their own can be measured, and say so.
        let _ = config.add_capabilities(InitFlags::FUSE_ALLOW_IDMAP);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let mut files = self.files.lock();
        let found = files.child(parent, name).and_then(|path| files.look(path));
        answer!(reply, found, found => reply.entry(&REMEMBERED, &found, Generation(0)));
    }

    fn getattr(&self, _: &Request, inode: INodeNo, handle: Option<FileHandle>, reply: ReplyAttr) {
        let found = || {
            let files = self.files.lock();
            let metadata = match handle {
                Some(handle) => files.file(handle)?.metadata()?,
                None => fs::symlink_metadata(files.path(inode)?)?,
            };
            attributes(inode, &metadata)
        };
        answer!(reply, found(), found => reply.attr(&REMEMBERED, &found));
    }

    fn setattr(
        &self,
        _: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        handle: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        if uid.is_some() || gid.is_some() {
            return reply.error(Errno::EPERM);
        }
        answer!(reply, self.change(inode, handle, mode, size), found => reply.attr(&REMEMBERED, &found));
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let mut files = self.files.lock();
        let made = files.child(parent, name).and_then(|path| {
            fs::DirBuilder::new().mode(mode & !umask).create(&path)?;
            files.look(path)
        });
        answer!(reply, made, found => reply.entry(&REMEMBERED, &found, Generation(0)));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer!(reply, self.removed(parent, name, |path| fs::remove_file(path)), () => reply.ok());
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer!(reply, self.removed(parent, name, |path| fs::remove_dir(path)), () => reply.ok());
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        answer!(reply, self.renamed((parent, name), (new_parent, new_name), flags), () => reply.ok());
    }

    fn open(&self, _: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let opened = || {
            let mut files = self.files.lock();
            let write = flags.acc_mode() != OpenAccMode::O_RDONLY;
            let file = OpenOptions::new().read(true).write(write).open(files.path(inode)?)?;
            Ok::<_, io::Error>(files.keep(file))
        };
        // The cache stays from one opening to the next, as a disk's does.
        answer!(reply, opened(), handle => reply.opened(handle, FopenFlags::FOPEN_KEEP_CACHE));
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let created = || {
            let mut files = self.files.lock();
            let path = files.child(parent, name)?;
            let mut options = OpenOptions::new();
            options.read(true).write(true).mode(mode & !umask);
            match flags & (rustix::fs::OFlags::EXCL.bits() as i32) {
                0 => options.create(true).truncate(false),
                _ => options.create_new(true),
            };
            let file = options.open(&path)?;
            let found = files.look(path)?;
            Ok::<_, io::Error>((found, files.keep(file)))
        };
        answer!(reply, created(), (found, handle) =>
            reply.created(&REMEMBERED, &found, Generation(0), handle, FopenFlags::FOPEN_KEEP_CACHE));
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        answer!(reply, self.slow_read(handle, offset, size), data => reply.data(&data));
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = self.files.lock().file(handle).and_then(|file| file.write_all_at(data, offset));
        answer!(reply, written, () => reply.written(data.len() as u32));
    }

    fn lseek(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let found = || {
            let offset = u64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
            let to = match whence {
                SEEK_DATA => SeekFrom::Data(offset),
                SEEK_HOLE => SeekFrom::Hole(offset),
                _ => return Err(io::ErrorKind::InvalidInput.into()),
            };
            Ok::<_, io::Error>(rustix::fs::seek(&*self.files.lock().file(handle)?, to)?)
        };
        answer!(reply, found(), offset => reply.offset(offset as i64));
    }

    fn fsync(&self, _: &Request, _: INodeNo, handle: FileHandle, _: bool, reply: ReplyEmpty) {
        let file = self.files.lock().file(handle);
        answer!(reply, file.and_then(|file| file.sync_all()), () => reply.ok());
    }

    fn fsyncdir(&self, _: &Request, inode: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let path = self.files.lock().path(inode);
        answer!(reply, path.and_then(|path| File::open(path)?.sync_all()), () => reply.ok());
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.files.lock().close(handle);
        reply.ok();
    }

    fn readdir(&self, _: &Request, inode: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let entries = match self.entries(inode) {
            Ok(entries) => entries,
            Err(error) => return reply.error(error.into()),
        };
        let entries = entries.into_iter().zip(1..).skip(usize::try_from(offset).unwrap_or(usize::MAX));
        for ((name, found), next) in entries {
            if reply.add(found.ino, next, found.kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, inode: INodeNo, reply: ReplyStatfs) {
        let path = self.files.lock().path(inode);
        let found = path.and_then(|path| Ok(rustix::fs::statvfs(path)?));
        answer!(reply, found, found => reply.statfs(
            found.f_blocks, found.f_bfree, found.f_bavail, found.f_files, found.f_ffree,
            found.f_bsize as u32, found.f_namemax as u32, found.f_frsize as u32,
        ));
    }
}
