//! Reading files into guest memory.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use pages::PageRange;

use crate::host_mapping::{GuestMemory, MapError};

impl GuestMemory {
    /// Reads `file` from byte `offset` into `range`, all of it. With a descriptor opened O_DIRECT the page cache isn't
    /// used; `range` and `offset` are page-aligned, which satisfies it.
    ///
    /// # Errors
    /// [`MapError`] when the range is outside, not writable, or the file ends or fails before.
    pub fn read_in(&self, range: PageRange, file: BorrowedFd<'_>, offset: u64) -> Result<(), MapError> {
        let got = self.read_in_to_end(range, file, offset)?;
        if got == range.count.bytes() {
            return Ok(());
        }
        Err(MapError::Host {
            operation: "reading a file into",
            range,
            source: io::ErrorKind::UnexpectedEof.into(),
        })
    }

    /// As [`Self::read_in`], but leaves what lies behind the file's end as it is. Gives the bytes that were read.
    ///
    /// # Errors
    /// [`MapError`] when the range is outside, not writable, or the file fails.
    pub fn read_in_to_end(
        &self,
        range: PageRange,
        file: BorrowedFd<'_>,
        offset: u64,
    ) -> Result<u64, MapError> {
        self.check(range)?;
        let failed = |source| MapError::Host { operation: "reading a file into", range, source };
        let (address, length) = self.pointer(range);
        let mut done = 0;
        while done < length {
            let position = libc::off_t::try_from(offset + done as u64)
                .map_err(|_| failed(io::ErrorKind::InvalidInput.into()))?;
            // SAFETY: the destination lies inside our own reservation, into which no Rust reference exists; the kernel checks
            // every page of it and answers EFAULT for one that may not be written.
            let got = unsafe {
                libc::pread(file.as_raw_fd(), address.wrapping_byte_add(done), length - done, position)
            };
            match usize::try_from(got) {
                Ok(0) => break,
                Ok(got) => done += got,
                Err(_) => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => {}
                    error => return Err(failed(error)),
                },
            }
        }
        Ok(done as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;

    use pages::{GuestPhysical, PageCount, PageIndex};

    use super::*;
    use crate::{Protection, Source};

    #[test]
    fn a_file_is_read_into_memory_but_not_past_its_end_or_into_protected_pages() {
        let memory = GuestMemory::reserve(PageCount(8)).unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 8192]).unwrap();
        let range = PageRange::new(PageIndex(2), PageCount(2));
        assert!(memory.read_in(range, file.as_fd(), 0).is_err());
        memory.map(range, Source::Anonymous, Protection::ReadWrite).unwrap();
        memory.read_in(range, file.as_fd(), 0).unwrap();
        let mut byte = [0];
        memory.read(GuestPhysical(4 * 4096 - 1), &mut byte).unwrap();
        assert_eq!(byte, [7]);
        assert!(memory.read_in(range, file.as_fd(), 4096).is_err());
        assert_eq!(memory.read_in_to_end(range, file.as_fd(), 4096).unwrap(), 4096);
    }
}
