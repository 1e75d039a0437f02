//! Files and directories that appear whole or not at all: written under a temporary name beside the final one, made
//! durable, then renamed.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};

use crate::error::{ErrorKind, SnapshotError};

/// Temporary names start with this; a final name must not.
const TEMPORARY_PREFIX: &str = ".unpublished-";

/// Only the owner reads or writes: a snapshot holds whatever secrets its function had in memory.
const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;

/// 16 bytes that nobody can guess or repeat.
pub(crate) fn random_bytes() -> Result<[u8; 16], io::Error> {
    let mut bytes = [0; 16];
    let got = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    if got == bytes.len() { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn temporary_name(name: &str) -> Result<OsString, io::Error> {
    let random = u128::from_le_bytes(random_bytes()?);
    Ok(format!("{TEMPORARY_PREFIX}{name}-{random:032x}").into())
}

fn check_name(parent: &Path, name: &str) -> Result<(), SnapshotError> {
    let plain = !name.is_empty() && !name.contains('/') && !name.contains('\0') && !name.starts_with('.');
    if plain {
        return Ok(());
    }
    let detail = format!("\"{name}\" is not a plain name");
    Err(SnapshotError::new(ErrorKind::Misuse, "creating a file in", parent, detail))
}

/// Creates `path` for writing and reading, for the owner only; it must not exist.
pub(crate) fn create_file(path: &Path) -> Result<File, SnapshotError> {
    let opened = OpenOptions::new().read(true).write(true).create_new(true).mode(FILE_MODE).open(path);
    opened.map_err(|source| SnapshotError::io("creating", path, source))
}

fn sync_directory(path: &Path) -> Result<(), SnapshotError> {
    let synced = File::open(path).and_then(|directory| directory.sync_all());
    synced.map_err(|source| SnapshotError::io("making durable", path, source))
}

/// A directory being written. Dropping it removes everything; [`PendingDirectory::publish`] makes it appear.
#[derive(Debug)]
pub(crate) struct PendingDirectory {
    temporary: PathBuf,
    parent: PathBuf,
    name: String,
    /// Holds the lock that tells [`remove_abandoned`] the writer is alive.
    _lock: File,
    published: bool,
}

impl PendingDirectory {
    pub fn begin(parent: &Path, name: &str) -> Result<Self, SnapshotError> {
        check_name(parent, name)?;
        let failed = |source| SnapshotError::io("creating a directory in", parent, source);
        let temporary = parent.join(temporary_name(name).map_err(failed)?);
        fs::DirBuilder::new().mode(DIRECTORY_MODE).create(&temporary).map_err(failed)?;
        let lock = File::open(&temporary).map_err(failed)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|errno| failed(errno.into()))?;
        Ok(Self { temporary, parent: parent.into(), name: name.into(), _lock: lock, published: false })
    }

    pub fn path(&self) -> &Path {
        &self.temporary
    }

    /// Renames the directory to its final name. The files in it are durable already.
    pub fn publish(mut self) -> Result<PathBuf, SnapshotError> {
        sync_directory(&self.temporary)?;
        let path = self.parent.join(&self.name);
        renameat_with(CWD, &self.temporary, CWD, &path, RenameFlags::NOREPLACE)
            .map_err(|errno| SnapshotError::io("publishing", &path, errno.into()))?;
        self.published = true;
        sync_directory(&self.parent)?;
        Ok(path)
    }
}

impl Drop for PendingDirectory {
    fn drop(&mut self) {
        if !self.published {
            // Best effort: what stays is found by `remove_abandoned`.
            let _ = fs::remove_dir_all(&self.temporary);
        }
    }
}

/// A file being written beside others. Dropping it removes it; [`PendingFile::publish`] makes it appear, replacing an older
/// file of that name, so that a reader finds the old one or the new one.
#[derive(Debug)]
pub struct PendingFile {
    file: File,
    temporary: PathBuf,
    directory: PathBuf,
    name: String,
    published: bool,
}

impl PendingFile {
    /// A new, empty file that will be called `name` in `directory`, open for reading and writing.
    ///
    /// # Errors
    /// When it can't be created.
    pub fn begin(directory: &Path, name: &str) -> Result<Self, SnapshotError> {
        check_name(directory, name)?;
        let failed = |source| SnapshotError::io("creating a file in", directory, source);
        let temporary = directory.join(temporary_name(name).map_err(failed)?);
        let file = create_file(&temporary)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|errno| failed(errno.into()))?;
        Ok(Self { file, temporary, directory: directory.into(), name: name.into(), published: false })
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Where it stands until it is published, for errors.
    pub fn path(&self) -> &Path {
        &self.temporary
    }

    /// Makes the file durable and gives it its name. Returns its path.
    ///
    /// # Errors
    /// When it can't be made durable or renamed; then nothing has changed for readers.
    pub fn publish(mut self) -> Result<PathBuf, SnapshotError> {
        self.file
            .sync_all()
            .map_err(|source| SnapshotError::io("making durable", &self.temporary, source))?;
        let path = self.directory.join(&self.name);
        fs::rename(&self.temporary, &path)
            .map_err(|source| SnapshotError::io("publishing", &path, source))?;
        self.published = true;
        sync_directory(&self.directory)?;
        Ok(path)
    }
}

impl Drop for PendingFile {
    fn drop(&mut self) {
        if !self.published {
            // Best effort: what stays is found by `remove_abandoned`.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Removes what writers that were killed left in `directory`, and returns how many. What a living writer works on is
/// locked and stays.
///
/// # Errors
/// When the directory can't be listed or something in it can't be removed.
pub fn remove_abandoned(directory: &Path) -> Result<usize, SnapshotError> {
    let failed = |source| SnapshotError::io("cleaning", directory, source);
    let mut removed = 0;
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if !entry.file_name().to_string_lossy().starts_with(TEMPORARY_PREFIX) {
            continue;
        }
        let path = entry.path();
        // Published or removed by its writer since it was listed.
        let Ok(lock) = File::open(&path) else { continue };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        let is_directory = entry.file_type().map_err(failed)?.is_dir();
        let done = if is_directory { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        match done {
            Ok(()) => removed += 1,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(SnapshotError::io("removing", &path, source)),
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn abandoned_writers_are_removed_and_living_ones_are_not() {
        let parent = tempfile::tempdir().unwrap();
        let living = PendingFile::begin(parent.path(), "living").unwrap();
        let dead = parent.path().join(".unpublished-dead-0");
        fs::create_dir(&dead).unwrap();
        fs::write(dead.join("memory"), b"half").unwrap();
        assert_eq!(remove_abandoned(parent.path()).unwrap(), 1);
        assert!(!dead.exists());
        living.file().write_all(b"whole").unwrap();
        let path = living.publish().unwrap();
        assert_eq!(fs::read(path).unwrap(), b"whole");
    }

    #[test]
    fn a_dropped_file_leaves_nothing_and_keeps_the_old_one() {
        let parent = tempfile::tempdir().unwrap();
        fs::write(parent.path().join("name"), b"old").unwrap();
        drop(PendingFile::begin(parent.path(), "name").unwrap());
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
        assert_eq!(fs::read(parent.path().join("name")).unwrap(), b"old");
    }

    #[test]
    fn names_with_slashes_or_dots_are_refused() {
        let parent = tempfile::tempdir().unwrap();
        for name in ["", "a/b", "..", ".hidden"] {
            assert_eq!(PendingFile::begin(parent.path(), name).unwrap_err().kind(), ErrorKind::Misuse);
        }
    }
}
