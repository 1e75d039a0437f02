//! "Somebody runs from this": a shared lock that keeps a removed thing on disk until its user is done.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::error::StoreError;

/// Held as long as somebody uses a runtime, a tree or a snapshot. A leased thing can be removed from the home, but its
/// files stay, in the trash, until the last lease is dropped and something else is written to the home.
///
/// The lock is a shared flock(2) on the thing's folder and belongs to the open file: a process that inherits the
/// descriptor, or is sent it, holds the lease too.
#[derive(Debug)]
pub struct Lease(File);

impl AsFd for Lease {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Lease> for OwnedFd {
    fn from(lease: Lease) -> Self {
        lease.0.into()
    }
}

impl Lease {
    /// Takes a lease on a folder. `None` when it does not exist.
    ///
    /// A thing may be replaced between opening and locking; then the lease would be on the old one, so the name is looked
    /// at again after locking.
    pub(crate) fn take(folder: &Path) -> Result<Option<Self>, StoreError> {
        let absent = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
        loop {
            let file = match File::open(folder) {
                Err(error) if absent(&error) => return Ok(None),
                other => other.map_err(StoreError::io("opening", folder))?,
            };
            file.lock_shared().map_err(StoreError::io("locking", folder))?;
            let locked = file.metadata().map_err(StoreError::io("reading", folder))?;
            match std::fs::metadata(folder) {
                Ok(named) if (named.dev(), named.ino()) == (locked.dev(), locked.ino()) => {
                    return Ok(Some(Self(file)));
                }
                Err(error) if !absent(&error) => return Err(StoreError::io("reading", folder)(error)),
                // Removed or replaced meanwhile: look again.
                Ok(_) | Err(_) => {}
            }
        }
    }

    /// Whether nobody holds a lease on `path`. What can't be opened counts as used, unless it is not there.
    pub(crate) fn is_free(path: &Path) -> bool {
        match File::open(path) {
            // The lock is given back as the file is closed, right here.
            Ok(file) => file.try_lock().is_ok(),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }

    /// Opens a file or folder of the leased thing: through the lease, so that it is the leased one even when the name has
    /// another meaning by now.
    pub(crate) fn open(&self, name: &str, flags: OFlags) -> io::Result<OwnedFd> {
        Ok(rustix::fs::openat(&self.0, name, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())?)
    }
}
