//! The reservation and what is mapped into it.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use pages::{GuestPhysical, PageCount, PageRange};
use thiserror::Error;

/// Size of a huge page on x86-64.
const HUGE_PAGE: usize = 2 << 20;

/// A mapping call that failed.
#[derive(Debug, Error)]
pub enum MapError {
    /// The range reaches outside the reservation.
    #[error("{range:?} lies outside the reserved {reserved:?} pages of guest memory")]
    OutOfRange {
        /// The range asked for.
        range: PageRange,
        /// Size of the reservation.
        reserved: PageCount,
    },
    /// The host kernel refused.
    #[error("{operation} of {range:?} failed")]
    Host {
        /// The system call, in words.
        operation: &'static str,
        /// The range it was for.
        range: PageRange,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// What the host lets through: the guest's own access through KVM obeys it too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protection {
    /// No access: a guest access leaves KVM_RUN with EFAULT.
    None,
    /// Reads only.
    Read,
    /// Reads and writes.
    ReadWrite,
}

impl Protection {
    const fn bits(self) -> libc::c_int {
        match self {
            Self::None => libc::PROT_NONE,
            Self::Read => libc::PROT_READ,
            Self::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
        }
    }
}

/// Where the bytes of a range come from.
#[derive(Clone, Copy, Debug)]
pub enum Source<'fd> {
    /// Fresh zero pages.
    Anonymous,
    /// A file's bytes; writes stay private to this process.
    PrivateFile {
        /// The file, open for reading.
        file: BorrowedFd<'fd>,
        /// Byte offset of the range's first page, page-aligned.
        offset: u64,
    },
    /// A file's bytes, written through.
    SharedFile {
        /// The file, open for reading and, if writable, for writing.
        file: BorrowedFd<'fd>,
        /// Byte offset of the range's first page, page-aligned.
        offset: u64,
    },
}

/// Hints and bulk operations on mapped ranges (madvise).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Advice {
    /// Fill the host page tables for reading (MADV_POPULATE_READ, Linux 5.14).
    PopulateRead,
    /// Fill the host page tables with private, writable pages (MADV_POPULATE_WRITE, Linux 5.14).
    PopulateWrite,
    /// Expect random access: no readahead around faults.
    Random,
    /// The default readahead.
    Normal,
    /// Start reading a file's pages.
    WillNeed,
    /// Use huge pages where possible.
    HugePage,
    /// Use none.
    NoHugePage,
    /// Drop the pages: anonymous memory reads zero afterwards, file pages are read again from the file.
    DontNeed,
}

/// The reserved host address range that stands for guest-physical memory, starting at guest-physical 0.
///
/// Dropping it unmaps everything.
#[derive(Debug)]
pub struct GuestMemory {
    base: *mut libc::c_void,
    reserved: PageCount,
}

// SAFETY: `base` is an address, not a borrowed object; every operation on it is a system call that the kernel
// serialises, and no reference into the memory is ever formed.
unsafe impl Send for GuestMemory {}
// SAFETY: as above.
unsafe impl Sync for GuestMemory {}

impl GuestMemory {
    /// Reserves `size` of host address space without using any memory. It begins at a multiple of 2 MiB, so that huge pages
    /// of the host are huge pages in guest-physical space, too.
    ///
    /// # Errors
    /// [`MapError::Host`] when the address space can't be had.
    pub fn reserve(size: PageCount) -> Result<Self, MapError> {
        let range = PageRange::new(pages::PageIndex(0), size);
        let length = size.bytes() as usize;
        let failed = || MapError::Host { operation: "reserving", range, source: io::Error::last_os_error() };
        // SAFETY: a new mapping at an address that the kernel chooses overlaps nothing.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length.saturating_add(HUGE_PAGE),
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(failed());
        }
        let before = start.addr().next_multiple_of(HUGE_PAGE) - start.addr();
        let base = start.wrapping_byte_add(before);
        for (rest, rest_length) in [(start, before), (base.wrapping_byte_add(length), HUGE_PAGE - before)] {
            // SAFETY: these bytes belong to the mapping just made and to nothing else.
            if rest_length > 0 && unsafe { libc::munmap(rest, rest_length) } != 0 {
                return Err(failed());
            }
        }
        Ok(Self { base, reserved: size })
    }

    /// Size of the reservation.
    pub fn reserved(&self) -> PageCount {
        self.reserved
    }

    /// The host virtual address of a guest-physical address, as a number for KVM's memory slots and for host futexes.
    pub fn host_address(&self, address: GuestPhysical) -> u64 {
        self.base as u64 + address.0
    }

    /// The page at a host virtual address inside the reservation.
    pub(crate) fn page_at_host(&self, address: u64) -> pages::PageIndex {
        pages::PageIndex::containing(GuestPhysical(address.wrapping_sub(self.base as u64)))
    }

    pub(crate) fn check(&self, range: PageRange) -> Result<(), MapError> {
        let inside = range.start.0.checked_add(range.count.0).is_some_and(|end| end <= self.reserved.0);
        if inside { Ok(()) } else { Err(MapError::OutOfRange { range, reserved: self.reserved }) }
    }

    pub(crate) fn pointer(&self, range: PageRange) -> (*mut libc::c_void, usize) {
        // Wrapping arithmetic on the address: callers have checked the range against the reservation.
        (self.base.wrapping_byte_add(range.start.address().0 as usize), range.count.bytes() as usize)
    }

    /// Replaces `range` by `source`. Whatever was mapped there before is gone.
    ///
    /// # Errors
    /// [`MapError::OutOfRange`], or [`MapError::Host`] when the kernel refuses (ENOMEM past `vm.max_map_count`).
    pub fn map(&self, range: PageRange, source: Source<'_>, protection: Protection) -> Result<(), MapError> {
        self.check(range)?;
        if range.is_empty() {
            return Ok(());
        }
        let (address, length) = self.pointer(range);
        let (flags, fd, offset) = match source {
            Source::Anonymous => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE, -1, 0),
            Source::PrivateFile { file, offset } => {
                (libc::MAP_PRIVATE | libc::MAP_NORESERVE, file.as_raw_fd(), offset)
            }
            Source::SharedFile { file, offset } => (libc::MAP_SHARED, file.as_raw_fd(), offset),
        };
        // SAFETY: MAP_FIXED over a range checked to lie inside our own reservation, into which no Rust reference exists.
        let mapped = unsafe {
            libc::mmap(address, length, protection.bits(), flags | libc::MAP_FIXED, fd, offset as libc::off_t)
        };
        if mapped == libc::MAP_FAILED {
            return Err(MapError::Host { operation: "mapping", range, source: io::Error::last_os_error() });
        }
        Ok(())
    }

    /// Gives `range` back to the host: no memory, no access.
    ///
    /// # Errors
    /// As [`GuestMemory::map`].
    pub fn release(&self, range: PageRange) -> Result<(), MapError> {
        self.map(range, Source::Anonymous, Protection::None)
    }

    /// Changes what the host lets through in `range`.
    ///
    /// # Errors
    /// As [`GuestMemory::map`].
    pub fn protect(&self, range: PageRange, protection: Protection) -> Result<(), MapError> {
        self.check(range)?;
        if range.is_empty() {
            return Ok(());
        }
        let (address, length) = self.pointer(range);
        // SAFETY: the range lies inside our own reservation; no Rust reference into it exists.
        if unsafe { libc::mprotect(address, length, protection.bits()) } != 0 {
            return Err(MapError::Host {
                operation: "protecting",
                range,
                source: io::Error::last_os_error(),
            });
        }
        Ok(())
    }

    /// Moves the pages of `from` (memory, file mapping and contents) to `to`; `from` is left reserved and empty.
    /// Both have the same size and don't overlap.
    ///
    /// # Errors
    /// As [`GuestMemory::map`].
    pub fn relocate(&self, from: PageRange, to: PageRange) -> Result<(), MapError> {
        self.check(from)?;
        self.check(to)?;
        if from.is_empty() {
            return Ok(());
        }
        let (old, length) = self.pointer(from);
        let (new, new_length) = self.pointer(to);
        if length != new_length || !from.intersection(to).is_empty() {
            return Err(MapError::OutOfRange { range: to, reserved: self.reserved });
        }
        // SAFETY: both ranges lie inside our own reservation and don't overlap; no Rust reference into them exists.
        let moved =
            unsafe { libc::mremap(old, length, length, libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED, new) };
        if moved == libc::MAP_FAILED {
            return Err(MapError::Host {
                operation: "moving",
                range: from,
                source: io::Error::last_os_error(),
            });
        }
        // mremap left a hole that another mapping of this process could fall into: take it back at once. Another thread's
        // mmap could win the race for it, so the hole is only ever refilled with MAP_FIXED_NOREPLACE.
        // SAFETY: MAP_FIXED_NOREPLACE never replaces a mapping.
        let hole = unsafe {
            libc::mmap(
                old,
                length,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE,
                -1,
                0,
            )
        };
        if hole == libc::MAP_FAILED {
            return Err(MapError::Host {
                operation: "reserving again",
                range: from,
                source: io::Error::last_os_error(),
            });
        }
        Ok(())
    }

    /// Applies `advice` to `range`.
    ///
    /// # Errors
    /// As [`GuestMemory::map`]; populating fails with EFAULT where the backing can't be read.
    pub fn advise(&self, range: PageRange, advice: Advice) -> Result<(), MapError> {
        self.check(range)?;
        if range.is_empty() {
            return Ok(());
        }
        let (address, length) = self.pointer(range);
        let advice = match advice {
            Advice::PopulateRead => libc::MADV_POPULATE_READ,
            Advice::PopulateWrite => libc::MADV_POPULATE_WRITE,
            Advice::Random => libc::MADV_RANDOM,
            Advice::Normal => libc::MADV_NORMAL,
            Advice::WillNeed => libc::MADV_WILLNEED,
            Advice::HugePage => libc::MADV_HUGEPAGE,
            Advice::NoHugePage => libc::MADV_NOHUGEPAGE,
            Advice::DontNeed => libc::MADV_DONTNEED,
        };
        // SAFETY: the range lies inside our own reservation; no Rust reference into it exists.
        if unsafe { libc::madvise(address, length, advice) } != 0 {
            return Err(MapError::Host { operation: "advising", range, source: io::Error::last_os_error() });
        }
        Ok(())
    }
}

impl Drop for GuestMemory {
    fn drop(&mut self) {
        // SAFETY: the reservation is ours and nothing refers into it once its owner is dropped.
        unsafe { libc::munmap(self.base, self.reserved.bytes() as usize) };
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;

    use pages::{PageIndex, PageRange};

    use super::*;

    fn range(start: u64, count: u64) -> PageRange {
        PageRange::new(PageIndex(start), PageCount(count))
    }

    #[test]
    fn given_back_memory_reads_zero_even_over_a_file() {
        let memory = GuestMemory::reserve(PageCount(16)).unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 8192]).unwrap();
        memory
            .map(range(2, 2), Source::PrivateFile { file: file.as_fd(), offset: 0 }, Protection::ReadWrite)
            .unwrap();
        let mut byte = [0];
        memory.read(GuestPhysical(2 * 4096), &mut byte).unwrap();
        assert_eq!(byte, [7]);
        memory.map(range(2, 1), Source::Anonymous, Protection::ReadWrite).unwrap();
        memory.read(GuestPhysical(2 * 4096), &mut byte).unwrap();
        assert_eq!(byte, [0]);
    }

    #[test]
    fn relocation_moves_contents_and_leaves_a_hole() {
        let memory = GuestMemory::reserve(PageCount(16)).unwrap();
        memory.map(range(0, 2), Source::Anonymous, Protection::ReadWrite).unwrap();
        memory.write(GuestPhysical(4090), b"across a page").unwrap();
        memory.relocate(range(0, 2), range(8, 2)).unwrap();
        let mut text = [0; 13];
        memory.read(GuestPhysical(8 * 4096 + 4090), &mut text).unwrap();
        assert_eq!(&text, b"across a page");
        assert!(memory.read(GuestPhysical(0), &mut text).is_err());
    }

    #[test]
    fn ranges_outside_are_refused() {
        let memory = GuestMemory::reserve(PageCount(4)).unwrap();
        assert!(matches!(
            memory.map(range(3, 2), Source::Anonymous, Protection::Read),
            Err(MapError::OutOfRange { .. })
        ));
        assert!(matches!(memory.release(range(u64::MAX, 2)), Err(MapError::OutOfRange { .. })));
    }
}
