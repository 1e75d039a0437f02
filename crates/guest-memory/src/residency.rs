//! What the host knows about pages: residency (mincore) and page-table state (/proc/self/pagemap).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use pages::{PAGE_SIZE, PageIndex, PageRange};

use crate::host_mapping::{GuestMemory, MapError};

/// State of one page in this process's page tables (Documentation/admin-guide/mm/pagemap.rst).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PageState {
    /// In memory and mapped.
    pub present: bool,
    /// Swapped out.
    pub swapped: bool,
    /// A page of a file, or shared anonymous memory; a private page that was written is not.
    pub file_or_shared: bool,
}

impl PageState {
    const fn from_entry(entry: u64) -> Self {
        Self {
            present: entry >> 63 & 1 == 1,
            swapped: entry >> 62 & 1 == 1,
            file_or_shared: entry >> 61 & 1 == 1,
        }
    }

    /// Whether this process holds a private copy of the page.
    pub const fn is_private(self) -> bool {
        (self.present || self.swapped) && !self.file_or_shared
    }
}

impl GuestMemory {
    /// For each page of `range`, whether a read would find it in memory (mincore(2)): for file mappings, in the page cache.
    /// The kernel reports every page as resident to a process that neither owns nor may write the file.
    ///
    /// # Errors
    /// [`MapError`] when the range is outside or the kernel refuses.
    pub fn resident(&self, range: PageRange) -> Result<Vec<bool>, MapError> {
        self.check(range)?;
        let mut vector = vec![0u8; range.count.0 as usize];
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let (address, length) = self.pointer(range);
        // SAFETY: `vector` has one byte for each page of the range, as mincore requires.
        if unsafe { libc::mincore(address, length, vector.as_mut_ptr()) } != 0 {
            return Err(MapError::Host {
                operation: "querying residency",
                range,
                source: io::Error::last_os_error(),
            });
        }
        Ok(vector.into_iter().map(|byte| byte & 1 == 1).collect())
    }

    /// Calls `each` with the state of every page in `range`.
    ///
    /// # Errors
    /// [`MapError`] when the range is outside or /proc/self/pagemap can't be read.
    pub fn page_states(
        &self,
        range: PageRange,
        mut each: impl FnMut(PageIndex, PageState),
    ) -> Result<(), MapError> {
        self.check(range)?;
        let failed = |source| MapError::Host { operation: "reading the pagemap", range, source };
        let pagemap = File::open("/proc/self/pagemap").map_err(failed)?;
        const BATCH: u64 = 8192;
        let mut buffer = vec![0u8; 8 * BATCH as usize];
        let mut page = range.start;
        while page < range.end() {
            let batch = BATCH.min(range.end().0 - page.0);
            let bytes = &mut buffer[..8 * batch as usize];
            let position = self.host_address(page.address()) / PAGE_SIZE * 8;
            pagemap.read_exact_at(bytes, position).map_err(failed)?;
            for (index, entry) in bytes.as_chunks::<8>().0.iter().enumerate() {
                each(PageIndex(page.0 + index as u64), PageState::from_entry(u64::from_le_bytes(*entry)));
            }
            page = PageIndex(page.0 + batch);
        }
        Ok(())
    }
}
