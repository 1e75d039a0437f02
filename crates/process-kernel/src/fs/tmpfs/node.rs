//! Nodes as inodes of the guest's file tree.

use std::any::Any;
use std::sync::Arc;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::contents::Contents;
use super::tree::{Directory, Ino, Kind, Node, ROOT};
use super::{Tmpfs, TmpfsFile, TmpfsMount, now};
use crate::file::{AccessMode, DirectoryEntry, FileObject, Stat};
use crate::fs::{AttributeChange, Caller, FileType, Inode, Link, NewFile, NewKind, Place, RenameMode};
use crate::object::{Object, RestoreError, Restorer, SaveError, Saver};

/// A reference to a node, which lives at least as long.
pub struct TmpfsInode {
    fs: Arc<Tmpfs>,
    ino: Ino,
    kind: FileType,
}

#[derive(Serialize, Deserialize)]
struct Saved {
    mount: String,
    ino: Ino,
}

impl Drop for TmpfsInode {
    fn drop(&mut self) {
        let mut tree = self.fs.tree.lock();
        if let Ok(node) = tree.get_mut(self.ino) {
            node.handles = node.handles.saturating_sub(1);
        }
        tree.forget_if_unused(self.ino);
    }
}

impl TmpfsInode {
    /// Registry key.
    pub const KIND: &'static str = "tmpfs-inode";

    /// The caller has counted the reference.
    pub(super) fn new(fs: Arc<Tmpfs>, ino: Ino, kind: FileType) -> Self {
        Self { fs, ino, kind }
    }

    pub(super) fn contents(&self) -> Result<Arc<Contents>, Errno> {
        match &self.fs.tree.lock().get(self.ino)?.kind {
            Kind::Regular(contents) => Ok(contents.clone()),
            Kind::Directory(_) => Err(Errno::ISDIR),
            Kind::Symlink(_) | Kind::Socket => Err(Errno::INVAL),
        }
    }

    /// Device and inode number.
    pub(super) fn identity(&self) -> (u64, u64) {
        (self.fs.device, self.ino)
    }

    /// Takes note that the contents changed.
    pub(super) fn touch(&self) {
        let now = now();
        if let Ok(node) = self.fs.tree.lock().get_mut(self.ino) {
            node.mtime = now;
            node.ctime = now;
        }
    }

    /// The inode again.
    ///
    /// # Errors
    /// [`RestoreError`] when the saved form is damaged.
    pub fn restore(payload: &[u8], restorer: &mut Restorer<'_>) -> Result<Arc<dyn Object>, RestoreError> {
        let saved: Saved = Restorer::decode("file in memory", payload)?;
        let changed = |problem| RestoreError::FileChanged { path: saved.mount.clone(), problem };
        let mount = restorer.context.vfs.mount_by_path(&saved.mount);
        let mount = mount.ok_or_else(|| changed("is no longer mounted"))?;
        let tmpfs = mount.fs.as_any().downcast_ref::<TmpfsMount>();
        let tmpfs = tmpfs.ok_or_else(|| changed("is no longer a tree in memory"))?;
        let inode = tmpfs.0.inode(saved.ino).map_err(|_| changed("lacks a file that was open"))?;
        Ok(inode)
    }

    fn make(
        &self,
        file: &NewFile<'_>,
    ) -> Result<(parking_lot::MutexGuard<'_, super::tree::Tree>, Ino), Errno> {
        let mut tree = self.fs.tree.lock();
        self.fs.room_for_node(&tree)?;
        let owner = (file.uid, file.gid);
        let ino = match file.kind {
            NewKind::Regular => tree.add_regular(file.mode, owner, now(), self.fs.space.clone(), false),
            NewKind::Directory => tree.add(file.mode, owner, now(), Kind::Directory(Directory::default())),
            NewKind::Symlink(target) => tree.add(0o777, owner, now(), Kind::Symlink(target.to_vec())),
            NewKind::Socket => tree.add(file.mode, owner, now(), Kind::Socket),
        };
        Ok((tree, ino))
    }
}

fn stat_of(node: &Node, identity: (u64, u64)) -> Stat {
    let (size, occupied, links) = match &node.kind {
        Kind::Regular(contents) => (contents.size(), contents.occupied(), node.links),
        // As Linux's tmpfs does: 20 bytes for each entry; "." and ".." are links too.
        Kind::Directory(directory) => (20 * (directory.entries.len() as u64 + 2), 0, node.links * 2),
        Kind::Symlink(target) => (target.len() as u64, 0, node.links),
        Kind::Socket => (0, 0, node.links),
    };
    Stat {
        dev: identity.0,
        ino: identity.1,
        mode: node.file_type().mode_bits() | node.mode,
        nlink: links,
        uid: node.uid,
        gid: node.gid,
        rdev: 0,
        size,
        blksize: 4096,
        blocks: occupied / 512,
        atime: node.atime,
        mtime: node.mtime,
        ctime: node.ctime,
    }
}

impl Object for TmpfsInode {
    fn kind(&self) -> &'static str {
        Self::KIND
    }

    fn save(&self, saver: &mut Saver) -> Result<Vec<u8>, SaveError> {
        saver.encode(Self::KIND, &Saved { mount: self.fs.mounted_at.clone(), ino: self.ino })
    }

    fn as_inode(self: Arc<Self>) -> Option<Arc<dyn Inode>> {
        Some(self)
    }
}

impl Inode for TmpfsInode {
    fn metadata(&self) -> Result<Stat, Errno> {
        Ok(stat_of(self.fs.tree.lock().get(self.ino)?, self.identity()))
    }

    fn file_type(&self) -> FileType {
        self.kind
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        let mut tree = self.fs.tree.lock();
        let ino = tree.lookup(self.ino, name)?;
        Ok(self.fs.handle(&mut tree, ino)?)
    }

    fn parent(&self) -> Option<(Arc<dyn Inode>, Vec<u8>)> {
        let mut tree = self.fs.tree.lock();
        let directory = tree.get(self.ino).ok()?.directory().ok()?;
        let (parent, name) = (directory.parent, directory.name.clone());
        if self.ino == ROOT {
            return None;
        }
        // A directory above that was removed and is in use nowhere is gone.
        Some((self.fs.handle(&mut tree, parent).ok()?, name))
    }

    fn follow(&self, _: &Caller) -> Result<Link, Errno> {
        match &self.fs.tree.lock().get(self.ino)?.kind {
            Kind::Symlink(target) => Ok(Link::Path(target.clone())),
            _ => Err(Errno::INVAL),
        }
    }

    fn entries(&self) -> Result<Vec<DirectoryEntry>, Errno> {
        let tree = self.fs.tree.lock();
        let directory = tree.get(self.ino)?.directory()?;
        let entry = |(name, ino): (&Vec<u8>, &Ino)| {
            let file_type = tree.get(*ino).map_or(0, |node| node.file_type().entry_type());
            DirectoryEntry { ino: *ino, file_type, name: name.clone() }
        };
        Ok(directory.entries.iter().map(entry).collect())
    }

    fn open(
        self: Arc<Self>,
        place: &Place,
        access: AccessMode,
        _: &Caller,
    ) -> Result<Arc<dyn FileObject>, Errno> {
        if self.kind != FileType::Regular {
            return Err(Errno::NXIO);
        }
        Ok(Arc::new(TmpfsFile::new(self, place.clone(), access)?))
    }

    fn create(&self, name: &[u8], file: &NewFile<'_>) -> Result<Arc<dyn Inode>, Errno> {
        self.fs.tree.lock().check_new_name(self.ino, name)?;
        let (mut tree, ino) = self.make(file)?;
        // The lock was let go in between: the name may be taken by now.
        let attached =
            tree.check_new_name(self.ino, name).and_then(|()| tree.attach(self.ino, name, ino, now()));
        if let Err(error) = attached {
            tree.forget_if_unused(ino);
            return Err(error);
        }
        Ok(self.fs.handle(&mut tree, ino)?)
    }

    fn create_unnamed(&self, file: &NewFile<'_>) -> Result<Arc<dyn Inode>, Errno> {
        let (mut tree, ino) = self.make(file)?;
        let label = format!("{}/#{ino} (deleted)", self.fs.mounted_at.trim_end_matches('/'));
        let node = tree.get_mut(ino)?;
        node.linkable = true;
        node.label = Some(label.into_bytes());
        Ok(self.fs.handle(&mut tree, ino)?)
    }

    fn link(&self, name: &[u8], inode: &Arc<dyn Inode>) -> Result<(), Errno> {
        let other: Arc<dyn Any + Send + Sync> = inode.clone();
        let other = other.downcast::<Self>().map_err(|_| Errno::XDEV)?;
        let mut tree = self.fs.tree.lock();
        tree.check_new_name(self.ino, name)?;
        let node = tree.get(other.ino)?;
        if node.links == 0 && !node.linkable {
            return Err(Errno::NOENT);
        }
        if node.links > 0 {
            self.fs.room_for_node(&tree)?;
        }
        tree.attach(self.ino, name, other.ino, now())
    }

    fn unlink(&self, name: &[u8]) -> Result<(), Errno> {
        self.fs.tree.lock().unlink(self.ino, name, now())
    }

    fn remove_directory(&self, name: &[u8]) -> Result<(), Errno> {
        self.fs.tree.lock().remove_directory(self.ino, name, now())
    }

    fn rename(
        &self,
        from: &[u8],
        directory: &Arc<dyn Inode>,
        to: &[u8],
        mode: RenameMode,
    ) -> Result<(), Errno> {
        let target: Arc<dyn Any + Send + Sync> = directory.clone();
        let target = target.downcast::<Self>().map_err(|_| Errno::XDEV)?;
        self.fs.tree.lock().rename((self.ino, from), (target.ino, to), mode, now())
    }

    fn set_attributes(&self, change: &AttributeChange) -> Result<(), Errno> {
        let mut tree = self.fs.tree.lock();
        let node = tree.get_mut(self.ino)?;
        node.mode = change.mode.map_or(node.mode, |mode| mode & 0o7777);
        node.uid = change.uid.unwrap_or(node.uid);
        node.gid = change.gid.unwrap_or(node.gid);
        node.atime = change.atime.unwrap_or(node.atime);
        node.mtime = change.mtime.unwrap_or(node.mtime);
        node.ctime = now();
        Ok(())
    }

    fn truncate(&self, size: u64) -> Result<(), Errno> {
        self.contents()?.truncate(size)?;
        self.touch();
        Ok(())
    }

    fn is_deleted(&self) -> bool {
        self.fs.tree.lock().get(self.ino).map_or(true, |node| node.links == 0)
    }

    fn pseudo_path(&self) -> Option<Vec<u8>> {
        self.fs.tree.lock().get(self.ino).ok()?.label.clone()
    }
}
