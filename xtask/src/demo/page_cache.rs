//! Taking files out of the page cache, so that what reads them next has to ask the disk.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::{Advice, fadvise};

/// Drops every file in `folder`. Written pages have to be on disk first: the kernel drops clean pages only.
pub(super) fn drop_files(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry.context("reading a folder")?.path();
        let drop = || -> std::io::Result<()> {
            let file = File::open(&path)?;
            file.sync_all()?;
            Ok(fadvise(&file, 0, None, Advice::DontNeed)?)
        };
        drop().with_context(|| format!("dropping {} from the page cache", path.display()))?;
    }
    Ok(())
}
