//! The mounted file systems of one guest.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;
use thiserror::Error;

use super::host_directory::{HostDirectory, HostDirectoryOptions};
use super::mount::{MountTree, PointId};
use super::{FileSystem, Inode, Mount, MountSource, MountTable, Place};
use crate::file::DirectoryEntry;

/// The mounted file systems.
pub struct Vfs {
    tree: MountTree,
    root: Place,
}

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
        Self { tree, root }
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
        let Self { mut tree, mut root } = Self::default();
        for entry in &table.0 {
            check_path(&entry.at)?;
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
                _ => continue,
            };
            let mount = tree.add(&entry.at, entry.writable, fs);
            if entry.at == "/" {
                root = Place { inode: mount.fs.root(), mount, entry: None, point: Some(MountTree::ROOT) };
            }
        }
        Ok(Arc::new(Self { tree, root }))
    }

    /// "/".
    pub fn root(&self) -> Place {
        self.root.clone()
    }

    /// All mounts.
    pub fn mounts(&self) -> impl Iterator<Item = &Arc<Mount>> {
        self.tree.mounts()
    }

    /// The mount at exactly this guest path.
    pub(super) fn mount_by_path(&self, path: &str) -> Option<Arc<Mount>> {
        self.mounts().find(|mount| mount.path == path).cloned()
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
        let top = entry.is_none().then_some(mount.point);
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
