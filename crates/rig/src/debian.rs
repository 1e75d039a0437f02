//! Debian packages of the emulated host, downloaded and unpacked into a folder: nothing is installed for them.

use std::fs;
use std::path::{Path, PathBuf};

use runtime_builder::Silent;

use crate::error::RigError;

/// An unpacked kernel.
#[derive(Debug)]
pub struct Kernel {
    /// Its version, as `uname -r` says it.
    pub version: String,
    /// The bzImage.
    pub image: PathBuf,
    /// The folder with its modules.
    pub modules: PathBuf,
}

/// Debian's kernel for virtual machines.
pub(crate) fn kernel(folder: &Path) -> Result<Kernel, RigError> {
    let root = once(folder, "debian-kernel", |scratch, cache| {
        runtime_builder::debian_kernel(scratch, cache, &Silent)?;
        Ok(scratch.join("kernel"))
    })?;
    let all = root.join("usr/lib/modules");
    let mut versions = fs::read_dir(&all).map_err(RigError::file("reading", &all))?;
    let Some(Ok(folder)) = versions.next() else { return Err(RigError::NoModules(all)) };
    let (modules, version) = (folder.path(), folder.file_name().to_string_lossy().into_owned());
    Ok(Kernel { image: root.join("boot").join(format!("vmlinuz-{version}")), version, modules })
}

/// A busybox that needs no libraries.
pub(crate) fn busybox(folder: &Path) -> Result<PathBuf, RigError> {
    let root = once(folder, "debian-busybox", |scratch, cache| {
        let root = scratch.join("busybox");
        runtime_builder::debian_package("busybox-static", &root, cache, &Silent)?;
        Ok(root)
    })?;
    Ok(root.join("usr/bin/busybox"))
}

/// Makes a folder, once: later runs use what is there.
fn once(
    folder: &Path,
    name: &str,
    make: impl FnOnce(&Path, &Path) -> Result<PathBuf, RigError>,
) -> Result<PathBuf, RigError> {
    let (place, scratch) = (folder.join(name), folder.join(format!("{name}.scratch")));
    if place.exists() {
        return Ok(place);
    }
    let _ = fs::remove_dir_all(&scratch);
    fs::create_dir_all(&scratch).map_err(RigError::file("creating", &scratch))?;
    let made = make(&scratch, &folder.join("cache"))?;
    fs::rename(&made, &place).map_err(RigError::file("naming", &place))?;
    let _ = fs::remove_dir_all(&scratch);
    Ok(place)
}
