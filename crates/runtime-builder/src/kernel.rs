//! Single Debian packages, the kernel for virtual machines first of all: downloaded and unpacked, nothing installed.

use std::path::{Path, PathBuf};

use file_tree::{TreeLimits, TreeWriter};

use crate::debian::{Apt, Archive, Control, DebianPackage, unpack};
use crate::error::BuildError;
use crate::progress::Progress;

/// Has no files, but depends on the package with the newest kernel.
const NEWEST: &str = "linux-image-cloud-amd64";

/// An unpacked kernel.
#[derive(Debug)]
pub struct DebianKernel {
    /// The package that it came in.
    pub package: DebianPackage,
    /// The bzImage.
    pub image: PathBuf,
    /// The folder with its modules.
    pub modules: PathBuf,
}

/// Fetches the newest kernel that apt offers and unpacks it below `scratch`. `cache` keeps the download.
///
/// # Errors
/// [`BuildError`].
pub fn debian_kernel(
    scratch: &Path,
    cache: &Path,
    progress: &dyn Progress,
) -> Result<DebianKernel, BuildError> {
    let root = scratch.join("kernel");
    let package = unpack_one(newest, &root, cache, progress)?;
    let version = package.name.strip_prefix("linux-image-").unwrap_or(&package.name).to_owned();
    Ok(DebianKernel {
        image: root.join("boot").join(format!("vmlinuz-{version}")),
        modules: root.join("usr/lib/modules").join(version),
        package,
    })
}

/// Fetches a Debian package, without what it depends on, and unpacks it into `root`, which does not exist yet. `cache` keeps
/// the download.
///
/// # Errors
/// [`BuildError`].
pub fn debian_package(
    name: &str,
    root: &Path,
    cache: &Path,
    progress: &dyn Progress,
) -> Result<DebianPackage, BuildError> {
    let find = |archive: &Archive| archive.get(name).map(Control::package).ok_or_else(|| missing(name, None));
    unpack_one(find, root, cache, progress)
}

fn unpack_one(
    choose: impl Fn(&Archive) -> Result<DebianPackage, BuildError>,
    root: &Path,
    cache: &Path,
    progress: &dyn Progress,
) -> Result<DebianPackage, BuildError> {
    let debs = cache.join("debian");
    let fetch = |apt: Apt| {
        let package = choose(&apt.archive()?)?;
        apt.download(std::slice::from_ref(&package), &debs, progress)?;
        Ok(package)
    };
    progress.step("Resolving Debian packages");
    let package = match fetch(Apt::Host) {
        // The host's lists may be empty or older than the archive.
        Err(BuildError::NoPackage { .. } | BuildError::Failed { .. }) => {
            fetch(Apt::update(&cache.join("apt"), progress)?)
        }
        other => other,
    }?;
    let mut tree = TreeWriter::create(root, TreeLimits::ROOT).map_err(BuildError::unpack(&package.name))?;
    unpack(std::slice::from_ref(&package), &debs, &mut tree, progress)?;
    Ok(package)
}

fn missing(name: &str, needed_by: Option<&str>) -> BuildError {
    BuildError::NoPackage { name: name.to_owned(), needed_by: needed_by.map(str::to_owned) }
}

fn newest(archive: &Archive) -> Result<DebianPackage, BuildError> {
    let newest = archive.get(NEWEST).ok_or_else(|| missing(NEWEST, None))?;
    let names = newest.depends.iter().flatten();
    let name = names.into_iter().find(|name| name.starts_with("linux-image-"));
    let name = name.ok_or_else(|| missing("linux-image-*", Some(NEWEST)))?;
    archive.get(name).map(Control::package).ok_or_else(|| missing(name, Some(NEWEST)))
}
