//! Directory trees that come from somebody else: a function's code as a zip or a folder, a root file system as a tar.
//!
//! Every source goes through one [`TreeWriter`], which holds the rules: no path leaves the tree, nothing is written
//! through a symbolic link, no entry appears twice, sizes are counted as the bytes arrive and not as the archive claims,
//! permissions come down to "executable or not". What was written has a [`TreeDigest`] that depends on names, contents
//! and the executable bit only, so that the same code from a zip and from a folder is the same tree.
//!
//! Architecture invariant: this crate knows neither functions nor runtimes nor where a tree is kept.
#![forbid(unsafe_code)]

mod digest;
mod entry_path;
mod error;
mod folder;
mod limits;
mod tar_archive;
mod writer;
mod zip_archive;

pub use digest::{TreeDigest, TreeSummary, digest_tree};
pub use entry_path::{EntryPath, PathProblem};
pub use error::TreeError;
pub use folder::{copy_folder, merge_folders};
pub use limits::{LinkRule, TreeLimits};
pub use tar_archive::{open_tar, unpack_tar};
pub use writer::{FileEntry, TreeWriter};
pub use zip_archive::unpack_zip;
