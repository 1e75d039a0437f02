//! Handing directories to a jailed process so that they are all it gets.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::mount::{OpenTreeFlags, open_tree};

use crate::error::JailError;
use crate::launch::Namespaces;
use crate::sys::{self, MountAttributes};

/// What may be done below a directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Reading.
    Read,
    /// Reading and writing.
    Write,
}

/// The way of directories to one jailed process.
#[derive(Debug)]
pub struct Passage {
    /// A detached mount can be made.
    mounts: bool,
    /// The process's user namespace, when its user is another: files show as its own through it.
    user_namespace: Option<OwnedFd>,
}

impl Passage {
    pub(crate) fn new(namespaces: Namespaces, user_namespace: Option<OwnedFd>) -> Self {
        Self {
            mounts: namespaces != Namespaces::None,
            user_namespace: user_namespace.filter(|_| namespaces == Namespaces::OwnUser),
        }
    }

    /// `directory` for the jailed process: a mount of its own, out of which `..` does not lead, without set-user-id, device
    /// files or execution, and read-only unless `access` says otherwise. What is mounted below is not part of it.
    ///
    /// Without namespaces this is the directory as it is, which is part of what
    /// [`Authority::weakness`](crate::Authority::weakness) means.
    ///
    /// # Errors
    /// [`JailError::Passage`].
    pub fn directory(&self, directory: BorrowedFd<'_>, access: Access) -> Result<OwnedFd, JailError> {
        if !self.mounts {
            return directory.try_clone_to_owned().map_err(JailError::Passage);
        }
        let read_only = if access == Access::Read { libc::MOUNT_ATTR_RDONLY } else { 0 };
        let user_namespace = self.user_namespace.as_ref().map(std::os::fd::AsFd::as_fd);
        detached(directory, read_only, user_namespace).map_err(JailError::Passage)
    }

    /// Ends writing to what [`Self::directory`] gave with [`Access::Write`]: nothing below it is open for writing now and nothing
    /// will be, whatever descriptors the jailed process keeps.
    ///
    /// Without namespaces nothing can be ended: the process writes what its user may.
    ///
    /// # Errors
    /// [`JailError::Passage`]; a busy one, when the process has not closed what it wrote.
    pub fn seal(&self, handed: BorrowedFd<'_>) -> Result<(), JailError> {
        if !self.mounts {
            return Ok(());
        }
        let read_only = MountAttributes { set: libc::MOUNT_ATTR_RDONLY, ..MountAttributes::default() };
        sys::set_mount_attributes(handed, &read_only).map_err(JailError::Passage)
    }
}

/// A mount of `directory` that is in no namespace and ends with its descriptor.
pub(crate) fn detached(
    directory: BorrowedFd<'_>,
    attributes: u64,
    user_namespace: Option<BorrowedFd<'_>>,
) -> io::Result<OwnedFd> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let mount = open_tree(directory, "", flags)?;
    let confined = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
    let mut set = MountAttributes { set: attributes | confined, ..MountAttributes::default() };
    if let Some(namespace) = user_namespace {
        set.set |= libc::MOUNT_ATTR_IDMAP;
        set.user_namespace = u64::from(namespace.as_raw_fd().unsigned_abs());
    }
    sys::set_mount_attributes(std::os::fd::AsFd::as_fd(&mount), &set)?;
    Ok(mount)
}
