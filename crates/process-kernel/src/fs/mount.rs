//! Mounts: which file system appears at which guest path.
//!
//! The table is fixed when the guest starts. Mount points need not exist in the file system below: a directory appears
//! where a mount needs one, and shows the way to it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::{FileSystem, FileType, FsStatistics, Inode};
use crate::file::{DirectoryEntry, Stat};
use crate::object::{Object, SaveError, Saver};

/// What to mount where; plain data. The first entry must be "/".
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct MountTable(pub Vec<MountEntry>);

/// One mount.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MountEntry {
    /// Absolute guest path.
    pub at: String,
    /// What is mounted.
    pub source: MountSource,
    /// Whether the guest may change it.
    pub writable: bool,
}

/// What can be mounted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum MountSource {
    /// A directory of the host. Read-only ones are taken not to change while the guest runs: what was looked up is cached.
    HostDirectory {
        /// The directory.
        path: PathBuf,
        /// Host paths below it that don't exist for the guest.
        hidden: Vec<PathBuf>,
        /// Whether the guest may walk into other disks mounted below it (never into /proc and its like).
        cross_devices: bool,
    },
    /// Files in memory, part of every snapshot.
    Tmpfs {
        /// Most bytes that files may use.
        bytes: u64,
        /// Most files and directories.
        inodes: u64,
        /// Permission bits of the top.
        mode: u32,
    },
    /// A single read-only file with these contents (/etc/resolv.conf and the like).
    Text(String),
    /// /proc
    Proc,
    /// /sys
    Sys,
    /// /dev
    Dev,
}

/// A file system at its place.
pub struct Mount {
    /// Number in /proc/self/mountinfo.
    pub id: u32,
    /// The number of the mount that it lies on; its own for the root.
    pub parent: u32,
    /// Absolute guest path.
    pub path: String,
    /// Whether the guest may change it.
    pub writable: bool,
    /// What is mounted.
    pub fs: Arc<dyn FileSystem>,
    pub(super) point: PointId,
}

impl Mount {
    /// A file system that is mounted nowhere, known by `label`.
    pub(super) fn detached(label: &str, fs: Arc<dyn FileSystem>) -> Self {
        Self { id: 1, parent: 1, path: label.to_owned(), writable: true, fs, point: NOWHERE }
    }
}

/// Where detached mounts are.
const NOWHERE: PointId = PointId::MAX;

/// Index of a [`MountPoint`] in its [`MountTree`].
pub(super) type PointId = usize;

/// A guest path at or above a mount.
pub(super) struct MountPoint {
    pub parent: PointId,
    pub name: Arc<[u8]>,
    pub children: BTreeMap<Box<[u8]>, PointId>,
    /// The mount here, if there is one.
    pub mount: Option<Arc<Mount>>,
    /// An empty directory that stands here when the file system below has none.
    pub placeholder: Option<Arc<Mount>>,
}

/// All mount points. The root is number 0.
pub(super) struct MountTree {
    points: Vec<MountPoint>,
}

impl MountTree {
    pub const ROOT: PointId = 0;

    pub fn new() -> Self {
        let root = MountPoint {
            parent: Self::ROOT,
            name: Arc::from(&b""[..]),
            children: BTreeMap::new(),
            mount: None,
            placeholder: None,
        };
        Self { points: vec![root] }
    }

    pub fn get(&self, id: PointId) -> Option<&MountPoint> {
        self.points.get(id)
    }

    pub fn child(&self, id: PointId, name: &[u8]) -> Option<PointId> {
        self.points.get(id)?.children.get(name).copied()
    }

    /// Names that lie directly below `id`.
    pub fn children(&self, id: PointId) -> impl Iterator<Item = (&[u8], PointId)> {
        self.points.get(id).into_iter().flat_map(|point| &point.children).map(|(name, id)| (&**name, *id))
    }

    /// Every mount in the order of the paths.
    pub fn mounts(&self) -> impl Iterator<Item = &Arc<Mount>> {
        self.points.iter().filter_map(|point| point.mount.as_ref())
    }

    /// Puts `fs` at `path`, over what was mounted there.
    pub fn add(&mut self, path: &str, writable: bool, fs: Arc<dyn FileSystem>) -> Arc<Mount> {
        let mut point = Self::ROOT;
        let mut at = String::new();
        let mut below = self.id_of(point);
        for name in path.split('/').filter(|name| !name.is_empty()) {
            at.push('/');
            at.push_str(name);
            point = match self.child(point, name.as_bytes()) {
                Some(child) => child,
                None => self.grow(point, name, &at),
            };
            if self.get(point).is_some_and(|point| point.mount.is_some()) {
                below = self.id_of(point);
            }
        }
        if at.is_empty() {
            at.push('/');
        }
        let id = first_id(point);
        let mount = Arc::new(Mount { id, parent: below, path: at, writable, fs, point });
        if let Some(point) = self.points.get_mut(point) {
            point.mount = Some(mount.clone());
        }
        mount
    }

    fn id_of(&self, point: PointId) -> u32 {
        self.get(point)
            .and_then(|point| point.mount.as_ref())
            .map_or_else(|| first_id(point), |mount| mount.id)
    }

    fn grow(&mut self, parent: PointId, name: &str, path: &str) -> PointId {
        let id = self.points.len();
        let placeholder = Mount {
            id: first_id(id),
            parent: first_id(parent),
            path: path.to_owned(),
            writable: false,
            fs: Arc::new(Placeholder { ino: id as u64 + 1 }),
            point: id,
        };
        self.points.push(MountPoint {
            parent,
            name: Arc::from(name.as_bytes()),
            children: BTreeMap::new(),
            mount: None,
            placeholder: Some(Arc::new(placeholder)),
        });
        if let Some(parent) = self.points.get_mut(parent) {
            parent.children.insert(name.as_bytes().into(), id);
        }
        id
    }
}

/// Mount numbers start where a usual system's do: programs take 0 for "unknown".
fn first_id(point: PointId) -> u32 {
    20 + point as u32
}

/// The file system of an empty directory that leads to a mount.
#[derive(Clone)]
pub(super) struct Placeholder {
    pub ino: u64,
}

impl FileSystem for Placeholder {
    fn root(&self) -> Arc<dyn Inode> {
        Arc::new(self.clone())
    }

    fn type_name(&self) -> &'static str {
        "tmpfs"
    }

    fn statistics(&self) -> Result<FsStatistics, Errno> {
        Ok(FsStatistics { magic: 0x0102_1994, block_size: 4096, ..FsStatistics::default() })
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

impl Object for Placeholder {
    fn kind(&self) -> &'static str {
        "mount-placeholder"
    }

    fn save(&self, saver: &mut Saver) -> Result<Vec<u8>, SaveError> {
        saver.encode("mount-placeholder", &self.ino)
    }

    fn as_inode(self: Arc<Self>) -> Option<Arc<dyn Inode>> {
        Some(self)
    }
}

impl Inode for Placeholder {
    fn metadata(&self) -> Result<Stat, Errno> {
        Ok(Stat { dev: 1, ino: self.ino, mode: 0o040_755, nlink: 2, blksize: 4096, ..Stat::default() })
    }

    fn file_type(&self) -> FileType {
        FileType::Directory
    }

    fn lookup(&self, _: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        Err(Errno::NOENT)
    }

    fn entries(&self) -> Result<Vec<DirectoryEntry>, Errno> {
        Ok(Vec::new())
    }
}

/// Makes a placeholder's inode again.
pub(super) const PLACEHOLDER: (&str, crate::object::RestoreFn) = ("mount-placeholder", |payload, _| {
    let ino = crate::object::Restorer::decode("mount placeholder", payload)?;
    Ok(Arc::new(Placeholder { ino }))
});
