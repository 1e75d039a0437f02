//! Which guest-physical page stands behind a virtual page.
//!
//! Guest-virtual and guest-physical space are matched in blocks of 2 MiB, so that one entry of the page tables can map a
//! block, and software KVM many pages at one fault. A block gets its counterpart when the first page in it is needed;
//! pages of it in no area stand for nothing (their host mapping lets nothing through).
//!
//! An assignment outlives the areas it was made for: when the program maps something else at the same addresses, the same
//! guest-physical pages are used again with another host mapping behind them, and no translation has to change.

use std::collections::BTreeMap;
use std::ops::Range;

use guest_memory::{Advice, GuestMemory, Protection, Source};
use pages::{Block, PAGE_SIZE, PageCount, PageIndex, PageRange};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::page_tables::{BlockEntries, Entry};
use super::physical::{BLOCK_PAGES, BLOCK_SIZE};
use super::vma::{Access, Backing, Vma, VmaMap};
use super::{AddressSpace, Mm, errno_of};

/// A virtual range and the guest-physical pages behind it, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Virtual bytes, page-aligned.
    pub range: Range<u64>,
    /// The page behind the first.
    pub first: PageIndex,
}

impl Extent {
    /// The guest-physical pages.
    pub fn pages(&self) -> PageRange {
        PageRange::new(self.first, PageCount((self.range.end - self.range.start) / PAGE_SIZE))
    }
}

/// The virtual block of an address.
fn block_of(address: u64) -> u64 {
    address / BLOCK_SIZE
}

/// The virtual blocks that have a page in `range`.
fn blocks_of(range: &Range<u64>) -> Range<u64> {
    if range.is_empty() { 0..0 } else { block_of(range.start)..block_of(range.end - 1) + 1 }
}

/// The addresses of a virtual block.
pub(crate) fn addresses(block: u64) -> Range<u64> {
    block * BLOCK_SIZE..(block + 1) * BLOCK_SIZE
}

/// Virtual blocks and the guest-physical ones behind them.
#[derive(Default, Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Assignments(BTreeMap<u64, Block>);

impl Assignments {
    /// The pieces of `range` that have pages, in order; what lies together in both spaces is one piece.
    pub fn pieces(&self, range: Range<u64>) -> Vec<Extent> {
        let mut pieces: Vec<Extent> = Vec::new();
        for (number, block) in self.blocks(&range) {
            let whole = addresses(number);
            let start = whole.start.max(range.start);
            let end = whole.end.min(range.end);
            let first = PageIndex(block.first().0 + (start - whole.start) / PAGE_SIZE);
            match pieces.last_mut() {
                Some(last) if last.range.end == start && last.pages().end() == first => last.range.end = end,
                _ => pieces.push(Extent { range: start..end, first }),
            }
        }
        pieces
    }

    /// The virtual blocks that have a page in `range` and a block behind them.
    pub fn blocks(&self, range: &Range<u64>) -> impl Iterator<Item = (u64, Block)> + '_ {
        self.0.range(blocks_of(range)).map(|(number, block)| (*number, *block))
    }

    /// The page behind the virtual address `address`.
    pub fn page(&self, address: u64) -> Option<PageIndex> {
        let block = self.0.get(&block_of(address))?;
        Some(PageIndex(block.first().0 + address % BLOCK_SIZE / PAGE_SIZE))
    }

    /// How many blocks there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Every block in order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, Block)> + '_ {
        self.0.iter().map(|(number, block)| (*number, *block))
    }
}

/// The host's protection for what the program may do. Execution needs reading on x86, and writing implies it.
pub(crate) fn protection_for(access: Access) -> Protection {
    if access.contains(Access::WRITE) {
        Protection::ReadWrite
    } else if access.is_empty() {
        Protection::None
    } else {
        Protection::Read
    }
}

/// How strict a block's entries are to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Strictness {
    /// No page may be written that the areas don't let be written.
    Writes,
    /// No more than the areas permit, page by page.
    Exact,
}

/// The entries of the virtual block `number` for what `areas` permit.
pub(crate) fn strict_entries(areas: &VmaMap, number: u64, strictness: Strictness) -> BlockEntries {
    let range = addresses(number);
    let mut entries = vec![Entry::Absent; BLOCK_PAGES as usize];
    for area in areas.overlapping(range.clone()) {
        let area = area.clipped(&range);
        let entry = match protection_for(area.access) {
            Protection::ReadWrite => Entry::UserWrite,
            Protection::Read => Entry::UserRead,
            Protection::None => continue,
        };
        let first = ((area.start - range.start) / PAGE_SIZE) as usize;
        let count = (area.length() / PAGE_SIZE) as usize;
        entries.iter_mut().skip(first).take(count).for_each(|place| *place = entry);
    }
    let all = |wanted: Entry| entries.iter().all(|entry| *entry == wanted);
    let readable = entries.contains(&Entry::UserRead);
    if all(Entry::UserWrite) || (strictness == Strictness::Writes && !readable) {
        return BlockEntries::Whole(Entry::UserWrite);
    }
    BlockEntries::Pages(entries)
}

impl AddressSpace {
    /// Makes the host mapping behind `pages` what `area` (clipped to just those pages) says.
    pub fn map_host(&self, memory: &GuestMemory, pages: PageRange, area: &Vma) -> Result<(), Errno> {
        let protection = protection_for(area.access);
        let source = match &area.backing {
            Backing::Anonymous => Source::Anonymous,
            Backing::File { file, offset, shared: false } => {
                Source::PrivateFile { file: file.host_file()?, offset: *offset }
            }
            Backing::File { file, offset, shared: true } => {
                Source::SharedFile { file: file.host_file()?, offset: *offset }
            }
        };
        memory.map(pages, source, protection).map_err(|error| errno_of(&error))?;
        if matches!(area.backing, Backing::Anonymous) && protection == Protection::ReadWrite {
            // A block that is all one area's: KVM maps it by one fault where the host has a huge page for it.
            let start = pages.start.0.next_multiple_of(BLOCK_PAGES);
            let end = pages.end().0 / BLOCK_PAGES * BLOCK_PAGES;
            if start < end {
                // A hint: a host without huge pages refuses it, and everything works without.
                let _ = memory.advise(PageRange::between(PageIndex(start), PageIndex(end)), Advice::HugePage);
            }
        }
        Ok(())
    }

    /// Writes the entries of those virtual blocks in `range` whose entries are strict anew, after areas in it have changed.
    /// What became looser is noticed at the next fault; what became stricter, the host mapping enforces.
    pub fn renew_strict_entries(&mut self, memory: &GuestMemory, range: &Range<u64>) -> Result<(), Errno> {
        let numbers: Vec<u64> = self.strict.range(blocks_of(range)).copied().collect();
        for number in numbers {
            let Some(block) = self.assigned.0.get(&number).copied() else { continue };
            // A table stays a table: that one entry takes its place would be a change that KVM doesn't notice.
            let entries = match strict_entries(&self.areas, number, Strictness::Exact) {
                BlockEntries::Whole(entry) => BlockEntries::Pages(vec![entry; BLOCK_PAGES as usize]),
                pages @ BlockEntries::Pages(_) => pages,
            };
            self.map_block(memory, number, block, &entries)?;
        }
        Ok(())
    }

    /// Writes strict entries for a virtual block and remembers that it has them. The caller drops the shadow pages.
    pub fn write_strict(
        &mut self,
        memory: &GuestMemory,
        number: u64,
        strictness: Strictness,
    ) -> Result<(), Errno> {
        let Some(block) = self.assigned.0.get(&number).copied() else { return Ok(()) };
        let entries = strict_entries(&self.areas, number, strictness);
        self.map_block(memory, number, block, &entries)?;
        match entries {
            BlockEntries::Whole(_) => self.strict.remove(&number),
            BlockEntries::Pages(_) => self.strict.insert(number),
        };
        Ok(())
    }
}

impl Mm {
    /// Gives pages to every part of `range` that lies in an accessible area and has none yet.
    ///
    /// # Errors
    /// ENOMEM when guest-physical space or host mappings are used up.
    pub(crate) fn assign(&self, space: &mut AddressSpace, range: Range<u64>) -> Result<(), Errno> {
        let mut wanted: Vec<u64> = space
            .areas
            .overlapping(range.clone())
            .filter(|area| !area.access.is_empty())
            .flat_map(|area| {
                let area = area.clipped(&range);
                blocks_of(&(area.start..area.end))
            })
            .filter(|number| !space.assigned.0.contains_key(number))
            .collect();
        wanted.dedup();
        for number in wanted {
            let block = match space.physical.allocate() {
                Some(block) => block,
                None => {
                    self.reclaim(space)?;
                    space.physical.allocate().ok_or(Errno::NOMEM)?
                }
            };
            // Host mappings first, entry last: the guest must never see a page before its contents are right.
            if let Err(error) = self.fill_block(space, number, block) {
                // What was mapped of it would be there, without its contents, for the next to get the block.
                let _ = self.memory.release(block.pages());
                space.physical.release(block);
                return Err(error);
            }
            space.assigned.0.insert(number, block);
        }
        // Table pages may have come on top.
        self.slots.cover(space.physical.used())
    }

    /// Maps what the areas in a virtual block say into `block`, which is empty but for what is ready of it, and writes its entry.
    fn fill_block(&self, space: &mut AddressSpace, number: u64, block: Block) -> Result<(), Errno> {
        let whole = addresses(number);
        let mut ready = space.growth.take(block);
        let areas: Vec<Vma> =
            space.areas.overlapping(whole.clone()).map(|area| area.clipped(&whole)).collect();
        for area in areas {
            let first = PageIndex(block.first().0 + (area.start - whole.start) / PAGE_SIZE);
            let pages = PageRange::new(first, PageCount(area.length() / PAGE_SIZE));
            ready = space.map_new(&self.memory, pages, &area, &ready)?;
        }
        // Where no area is nothing may be accessible.
        for run in ready.runs() {
            self.memory.release(*run).map_err(|error| errno_of(&error))?;
        }
        self.slots.cover(space.physical.used())?;
        space.map_block(&self.memory, number, block, &BlockEntries::Whole(Entry::UserWrite))
    }

    /// Takes the blocks in which no area is left back, all at once.
    pub(crate) fn reclaim(&self, space: &mut AddressSpace) -> Result<(), Errno> {
        let dead: Vec<(u64, Block)> =
            space.assigned.iter().filter(|(number, _)| space.areas.is_free(addresses(*number))).collect();
        for (number, block) in &dead {
            space.map_block(&self.memory, *number, *block, &BlockEntries::Whole(Entry::Absent))?;
            space.assigned.0.remove(number);
            space.strict.remove(number);
        }
        // Only once no shadow page points there may the blocks stand for something else.
        self.slots.drop_shadow_pages()?;
        for (_, block) in dead {
            space.physical.release(block);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assigned(blocks: &[(u64, u64)]) -> Assignments {
        Assignments(blocks.iter().map(|(number, block)| (*number, Block(*block))).collect())
    }

    #[test]
    fn what_lies_together_in_both_spaces_is_one_piece() {
        let assigned = assigned(&[(0, 5), (1, 6), (2, 9)]);
        let pieces = assigned.pieces(0x1000..0x50_1000);
        assert_eq!(
            pieces,
            [
                Extent { range: 0x1000..0x40_0000, first: PageIndex(5 * 512 + 1) },
                Extent { range: 0x40_0000..0x50_1000, first: PageIndex(9 * 512) }
            ]
        );
        assert_eq!(assigned.pieces(0x60_0000..0x70_0000), []);
        assert_eq!(assigned.page(0x20_1abc), Some(PageIndex(6 * 512 + 1)));
        assert_eq!(assigned.page(0x60_0000), None);
    }

    #[test]
    fn entries_are_as_strict_as_asked_for() {
        let area = |start, end, access| Vma {
            start,
            end,
            access,
            backing: Backing::Anonymous,
            wipe_on_fork: false,
            name: "",
        };
        let both = Access::READ | Access::WRITE;
        let mut areas = VmaMap::default();
        areas.insert(area(0x1000, 0x3000, both));
        let whole = BlockEntries::Whole(Entry::UserWrite);
        assert_eq!(strict_entries(&areas, 0, Strictness::Writes), whole);
        let BlockEntries::Pages(exact) = strict_entries(&areas, 0, Strictness::Exact) else { panic!() };
        assert_eq!(exact[..4], [Entry::Absent, Entry::UserWrite, Entry::UserWrite, Entry::Absent]);
        areas.insert(area(0x3000, 0x4000, Access::READ));
        areas.insert(area(0x4000, 0x5000, Access::empty()));
        let BlockEntries::Pages(strict) = strict_entries(&areas, 0, Strictness::Writes) else { panic!() };
        assert_eq!(strict[2..5], [Entry::UserWrite, Entry::UserRead, Entry::Absent]);
        areas.insert(area(0x20_0000, 0x40_0000, both));
        assert_eq!(strict_entries(&areas, 1, Strictness::Exact), whole);
    }
}
