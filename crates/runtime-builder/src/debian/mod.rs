//! Debian packages: which are needed, fetched by apt, unpacked into a tree.

mod apt;
mod closure;
mod control;
mod unpack;

pub(crate) use apt::Apt;
pub(crate) use closure::resolve;
pub(crate) use control::{Archive, Control};
pub(crate) use unpack::{MERGED, unpack};

/// An exact package as the archive announces it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct DebianPackage {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The file's name in the cache.
    pub(crate) file: String,
    /// SHA-256 of the file, in hexadecimal.
    pub(crate) sha256: String,
}
