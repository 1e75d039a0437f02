//! Taking a snapshot's files out of the page cache, with proof, and bringing them in.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use guest_memory::{FileResidency, cached_count};
use pages::{PAGE_SIZE, PageCount, PageIndex, PageRange};
use rustix::fs::{Advice, fadvise};

use crate::error::BenchError;

/// How often dropping is tried: pages that are being written or that another CPU holds for a moment stay.
const TRIES: u32 = 20;

/// The files of a snapshot's folder.
pub(crate) struct SnapshotFiles(Vec<SnapshotFile>);

struct SnapshotFile {
    path: PathBuf,
    file: File,
    inode: u64,
    pages: PageCount,
}

impl SnapshotFiles {
    pub fn open(folder: &Path) -> Result<Self, BenchError> {
        let mut files = Vec::new();
        for entry in fs::read_dir(folder).map_err(BenchError::io("reading", folder))? {
            let path = entry.map_err(BenchError::io("reading", folder))?.path();
            let file = File::open(&path).map_err(BenchError::io("opening", &path))?;
            let metadata = file.metadata().map_err(BenchError::io("reading", &path))?;
            if metadata.is_file() {
                let pages = PageCount(metadata.len().div_ceil(PAGE_SIZE));
                files.push(SnapshotFile { path, file, inode: metadata.ino(), pages });
            }
        }
        Ok(Self(files))
    }

    /// Whether one of them has that inode number.
    pub fn has_inode(&self, inode: u64) -> bool {
        self.0.iter().any(|file| file.inode == inode)
    }

    /// Writes back what is not on disk yet, drops every page, and makes sure that none is left.
    pub fn drop_from_cache(&self) -> Result<(), BenchError> {
        for SnapshotFile { path, file, .. } in &self.0 {
            file.sync_all().map_err(BenchError::io("syncing", path))?;
        }
        for file in &self.0 {
            let mut left = PageCount(0);
            for _ in 0..TRIES {
                fadvise(&file.file, 0, None, Advice::DontNeed)
                    .map_err(BenchError::io("dropping", &file.path))?;
                left = file.cached().map_err(BenchError::io("looking at the page cache of", &file.path))?;
                if left.0 == 0 {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
            if left.0 > 0 {
                return Err(BenchError::StillCached { path: file.path.clone(), pages: left.0 });
            }
        }
        Ok(())
    }

    /// Reads every file, so that all of it is cached.
    pub fn bring_into_cache(&self) -> Result<(), BenchError> {
        let mut buffer = vec![0; 1 << 20];
        for SnapshotFile { path, .. } in &self.0 {
            let mut file = File::open(path).map_err(BenchError::io("opening", path))?;
            while file.read(&mut buffer).map_err(BenchError::io("reading", path))? > 0 {}
        }
        Ok(())
    }

    /// Bytes in the page cache.
    pub fn cached_bytes(&self) -> Result<u64, BenchError> {
        self.0.iter().try_fold(0, |sum, file| {
            let cached = file.cached().map_err(BenchError::io("looking at the page cache of", &file.path))?;
            Ok(sum + cached.bytes())
        })
    }
}

impl SnapshotFile {
    /// How many of its pages are cached: by cachestat(2) where the kernel has it, else by mincore(2).
    fn cached(&self) -> io::Result<PageCount> {
        let whole = PageRange::new(PageIndex(0), self.pages);
        match cached_count(self.file.as_fd(), whole) {
            Ok(count) => Ok(count),
            Err(_) => Ok(FileResidency::of(self.file.as_fd(), self.pages)?.cached(whole)?.count()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_dropped_is_gone_and_comes_back() {
        // Below the crate, not in /tmp: a tmpfs has nowhere else to keep its pages.
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        fs::write(folder.path().join("memory"), vec![1; 40 * PAGE_SIZE as usize]).unwrap();
        let files = SnapshotFiles::open(folder.path()).unwrap();
        assert_eq!(files.cached_bytes().unwrap(), 40 * PAGE_SIZE);
        files.drop_from_cache().unwrap();
        assert_eq!(files.cached_bytes().unwrap(), 0);
        files.bring_into_cache().unwrap();
        assert_eq!(files.cached_bytes().unwrap(), 40 * PAGE_SIZE);
        let inode = fs::metadata(folder.path().join("memory")).unwrap().ino();
        assert!(files.has_inode(inode) && !files.has_inode(inode + 1));
    }
}
