//! The files of the folder behind by the numbers that the kernel knows them by, and those that are open.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{FileAttr, FileHandle, FileType, INodeNo};

/// Files have numbers of their own: one that is removed must not meet its successor, which may get the same inode there.
pub(super) struct Files {
    paths: HashMap<u64, PathBuf>,
    numbers: HashMap<PathBuf, u64>,
    open: HashMap<u64, Arc<File>>,
    /// The last number of a file, and of an opening.
    last: u64,
}

impl Files {
    pub(super) fn new(folder: PathBuf) -> Self {
        let root = INodeNo::ROOT.0;
        let numbers = HashMap::from([(folder.clone(), root)]);
        Self { paths: HashMap::from([(root, folder)]), numbers, open: HashMap::new(), last: root }
    }

    pub(super) fn path(&self, number: INodeNo) -> io::Result<PathBuf> {
        Ok(self.paths.get(&number.0).cloned().ok_or(rustix::io::Errno::STALE)?)
    }

    pub(super) fn child(&self, parent: INodeNo, name: &OsStr) -> io::Result<PathBuf> {
        Ok(self.path(parent)?.join(name))
    }

    /// Attributes of what is at `path`.
    pub(super) fn look(&mut self, path: PathBuf) -> io::Result<FileAttr> {
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
    pub(super) fn moved(&mut self, old: &Path, new: &Path) {
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

    pub(super) fn removed(&mut self, path: &Path) {
        let gone = self.numbers.remove(path);
        gone.and_then(|number| self.paths.remove(&number));
    }

    pub(super) fn keep(&mut self, file: File) -> FileHandle {
        self.last += 1;
        self.open.insert(self.last, Arc::new(file));
        FileHandle(self.last)
    }

    pub(super) fn close(&mut self, handle: FileHandle) {
        self.open.remove(&handle.0);
    }

    pub(super) fn file(&self, handle: FileHandle) -> io::Result<Arc<File>> {
        Ok(self.open.get(&handle.0).cloned().ok_or(rustix::io::Errno::BADF)?)
    }
}

pub(super) fn attributes(number: INodeNo, metadata: &Metadata) -> io::Result<FileAttr> {
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
