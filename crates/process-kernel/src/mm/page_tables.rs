//! The guest's page tables, written by the VMM into guest-physical memory.
//!
//! Four levels of 512 entries (Intel SDM vol. 3, 4.5). A virtual page gets its entry once and keeps it: software KVM does
//! not notice a present entry that changes (shared fact in docs/process-guest.md), so what the program sees as unmapped or
//! protected is enforced by the host mapping. The one exception is [`PageTables::rewrite`], whose caller drops the shadow
//! pages afterwards.

use std::collections::HashMap;
use std::ops::Range;

use guest_memory::{AccessError, GuestMemory};
use pages::{GuestPhysical, PAGE_SIZE, PageIndex};
use serde::{Deserialize, Serialize};

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;

/// Bytes covered by one last-level table.
const TABLE_SPAN: u64 = 512 * PAGE_SIZE;

/// What a mapping lets code at CPL3 do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    /// Nothing there.
    Absent,
    /// Reads and execution at CPL3.
    UserRead,
    /// Reads, writes and execution at CPL3.
    UserWrite,
    /// Only CPL0: the entry stubs and per-vCPU pages.
    Supervisor,
}

impl Entry {
    /// Accessed and dirty are set from the start, so that the processor never has to write the tables.
    const fn bits(self, page: PageIndex) -> u64 {
        let flags = match self {
            Self::Absent => return 0,
            Self::UserRead => PRESENT | USER | ACCESSED | DIRTY,
            Self::UserWrite => PRESENT | WRITABLE | USER | ACCESSED | DIRTY,
            Self::Supervisor => PRESENT | WRITABLE | ACCESSED | DIRTY,
        };
        page.address().0 | flags
    }
}

/// The table pages and where they are. Saved with a snapshot; the tables' contents are part of guest memory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PageTables {
    root: PageIndex,
    /// (level, address prefix) of each table below the root; level 1 holds the entries of 4 KiB pages.
    tables: HashMap<(u8, u64), PageIndex>,
}

/// Gives out zeroed guest-physical pages for tables.
pub trait TablePages {
    /// A zeroed page, or `None` when guest-physical space is used up.
    fn table_page(&mut self) -> Option<PageIndex>;
}

/// Why an entry could not be written.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// No page for another table.
    #[error("no guest-physical page is left for a page table")]
    NoPage,
    /// The table page can't be written.
    #[error("a page table can't be written")]
    Access(#[from] AccessError),
}

impl PageTables {
    /// Empty tables under the (zeroed) page `root`.
    pub fn new(root: PageIndex) -> Self {
        Self { root, tables: HashMap::new() }
    }

    /// The value for CR3.
    pub fn root(&self) -> GuestPhysical {
        self.root.address()
    }

    fn table(
        &mut self,
        memory: &GuestMemory,
        pages: &mut dyn TablePages,
        address: u64,
    ) -> Result<PageIndex, TableError> {
        let mut parent = self.root;
        for level in (1..=3u8).rev() {
            let shift = 12 + 9 * u32::from(level);
            let key = (level, address >> shift);
            parent = match self.tables.get(&key) {
                Some(table) => *table,
                None => {
                    let table = pages.table_page().ok_or(TableError::NoPage)?;
                    let slot = parent.address() + (address >> shift & 511) * 8;
                    // Upper levels permit everything: the last level decides.
                    let entry = table.address().0 | PRESENT | WRITABLE | USER | ACCESSED;
                    memory.write(slot, &entry.to_le_bytes())?;
                    self.tables.insert(key, table);
                    table
                }
            };
        }
        Ok(parent)
    }

    /// Writes entries for the pages of `virtual_range` (bytes, page-aligned), the first at `first`, the others following it.
    /// The entries must have been absent.
    ///
    /// # Errors
    /// [`TableError`]; entries written so far stay.
    pub fn map(
        &mut self,
        memory: &GuestMemory,
        pages: &mut dyn TablePages,
        virtual_range: Range<u64>,
        first: PageIndex,
        entry: Entry,
    ) -> Result<(), TableError> {
        let mut address = virtual_range.start;
        while address < virtual_range.end {
            let table = self.table(memory, pages, address)?;
            let piece_end = virtual_range.end.min((address & !(TABLE_SPAN - 1)) + TABLE_SPAN);
            let done = (address - virtual_range.start) / PAGE_SIZE;
            let count = (piece_end - address) / PAGE_SIZE;
            let entries: Vec<u8> = (0..count)
                .flat_map(|index| entry.bits(PageIndex(first.0 + done + index)).to_le_bytes())
                .collect();
            memory.write(table.address() + (address >> 12 & 511) * 8, &entries)?;
            address = piece_end;
        }
        Ok(())
    }

    /// Changes entries that may be present. The caller drops the shadow pages before the guest runs on.
    ///
    /// # Errors
    /// As [`PageTables::map`].
    pub fn rewrite(
        &mut self,
        memory: &GuestMemory,
        pages: &mut dyn TablePages,
        virtual_range: Range<u64>,
        first: PageIndex,
        entry: Entry,
    ) -> Result<(), TableError> {
        self.map(memory, pages, virtual_range, first, entry)
    }
}
