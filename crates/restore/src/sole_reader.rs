//! Giving page cache back that only one restore had a use for.
//!
//! What is read of a large loading set becomes private memory of the guest: its copy in the page cache would hold the same
//! bytes once more. It goes when the set is in, unless the files were cached before (a snapshot that is restored often, a
//! burst) or somebody else reads them at that moment: each restore holds a shared lock on its loading-set file meanwhile, so
//! that of a burst only the last one gives back what the first one read.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use guest_memory::cached_count;
use pages::{PAGE_SIZE, PageCount, PageIndex, PageRange};
use rustix::fs::{Advice, FlockOperation, fadvise, flock};

use crate::description::reopened;

/// Smaller sets stay in the page cache (16 MiB): they cost little, and the next restore is faster by it.
const LARGE: PageCount = PageCount(4096);

/// A restore that reads a large file which nobody had read before.
#[derive(Debug)]
pub(crate) struct SoleReader {
    /// The loading-set file, under a description of its own.
    locked: File,
    /// What is read: the same file, or the memory file.
    read: File,
    /// Whether nobody else read it when this began.
    is_alone: bool,
}

impl SoleReader {
    /// Before `read` is read for a set of `pages`, whose file is `set`. None when there will be nothing to give back, or when
    /// that can't be told.
    pub fn begin(set: &File, read: &File, pages: PageCount) -> Option<Self> {
        if pages < LARGE {
            return None;
        }
        let length = PageCount(read.metadata().ok()?.len().div_ceil(PAGE_SIZE));
        let cached = cached_count(read.as_fd(), PageRange::new(PageIndex(0), length)).ok()?;
        if cached.0 * 2 >= pages.0 {
            return None;
        }
        let locked = reopened(set).ok()?;
        let is_alone = flock(&locked, FlockOperation::NonBlockingLockExclusive).is_ok();
        // The lock held becomes a shared one.
        flock(&locked, FlockOperation::NonBlockingLockShared).ok()?;
        Some(Self { locked, read: read.try_clone().ok()?, is_alone })
    }

    /// Whether nobody else reads these files, so that what is read need not stay in the page cache for anybody.
    pub fn is_alone(&self) -> bool {
        self.is_alone
    }

    /// When all is read: drops what nobody maps. Says whether it did; others that still read keep it.
    pub fn give_back(self) -> io::Result<bool> {
        match flock(&self.locked, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                fadvise(&self.read, 0, None, Advice::DontNeed)?;
                Ok(true)
            }
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// A file on disk that nothing of is cached: a tmpfs has nowhere else to keep its pages.
    fn cold_file(pages: u64) -> File {
        let mut file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        file.write_all(&vec![7; (pages * PAGE_SIZE) as usize]).unwrap();
        file.sync_all().unwrap();
        fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        assert_eq!(cached(&file), 0);
        file
    }

    fn cached(file: &File) -> u64 {
        let pages = PageCount(file.metadata().unwrap().len() / PAGE_SIZE);
        cached_count(file.as_fd(), PageRange::new(PageIndex(0), pages)).unwrap().0
    }

    fn read_all(file: &File) {
        use std::os::unix::fs::FileExt;
        let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
    }

    #[test]
    fn the_last_of_those_who_read_a_large_cold_file_gives_it_back() {
        let file = cold_file(LARGE.0);
        let first = SoleReader::begin(&file, &file, LARGE).unwrap();
        let second = SoleReader::begin(&file, &file, LARGE).unwrap();
        assert!(first.is_alone() && !second.is_alone());
        read_all(&file);
        assert!(!first.give_back().unwrap());
        assert_eq!(cached(&file), LARGE.0);
        assert!(second.give_back().unwrap());
        assert_eq!(cached(&file), 0);
    }

    #[test]
    fn what_was_cached_before_stays_and_so_does_what_is_small() {
        let file = cold_file(LARGE.0);
        assert!(SoleReader::begin(&file, &file, PageCount(LARGE.0 - 1)).is_none());
        read_all(&file);
        assert!(SoleReader::begin(&file, &file, LARGE).is_none());
    }
}
