//! Inodes of synthetic trees.

use std::sync::Arc;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::{DeviceFile, Entry, Names, Shared, SyntheticFs, TextFile, Tree};
use crate::file::{AccessMode, DirectoryEntry, FileObject, Stat};
use crate::fs::{AttributeChange, Caller, FileType, Inode, Link, Place};
use crate::object::{Object, RestoreError, Restorer, SaveError, Saver};

/// A file of a synthetic tree, by its path.
pub struct SyntheticInode {
    shared: Arc<Shared>,
    path: Vec<Vec<u8>>,
    entry: Entry,
}

#[derive(Serialize, Deserialize)]
struct Saved {
    mount: String,
    path: Vec<Vec<u8>>,
    entry: Entry,
}

impl SyntheticInode {
    /// Registry key.
    pub const KIND: &'static str = "synthetic-inode";

    pub(super) fn new(shared: Arc<Shared>, path: Vec<Vec<u8>>, entry: Entry) -> Self {
        Self { shared, path, entry }
    }

    /// Calls `ask` with the tree and the path.
    pub(super) fn with<T>(&self, ask: impl FnOnce(&dyn Tree, &Names<'_>) -> T) -> T {
        let names: Vec<&[u8]> = self.path.iter().map(Vec::as_slice).collect();
        ask(&*self.shared.tree, &names)
    }

    /// A number that the path alone decides (FNV-1a), so that it stays the same in a restored guest.
    fn number(&self) -> u64 {
        let bytes = self.path.iter().flat_map(|name| [b'/'].into_iter().chain(name.iter().copied()));
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        (hash >> 24).max(1)
    }

    /// The inode again.
    ///
    /// # Errors
    /// [`RestoreError`] when the saved form is damaged or the tree is no longer mounted.
    pub fn restore(payload: &[u8], restorer: &mut Restorer<'_>) -> Result<Arc<dyn Object>, RestoreError> {
        let saved: Saved = Restorer::decode("synthetic file", payload)?;
        let mount = restorer.context.vfs.mount_by_path(&saved.mount);
        let shared = mount
            .as_ref()
            .and_then(|mount| mount.fs.as_any().downcast_ref::<SyntheticFs>())
            .map(|fs| fs.shared.clone())
            .ok_or(RestoreError::FileChanged { path: saved.mount, problem: "is no longer mounted" })?;
        Ok(Arc::new(Self { shared, path: saved.path, entry: saved.entry }))
    }
}

impl Object for SyntheticInode {
    fn kind(&self) -> &'static str {
        Self::KIND
    }

    fn save(&self, saver: &mut Saver) -> Result<Vec<u8>, SaveError> {
        let mount = self.shared.mounted_at.clone();
        saver.encode(Self::KIND, &Saved { mount, path: self.path.clone(), entry: self.entry })
    }

    fn as_inode(self: Arc<Self>) -> Option<Arc<dyn Inode>> {
        Some(self)
    }
}

impl Inode for SyntheticInode {
    fn metadata(&self) -> Result<Stat, Errno> {
        let (uid, gid) = self.with(|tree, path| tree.owner(path));
        let now = super::super::tmpfs::now();
        Ok(Stat {
            dev: self.shared.device,
            ino: self.number(),
            mode: self.entry.file_type().mode_bits() | self.entry.permissions(),
            nlink: if self.entry == Entry::Directory { 2 } else { 1 },
            uid,
            gid,
            rdev: match self.entry {
                Entry::Device(device) => device.number(),
                _ => 0,
            },
            size: 0,
            blksize: 4096,
            blocks: 0,
            atime: now,
            mtime: now,
            ctime: now,
        })
    }

    fn file_type(&self) -> FileType {
        self.entry.file_type()
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        if self.entry != Entry::Directory {
            return Err(Errno::NOTDIR);
        }
        let mut path = self.path.clone();
        path.push(name.to_vec());
        let names: Vec<&[u8]> = path.iter().map(Vec::as_slice).collect();
        let entry = self.shared.tree.find(&names).ok_or(Errno::NOENT)?;
        Ok(Arc::new(Self { shared: self.shared.clone(), path, entry }))
    }

    fn parent(&self) -> Option<(Arc<dyn Inode>, Vec<u8>)> {
        let (name, above) = self.path.split_last()?;
        let parent = Self { shared: self.shared.clone(), path: above.to_vec(), entry: Entry::Directory };
        Some((Arc::new(parent), name.clone()))
    }

    fn follow(&self, caller: &Caller) -> Result<Link, Errno> {
        if self.entry != Entry::Link {
            return Err(Errno::INVAL);
        }
        self.with(|tree, path| tree.link(path, caller))
    }

    fn entries(&self) -> Result<Vec<DirectoryEntry>, Errno> {
        if self.entry != Entry::Directory {
            return Err(Errno::NOTDIR);
        }
        let entries = self.with(|tree, path| tree.list(path));
        let listed = entries.into_iter().map(|(name, entry)| {
            let mut path = self.path.clone();
            path.push(name.clone());
            let inode = Self { shared: self.shared.clone(), path, entry };
            DirectoryEntry { ino: inode.number(), file_type: entry.file_type().entry_type(), name }
        });
        Ok(listed.collect())
    }

    fn open(self: Arc<Self>, place: &Place, _: AccessMode, _: &Caller) -> Result<Arc<dyn FileObject>, Errno> {
        match self.entry {
            Entry::Text | Entry::PrivateText | Entry::Setting => {
                Ok(Arc::new(TextFile::open(self, place.clone())?))
            }
            Entry::Device(device) => Ok(Arc::new(DeviceFile::open(device, place.clone())?)),
            Entry::Directory | Entry::Link => Err(Errno::NXIO),
        }
    }

    fn set_attributes(&self, change: &AttributeChange) -> Result<(), Errno> {
        // Touching a device is common and harmless; nothing else can be changed.
        let only_times =
            AttributeChange { atime: None, mtime: None, ..*change } == AttributeChange::default();
        if only_times { Ok(()) } else { Err(Errno::PERM) }
    }

    fn truncate(&self, _: u64) -> Result<(), Errno> {
        // Settings are opened with O_TRUNC by every `echo value >`.
        if self.entry == Entry::Setting { Ok(()) } else { Err(Errno::INVAL) }
    }
}
