//! A folder seen through a file system in user space (FUSE) whose reads take as long as on a slow disk: where no control
//! group can throttle, and for disks that are none (a folder on NFS, a container without cgroups).
//!
//! Everything but reading goes straight to the folder behind. Reads are served one after the other, so that they share the
//! bandwidth as on one device; what the page cache has costs nothing, as on a disk.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, InitFlags, KernelConfig, LockOwner, MountOption, OpenAccMode, OpenFlags,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyLseek,
    ReplyOpen, ReplyStatfs, ReplyWrite, Request, SessionACL, TimeOrNow, WriteFlags,
};
use parking_lot::Mutex;
use rustix::fs::SeekFrom;

use crate::at_end::AtEnd;
use crate::error::BenchError;
use crate::throttle::ReadLimits;

/// How long the kernel may remember names and attributes. Only the benchmark and its workers change them, through here.
const REMEMBERED: Duration = Duration::from_secs(60);
/// What lseek(2) calls them.
const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;
/// The largest single read and write, in bytes.
const LARGEST: u32 = 1 << 20;

/// A folder that is mounted; it is unmounted when dropped, and when this process ends.
pub(crate) struct SlowFolder {
    mounted: tempfile::TempDir,
    session: Option<BackgroundSession>,
    /// Unmounts when this process is killed.
    _guard: AtEnd,
}

impl SlowFolder {
    /// Shows `behind` elsewhere, slowed down.
    ///
    /// # Errors
    /// [`BenchError::Io`] where FUSE can't be mounted: it needs /dev/fuse, and to be root or `fusermount3`.
    pub fn of(behind: &Path, limits: ReadLimits) -> Result<Self, BenchError> {
        let mounted = tempfile::Builder::new().prefix("faasnap-slow-").tempdir();
        let mounted = mounted.map_err(BenchError::io("creating", &std::env::temp_dir()))?;
        let at = mounted.path();
        let guard = AtEnd::run("umount -l \"$1\" 2>/dev/null; rmdir \"$1\" 2>/dev/null", &[at.as_os_str()])?;
        let behind = Behind::new(behind, limits).map_err(BenchError::io("reading", behind))?;
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::FSName("faasnap-slow".to_owned()),
            MountOption::DefaultPermissions,
            MountOption::NoSuid,
            MountOption::NoDev,
        ];
        // Workers have users of their own.
        config.acl = SessionACL::All;
        let session = fuser::spawn_mount(behind, at, &config);
        let session = session.map_err(BenchError::io("mounting a slow file system (FUSE) at", at))?;
        Ok(Self { session: Some(session), mounted, _guard: guard })
    }

    /// Where it is seen.
    pub fn path(&self) -> &Path {
        self.mounted.path()
    }
}

impl Drop for SlowFolder {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            // The guard unmounts it otherwise.
            let _ = session.umount_and_join();
        }
    }
}

/// When reads are done on a device that is limited by bytes and by reads a second.
struct Pace {
    limits: ReadLimits,
    /// When the device is done with what was asked of it.
    free_at: Instant,
}

impl Pace {
    /// When a read of `bytes` that is asked for at `now` is done.
    fn done_at(&mut self, now: Instant, bytes: u64) -> Instant {
        let per_second = |amount: u64, rate: u64| Duration::from_secs_f64(amount as f64 / rate as f64);
        let takes =
            per_second(bytes, self.limits.bytes_per_second).max(per_second(1, self.limits.reads_per_second));
        self.free_at = self.free_at.max(now) + takes;
        self.free_at
    }
}

/// The folder behind.
struct Behind {
    state: Mutex<State>,
    pace: Mutex<Pace>,
}

/// Its files have numbers of their own: one that is removed must not meet its successor, which may get the same inode there.
struct State {
    paths: HashMap<u64, PathBuf>,
    numbers: HashMap<PathBuf, u64>,
    open: HashMap<u64, Arc<File>>,
    /// The last number of a file, and of an opening.
    last: u64,
}

impl State {
    fn new(folder: PathBuf) -> Self {
        let root = INodeNo::ROOT.0;
        let numbers = HashMap::from([(folder.clone(), root)]);
        Self { paths: HashMap::from([(root, folder)]), numbers, open: HashMap::new(), last: root }
    }

    fn path(&self, number: INodeNo) -> io::Result<PathBuf> {
        Ok(self.paths.get(&number.0).cloned().ok_or(rustix::io::Errno::STALE)?)
    }

    fn child(&self, parent: INodeNo, name: &OsStr) -> io::Result<PathBuf> {
        Ok(self.path(parent)?.join(name))
    }

    /// Attributes of what is at `path`.
    fn look(&mut self, path: PathBuf) -> io::Result<FileAttr> {
        let metadata = fs::symlink_metadata(&path)?;
        let number = match self.numbers.get(&path) {
            Some(number) => *number,
            None => {
                self.last += 1;
                self.paths.insert(self.last, path.clone());
                self.numbers.insert(path, self.last);
                self.last
            }
        };
        attributes(INodeNo(number), &metadata)
    }

    /// What is at `old` and below is at `new` now; what was there is gone.
    fn moved(&mut self, old: &Path, new: &Path) {
        let gone = self.numbers.remove(new);
        gone.and_then(|number| self.paths.remove(&number));
        for (number, path) in &mut self.paths {
            let Ok(below) = path.strip_prefix(old) else { continue };
            let to = if below.as_os_str().is_empty() { new.to_owned() } else { new.join(below) };
            self.numbers.remove(path);
            self.numbers.insert(to.clone(), *number);
            *path = to;
        }
    }

    fn removed(&mut self, path: &Path) {
        let gone = self.numbers.remove(path);
        gone.and_then(|number| self.paths.remove(&number));
    }

    fn keep(&mut self, file: File) -> FileHandle {
        self.last += 1;
        self.open.insert(self.last, Arc::new(file));
        FileHandle(self.last)
    }

    fn file(&self, handle: FileHandle) -> io::Result<Arc<File>> {
        Ok(self.open.get(&handle.0).cloned().ok_or(rustix::io::Errno::BADF)?)
    }
}

fn attributes(number: INodeNo, metadata: &Metadata) -> io::Result<FileAttr> {
    let kind = FileType::from_std(metadata.file_type()).ok_or(rustix::io::Errno::INVAL)?;
    Ok(FileAttr {
        ino: number,
        size: metadata.len(),
        blocks: metadata.blocks(),
        atime: metadata.accessed()?,
        mtime: metadata.modified()?,
        ctime: SystemTime::UNIX_EPOCH
            + Duration::new(
                metadata.ctime().try_into().unwrap_or_default(),
                metadata.ctime_nsec().try_into().unwrap_or_default(),
            ),
        crtime: SystemTime::UNIX_EPOCH,
        kind,
        perm: (metadata.mode() & 0o7777) as u16,
        nlink: metadata.nlink().try_into().unwrap_or(u32::MAX),
        uid: metadata.uid(),
        gid: metadata.gid(),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    })
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
    fn new(folder: &Path, limits: ReadLimits) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        Ok(Self {
            state: Mutex::new(State::new(folder.canonicalize()?)),
            pace: Mutex::new(Pace { limits, free_at: Instant::now() }),
        })
    }

    fn slow_read(&self, handle: FileHandle, offset: u64, size: u32) -> io::Result<Vec<u8>> {
        let file = self.state.lock().file(handle)?;
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
        let mut state = self.state.lock();
        let path = state.path(inode)?;
        if let Some(mode) = mode {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode & 0o7777))?;
        }
        if let Some(size) = size {
            match handle {
                Some(handle) => state.file(handle)?.set_len(size)?,
                None => OpenOptions::new().write(true).open(&path)?.set_len(size)?,
            }
        }
        state.look(path)
    }

    fn renamed(&self, from: (INodeNo, &OsStr), to: (INodeNo, &OsStr), flags: RenameFlags) -> io::Result<()> {
        let mut state = self.state.lock();
        let (old, new) = (state.child(from.0, from.1)?, state.child(to.0, to.1)?);
        let flags = rustix::fs::RenameFlags::from_bits_retain(flags.bits());
        rustix::fs::renameat_with(rustix::fs::CWD, &old, rustix::fs::CWD, &new, flags)?;
        state.moved(&old, &new);
        Ok(())
    }

    fn removed(
        &self,
        parent: INodeNo,
        name: &OsStr,
        remove: impl FnOnce(&Path) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut state = self.state.lock();
        let path = state.child(parent, name)?;
        remove(&path)?;
        state.removed(&path);
        Ok(())
    }

    fn entries(&self, inode: INodeNo) -> io::Result<Vec<(OsString, FileAttr)>> {
        let mut state = self.state.lock();
        let mut entries = Vec::new();
        for entry in fs::read_dir(state.path(inode)?)? {
            let entry = entry?;
            entries.push((entry.file_name(), state.look(entry.path())?));
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
        let mut state = self.state.lock();
        let found = state.child(parent, name).and_then(|path| state.look(path));
        answer!(reply, found, found => reply.entry(&REMEMBERED, &found, Generation(0)));
    }

    fn getattr(&self, _: &Request, inode: INodeNo, handle: Option<FileHandle>, reply: ReplyAttr) {
        let found = || {
            let state = self.state.lock();
            let metadata = match handle {
                Some(handle) => state.file(handle)?.metadata()?,
                None => fs::symlink_metadata(state.path(inode)?)?,
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
        let mut state = self.state.lock();
        let made = state.child(parent, name).and_then(|path| {
            fs::DirBuilder::new().mode(mode & !umask).create(&path)?;
            state.look(path)
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
            let mut state = self.state.lock();
            let write = flags.acc_mode() != OpenAccMode::O_RDONLY;
            let file = OpenOptions::new().read(true).write(write).open(state.path(inode)?)?;
            Ok::<_, io::Error>(state.keep(file))
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
            let mut state = self.state.lock();
            let path = state.child(parent, name)?;
            let mut options = OpenOptions::new();
            options.read(true).write(true).mode(mode & !umask);
            match flags & (rustix::fs::OFlags::EXCL.bits() as i32) {
                0 => options.create(true).truncate(false),
                _ => options.create_new(true),
            };
            let file = options.open(&path)?;
            let found = state.look(path)?;
            Ok::<_, io::Error>((found, state.keep(file)))
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
        let written = self.state.lock().file(handle).and_then(|file| file.write_all_at(data, offset));
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
            Ok::<_, io::Error>(rustix::fs::seek(&*self.state.lock().file(handle)?, to)?)
        };
        answer!(reply, found(), offset => reply.offset(offset as i64));
    }

    fn fsync(&self, _: &Request, _: INodeNo, handle: FileHandle, _: bool, reply: ReplyEmpty) {
        let file = self.state.lock().file(handle);
        answer!(reply, file.and_then(|file| file.sync_all()), () => reply.ok());
    }

    fn fsyncdir(&self, _: &Request, inode: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let path = self.state.lock().path(inode);
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
        self.state.lock().open.remove(&handle.0);
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
        let path = self.state.lock().path(inode);
        let found = path.and_then(|path| Ok(rustix::fs::statvfs(path)?));
        answer!(reply, found, found => reply.statfs(
            found.f_blocks, found.f_bfree, found.f_bavail, found.f_files, found.f_ffree,
            found.f_bsize as u32, found.f_namemax as u32, found.f_frsize as u32,
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ReadLimits = ReadLimits { bytes_per_second: 1 << 20, reads_per_second: 1000 };

    #[test]
    fn reads_queue_by_bytes_and_by_number() {
        let start = Instant::now();
        let mut pace = Pace { limits: LIMITS, free_at: start };
        let after = |done: Instant| (done - start).as_micros();
        // A small one takes its share of the reads a second, a large one that of the bytes.
        assert_eq!(after(pace.done_at(start, 512)), 1000);
        assert_eq!(after(pace.done_at(start, 512 << 10)), 501_000);
        // After a pause nothing is owed and nothing was saved up.
        assert_eq!(after(pace.done_at(start + Duration::from_secs(2), 0)), 2_001_000);
    }

    #[test]
    fn what_is_done_in_it_is_done_behind() {
        let behind = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let quick = ReadLimits { bytes_per_second: 1 << 30, reads_per_second: 1 << 20 };
        let slow = match SlowFolder::of(&behind.path().join("new"), quick) {
            Ok(slow) => slow,
            Err(error) => {
                eprintln!("NOT TESTED: {error}: {}", std::error::Error::source(&error).unwrap());
                return;
            }
        };
        let (at, real) = (slow.path().to_owned(), behind.path().join("new"));
        fs::create_dir(at.join(".part")).unwrap();
        let file = File::create_new(at.join(".part/memory")).unwrap();
        file.set_len(1 << 20).unwrap();
        file.write_all_at(&[7; 5000], 64 << 10).unwrap();
        file.sync_all().unwrap();
        fs::set_permissions(at.join(".part/memory"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(at.join(".part"), at.join("snapshot")).unwrap();
        File::open(&at).unwrap().sync_all().unwrap();
        assert_eq!(
            fs::read(real.join("snapshot/memory")).unwrap(),
            fs::read(at.join("snapshot/memory")).unwrap()
        );
        assert_eq!(fs::metadata(real.join("snapshot/memory")).unwrap().mode() & 0o777, 0o600);
        assert_eq!(rustix::fs::seek(&file, SeekFrom::Data(0)).unwrap(), 64 << 10);
        // A file that takes the place of another one is another one.
        let number = |path: &Path| fs::metadata(path).unwrap().ino();
        let before = number(&at.join("snapshot/memory"));
        fs::write(at.join("snapshot/next"), "next").unwrap();
        fs::rename(at.join("snapshot/next"), at.join("snapshot/memory")).unwrap();
        assert_eq!(fs::read_to_string(at.join("snapshot/memory")).unwrap(), "next");
        assert_ne!(number(&at.join("snapshot/memory")), before);
        assert_eq!(fs::read_dir(at.join("snapshot")).unwrap().count(), 1);
        fs::remove_dir_all(at.join("snapshot")).unwrap();
        assert_eq!(fs::metadata(at.join("snapshot")).unwrap_err().kind(), io::ErrorKind::NotFound);
        drop((file, slow));
        assert!(!at.exists());
        assert_eq!(fs::read_dir(&real).unwrap().count(), 0);
    }
}
