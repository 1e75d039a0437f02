//! Files in memory: /tmp, /dev/shm, memfd_create.
//!
//! The tree ([`tree`]) is a flat table of nodes, so that neither saving nor dropping it recurses, however deep a guest
//! nests it. A regular file's bytes are a memfd of the host ([`contents`]), made with the first byte, so that it can be
//! mapped, shared mappings included.
//!
//! Snapshot rule: the whole tree with all contents, and files that are deleted but still open. Holes and zero pages are
//! not stored.

mod contents;
mod file;
mod node;
mod saved;
#[cfg(test)]
mod tests;
mod tree;

use std::sync::Arc;

use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

use super::{FileSystem, FsStatistics, Inode};
use contents::Space;
use tree::{Ino, Tree};

pub use contents::Seals;
pub use file::TmpfsFile;
pub use node::TmpfsInode;
pub use saved::SavedTmpfs;

/// How large a tree in memory may grow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TmpfsLimits {
    /// Bytes of file contents.
    pub bytes: u64,
    /// Files, directories and further links.
    pub inodes: u64,
}

/// A tree of files in memory.
pub struct Tmpfs {
    /// Guest path of the mount, under which saved inodes are found again.
    mounted_at: String,
    device: u64,
    limits: TmpfsLimits,
    space: Arc<Space>,
    tree: Mutex<Tree>,
}

/// The present time as file times have it.
pub(super) fn now() -> (i64, u32) {
    let now = clock_gettime(ClockId::RealtimeCoarse);
    (now.tv_sec, now.tv_nsec as u32)
}

impl Tmpfs {
    /// An empty tree whose top has the permission bits `mode`, owned by user and group 0.
    pub fn new(mounted_at: &str, device: u64, limits: TmpfsLimits, mode: u32) -> Arc<Self> {
        Arc::new(Self {
            mounted_at: mounted_at.to_owned(),
            device,
            limits,
            space: Arc::new(Space::new(limits.bytes)),
            tree: Mutex::new(Tree::new(mode, now())),
        })
    }

    /// A handle to node `ino`, which keeps it from vanishing.
    fn handle(self: &Arc<Self>, tree: &mut Tree, ino: Ino) -> Result<Arc<TmpfsInode>, Errno> {
        let node = tree.get_mut(ino)?;
        node.handles += 1;
        Ok(Arc::new(TmpfsInode::new(self.clone(), ino, node.file_type())))
    }

    /// The node numbered `ino`, for restored references.
    pub(super) fn inode(self: &Arc<Self>, ino: Ino) -> Result<Arc<TmpfsInode>, Errno> {
        self.handle(&mut self.tree.lock(), ino)
    }

    /// A file without a name, as memfd_create makes it; /proc shows it as `label`.
    ///
    /// # Errors
    /// ENOSPC.
    pub fn create_memfd(
        self: &Arc<Self>,
        label: Vec<u8>,
        owner: (u32, u32),
        sealable: bool,
    ) -> Result<Arc<TmpfsInode>, Errno> {
        let mut tree = self.tree.lock();
        self.room_for_node(&tree)?;
        let ino = tree.add_regular(0o777, owner, now(), self.space.clone(), sealable);
        let node = tree.get_mut(ino)?;
        node.label = Some(label);
        self.handle(&mut tree, ino)
    }

    /// Bytes that the tree's files hold.
    pub fn held_bytes(&self) -> u64 {
        self.space.used()
    }

    fn room_for_node(&self, tree: &Tree) -> Result<(), Errno> {
        if tree.weight() >= self.limits.inodes { Err(Errno::NOSPC) } else { Ok(()) }
    }
}

/// The mounted form: inodes need the tree behind an `Arc`.
pub struct TmpfsMount(pub Arc<Tmpfs>);

impl FileSystem for TmpfsMount {
    fn root(&self) -> Arc<dyn Inode> {
        let mut tree = self.0.tree.lock();
        tree.root_mut().handles += 1;
        Arc::new(TmpfsInode::new(self.0.clone(), tree::ROOT, super::FileType::Directory))
    }

    fn type_name(&self) -> &'static str {
        "tmpfs"
    }

    fn statistics(&self) -> Result<FsStatistics, Errno> {
        let Tmpfs { limits, space, tree, .. } = &*self.0;
        Ok(FsStatistics {
            magic: 0x0102_1994,
            block_size: 4096,
            blocks: limits.bytes / 4096,
            free: limits.bytes.saturating_sub(space.used()) / 4096,
            files: limits.inodes,
            free_files: limits.inodes.saturating_sub(tree.lock().weight()),
        })
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}
