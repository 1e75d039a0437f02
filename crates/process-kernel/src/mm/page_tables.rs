//! The guest's page tables, written by the VMM into guest-physical memory.
//!
//! Four levels of 512 entries (Intel SDM vol. 3, 4.5). A virtual block of 2 MiB has one block of guest-physical space behind
//! it, and keeps it: software KVM does not notice a present entry that changes (shared fact in docs/process-guest.md). Its
//! entry maps it as a whole, or leads to a table of 512 entries for its pages where these may not all be treated alike.
//! Whichever it is, a page's translation never changes, only what its entry permits: after making one stricter the caller
//! drops the shadow pages; making one looser is noticed at the fault that it gives.

use std::collections::HashMap;

use guest_memory::{AccessError, GuestMemory};
use pages::{Block, GuestPhysical, PAGE_SIZE, PageIndex};
use serde::{Deserialize, Serialize};

use super::physical::BLOCK_PAGES;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
/// In an entry of the second level: it maps 2 MiB (PS).
const LARGE: u64 = 1 << 7;

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

/// The entries of a virtual block of 2 MiB.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BlockEntries {
    /// One for all of it.
    Whole(Entry),
    /// One for each of its 512 pages.
    Pages(Vec<Entry>),
}

/// The table pages and where they are. Saved with a snapshot; the tables' contents are part of guest memory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PageTables {
    root: PageIndex,
    /// (level, address prefix) of each table below the root that is no block's.
    tables: HashMap<(u8, u64), PageIndex>,
    /// The tables of blocks that have had one, whether or not it is in use.
    blocks: HashMap<Block, PageIndex>,
    /// Whether entries of pages say by their accessed bit if the guest has touched the page.
    #[serde(skip)]
    watched: bool,
}

/// Gives out zeroed guest-physical pages for tables.
pub trait TablePages {
    /// A zeroed page, or `None` when guest-physical space is used up.
    fn table_page(&mut self) -> Option<PageIndex>;

    /// The page for the table of `block`: always the same one.
    fn block_table(&mut self, block: Block) -> Option<PageIndex>;
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
        Self { root, tables: HashMap::new(), blocks: HashMap::new(), watched: false }
    }

    /// The value for CR3.
    pub fn root(&self) -> GuestPhysical {
        self.root.address()
    }

    /// The pages of blocks' tables.
    pub fn block_tables(&self) -> impl Iterator<Item = PageIndex> + '_ {
        self.blocks.values().copied()
    }

    /// The table at `level` that holds the entry for `address`; tables above it that are missing are made.
    fn table(
        &mut self,
        memory: &GuestMemory,
        pages: &mut dyn TablePages,
        address: u64,
        level: u8,
    ) -> Result<PageIndex, TableError> {
        let mut parent = self.root;
        for level in (level..=3u8).rev() {
            let shift = 12 + 9 * u32::from(level);
            let key = (level, address >> shift);
            parent = match self.tables.get(&key) {
                Some(table) => *table,
                None => {
                    let table = pages.table_page().ok_or(TableError::NoPage)?;
                    let slot = parent.address() + (address >> shift & 511) * 8;
                    memory.write(slot, &table_entry(table).to_le_bytes())?;
                    self.tables.insert(key, table);
                    table
                }
            };
        }
        Ok(parent)
    }

    /// Where the entry of the virtual block `number` is, if it has one.
    pub fn block_entry(&self, number: u64) -> Option<GuestPhysical> {
        let directory = self.tables.get(&(2, number >> 9))?;
        Some(directory.address() + (number & 511) * 8)
    }

    /// Writes the entry of the page at `address`, which lies in no program's block.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn map_page(
        &mut self,
        memory: &GuestMemory,
        pages: &mut dyn TablePages,
        address: u64,
        page: PageIndex,
        entry: Entry,
    ) -> Result<(), TableError> {
        let table = self.table(memory, pages, address, 1)?;
        Ok(memory.write(table.address() + (address >> 12 & 511) * 8, &entry.bits(page).to_le_bytes())?)
    }

    /// Writes the entries of the virtual block at `address`, behind which `block` stands.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn map_block(
        &mut self,
        memory: &GuestMemory,
        pages: &mut dyn TablePages,
        address: u64,
        block: Block,
        entries: &BlockEntries,
    ) -> Result<(), TableError> {
        let directory = self.table(memory, pages, address, 2)?;
        let entry = match entries {
            BlockEntries::Whole(Entry::Absent) => 0,
            BlockEntries::Whole(entry) => entry.bits(block.first()) | LARGE,
            BlockEntries::Pages(entries) => {
                let table = match self.blocks.get(&block) {
                    Some(table) => *table,
                    None => {
                        let table = pages.block_table(block).ok_or(TableError::NoPage)?;
                        self.blocks.insert(block, table);
                        table
                    }
                };
                let mut bits: Vec<u64> =
                    entries.iter().zip(block.pages().iter()).map(|(entry, page)| entry.bits(page)).collect();
                if self.watched {
                    let old = read_table(memory, table)?;
                    for (new, old) in bits.iter_mut().zip(old) {
                        *new &= !ACCESSED | (old & ACCESSED);
                    }
                }
                let bytes: Vec<u8> = bits.into_iter().flat_map(u64::to_le_bytes).collect();
                memory.write(table.address(), &bytes)?;
                table_entry(table)
            }
        };
        Ok(memory.write(directory.address() + (address >> 21 & 511) * 8, &entry.to_le_bytes())?)
    }
}

impl PageTables {
    /// Forgets which pages of blocks that have a table were touched, and lets the processor note it from now on: it sets the
    /// accessed bit of an entry that it uses (software KVM does, too). No vCPU may run meanwhile.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn watch(&mut self, memory: &GuestMemory) -> Result<(), TableError> {
        self.watched = true;
        for table in self.blocks.values() {
            let entries = read_table(memory, *table)?;
            let bytes: Vec<u8> =
                entries.into_iter().flat_map(|entry| (entry & !ACCESSED).to_le_bytes()).collect();
            memory.write(table.address(), &bytes)?;
        }
        Ok(())
    }

    /// The pages of `block`, which has a table, that were touched since [`PageTables::watch`].
    ///
    /// # Errors
    /// [`TableError`].
    pub fn touched(&self, memory: &GuestMemory, block: Block) -> Result<Vec<PageIndex>, TableError> {
        let Some(table) = self.blocks.get(&block) else { return Ok(Vec::new()) };
        let is_touched = |entry: u64| entry & (PRESENT | ACCESSED) == PRESENT | ACCESSED;
        let entries = read_table(memory, *table)?.into_iter().zip(block.pages().iter());
        Ok(entries.filter(|(entry, _)| is_touched(*entry)).map(|(_, page)| page).collect())
    }
}

fn read_table(memory: &GuestMemory, table: PageIndex) -> Result<Vec<u64>, TableError> {
    let mut bytes = vec![0; PAGE_SIZE as usize];
    memory.read(table.address(), &mut bytes)?;
    Ok(bytes.as_chunks::<8>().0.iter().map(|entry| u64::from_le_bytes(*entry)).collect())
}

/// Upper levels permit everything: the last level decides.
fn table_entry(table: PageIndex) -> u64 {
    table.address().0 | PRESENT | WRITABLE | USER | ACCESSED
}

const _: () = assert!(BLOCK_PAGES * 8 == PAGE_SIZE);
