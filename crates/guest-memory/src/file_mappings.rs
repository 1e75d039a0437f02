//! Which files lie behind guest memory at this moment, as the kernel's own list of mappings says.

use std::fs;

use pages::{PAGE_SIZE, PageCount, PageIndex, PageRange};

use crate::host_mapping::{GuestMemory, MapError};

/// A run of guest pages that a file lies behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileMapping {
    /// The pages.
    pub range: PageRange,
    /// The file's inode number.
    pub inode: u64,
    /// Byte offset of the first page in the file.
    pub offset: u64,
}

impl GuestMemory {
    /// Every run of guest pages that is mapped from a file now, in ascending order (from /proc/self/maps). Guest threads
    /// that run may change it meanwhile.
    ///
    /// # Errors
    /// [`MapError`] when the list can't be read.
    pub fn file_mappings(&self) -> Result<Vec<FileMapping>, MapError> {
        let whole = PageRange::new(PageIndex(0), self.reserved());
        let maps = fs::read_to_string("/proc/self/maps").map_err(|source| MapError::Host {
            operation: "listing the mappings",
            range: whole,
            source,
        })?;
        let begin = self.host_address(whole.start.address());
        let end = begin + whole.count.bytes();
        let inside = |line: &str| {
            let Mapped { start, end: stop, offset, inode } = parse(line)?;
            let within = inode != 0 && start >= begin && stop <= end;
            within.then(|| FileMapping {
                range: PageRange::new(
                    PageIndex((start - begin) / PAGE_SIZE),
                    PageCount((stop - start) / PAGE_SIZE),
                ),
                inode,
                offset,
            })
        };
        Ok(maps.lines().filter_map(inside).collect())
    }
}

struct Mapped {
    start: u64,
    end: u64,
    offset: u64,
    inode: u64,
}

/// A line of /proc/PID/maps: `start-end perms offset major:minor inode path` (proc(5)).
fn parse(line: &str) -> Option<Mapped> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let offset = words.nth(1)?;
    let inode = words.nth(1)?;
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    Some(Mapped { start: hex(start)?, end: hex(end)?, offset: hex(offset)?, inode: inode.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::{Protection, Source};

    #[test]
    fn files_behind_guest_memory_are_found_where_they_are() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 4 * PAGE_SIZE as usize]).unwrap();
        let memory = GuestMemory::reserve(PageCount(64)).unwrap();
        let whole = PageRange::new(PageIndex(0), PageCount(64));
        memory.map(whole, Source::Anonymous, Protection::ReadWrite).unwrap();
        assert_eq!(memory.file_mappings().unwrap(), []);
        let range = PageRange::new(PageIndex(10), PageCount(2));
        let source = Source::PrivateFile { file: file.as_fd(), offset: 2 * PAGE_SIZE };
        memory.map(range, source, Protection::Read).unwrap();
        let inode = file.metadata().unwrap().ino();
        assert_eq!(memory.file_mappings().unwrap(), [FileMapping { range, inode, offset: 2 * PAGE_SIZE }]);
    }
}
