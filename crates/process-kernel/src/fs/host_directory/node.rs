//! A file of a host directory.

use std::mem::MaybeUninit;
use std::sync::Arc;

use rustix::fs::{OFlags, RawDir};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::{HostDirectory, HostFile, Known, Shared};
use crate::file::{AccessMode, DirectoryEntry, FileObject, Stat};
use crate::fs::{AttributeChange, Caller, FileType, Inode, Link, NewFile, Place, RenameMode};
use crate::object::{Object, RestoreError, Restorer, SaveError, Saver};

/// A file of a host directory, by its path below it.
pub struct HostNode {
    pub(super) shared: Arc<Shared>,
    pub(super) path: Box<[u8]>,
    known: Arc<Known>,
}

/// Saved form: where it was and, for regular files of read-only directories, how large and how old.
#[derive(Serialize, Deserialize)]
struct Saved {
    mount: String,
    path: Vec<u8>,
    kind: FileType,
    version: Option<(u64, i64, u32)>,
}

/// Directory entries read at once, bytes.
const LISTING_BUFFER: usize = 32 << 10;
/// Entries that one directory may have; more are not shown.
const MAX_ENTRIES: usize = 1 << 20;

impl HostNode {
    /// Registry key.
    pub const KIND: &'static str = "host-node";

    pub(super) fn new(shared: Arc<Shared>, path: Box<[u8]>, known: Arc<Known>) -> Self {
        Self { shared, path, known }
    }

    /// The path of the entry `name` of this directory.
    pub(super) fn child_path(&self, name: &[u8]) -> Vec<u8> {
        let mut path = Vec::with_capacity(self.path.len() + 1 + name.len());
        path.extend_from_slice(&self.path);
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        path
    }

    /// The absolute guest path.
    pub(super) fn guest_path(&self) -> String {
        format!("{}/{}", self.shared.mounted_at.trim_end_matches('/'), String::from_utf8_lossy(&self.path))
    }

    fn read_listing(&self) -> Result<Vec<DirectoryEntry>, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let (fd, _) = self.shared.open(&self.path, FileType::Directory, flags)?;
        let mut buffer = vec![MaybeUninit::uninit(); LISTING_BUFFER];
        let mut listing = Vec::new();
        let mut raw = RawDir::new(fd, &mut buffer);
        while let Some(entry) = raw.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            if listing.len() >= MAX_ENTRIES {
                break;
            }
            let file_type =
                FileType::of_mode(entry.file_type().as_raw_mode()).map_or(0, FileType::entry_type);
            // A hidden directory's own number shows in its entry.
            let may_be_hidden = self.shared.hidden.iter().any(|(_, ino)| *ino == entry.ino());
            if may_be_hidden && self.shared.known(&self.child_path(name)).is_err() {
                continue;
            }
            listing.push(DirectoryEntry { ino: entry.ino(), file_type, name: name.to_vec() });
        }
        Ok(listing)
    }

    /// The node again.
    ///
    /// # Errors
    /// [`RestoreError::FileChanged`] when the file is gone or another.
    pub fn restore(payload: &[u8], restorer: &mut Restorer<'_>) -> Result<Arc<dyn Object>, RestoreError> {
        let saved: Saved = Restorer::decode("host file", payload)?;
        let text = String::from_utf8_lossy(&saved.path);
        let path = format!("{}/{text}", saved.mount.trim_end_matches('/'));
        let changed = |problem| RestoreError::FileChanged { path: path.clone(), problem };
        let mount = restorer.context.vfs.mount_by_path(&saved.mount);
        let mount = mount.ok_or_else(|| changed("lies on something that is no longer mounted"))?;
        let directory = mount.fs.as_any().downcast_ref::<HostDirectory>();
        let directory = directory.ok_or_else(|| changed("no longer lies in a directory of the host"))?;
        let node = directory.node(&saved.path).map_err(|_| changed("is missing"))?;
        if node.known.kind != saved.kind {
            return Err(changed("is another kind of file now"));
        }
        if saved.version.is_some_and(|version| version != version_of(&node.known.stat)) {
            return Err(changed("has changed"));
        }
        Ok(Arc::new(node))
    }
}

/// What a file's contents are recognised by: size and modification time.
fn version_of(stat: &Stat) -> (u64, i64, u32) {
    (stat.size, stat.mtime.0, stat.mtime.1)
}

impl Object for HostNode {
    fn kind(&self) -> &'static str {
        Self::KIND
    }

    fn save(&self, saver: &mut Saver) -> Result<Vec<u8>, SaveError> {
        let checked = !self.shared.writable && self.known.kind == FileType::Regular;
        let saved = Saved {
            mount: self.shared.mounted_at.clone(),
            path: self.path.to_vec(),
            kind: self.known.kind,
            version: checked.then(|| version_of(&self.known.stat)),
        };
        saver.encode(Self::KIND, &saved)
    }

    fn as_inode(self: Arc<Self>) -> Option<Arc<dyn Inode>> {
        Some(self)
    }
}

impl Inode for HostNode {
    fn metadata(&self) -> Result<Stat, Errno> {
        if self.shared.writable {
            return self.shared.known(&self.path).map(|known| known.stat);
        }
        Ok(self.known.stat)
    }

    fn file_type(&self) -> FileType {
        self.known.kind
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        if self.known.kind != FileType::Directory {
            return Err(Errno::NOTDIR);
        }
        let path = self.child_path(name);
        let known = self.shared.known(&path)?;
        Ok(Arc::new(Self { shared: self.shared.clone(), path: path.into(), known }))
    }

    fn parent(&self) -> Option<(Arc<dyn Inode>, Vec<u8>)> {
        if self.path.is_empty() {
            return None;
        }
        let slash = self.path.iter().rposition(|byte| *byte == b'/');
        let (parent, name) = match slash {
            Some(slash) => (self.path.get(..slash)?, self.path.get(slash + 1..)?),
            None => (&b""[..], &*self.path),
        };
        let known = self.shared.known(parent).unwrap_or_else(|_| Arc::new(Known::unreadable()));
        Some((Arc::new(Self { shared: self.shared.clone(), path: parent.into(), known }), name.to_vec()))
    }

    fn follow(&self, _: &Caller) -> Result<Link, Errno> {
        match self.known.kind {
            FileType::Symlink => Ok(Link::Path(self.known.target.clone())),
            _ => Err(Errno::INVAL),
        }
    }

    fn entries(&self) -> Result<Vec<DirectoryEntry>, Errno> {
        if self.known.kind != FileType::Directory {
            return Err(Errno::NOTDIR);
        }
        if self.shared.writable {
            return self.read_listing();
        }
        if let Some(listing) = self.known.listing.get() {
            return Ok(listing.clone());
        }
        let listing = self.read_listing()?;
        Ok(self.known.listing.get_or_init(|| listing).clone())
    }

    fn open(
        self: Arc<Self>,
        place: &Place,
        access: AccessMode,
        _: &Caller,
    ) -> Result<Arc<dyn FileObject>, Errno> {
        if self.known.kind != FileType::Regular {
            return Err(Errno::NXIO);
        }
        Ok(Arc::new(HostFile::open(self, place.clone(), access)?))
    }

    fn create(&self, name: &[u8], file: &NewFile<'_>) -> Result<Arc<dyn Inode>, Errno> {
        self.create_entry(name, file)?;
        self.lookup(name)
    }

    fn link(&self, name: &[u8], inode: &Arc<dyn Inode>) -> Result<(), Errno> {
        self.link_entry(name, inode)
    }

    fn unlink(&self, name: &[u8]) -> Result<(), Errno> {
        self.remove_entry(name, rustix::fs::AtFlags::empty())
    }

    fn remove_directory(&self, name: &[u8]) -> Result<(), Errno> {
        self.remove_entry(name, rustix::fs::AtFlags::REMOVEDIR)
    }

    fn rename(
        &self,
        from: &[u8],
        directory: &Arc<dyn Inode>,
        to: &[u8],
        mode: RenameMode,
    ) -> Result<(), Errno> {
        self.rename_entry(from, directory, to, mode)
    }

    fn set_attributes(&self, change: &AttributeChange) -> Result<(), Errno> {
        self.change_attributes(change)
    }

    fn truncate(&self, size: u64) -> Result<(), Errno> {
        match self.known.kind {
            FileType::Regular => self.set_size(size),
            FileType::Directory => Err(Errno::ISDIR),
            _ => Err(Errno::INVAL),
        }
    }
}
