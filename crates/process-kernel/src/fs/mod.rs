//! File systems: mounts, path walking, inodes.

use crate::object::Object;

/// A file, directory or symbolic link of a mounted file system.
pub trait Inode: Object {}

/// The mounted file systems.
#[derive(Default)]
pub struct Vfs {}
