//! The mounted file systems of one guest.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::host_directory::{HostDirectory, HostDirectoryOptions};
use super::mount::{MountTree, PointId};
use super::synthetic::{Dev, Proc, ProcessLink, SyntheticFs, Sys, Text};
use super::tmpfs::{SavedTmpfs, Tmpfs, TmpfsLimits, TmpfsMount};
use super::{Caller, FileSystem, Inode, Mount, MountSource, MountTable, Place};
use crate::file::{AccessMode, DirectoryEntry, FileLocks, OpenFile, StatusFlags};
use crate::object::{RestoreError, SaveError};
use crate::task::Process;

/// The mounted file systems.
pub struct Vfs {
    tree: MountTree,
    root: Place,
    /// Where memfd_create's files live; mounted nowhere.
    memfds: Arc<Mount>,
    /// What /proc is about.
    process: ProcessLink,
    locks: Arc<FileLocks>,
}

/// The memfds' place in saved references, which is no path.
const MEMFDS: &str = "memfd:";

/// Files that memfd_create may make. Their bytes are bounded by the guest's memory limit alone: runtimes make large sparse
/// ones.
const MEMFD_LIMITS: TmpfsLimits = TmpfsLimits { bytes: 1 << 46, inodes: 65_536 };

/// Device numbers of trees in memory and synthetic ones: 0 is the major number of all that have no disk.
const MEMFD_DEVICE: u64 = 1;

/// Saved form of the file systems that are part of a snapshot: each tree in memory by its guest path.
#[derive(Serialize, Deserialize, Clone, Debug, Default)]
pub struct SavedVfs(Vec<(String, SavedTmpfs)>);

/// A mount table that can't be mounted.
#[derive(Debug, Error)]
pub enum VfsError {
    /// The first entry is not "/".
    #[error("the mount table does not start with /")]
    NoRoot,
    /// A mount's path is not absolute, or has a "." or ".." in it.
    #[error("{0} is no absolute guest path")]
    BadPath(String),
    /// A host directory could not be opened.
    #[error("opening {path} for the guest's {at}")]
    Open {
        /// The host's path.
        path: PathBuf,
        /// The guest's path.
        at: String,
        /// The host's error.
        #[source]
        source: io::Error,
    },
}

/// Opens host directories for mounting: by path, or by handing out descriptors that a jailed worker was passed.
pub type DirectoryOpener<'a> = &'a dyn Fn(&Path) -> io::Result<OwnedFd>;

/// Opens a host directory by its path.
///
/// # Errors
/// The host's.
pub fn open_by_path(path: &Path) -> io::Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    Ok(rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

fn check_path(path: &str) -> Result<(), VfsError> {
    let plain =
        path.split('/').skip(1).all(|name| name != "." && name != ".." && name.len() <= super::NAME_MAX);
    if path.starts_with('/') && plain && path.len() < super::PATH_MAX {
        Ok(())
    } else {
        Err(VfsError::BadPath(path.to_owned()))
    }
}

impl Default for Vfs {
    /// A root directory with nothing in it.
    fn default() -> Self {
        let mut tree = MountTree::new();
        let mount = tree.add("/", false, Arc::new(super::mount::Placeholder { ino: 1 }));
        let root = Place { inode: mount.fs.root(), mount, entry: None, point: Some(MountTree::ROOT) };
        let memfds = Tmpfs::new(MEMFDS, MEMFD_DEVICE, MEMFD_LIMITS, 0o700);
        let memfds = Mount::detached(MEMFDS, Arc::new(TmpfsMount(memfds)));
        Self { tree, root, memfds: Arc::new(memfds), process: ProcessLink::default(), locks: Arc::default() }
    }
}

impl Vfs {
    /// Mounts everything in `table`.
    ///
    /// # Errors
    /// [`VfsError`].
    pub fn new(table: &MountTable, open: DirectoryOpener<'_>) -> Result<Arc<Self>, VfsError> {
        if table.0.first().is_none_or(|first| first.at != "/") {
            return Err(VfsError::NoRoot);
        }
        let Self { mut tree, mut root, memfds, process, locks } = Self::default();
        for (index, entry) in table.0.iter().enumerate() {
            let device = MEMFD_DEVICE + 1 + index as u64;
            check_path(&entry.at)?;
            let synthetic = |tree| Arc::new(SyntheticFs::new(tree, &entry.at, device));
            let fs: Arc<dyn FileSystem> = match &entry.source {
                MountSource::HostDirectory { path, hidden, cross_devices } => {
                    let options = HostDirectoryOptions {
                        hidden: hidden.clone(),
                        cross_devices: *cross_devices,
                        writable: entry.writable,
                    };
                    let opened = open(path).and_then(|fd| HostDirectory::new(fd, &entry.at, &options));
                    let failed = |source| VfsError::Open { path: path.clone(), at: entry.at.clone(), source };
                    Arc::new(opened.map_err(failed)?)
                }
                MountSource::Tmpfs { bytes, inodes, mode } => {
                    let limits = TmpfsLimits { bytes: *bytes, inodes: *inodes };
                    Arc::new(TmpfsMount(Tmpfs::new(&entry.at, device, limits, *mode)))
                }
                MountSource::Text(text) => synthetic(Box::new(Text(text.clone()))),
                MountSource::Proc => synthetic(Box::new(Proc::new(process.clone()))),
                MountSource::Sys => synthetic(Box::new(Sys(process.clone()))),
                MountSource::Dev => synthetic(Box::new(Dev)),
            };
            let mount = tree.add(&entry.at, entry.writable, fs);
            if entry.at == "/" {
                root = Place { inode: mount.fs.root(), mount, entry: None, point: Some(MountTree::ROOT) };
            }
        }
        Ok(Arc::new(Self { tree, root, memfds, process, locks }))
    }

    /// "/".
    pub fn root(&self) -> Place {
        self.root.clone()
    }

    /// The locks that open files hold.
    pub fn locks(&self) -> &Arc<FileLocks> {
        &self.locks
    }

    /// All mounts.
    pub fn mounts(&self) -> impl Iterator<Item = &Arc<Mount>> {
        self.tree.mounts()
    }

    /// The mount at exactly this guest path.
    pub(super) fn mount_by_path(&self, path: &str) -> Option<Arc<Mount>> {
        self.mounts().chain([&self.memfds]).find(|mount| mount.path == path).cloned()
    }

    fn trees_in_memory(&self) -> impl Iterator<Item = (&str, &Arc<Tmpfs>)> {
        self.mounts().chain([&self.memfds]).filter_map(|mount| {
            let tmpfs = mount.fs.as_any().downcast_ref::<TmpfsMount>()?;
            Some((mount.path.as_str(), &tmpfs.0))
        })
    }

    /// memfd_create(2): a file without a place in the tree.
    ///
    /// # Errors
    /// EMFILE when there are too many.
    pub fn create_memfd(&self, name: &[u8], caller: &Caller, sealable: bool) -> Result<Arc<OpenFile>, Errno> {
        let tmpfs = self.memfds.fs.as_any().downcast_ref::<TmpfsMount>().ok_or(Errno::NOSYS)?;
        let label = [b"/memfd:", name, b" (deleted)"].concat();
        let inode =
            tmpfs.0.create_memfd(label, (caller.uid, caller.gid), sealable).map_err(|_| Errno::MFILE)?;
        let place = Place { mount: self.memfds.clone(), inode: inode.clone(), entry: None, point: None };
        let object = inode.open(&place, AccessMode::ReadWrite, caller)?;
        Ok(OpenFile::new(object, AccessMode::ReadWrite, StatusFlags::empty()))
    }

    /// Bytes that the files of memfd_create hold.
    pub fn memfd_bytes(&self) -> u64 {
        self.memfds.fs.as_any().downcast_ref::<TmpfsMount>().map_or(0, |tmpfs| tmpfs.0.held_bytes())
    }

    /// A place for what lies in no file system (pipes and sockets, as /proc/self/fd leads to them).
    pub(super) fn nameless(&self, inode: Arc<dyn Inode>) -> Place {
        Place { mount: self.memfds.clone(), inode, entry: None, point: None }
    }

    /// Connects /proc and /sys to the process; only the first call counts.
    pub fn attach(&self, process: &Arc<Process>) {
        self.process.attach(process);
    }

    /// The contents of all trees in memory. The guest's threads are at rest.
    ///
    /// # Errors
    /// [`SaveError`] when a file can't be read.
    pub fn save(&self) -> Result<SavedVfs, SaveError> {
        let saved: Result<Vec<_>, SaveError> =
            self.trees_in_memory().map(|(path, tmpfs)| Ok((path.to_owned(), tmpfs.save()?))).collect();
        saved.map(SavedVfs)
    }

    /// Fills the trees in memory, which are fresh, with what was saved; before any object is restored.
    ///
    /// # Errors
    /// [`RestoreError`] when the saved form is damaged or does not fit the mount table.
    pub fn restore(&self, saved: SavedVfs) -> Result<(), RestoreError> {
        for (path, contents) in saved.0 {
            let found = self.trees_in_memory().find(|(mounted, _)| *mounted == path);
            let (_, tmpfs) = found.ok_or_else(|| RestoreError::FileChanged {
                path: path.clone(),
                problem: "is no longer mounted in memory",
            })?;
            tmpfs.restore(contents)?;
        }
        Ok(())
    }

    /// The file called `name` in the directory `place`: over the edge of a mount where one is.
    ///
    /// # Errors
    /// ENOENT, ENOTDIR.
    pub(super) fn step(&self, place: &Place, name: &[u8]) -> Result<Place, Errno> {
        let point = place.point.and_then(|point| self.tree.child(point, name));
        if let Some(mount) = point.and_then(|point| self.tree.get(point)?.mount.clone()) {
            return Ok(Place { inode: mount.fs.root(), mount, entry: None, point });
        }
        match place.inode.lookup(name) {
            Ok(inode) if inode.file_type() == super::FileType::Directory => {
                Ok(Place { mount: place.mount.clone(), inode, entry: None, point })
            }
            // A mount point below needs a directory here, whatever the file system has.
            Ok(_) | Err(Errno::NOENT) if point.is_some() => {
                let placeholder = point.and_then(|point| self.tree.get(point)?.placeholder.clone());
                let mount = placeholder.ok_or(Errno::NOENT)?;
                Ok(Place { inode: mount.fs.root(), mount, entry: None, point })
            }
            Ok(inode) => Ok(Place {
                mount: place.mount.clone(),
                inode,
                entry: Some((place.inode.clone(), Arc::from(name))),
                point: None,
            }),
            Err(error) => Err(error),
        }
    }

    /// The directory above `place`; the root is above itself.
    ///
    /// # Errors
    /// ENOENT when it is gone.
    pub(super) fn parent(&self, place: &Place) -> Result<Place, Errno> {
        if let Some(point) = place.point {
            let parent = self.tree.get(point).map_or(MountTree::ROOT, |point| point.parent);
            return self.place_of_point(parent);
        }
        match place.inode.parent() {
            Some((parent, _)) => Ok(self.place(place.mount.clone(), parent, None)),
            None => self.place_of_point(self.tree.get(place.mount.point).map_or(0, |point| point.parent)),
        }
    }

    fn place_of_point(&self, point: PointId) -> Result<Place, Errno> {
        let mut names = Vec::new();
        let mut at = point;
        while at != MountTree::ROOT {
            let point = self.tree.get(at).ok_or(Errno::NOENT)?;
            names.push(point.name.clone());
            at = point.parent;
        }
        let mut place = self.root();
        for name in names.iter().rev() {
            place = self.step(&place, name)?;
        }
        Ok(place)
    }

    /// A place for `inode` of `mount`, found as `entry` if it is no directory.
    pub(super) fn place(
        &self,
        mount: Arc<Mount>,
        inode: Arc<dyn Inode>,
        entry: Option<(Arc<dyn Inode>, Arc<[u8]>)>,
    ) -> Place {
        let mut names = Vec::new();
        let mut directory = inode.clone();
        while let Some((parent, name)) = directory.parent() {
            names.push(name);
            directory = parent;
        }
        let top = (inode.file_type() == super::FileType::Directory).then_some(mount.point);
        let point =
            names.iter().rev().fold(top, |point, name| point.and_then(|point| self.tree.child(point, name)));
        Place { mount, inode, entry, point }
    }

    /// The entries of the directory `place`, mount points included, without "." and "..".
    ///
    /// # Errors
    /// ENOTDIR and the host's errors.
    pub(super) fn entries(&self, place: &Place) -> Result<Vec<DirectoryEntry>, Errno> {
        let mut entries = place.inode.entries()?;
        let Some(point) = place.point else { return Ok(entries) };
        for (name, child) in self.tree.children(point) {
            let Some(child) = self.tree.get(child) else { continue };
            let Some(mount) = child.mount.as_ref().or(child.placeholder.as_ref()) else { continue };
            match entries.iter_mut().find(|entry| entry.name == name) {
                // As Linux does, the number below the mount is shown.
                Some(entry) if child.mount.is_none() => {
                    entry.file_type = super::FileType::Directory.entry_type()
                }
                Some(entry) => entry.file_type = mount.fs.root().file_type().entry_type(),
                None => {
                    let root = mount.fs.root();
                    entries.push(DirectoryEntry {
                        ino: root.metadata()?.ino,
                        file_type: root.file_type().entry_type(),
                        name: name.to_vec(),
                    });
                }
            }
        }
        Ok(entries)
    }

    /// Whether `place` is a mount point or has one below it: it can be neither moved nor removed.
    pub(super) fn is_busy(&self, place: &Place) -> bool {
        place.point.is_some()
    }
}
