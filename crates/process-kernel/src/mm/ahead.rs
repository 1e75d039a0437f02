//! Memory that is in place before a program touches it.
//!
//! On software KVM each first touch of a fresh page leaves the guest, which costs some eighty times what the host needs to put
//! one in place; of pages that are in place already, eight come with one fault, and of a huge page all. Allocators map small areas
//! to use them, and unmap what they don't need to map as much anew a moment later. So small areas get their pages at once, and
//! of larger ones those parts that are no whole block of 2 MiB (whole ones have huge pages): at once where the block is there
//! already, else when the block is first touched: a heap, and what is filled from its end, at once too; a stack from the
//! touched page up, since it grows down and most of it stays untouched. All of it on credit: what a
//! program has that way and may never touch is bounded, and what it gives back it can have again.

use guest_memory::{Advice, GuestMemory};
use pages::{PAGE_SIZE, PageCount, PageRange};

use super::assignment::Extent;
use super::physical::BLOCK_SIZE;
use super::vma::{Access, Backing, Vma};
use super::{AddressSpace, Mm, layout};

/// Pages that are put in place ahead, unless as many are given back: an eighth of the memory that the function may use, at
/// least 16 MiB, at most 64 MiB.
const LEAST: u64 = 4096;
const MOST: u64 = 4 * LEAST;

/// How many pages more may be put in place ahead.
#[derive(Debug)]
pub(crate) struct Credit {
    left: u64,
    most: u64,
}

impl Default for Credit {
    fn default() -> Self {
        Self { left: LEAST, most: LEAST }
    }
}

pub(super) fn is_private_memory(area: &Vma) -> bool {
    matches!(area.backing, Backing::Anonymous) && area.access.contains(Access::WRITE)
}

impl Credit {
    /// For a function that may use `limit` bytes of memory.
    fn of(limit: u64) -> Self {
        let most = (limit / PAGE_SIZE / 8).clamp(LEAST, MOST);
        Self { left: most, most }
    }

    /// Notes that `pages` of `area` are about to be given back. Only those count that are in memory.
    pub fn note(&mut self, memory: &GuestMemory, area: &Vma, pages: PageRange) {
        let room = self.most - self.left;
        if room == 0 || !is_private_memory(area) {
            return;
        }
        let asked = PageRange::new(pages.start, PageCount(pages.count.0.min(room)));
        // What the host doesn't tell is not counted: this only concerns speed.
        let resident = memory.resident(asked).unwrap_or_default();
        self.left += resident.into_iter().filter(|resident| *resident).count() as u64;
    }

    /// Whether there is credit for so much more.
    fn take(&mut self, pages: PageCount) -> bool {
        let taken = pages.0 <= self.left;
        if taken {
            self.left -= pages.0;
        }
        taken
    }
}

impl AddressSpace {
    /// Puts pages of a new `area` in place that have their guest-physical pages, if there is credit for them: all when it is
    /// small (`whole`), else those in blocks that it shares with others.
    pub(super) fn put_in_place(&mut self, memory: &GuestMemory, area: &Vma, whole: bool) {
        if !is_private_memory(area) {
            return;
        }
        let (first, last) = (area.start.next_multiple_of(BLOCK_SIZE), area.end / BLOCK_SIZE * BLOCK_SIZE);
        let parts = match whole || first > last {
            true => [area.start..area.end, 0..0],
            false => [area.start..first, last..area.end],
        };
        let extents: Vec<Extent> = parts.into_iter().flat_map(|part| self.assigned.pieces(part)).collect();
        let pages = PageCount(extents.iter().map(|extent| extent.pages().count.0).sum());
        if self.credit.take(pages) {
            extents.iter().for_each(|extent| populate(memory, extent));
        }
    }

    /// The same for the block of `address`, which has been given its guest-physical pages because that was touched.
    pub(super) fn put_touched_in_place(&mut self, memory: &GuestMemory, address: u64) {
        let Some(area) = self.areas.find(address).filter(|area| is_private_memory(area)) else { return };
        let block = address / BLOCK_SIZE * BLOCK_SIZE;
        let part = area.start.max(block)..area.end.min(block + BLOCK_SIZE);
        if part.end - part.start == BLOCK_SIZE {
            return;
        }
        let is_stack = area.name == layout::STACK_NAME || self.stacks.contains(&area.end);
        let from = if is_stack { address / PAGE_SIZE * PAGE_SIZE } else { part.start };
        for extent in self.assigned.pieces(from..part.end) {
            if self.credit.take(extent.pages().count) {
                populate(memory, &extent);
            }
        }
    }
}

/// If there is no memory for it now, the program's touches tell.
fn populate(memory: &GuestMemory, extent: &Extent) {
    let _ = memory.advise(extent.pages(), Advice::PopulateWrite);
}

impl Mm {
    /// How much memory may be in place ahead follows from what the function may use in all, in bytes. For a process that does
    /// not run yet.
    pub(crate) fn set_memory_limit(&self, limit: u64) {
        self.space.write().credit = Credit::of(limit);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{FaultAccess, FaultOutcome, MapRequest, Mm, NoSlots, Placement};
    use super::*;

    /// As large as areas are that get their pages at once.
    const LENGTH: u64 = 1 << 20;
    const PAGES: u64 = LENGTH / PAGE_SIZE;

    fn mm() -> Mm {
        let memory = Arc::new(GuestMemory::reserve(PageCount(1 << 15)).unwrap());
        Mm::new(memory, Arc::new(NoSlots)).unwrap()
    }

    fn map(mm: &Mm, access: Access) -> u64 {
        map_at(mm, Placement::Hint(0), LENGTH, access)
    }

    fn map_at(mm: &Mm, placement: Placement, length: u64, access: Access) -> u64 {
        mm.map(MapRequest { placement, length, access, backing: Backing::Anonymous, name: "" }).unwrap()
    }

    /// How many pages of an area are in memory.
    fn in_place(mm: &Mm, start: u64) -> u64 {
        in_place_of(mm, start..start + LENGTH)
    }

    fn in_place_of(mm: &Mm, range: std::ops::Range<u64>) -> u64 {
        let space = mm.space.read();
        let extents = space.assigned.pieces(range);
        let resident = extents.iter().flat_map(|extent| mm.memory.resident(extent.pages()).unwrap());
        resident.filter(|resident| *resident).count() as u64
    }

    #[test]
    fn small_areas_are_in_place_until_the_credit_is_used_up() {
        let mm = mm();
        let write = Access::READ | Access::WRITE;
        assert_eq!(in_place(&mm, map(&mm, Access::READ)), 0, "what can't be written stays zero");
        let areas: Vec<u64> = (0..LEAST / PAGES).map(|_| map(&mm, write)).collect();
        assert!(areas.iter().all(|area| in_place(&mm, *area) == PAGES));
        assert_eq!(in_place(&mm, map(&mm, write)), 0);

        mm.write(areas[3], &[7; LENGTH as usize]).unwrap();
        mm.unmap(areas[3], LENGTH).unwrap();
        let again = map(&mm, write);
        assert_eq!(in_place(&mm, again), PAGES, "what is given back can be had again");
        let mut bytes = [1; LENGTH as usize];
        mm.read(again, &mut bytes).unwrap();
        assert!(bytes.iter().all(|byte| *byte == 0), "and is zero");
    }

    #[test]
    fn what_was_not_in_memory_gives_no_credit() {
        let mm = mm();
        let write = Access::READ | Access::WRITE;
        let areas: Vec<u64> = (0..LEAST / PAGES + 1).map(|_| map(&mm, write)).collect();
        let untouched = areas[areas.len() - 1];
        mm.unmap(untouched, LENGTH).unwrap();
        assert_eq!(in_place(&mm, map(&mm, write)), 0);
    }

    #[test]
    fn of_a_large_area_the_ends_are_in_place_when_their_blocks_are_touched() {
        let (mm, write) = (mm(), Access::READ | Access::WRITE);
        let start = map_at(&mm, Placement::Hint(0), BLOCK_SIZE + 0x9000, write);
        assert_eq!(start % BLOCK_SIZE, 0);
        let tail = start + BLOCK_SIZE;
        let touch =
            |address| assert_eq!(mm.page_fault(address, FaultAccess::Write, false), FaultOutcome::Retry);
        touch(tail + 0x3000);
        assert_eq!(in_place_of(&mm, tail..tail + 0x9000), 9, "also before what was touched");
        touch(start);
        assert_eq!(in_place_of(&mm, start..tail), 0, "that is for a huge page");

        // Grown within a block that is there already.
        mm.remap(start, BLOCK_SIZE + 0x9000, 2 * BLOCK_SIZE - 0x9000, false, None).unwrap();
        assert_eq!(in_place_of(&mm, tail + 0x9000..start + 2 * BLOCK_SIZE - 0x9000), 512 - 18);
    }

    #[test]
    fn a_heap_is_in_place_as_a_whole_and_a_stack_from_the_touch_up() {
        let (mm, write) = (mm(), Access::READ | Access::WRITE);
        let touch =
            |address| assert_eq!(mm.page_fault(address, FaultAccess::Write, false), FaultOutcome::Retry);
        let heap = 0x5555_5580_0000;
        mm.place_heap(heap);
        // More than is assigned at once. An allocator marks the end of what it has got first.
        let end = heap + BLOCK_SIZE - 0x5000;
        assert_eq!(mm.set_heap_end(end), end);
        touch(end - 0x1000);
        assert_eq!(in_place_of(&mm, heap..end), 512 - 5);

        // As a C library makes a stack: a guard, the rest accessible later.
        let stack = map_at(&mm, Placement::Stack(0x7000_0000_0000), BLOCK_SIZE, Access::empty());
        mm.protect(stack + PAGE_SIZE, BLOCK_SIZE - PAGE_SIZE, write).unwrap();
        touch(stack + BLOCK_SIZE - 0x2000);
        assert_eq!(in_place_of(&mm, stack..stack + BLOCK_SIZE), 2);
        mm.unmap(stack, BLOCK_SIZE).unwrap();
        assert!(mm.space.read().stacks.is_empty());
    }

    #[test]
    fn credit_follows_the_memory_limit() {
        let pages = |limit| Credit::of(limit).left;
        assert_eq!([pages(0), pages(256 << 20), pages(u64::MAX)], [LEAST, 8192, MOST]);
    }
}
