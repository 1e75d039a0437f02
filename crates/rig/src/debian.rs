//! Debian packages for the rig, downloaded and unpacked below `target/`: nothing is installed for them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use runtime_builder::Silent;

/// An unpacked kernel.
#[derive(Debug)]
pub(super) struct Kernel {
    /// Its version, as `uname -r` says it.
    pub version: String,
    /// The bzImage.
    pub image: PathBuf,
    /// The folder with its modules.
    pub modules: PathBuf,
}

/// Debian's kernel for virtual machines.
pub(super) fn kernel(folder: &Path) -> Result<Kernel> {
    let root = once(folder, "debian-kernel", |scratch, cache| {
        runtime_builder::debian_kernel(scratch, cache, &Silent)?;
        Ok(scratch.join("kernel"))
    })?;
    let all = root.join("usr/lib/modules");
    let mut versions = fs::read_dir(&all).with_context(|| format!("reading {}", all.display()))?;
    let modules = versions.next().context("the kernel has no modules")?.context("reading a folder")?.path();
    let version = modules.file_name().context("no version")?.to_string_lossy().into_owned();
    Ok(Kernel { image: root.join("boot").join(format!("vmlinuz-{version}")), version, modules })
}

/// A busybox that needs no libraries.
pub(super) fn busybox(folder: &Path) -> Result<PathBuf> {
    let root = once(folder, "debian-busybox", |scratch, cache| {
        let root = scratch.join("busybox");
        runtime_builder::debian_package("busybox-static", &root, cache, &Silent)?;
        Ok(root)
    })?;
    Ok(root.join("usr/bin/busybox"))
}

/// Makes a folder, once: later runs use what is there.
fn once(folder: &Path, name: &str, make: impl FnOnce(&Path, &Path) -> Result<PathBuf>) -> Result<PathBuf> {
    let (place, scratch) = (folder.join(name), folder.join(format!("{name}.scratch")));
    if place.exists() {
        return Ok(place);
    }
    let _ = fs::remove_dir_all(&scratch);
    fs::create_dir_all(&scratch).with_context(|| format!("creating {}", scratch.display()))?;
    let made = make(&scratch, &folder.join("cache"))?;
    fs::rename(&made, &place).with_context(|| format!("naming {}", place.display()))?;
    let _ = fs::remove_dir_all(&scratch);
    Ok(place)
}
