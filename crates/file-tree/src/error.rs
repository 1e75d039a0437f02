//! What can be wrong with a tree or with the archive it comes from.

use std::io;
use std::path::PathBuf;

use crate::entry_path::{EntryPath, PathProblem};

/// A tree was refused or could not be written.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// A path in the archive can't stand in a tree.
    #[error("entry {path:?} is refused")]
    Path {
        /// The path as the archive spells it.
        path: String,
        /// What is wrong with it.
        #[source]
        problem: PathProblem,
    },
    /// Two entries with one path, or a file where a folder has to be.
    #[error("entry {0} appears twice")]
    Duplicate(EntryPath),
    /// The zip's directory lists a name more than once.
    #[error("the zip lists {listed} entries but only {distinct} different names: some appear twice")]
    DuplicateNames {
        /// Records in the zip's central directory.
        listed: u64,
        /// Different names among them.
        distinct: u64,
    },
    /// An entry's parent folder is a symbolic link or a file.
    #[error("entry {0} goes through a symbolic link or a file where a folder has to be")]
    ThroughLink(EntryPath),
    /// A symbolic link that points out of the tree.
    #[error("symbolic link {path} points to {target:?}, outside of the tree")]
    LinkOutside {
        /// The link.
        path: EntryPath,
        /// Where it points to.
        target: String,
    },
    /// A hard link to something that the archive did not hold before it.
    #[error("hard link {path} points to {target}, which is no file of this archive")]
    HardLink {
        /// The link.
        path: EntryPath,
        /// Where it points to.
        target: EntryPath,
    },
    /// A device, a socket, a pipe.
    #[error("entry {path} is a {kind}; only files, folders and symbolic links can be stored")]
    Kind {
        /// The entry.
        path: EntryPath,
        /// Its kind in words.
        kind: &'static str,
    },
    /// The content is larger than allowed.
    #[error("unpacked size must be smaller than {limit} bytes")]
    TooLarge {
        /// The bound in bytes.
        limit: u64,
    },
    /// There are more entries than allowed.
    #[error("more than {limit} files and folders")]
    TooMany {
        /// The bound.
        limit: u64,
    },
    /// An entry is encrypted.
    #[error("entry {0} is encrypted: store the archive without a password")]
    Encrypted(EntryPath),
    /// The zip can't be read.
    #[error("can't read the zip: make it again, or give the folder itself")]
    Zip(#[source] zip::result::ZipError),
    /// The bytes of one entry can't be read: damaged, cut short, or packed in a way that is not supported.
    #[error("can't unpack entry {path}")]
    Content {
        /// The entry.
        path: EntryPath,
        /// What the decoder or the disk said.
        #[source]
        source: io::Error,
    },
    /// The tar can't be read.
    #[error("can't read the tar (plain or gzip)")]
    Tar(#[source] io::Error),
    /// The file system refused.
    #[error("{operation} {path:?} failed")]
    Io {
        /// What was tried, as in "creating".
        operation: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl TreeError {
    /// A closure that wraps an I/O error with what was tried on which path.
    pub(crate) fn io(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { operation, path, source }
    }
}
