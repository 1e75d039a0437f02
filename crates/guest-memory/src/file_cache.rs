//! Which pages of a file are in the page cache.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use pages::{PAGE_SIZE, PageIndex, PageRange, PageSet};

/// The pages of `range` of `file` (its page N is at byte N * 4096) that are in the page cache, by mincore(2).
///
/// The kernel reports every page as resident to a process that neither owns nor may write the file.
///
/// # Errors
/// When the file can't be mapped or the kernel refuses.
pub fn cached_pages(file: BorrowedFd<'_>, range: PageRange) -> io::Result<PageSet> {
    // Bounds the vector; 2^18 pages are 1 GiB.
    const WINDOW: u64 = 1 << 18;
    let mut cached = PageSet::new();
    let mut start = range.start;
    while start < range.end() {
        let end = PageIndex(range.end().0.min(start.0.saturating_add(WINDOW)));
        let window = PageRange::between(start, end);
        for (page, state) in window.iter().zip(cached_window(file, window)?) {
            if state & 1 == 1 {
                cached.insert(PageRange::between(page, PageIndex(page.0 + 1)));
            }
        }
        start = end;
    }
    Ok(cached)
}

fn cached_window(file: BorrowedFd<'_>, window: PageRange) -> io::Result<Vec<u8>> {
    let too_large = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let length = usize::try_from(window.count.bytes()).map_err(too_large)?;
    let offset = libc::off_t::try_from(window.start.0.saturating_mul(PAGE_SIZE)).map_err(too_large)?;
    let mut vector = vec![0u8; window.count.0 as usize];
    // SAFETY: a new mapping at an address that the kernel chooses overlaps nothing; it allows no access.
    let address = unsafe {
        libc::mmap(std::ptr::null_mut(), length, libc::PROT_NONE, libc::MAP_SHARED, file.as_raw_fd(), offset)
    };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `vector` has one byte for each page of the mapping made above.
    let queried = unsafe { libc::mincore(address, length, vector.as_mut_ptr()) };
    let result = if queried == 0 { Ok(vector) } else { Err(io::Error::last_os_error()) };
    // SAFETY: the mapping was made above and nothing refers to it.
    unsafe { libc::munmap(address, length) };
    result
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    use pages::PageCount;

    use super::*;

    #[test]
    fn dropped_pages_are_not_cached_and_read_ones_are() {
        // Beside the test's executable, which is on a disk: /tmp may be a tmpfs, whose pages can't be dropped.
        let executable = std::env::current_exe().unwrap();
        let mut file = tempfile::tempfile_in(executable.parent().unwrap()).unwrap();
        file.write_all(&[1; 64 * 4096]).unwrap();
        file.sync_all().unwrap();
        let all = PageRange::new(PageIndex(0), PageCount(64));
        assert_eq!(cached_pages(file.as_fd(), all).unwrap().count(), PageCount(64));
        drop_cache(&file);
        assert_eq!(cached_pages(file.as_fd(), all).unwrap().count(), PageCount(0));
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random).unwrap();
        file.read_exact_at(&mut [0; 4096], 5 * 4096).unwrap();
        let cached = cached_pages(file.as_fd(), all).unwrap();
        assert_eq!(cached.runs(), [PageRange::new(PageIndex(5), PageCount(1))]);
    }

    fn drop_cache(file: &File) {
        rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    }
}
