//! Which guest-physical page stands behind a virtual page.
//!
//! An assignment outlives the area it was made for: when the program maps something else at the same addresses, the same
//! guest-physical pages are used again with another host mapping behind them, and no page-table entry has to change.

use std::collections::BTreeMap;
use std::ops::Range;

use guest_memory::{GuestMemory, Protection, Source};
use pages::{PAGE_SIZE, PageCount, PageIndex, PageRange};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::page_tables::Entry;
use super::vma::{Access, Backing, Vma};
use super::{AddressSpace, Mm, errno_of};

/// A virtual range and the guest-physical pages behind it, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Extent {
    /// Virtual bytes, page-aligned.
    pub range: Range<u64>,
    /// The page behind the first.
    pub first: PageIndex,
}

impl Extent {
    /// The part of the extent inside `range`.
    fn clipped(&self, range: &Range<u64>) -> Self {
        let start = self.range.start.max(range.start);
        let end = self.range.end.min(range.end);
        Self { range: start..end, first: PageIndex(self.first.0 + (start - self.range.start) / PAGE_SIZE) }
    }

    /// The guest-physical pages.
    pub fn pages(&self) -> PageRange {
        PageRange::new(self.first, PageCount((self.range.end - self.range.start) / PAGE_SIZE))
    }
}

/// All extents, disjoint and sorted by virtual address.
#[derive(Default, Debug, Clone)]
pub(crate) struct Assignments {
    extents: BTreeMap<u64, Extent>,
}

impl Assignments {
    /// The pieces of `range` that have pages, in order.
    pub fn pieces(&self, range: Range<u64>) -> impl Iterator<Item = Extent> + '_ {
        let first = self
            .extents
            .range(..=range.start)
            .next_back()
            .filter(|(_, extent)| extent.range.end > range.start)
            .map_or(range.start, |(start, _)| *start);
        self.extents
            .range(first..range.end.max(first))
            .map(move |(_, extent)| extent.clipped(&range))
            .filter(|extent| extent.range.start < extent.range.end)
    }

    /// The pieces of `range` that have no pages.
    pub fn gaps(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut gaps = Vec::new();
        let mut next = range.start;
        for piece in self.pieces(range.clone()) {
            if piece.range.start > next {
                gaps.push(next..piece.range.start);
            }
            next = piece.range.end;
        }
        if next < range.end {
            gaps.push(next..range.end);
        }
        gaps
    }

    /// The page behind the virtual address `address`.
    pub fn page(&self, address: u64) -> Option<PageIndex> {
        let (_, extent) = self.extents.range(..=address).next_back()?;
        (address < extent.range.end)
            .then(|| PageIndex(extent.first.0 + (address - extent.range.start) / PAGE_SIZE))
    }

    /// Records pages behind a range that had none.
    pub fn insert(&mut self, mut extent: Extent) {
        if let Some((start, before)) = self.extents.range(..extent.range.start).next_back()
            && before.range.end == extent.range.start
            && before.pages().end() == extent.first
        {
            let start = *start;
            extent = Extent { range: start..extent.range.end, first: before.first };
            self.extents.remove(&start);
        }
        self.extents.insert(extent.range.start, extent);
    }

    /// Forgets the pages behind `range` and returns them.
    pub fn remove(&mut self, range: Range<u64>) -> Vec<Extent> {
        let pieces: Vec<Extent> = self.pieces(range.clone()).collect();
        let keys: Vec<u64> = pieces
            .iter()
            .filter_map(|piece| self.extents.range(..=piece.range.start).next_back().map(|(start, _)| *start))
            .collect();
        for key in keys {
            let Some(extent) = self.extents.remove(&key) else { continue };
            for rest in [extent.range.start..range.start, range.end..extent.range.end] {
                if rest.start < rest.end {
                    let rest = extent.clipped(&rest);
                    self.extents.insert(rest.range.start, rest);
                }
            }
        }
        pieces
    }

    /// How many extents there are.
    pub fn count(&self) -> usize {
        self.extents.len()
    }

    /// Every extent in order.
    pub fn iter(&self) -> impl Iterator<Item = &Extent> {
        self.extents.values()
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
        memory.map(pages, source, protection).map_err(|error| errno_of(&error))
    }
}

impl Mm {
    /// Gives pages to every part of `range` that lies in an accessible area and has none yet.
    ///
    /// # Errors
    /// ENOMEM when guest-physical space or host mappings are used up.
    pub(crate) fn assign(&self, space: &mut AddressSpace, range: Range<u64>) -> Result<(), Errno> {
        let areas: Vec<Vma> = space
            .areas
            .overlapping(range.clone())
            .filter(|area| !area.access.is_empty())
            .map(|area| area.clipped(&range))
            .collect();
        for area in areas {
            for gap in space.assigned.gaps(area.start..area.end) {
                let count = PageCount((gap.end - gap.start) / PAGE_SIZE);
                let pages = match space.physical.allocate(count) {
                    Some(pages) => pages,
                    None => {
                        self.reclaim(space)?;
                        space.physical.allocate(count).ok_or(Errno::NOMEM)?
                    }
                };
                // Host mapping first, entry last: the guest must never see a page before its contents are right.
                let mapped = space.map_host(&self.memory, pages, &area.clipped(&gap));
                if let Err(error) = mapped.and_then(|()| {
                    self.slots.cover(space.physical.used())?;
                    space.map_entries(&self.memory, gap.clone(), pages.start, Entry::UserWrite)
                }) {
                    space.physical.release(pages);
                    return Err(error);
                }
                space.assigned.insert(Extent { range: gap, first: pages.start });
            }
        }
        // Table pages may have come on top.
        self.slots.cover(space.physical.used())
    }

    /// Takes the pages of dead ranges (assigned, but in no area) back, all at once.
    pub(crate) fn reclaim(&self, space: &mut AddressSpace) -> Result<(), Errno> {
        let dead: Vec<Range<u64>> = space
            .assigned
            .iter()
            .flat_map(|extent| {
                let mut dead = Vec::new();
                let mut next = extent.range.start;
                for area in space.areas.overlapping(extent.range.clone()) {
                    if area.start > next {
                        dead.push(next..area.start);
                    }
                    next = next.max(area.end);
                }
                if next < extent.range.end {
                    dead.push(next..extent.range.end);
                }
                dead
            })
            .collect();
        let mut released = Vec::new();
        for range in dead {
            for extent in space.assigned.remove(range) {
                space.rewrite_entries(&self.memory, extent.range.clone(), extent.first, Entry::Absent)?;
                released.push(extent.pages());
            }
        }
        // Only once no shadow page points there may the pages stand for something else.
        self.slots.drop_shadow_pages()?;
        for pages in released {
            space.physical.release(pages);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_extents_join_and_split_again() {
        let mut assigned = Assignments::default();
        assigned.insert(Extent { range: 0x1000..0x3000, first: PageIndex(16) });
        assigned.insert(Extent { range: 0x3000..0x5000, first: PageIndex(18) });
        assert_eq!(assigned.iter().count(), 1);
        assert_eq!(assigned.page(0x4abc), Some(PageIndex(19)));
        assert_eq!(assigned.gaps(0..0x7000), [0..0x1000, 0x5000..0x7000]);
        let removed = assigned.remove(0x2000..0x4000);
        assert_eq!(removed[0].pages(), PageRange::new(PageIndex(17), PageCount(2)));
        assert_eq!(assigned.gaps(0x1000..0x5000), vec![0x2000..0x4000]);
        assert_eq!(assigned.page(0x4000), Some(PageIndex(19)));
    }
}
