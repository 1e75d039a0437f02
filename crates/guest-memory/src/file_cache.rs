//! Which pages of a file are in the page cache.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use pages::{PAGE_SIZE, PageCount, PageIndex, PageRange, PageSet};

/// A view of one file that tells which of its pages are in the page cache, without reading any (mincore(2) on a mapping
/// that allows no access). The file's page N is at byte N * 4096.
///
/// The kernel reports every page as resident to a process that neither owns nor may write the file.
#[derive(Debug)]
pub struct FileResidency {
    base: *mut libc::c_void,
    pages: PageCount,
}

// SAFETY: `base` is an address that only system calls use; nothing can be read or written through the mapping.
unsafe impl Send for FileResidency {}
// SAFETY: as above.
unsafe impl Sync for FileResidency {}

impl FileResidency {
    /// A view of the first `pages` pages of `file`.
    ///
    /// # Errors
    /// When the file can't be mapped.
    pub fn of(file: BorrowedFd<'_>, pages: PageCount) -> io::Result<Self> {
        if pages.0 == 0 {
            return Ok(Self { base: std::ptr::null_mut(), pages });
        }
        let too_large = |_| io::Error::from(io::ErrorKind::InvalidInput);
        let length = usize::try_from(pages.bytes()).map_err(too_large)?;
        // SAFETY: a new mapping at an address that the kernel chooses overlaps nothing; it allows no access.
        let base = unsafe {
            libc::mmap(std::ptr::null_mut(), length, libc::PROT_NONE, libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        if base == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Self { base, pages }) }
    }

    /// The whole file.
    pub fn whole(&self) -> PageRange {
        PageRange::new(PageIndex(0), self.pages)
    }

    /// The pages of `range` that are in the page cache now. What reaches past the view is left out.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn cached(&self, range: PageRange) -> io::Result<PageSet> {
        // Bounds the vector; 2^16 pages are 256 MiB.
        const WINDOW: PageCount = PageCount(1 << 16);
        let range = range.intersection(self.whole());
        let mut cached = PageSet::new();
        let mut vector = vec![0u8; WINDOW.min(range.count).0 as usize];
        let mut start = range.start;
        while start < range.end() {
            let window = PageRange::new(start, WINDOW.min(PageCount(range.end().0 - start.0)));
            let address = self.base.wrapping_byte_add((start.0 * PAGE_SIZE) as usize);
            // SAFETY: the window lies inside the mapping; `vector` has a byte for each of its pages.
            let queried =
                unsafe { libc::mincore(address, window.count.bytes() as usize, vector.as_mut_ptr()) };
            if queried != 0 {
                return Err(io::Error::last_os_error());
            }
            let mut page = window.start.0;
            for run in vector[..window.count.0 as usize].chunk_by(|one, next| one & 1 == next & 1) {
                let length = run.len() as u64;
                if run.first().is_some_and(|state| state & 1 == 1) {
                    cached.insert(PageRange::new(PageIndex(page), PageCount(length)));
                }
                page += length;
            }
            start = window.end();
        }
        Ok(cached)
    }
}

impl Drop for FileResidency {
    fn drop(&mut self) {
        if !self.base.is_null() {
            // SAFETY: the mapping was made by `of` and nothing refers to it.
            unsafe { libc::munmap(self.base, self.pages.bytes() as usize) };
        }
    }
}

/// How many pages of `range` of `file` are in the page cache (cachestat(2), Linux 6.5): cheap where few are.
///
/// # Errors
/// `Unsupported` where the kernel has no such call; otherwise what the kernel says.
pub fn cached_count(file: BorrowedFd<'_>, range: PageRange) -> io::Result<PageCount> {
    /// Of the kernel's interface on every architecture; libc has no name for it.
    const SYS_CACHESTAT: libc::c_long = 451;
    #[repr(C)]
    struct Range {
        offset: u64,
        length: u64,
    }
    #[repr(C)]
    #[derive(Default)]
    struct Statistics {
        cached: u64,
        dirty: u64,
        writeback: u64,
        evicted: u64,
        recently_evicted: u64,
    }
    if range.is_empty() {
        // Length 0 would mean "to the end".
        return Ok(PageCount(0));
    }
    let asked = Range { offset: range.start.address().0, length: range.count.bytes() };
    let mut answer = Statistics::default();
    // SAFETY: both structures have the layout that the kernel's interface documents and live across the call.
    let result = unsafe { libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), &asked, &mut answer, 0) };
    if result == 0 { Ok(PageCount(answer.cached)) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn dropped_pages_are_not_cached_and_read_ones_are() {
        // Beside the test's executable, which is on a disk: /tmp may be a tmpfs, whose pages can't be dropped.
        let executable = std::env::current_exe().unwrap();
        let mut file = tempfile::tempfile_in(executable.parent().unwrap()).unwrap();
        file.write_all(&[1; 64 * 4096]).unwrap();
        file.sync_all().unwrap();
        let view = FileResidency::of(file.as_fd(), PageCount(64)).unwrap();
        assert_eq!(view.cached(view.whole()).unwrap().count(), PageCount(64));
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        assert_eq!(view.cached(view.whole()).unwrap().count(), PageCount(0));
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random).unwrap();
        file.read_exact_at(&mut [0; 4096], 5 * 4096).unwrap();
        let past_the_end = PageRange::new(PageIndex(3), PageCount(1000));
        let read = [PageRange::new(PageIndex(5), PageCount(1))];
        assert_eq!(view.cached(past_the_end).unwrap().runs(), read);
        match cached_count(file.as_fd(), view.whole()) {
            Ok(count) => assert_eq!(count, PageCount(1)),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::Unsupported),
        }
    }

    #[test]
    fn an_empty_file_has_no_pages() {
        let file = tempfile::tempfile().unwrap();
        let view = FileResidency::of(file.as_fd(), PageCount(0)).unwrap();
        assert!(view.cached(PageRange::new(PageIndex(0), PageCount(9))).unwrap().is_empty());
    }
}
