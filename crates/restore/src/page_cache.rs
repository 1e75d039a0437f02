//! Taking a snapshot out of the page cache, so that what restores it next has to ask the disk.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use guest_memory::FileResidency;
use pages::{PAGE_SIZE, PageCount};
use rustix::fs::{Advice, fadvise};

/// Drops every file of the snapshot in `directory` from the page cache and says how many pages stayed all the same, because
/// somebody maps them. What is not on disk yet is written first: the kernel drops clean pages only. For a process that
/// neither owns nor may write the files every page counts as staying.
///
/// # Errors
/// When a file can't be opened, written back or examined.
pub fn drop_cached(directory: &Path) -> io::Result<PageCount> {
    let mut stayed = PageCount(0);
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let file = File::open(&path)?;
        file.sync_all()?;
        fadvise(&file, 0, None, Advice::DontNeed)?;
        let pages = PageCount(file.metadata()?.len().div_ceil(PAGE_SIZE));
        let residency = FileResidency::of(file.as_fd(), pages)?;
        stayed.0 += residency.cached(residency.whole())?.count().0;
    }
    Ok(stayed)
}
