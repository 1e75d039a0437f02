//! The disk that the emulated host boots into: a folder of further names of files, then an ext4 image of it, without being root
//! and without mounting anything.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use walkdir::WalkDir;

use crate::error::RigError;

/// Size of the image; what holds nothing takes no space.
const SIZE: &str = "4G";

/// What is carried in. Paths inside are absolute.
#[derive(Debug)]
pub struct Staging {
    root: PathBuf,
}

impl Staging {
    /// An empty one below `folder`, on the file system that holds what is put into it, so that nothing is copied.
    ///
    /// # Errors
    /// [`RigError`].
    pub fn new(folder: &Path) -> Result<Self, RigError> {
        let root = folder.join("root");
        if root.exists() {
            fs::remove_dir_all(&root).map_err(RigError::file("removing", &root))?;
        }
        create(&root)?;
        Ok(Self { root })
    }

    fn inside(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Makes the tree below `from` appear below `to`, its files as further names of the same files. Entries of `from` itself with
    /// a name in `without` are left out.
    ///
    /// # Errors
    /// [`RigError`].
    pub fn tree(&self, from: &Path, to: &Path, without: &[&str]) -> Result<(), RigError> {
        let to = self.inside(to);
        let walk = WalkDir::new(from).into_iter().filter_entry(|entry| {
            entry.depth() != 1 || !without.iter().any(|name| entry.file_name() == *name)
        });
        for entry in walk {
            let entry = entry?;
            let relative = entry.path().strip_prefix(from).unwrap_or(entry.path());
            let target = to.join(relative);
            let kind = entry.file_type();
            if kind.is_dir() {
                create(&target)?;
                let mode = entry.metadata()?.permissions().mode();
                fs::set_permissions(&target, fs::Permissions::from_mode(mode | 0o700))
                    .map_err(RigError::file("changing", &target))?;
            } else if kind.is_symlink() {
                let link = fs::read_link(entry.path()).map_err(RigError::file("reading", entry.path()))?;
                symlink(link, &target).map_err(RigError::file("creating", &target))?;
            } else if kind.is_file() && fs::hard_link(entry.path(), &target).is_err() {
                copy(entry.path(), &target)?;
            }
        }
        Ok(())
    }

    /// Puts a copy of the file `from` at `to`.
    ///
    /// # Errors
    /// [`RigError`].
    pub fn file(&self, from: &Path, to: &Path) -> Result<(), RigError> {
        copy(from, &self.with_parent(to)?)
    }

    /// Puts an executable at `to`, without its debug information.
    ///
    /// # Errors
    /// [`RigError`].
    pub fn executable(&self, from: &Path, to: &Path) -> Result<(), RigError> {
        run("strip", Command::new("strip").args(["--strip-debug", "-o"]).arg(self.with_parent(to)?).arg(from))
    }

    /// Writes a file.
    ///
    /// # Errors
    /// [`RigError`].
    pub fn text(&self, to: &Path, text: &str) -> Result<(), RigError> {
        let path = self.with_parent(to)?;
        fs::write(&path, text).map_err(RigError::file("writing", &path))
    }

    /// Makes a folder and those above it.
    ///
    /// # Errors
    /// [`RigError`].
    pub fn folder(&self, path: &Path) -> Result<(), RigError> {
        create(&self.inside(path))
    }

    fn with_parent(&self, path: &Path) -> Result<PathBuf, RigError> {
        let path = self.inside(path);
        create(path.parent().unwrap_or(&self.root))?;
        Ok(path)
    }

    /// Makes the image `disk`, anew.
    pub(crate) fn image(&self, disk: &Path) -> Result<(), RigError> {
        image(disk, &self.root)
    }
}

/// Makes an empty disk, anew, for what is measured on a slow one.
pub(crate) fn empty(folder: &Path, disk: &Path) -> Result<(), RigError> {
    let nothing = folder.join("empty");
    create(&nothing)?;
    image(disk, &nothing)
}

fn image(image: &Path, staging: &Path) -> Result<(), RigError> {
    let _ = fs::remove_file(image);
    let mut make = Command::new("mke2fs");
    make.args(["-q", "-F", "-t", "ext4", "-m", "0", "-O", "^has_journal", "-E", "lazy_itable_init=1", "-d"]);
    make.arg(staging).arg(image).arg(SIZE);
    // Debian has it where an ordinary user's search path does not lead.
    let path = std::env::var("PATH").unwrap_or_default();
    // Even a quiet one tells that it makes a file.
    make.env("PATH", format!("{path}:/usr/sbin:/sbin")).stdout(Stdio::null());
    run("mke2fs", &mut make)
}

fn run(program: &'static str, command: &mut Command) -> Result<(), RigError> {
    let status = command.status().map_err(|source| RigError::Start { program, source })?;
    if status.success() { Ok(()) } else { Err(RigError::Program { program, status }) }
}

fn create(folder: &Path) -> Result<(), RigError> {
    fs::create_dir_all(folder).map_err(RigError::file("creating", folder))
}

fn copy(from: &Path, to: &Path) -> Result<(), RigError> {
    fs::copy(from, to).map(drop).map_err(RigError::file("copying", from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_carried_in_keeps_its_shape() {
        let place = tempfile::tempdir().unwrap();
        let from = place.path().join("from");
        fs::create_dir_all(from.join("left-out")).unwrap();
        fs::create_dir_all(from.join("a/left-out")).unwrap();
        fs::write(from.join("a/file"), "text").unwrap();
        symlink("a/file", from.join("link")).unwrap();
        let staging = Staging::new(place.path()).unwrap();
        staging.tree(&from, Path::new("/b/c"), &["left-out"]).unwrap();
        staging.text(Path::new("/d/e"), "more").unwrap();
        let inside = place.path().join("root");
        assert_eq!(fs::read_to_string(inside.join("b/c/link")).unwrap(), "text");
        assert!(inside.join("b/c/a/left-out").is_dir() && !inside.join("b/c/left-out").exists());
        assert_eq!(fs::read_to_string(inside.join("d/e")).unwrap(), "more");
        // Nothing of an earlier one is left.
        Staging::new(place.path()).unwrap();
        assert_eq!(fs::read_dir(inside).unwrap().count(), 0);
    }
}
