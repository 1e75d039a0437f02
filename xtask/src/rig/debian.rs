//! Debian packages for the rig, downloaded and unpacked below `target/`: nothing is installed for them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::needs;
use crate::process::{self, command};

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
    // The package with this name only depends on the one with the kernel.
    let root = unpacked(folder, "kernel", || {
        needs::update_lists_unless_known(&["linux-image-cloud-amd64"])?;
        let text = process::output(&mut command("apt-cache", &["depends", "linux-image-cloud-amd64"]))?;
        let names = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        let name = names.into_iter().find(|name| name.starts_with("linux-image-"));
        name.map(str::to_owned).context("linux-image-cloud-amd64 depends on no kernel")
    })?;
    let modules = only_entry(&root.join("lib/modules"))?;
    let version = modules.file_name().context("no version")?.to_string_lossy().into_owned();
    Ok(Kernel { image: root.join("boot").join(format!("vmlinuz-{version}")), version, modules })
}

/// A busybox that needs no libraries.
pub(super) fn busybox(folder: &Path) -> Result<PathBuf> {
    let root = unpacked(folder, "busybox", || {
        needs::update_lists_unless_known(&["busybox-static"])?;
        Ok("busybox-static".to_owned())
    })?;
    let places = ["bin/busybox", "usr/bin/busybox"];
    let found = places.iter().map(|place| root.join(place)).find(|path| path.exists());
    found.context("busybox-static has no busybox")
}

/// Downloads a package and unpacks it, once: later runs use what is there.
fn unpacked(folder: &Path, name: &str, package: impl FnOnce() -> Result<String>) -> Result<PathBuf> {
    let root = folder.join(name);
    if root.exists() {
        return Ok(root);
    }
    let download = folder.join(format!("{name}.download"));
    let _ = fs::remove_dir_all(&download);
    fs::create_dir_all(&download).with_context(|| format!("creating {}", download.display()))?;
    let package = package()?;
    // apt would switch to a user of its own when run by root; that one can't enter our folders.
    let mut get = command("apt-get", &["-q", "-o", "APT::Sandbox::User=root", "download", &package]);
    process::run(get.current_dir(&download))?;
    let file = only_entry(&download)?;
    process::run(command("dpkg-deb", &["-x"]).arg(&file).arg(download.join("root")))?;
    fs::rename(download.join("root"), &root).with_context(|| format!("naming {}", root.display()))?;
    let _ = fs::remove_dir_all(&download);
    Ok(root)
}

/// The one entry of a folder.
fn only_entry(folder: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    let paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    match <[PathBuf; 1]>::try_from(paths) {
        Ok([path]) => Ok(path),
        Err(paths) => bail!("{} has {} entries instead of one", folder.display(), paths.len()),
    }
}
