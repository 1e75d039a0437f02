//! Synthetic file systems: /proc, /sys, /dev, and single texts. Each is the worker's own; nothing of the host's trees of
//! the same name is opened for a guest.
//!
//! A file system of this kind is a [`Tree`]: pure functions from a path to what is there. Texts are made when a file is
//! opened, and again when it is read from its beginning.
//!
//! Snapshot rule: by path; an open file keeps the text it had.

mod dev;
mod device;
mod inode;
mod proc;
mod sys;
mod table;
mod text_file;

use std::sync::{Arc, OnceLock, Weak};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::{Caller, FileSystem, FileType, FsStatistics, Inode, Link};
use crate::task::Process;

pub use dev::Dev;
pub use device::{Device, DeviceFile};
pub use inode::SyntheticInode;
pub use proc::Proc;
pub use sys::Sys;
pub use text_file::TextFile;

/// What is at a path of a synthetic tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Entry {
    /// A directory.
    Directory,
    /// A text that can be read.
    Text,
    /// A text that only its owner can read.
    PrivateText,
    /// A text that can also be set.
    Setting,
    /// A symbolic link.
    Link,
    /// A character device.
    Device(Device),
}

impl Entry {
    /// The kind of file.
    pub fn file_type(self) -> FileType {
        match self {
            Self::Directory => FileType::Directory,
            Self::Text | Self::PrivateText | Self::Setting => FileType::Regular,
            Self::Link => FileType::Symlink,
            Self::Device(_) => FileType::CharacterDevice,
        }
    }

    /// Permission bits.
    fn permissions(self) -> u32 {
        match self {
            Self::Directory => 0o555,
            Self::Text => 0o444,
            Self::PrivateText => 0o400,
            Self::Setting => 0o644,
            Self::Link => 0o777,
            Self::Device(_) => 0o666,
        }
    }
}

/// The names of a path below a tree's top.
pub type Names<'a> = [&'a [u8]];

/// What a synthetic tree holds.
// Methods that refuse by default have no use for their arguments.
#[allow(unused_variables)]
pub trait Tree: Send + Sync {
    /// Type as /proc/self/mounts shows it.
    fn type_name(&self) -> &'static str;

    /// The magic number that statfs gives.
    fn magic(&self) -> u64;

    /// What is at `path`.
    fn find(&self, path: &Names<'_>) -> Option<Entry>;

    /// What the directory at `path` holds.
    fn list(&self, path: &Names<'_>) -> Vec<(Vec<u8>, Entry)> {
        Vec::new()
    }

    /// The text at `path`.
    ///
    /// # Errors
    /// ENOENT when it is gone.
    fn text(&self, path: &Names<'_>) -> Result<Vec<u8>, Errno> {
        Err(Errno::NOENT)
    }

    /// Where the link at `path` leads.
    ///
    /// # Errors
    /// ENOENT when it is gone.
    fn link(&self, path: &Names<'_>, caller: &Caller) -> Result<Link, Errno> {
        Err(Errno::NOENT)
    }

    /// Sets the [`Entry::Setting`] at `path`.
    ///
    /// # Errors
    /// EINVAL for a value that makes no sense.
    fn set(&self, path: &Names<'_>, value: &[u8]) -> Result<(), Errno> {
        Err(Errno::ACCESS)
    }

    /// Owner and group of everything.
    fn owner(&self, path: &Names<'_>) -> (u32, u32) {
        (0, 0)
    }
}

/// The guest's process, once it is there: file systems are mounted before it is made.
#[derive(Default, Clone)]
pub struct ProcessLink(Arc<OnceLock<Weak<Process>>>);

impl ProcessLink {
    /// Connects the file systems to the process; only the first call counts.
    pub fn attach(&self, process: &Arc<Process>) {
        let _ = self.0.set(Arc::downgrade(process));
    }

    /// The process.
    ///
    /// # Errors
    /// ESRCH while there is none.
    pub fn get(&self) -> Result<Arc<Process>, Errno> {
        self.0.get().and_then(Weak::upgrade).ok_or(Errno::SRCH)
    }
}

/// A mounted synthetic tree.
pub struct SyntheticFs {
    shared: Arc<Shared>,
}

/// What all inodes of a synthetic tree share.
struct Shared {
    tree: Box<dyn Tree>,
    mounted_at: String,
    device: u64,
}

impl SyntheticFs {
    /// `tree`, mounted at a guest path, with a device number of its own.
    pub fn new(tree: Box<dyn Tree>, mounted_at: &str, device: u64) -> Self {
        Self { shared: Arc::new(Shared { tree, mounted_at: mounted_at.to_owned(), device }) }
    }
}

impl FileSystem for SyntheticFs {
    fn root(&self) -> Arc<dyn Inode> {
        let top = self.shared.tree.find(&[]).unwrap_or(Entry::Directory);
        Arc::new(SyntheticInode::new(self.shared.clone(), Vec::new(), top))
    }

    fn type_name(&self) -> &'static str {
        self.shared.tree.type_name()
    }

    fn statistics(&self) -> Result<FsStatistics, Errno> {
        Ok(FsStatistics { magic: self.shared.tree.magic(), block_size: 4096, ..FsStatistics::default() })
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

/// A single text, mounted as a file.
pub struct Text(pub String);

impl Tree for Text {
    fn type_name(&self) -> &'static str {
        "tmpfs"
    }

    fn magic(&self) -> u64 {
        0x0102_1994
    }

    fn find(&self, path: &Names<'_>) -> Option<Entry> {
        path.is_empty().then_some(Entry::Text)
    }

    fn text(&self, _: &Names<'_>) -> Result<Vec<u8>, Errno> {
        Ok(self.0.clone().into_bytes())
    }
}
