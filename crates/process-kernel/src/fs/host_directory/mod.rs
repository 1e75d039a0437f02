//! Directories of the host as file systems of the guest.
//!
//! Guest paths are walked in [`crate::fs`]; what arrives here is a plain relative path, which is opened below a held
//! directory descriptor in a way that follows no link and leaves the directory through nothing ([`beneath`]). Only regular
//! files, directories and symbolic links can be used; devices, sockets and FIFOs are seen but can't be opened.
//!
//! A read-only directory is taken not to change while the guest runs: every lookup, hit or miss, is remembered. A writable
//! one is asked each time; a directory that the guest renames while it is open or current there keeps its old path.
//!
//! Snapshot rule: by guest path. A file of a read-only directory must have the size and modification time that it had.

mod beneath;
mod change;
mod file;
mod node;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use parking_lot::RwLock;
use rustix::fs::{fstat, fstatfs, readlinkat};
use rustix::io::Errno;

use super::{FileSystem, FileType, FsStatistics, Inode};
use crate::file::{DirectoryEntry, Stat};
use beneath::Beneath;

pub use file::HostFile;
pub use node::HostNode;

/// How a host directory is mounted.
#[derive(Clone, Debug, Default)]
pub struct HostDirectoryOptions {
    /// Host paths that don't exist for the guest.
    pub hidden: Vec<PathBuf>,
    /// Whether other disks mounted below may be entered.
    pub cross_devices: bool,
    /// Whether the guest may change it.
    pub writable: bool,
}

/// A host directory as a file system.
pub struct HostDirectory {
    shared: Arc<Shared>,
}

/// What all nodes of one host directory share.
pub(super) struct Shared {
    beneath: Beneath,
    mounted_at: String,
    writable: bool,
    /// Device and inode numbers of directories that don't exist for the guest.
    hidden: HashSet<(u64, u64)>,
    /// What lookups found; `None` for what is not there. Only for read-only directories.
    cache: RwLock<HashMap<Box<[u8]>, Option<Arc<Known>>>>,
}

/// What is known of a file.
struct Known {
    stat: Stat,
    kind: FileType,
    /// A symbolic link's target.
    target: Vec<u8>,
    /// A directory's entries, once they were read.
    listing: OnceLock<Vec<DirectoryEntry>>,
}

/// Lookups remembered at most; a guest that asks for endless names must not fill the worker's memory.
const MAX_CACHED: usize = 200_000;

impl HostDirectory {
    /// The directory behind `root`, mounted at the guest path `mounted_at`.
    ///
    /// # Errors
    /// The host's.
    pub fn new(root: OwnedFd, mounted_at: &str, options: &HostDirectoryOptions) -> io::Result<Self> {
        let mut hidden = HashSet::new();
        for path in &options.hidden {
            match rustix::fs::stat(path) {
                Ok(stat) => {
                    hidden.insert((stat.st_dev, stat.st_ino));
                }
                Err(Errno::NOENT) => {}
                // What can't be looked at can't be hidden reliably.
                Err(error) => return Err(error.into()),
            }
        }
        let shared = Shared {
            beneath: Beneath::new(root, options.cross_devices)?,
            mounted_at: mounted_at.to_owned(),
            writable: options.writable,
            hidden,
            cache: RwLock::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The file at a plain relative path.
    pub(super) fn node(&self, path: &[u8]) -> Result<HostNode, Errno> {
        let plain = path.is_empty()
            || path.split(|byte| *byte == b'/').all(|name| !matches!(name, b"" | b"." | b".."));
        if !plain {
            return Err(Errno::INVAL);
        }
        // Each directory on the way is looked up too, so that nothing below a hidden one is found.
        for (at, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
            self.shared.known(path.get(..at).unwrap_or_default())?;
        }
        Ok(HostNode::new(self.shared.clone(), path.into(), self.shared.known(path)?))
    }
}

impl FileSystem for HostDirectory {
    fn root(&self) -> Arc<dyn Inode> {
        match self.node(b"") {
            Ok(node) => Arc::new(node),
            // The held directory itself can always be looked at; if the host's disk fails, it reads as empty.
            Err(_) => {
                Arc::new(HostNode::new(self.shared.clone(), Box::default(), Arc::new(Known::unreadable())))
            }
        }
    }

    fn type_name(&self) -> &'static str {
        "ext4"
    }

    fn statistics(&self) -> Result<FsStatistics, Errno> {
        let figures = fstatfs(self.shared.beneath.root())?;
        Ok(FsStatistics {
            magic: 0xef53,
            block_size: figures.f_bsize as u64,
            blocks: figures.f_blocks,
            free: if self.shared.writable { figures.f_bavail } else { 0 },
            files: figures.f_files,
            free_files: if self.shared.writable { figures.f_ffree } else { 0 },
        })
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

impl Known {
    fn unreadable() -> Self {
        let stat = Stat { mode: 0o040_000, nlink: 2, ..Stat::default() };
        Self { stat, kind: FileType::Directory, target: Vec::new(), listing: OnceLock::new() }
    }
}

impl Shared {
    /// What is at `path`.
    ///
    /// # Errors
    /// ENOENT, and the host's errors.
    fn known(&self, path: &[u8]) -> Result<Arc<Known>, Errno> {
        if self.writable {
            return self.look_up(path).map(Arc::new);
        }
        if let Some(cached) = self.cache.read().get(path) {
            return cached.clone().ok_or(Errno::NOENT);
        }
        let found = match self.look_up(path) {
            Ok(known) => Some(Arc::new(known)),
            Err(Errno::NOENT) => None,
            Err(error) => return Err(error),
        };
        let mut cache = self.cache.write();
        if cache.len() >= MAX_CACHED {
            cache.clear();
        }
        cache.insert(path.into(), found.clone());
        found.ok_or(Errno::NOENT)
    }

    fn look_up(&self, path: &[u8]) -> Result<Known, Errno> {
        let (fd, stat) = self.beneath.look_up(path)?;
        if self.hidden.contains(&(stat.dev, stat.ino)) {
            return Err(Errno::NOENT);
        }
        let kind = FileType::of_mode(stat.mode).ok_or(Errno::NOENT)?;
        let target = match kind {
            FileType::Symlink => readlinkat(&fd, "", Vec::new())?.into_bytes(),
            _ => Vec::new(),
        };
        Ok(Known { stat, kind, target, listing: OnceLock::new() })
    }

    /// Opens the regular file or directory at `path`, and makes sure that it is one.
    fn open(&self, path: &[u8], kind: FileType, flags: rustix::fs::OFlags) -> Result<(OwnedFd, Stat), Errno> {
        use rustix::fs::{Mode, OFlags};
        // Should a device have taken the file's place since it was looked up, opening it must at least not wait.
        let fd = self.beneath.open(path, flags | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty())?;
        let stat = beneath::stat_of(&fstat(&fd)?);
        if FileType::of_mode(stat.mode) != Some(kind) || self.hidden.contains(&(stat.dev, stat.ino)) {
            return Err(Errno::NXIO);
        }
        Ok((fd, stat))
    }
}
