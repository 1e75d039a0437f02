//! Blocks that are new to a restored process: memory that is ready for them, and what a recorded invocation had in them.
//!
//! Guest-physical space is handed out in order, so a restored process takes the blocks that the recorded invocation took. A spare
//! worker may have memory ready there, with shadow tables on software KVM (docs/restore.md, 6). What an area gets of it is not
//! mapped anew, so that the guest has one fault for the block in place of one for eight pages.

use std::collections::BTreeSet;

use guest_memory::GuestMemory;
use pages::{Block, PageCount, PageRange, PageSet};
use rustix::io::Errno;

use super::ahead::is_private_memory;
use super::assignment::Extent;
use super::vma::Vma;
use super::{AddressSpace, Mm, errno_of};

/// What of guest-physical space no area of the snapshot has.
#[derive(Debug, Default)]
pub(crate) struct Growth {
    /// Pages of blocks never handed out: in memory, writable, zero.
    ready: PageSet,
    /// For a recorded invocation.
    seen: Option<Seen>,
}

/// What was in memory of blocks that were handed out since the restore.
#[derive(Debug)]
struct Seen {
    /// Blocks that don't count: those of the snapshot, and those that have a huge page.
    left_out: BTreeSet<Block>,
    pages: PageSet,
}

impl Growth {
    /// Takes what is ready of a block that is handed out.
    pub fn take(&mut self, block: Block) -> PageSet {
        let taken: PageSet = self.ready.within(block.pages()).collect();
        if !taken.is_empty() {
            self.ready = self.ready.difference(&taken);
        }
        taken
    }

    /// Notes what is in memory of `extent`, which lies in `area`.
    fn note(&mut self, memory: &GuestMemory, area: &Vma, extent: &Extent) {
        let Some(seen) = &mut self.seen else { return };
        if !is_private_memory(area) {
            return;
        }
        for block in Block::meeting(extent.pages()).filter(|block| !seen.left_out.contains(block)) {
            let pages = block.pages().intersection(extent.pages());
            // What the host doesn't tell is not recorded: this only concerns speed.
            let resident = memory.resident(pages).unwrap_or_default();
            let there = pages.iter().zip(resident).filter(|(_, resident)| *resident);
            seen.pages.extend(there.map(|(page, _)| PageRange::new(page, PageCount(1))));
        }
    }
}

impl AddressSpace {
    /// Notes what is in memory of `extent`, which is about to be given back, if that is recorded.
    pub(super) fn note_growth(&mut self, memory: &GuestMemory, area: &Vma, extent: &Extent) {
        self.growth.note(memory, area, extent);
    }

    /// Makes the host mapping behind `pages` what `area` says, which has just these pages of a new block; `ready` ones that it can
    /// use stay as they are. Gives those that are left for other areas.
    pub(super) fn map_new(
        &mut self,
        memory: &GuestMemory,
        pages: PageRange,
        area: &Vma,
        ready: &PageSet,
    ) -> Result<PageSet, Errno> {
        if is_private_memory(area) && pages.count < Block::PAGES {
            ready.gaps(pages).try_for_each(|run| self.map_host(memory, run, area))?;
        } else {
            self.map_host(memory, pages, area)?;
        }
        if let Some(seen) = self.growth.seen.as_mut().filter(|_| pages.count == Block::PAGES) {
            // It gets a huge page.
            seen.left_out.insert(Block::containing(pages.start));
        }
        Ok(ready.difference(&[pages].into_iter().collect()))
    }
}

impl Mm {
    /// Says which pages of blocks that are not handed out yet are ready: in memory, writable, zero. For a restored process that doesn't
    /// run yet.
    pub fn expect_growth(&self, ready: PageSet) {
        self.space.write().growth.ready = ready;
    }

    /// Notes from now on what is in memory of blocks that are handed out.
    pub(super) fn watch_growth(&self, space: &mut AddressSpace) {
        let left_out = space.assigned.iter().map(|(_, block)| block).collect();
        space.growth.seen = Some(Seen { left_out, pages: PageSet::new() });
    }

    /// What was in memory, at any time since [`Mm::watch_touches`], of blocks handed out since then.
    pub fn grown(&self) -> PageSet {
        let mut space = self.space.write();
        let space = &mut *space;
        let areas: Vec<(Vma, Extent)> = space
            .areas
            .iter()
            .flat_map(|area| {
                let extents = space.assigned.pieces(area.start..area.end).into_iter();
                extents.map(|extent| (area.clone(), extent))
            })
            .collect();
        areas.iter().for_each(|(area, extent)| space.growth.note(&self.memory, area, extent));
        space.growth.seen.as_ref().map(|seen| seen.pages.clone()).unwrap_or_default()
    }

    /// Gives back what is ready of blocks that were not handed out yet.
    ///
    /// # Errors
    /// The host's refusal.
    pub fn end_growth(&self) -> Result<(), Errno> {
        self.give_up_growth(&mut self.space.write())
    }

    /// The same, under the lock.
    pub(super) fn give_up_growth(&self, space: &mut AddressSpace) -> Result<(), Errno> {
        let ready = std::mem::take(&mut space.growth.ready);
        ready.runs().iter().try_for_each(|run| self.memory.release(*run)).map_err(|error| errno_of(&error))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use guest_memory::{Advice, Protection, Source};
    use pages::{GuestPhysical, PAGE_SIZE, PageIndex};

    use super::super::physical::BLOCK_SIZE;
    use super::super::vma::{Access, Backing};
    use super::super::{MapRequest, NoSlots, Placement, layout};
    use super::*;

    const WRITE: Access = Access::READ.union(Access::WRITE);

    fn mm() -> Mm {
        let memory = Arc::new(GuestMemory::reserve(PageCount(1 << 15)).unwrap());
        let mut mm = Mm::new(memory, Arc::new(NoSlots)).unwrap();
        mm.restored = true;
        mm
    }

    /// Makes pages of the first two blocks ready, but not zero, so that it shows what was mapped anew.
    fn make_ready(mm: &Mm, runs: &[(u64, u64)]) {
        let first = layout::FIRST_BLOCK.first();
        let pages: PageSet = runs
            .iter()
            .map(|(start, count)| PageRange::new(PageIndex(first.0 + start), PageCount(*count)))
            .collect();
        for run in pages.runs() {
            mm.memory.map(*run, Source::Anonymous, Protection::ReadWrite).unwrap();
        }
        for page in pages.pages() {
            mm.memory.write(page.address(), &[7]).unwrap();
        }
        mm.expect_growth(pages);
    }

    fn map(mm: &Mm, placement: Placement, length: u64, access: Access) -> u64 {
        mm.map(MapRequest { placement, length, access, backing: Backing::Anonymous, name: "" }).unwrap()
    }

    /// The first byte of a page of the first blocks, if it is accessible.
    fn byte(mm: &Mm, page: u64) -> Option<u8> {
        let mut byte = [0];
        let at: GuestPhysical = PageIndex(layout::FIRST_BLOCK.first().0 + page).address();
        mm.memory.read(at, &mut byte).ok().map(|()| byte[0])
    }

    #[test]
    fn an_area_gets_what_is_ready_of_its_block_and_nothing_else_stays() {
        let mm = mm();
        make_ready(&mm, &[(0, 30), (40, 30), (512, 8)]);
        let start = map(&mm, Placement::Hint(0), 50 * PAGE_SIZE, WRITE);
        assert_eq!(start % BLOCK_SIZE, 0);
        assert_eq!([0, 29, 30, 39, 40, 49].map(|page| byte(&mm, page)), [7, 7, 0, 0, 7, 7].map(Some));
        assert_eq!([50, 69, 70].map(|page| byte(&mm, page)), [None; 3], "where no area is");
        assert_eq!(byte(&mm, 512), Some(7), "not handed out yet");

        mm.unmap(start, 50 * PAGE_SIZE).unwrap();
        assert_eq!(byte(&mm, 0), None);
        assert_eq!(map(&mm, Placement::Hint(0), 50 * PAGE_SIZE, WRITE), start);
        assert_eq!(byte(&mm, 0), Some(0), "what was used is not ready");
    }

    #[test]
    fn only_writable_memory_is_ready() {
        for access in [Access::READ, Access::empty()] {
            let mm = mm();
            make_ready(&mm, &[(0, 512)]);
            let start = map(&mm, Placement::Fixed(0x4000_0000), 20 * PAGE_SIZE, access);
            map(&mm, Placement::Fixed(start + 20 * PAGE_SIZE), 4 * PAGE_SIZE, WRITE);
            let seen = if access.is_empty() { None } else { Some(0) };
            // What can be written came with the block, or later.
            let written = if access.is_empty() { Some(7) } else { Some(0) };
            assert_eq!([byte(&mm, 0), byte(&mm, 19), byte(&mm, 24)], [seen, seen, None]);
            assert_eq!(byte(&mm, 20), written);
            assert!(mm.memory.write(layout::FIRST_BLOCK.first().address(), &[1]).is_err());
        }
    }

    #[test]
    fn a_whole_block_is_mapped_for_a_huge_page() {
        let mm = mm();
        make_ready(&mm, &[(0, 512)]);
        let start = map(&mm, Placement::Hint(0), BLOCK_SIZE, WRITE);
        mm.populate(start, PAGE_SIZE, Advice::PopulateWrite).unwrap();
        assert_eq!(byte(&mm, 0), Some(0));
    }

    #[test]
    fn what_was_not_used_is_given_up() {
        let mm = mm();
        make_ready(&mm, &[(0, 4), (512, 4)]);
        map(&mm, Placement::Hint(0), 128 << 10, WRITE);
        mm.end_growth().unwrap();
        assert_eq!([byte(&mm, 0), byte(&mm, 512)], [Some(7), None]);
    }

    #[test]
    fn what_an_invocation_had_is_recorded_also_when_it_gave_it_back() {
        let mm = mm();
        let old = map(&mm, Placement::Hint(0), 8 * PAGE_SIZE, WRITE);
        mm.watch_growth(&mut mm.space.write());
        let [gone, kept, _huge] =
            [64, 32, 512].map(|pages| map(&mm, Placement::Hint(0), pages * PAGE_SIZE, WRITE));
        map(&mm, Placement::Fixed(old - 8 * PAGE_SIZE), 8 * PAGE_SIZE, WRITE);
        map(&mm, Placement::Fixed(kept + 40 * PAGE_SIZE), 2 * PAGE_SIZE, Access::READ);
        mm.unmap(gone, 64 * PAGE_SIZE).unwrap();
        let first = layout::FIRST_BLOCK.0;
        let pages = |block: u64, count| PageRange::new(Block(first + block).first(), PageCount(count));
        assert_eq!(mm.grown(), [pages(1, 64), pages(2, 32)].into_iter().collect());
    }

    #[test]
    fn areas_of_a_restored_process_have_blocks_of_their_own_within_bounds() {
        let mut mm = mm();
        let length = 256 << 10;
        let apart: Vec<u64> = (0..3).map(|_| map(&mm, Placement::Hint(0), length, WRITE)).collect();
        assert!(apart.iter().all(|start| start % BLOCK_SIZE == 0));
        let small = map(&mm, Placement::Hint(0), 64 << 10, WRITE);
        assert!(small > apart[0], "what is left free is used");
        assert_eq!(
            map(&mm, Placement::Stack(0), length, WRITE) % BLOCK_SIZE,
            BLOCK_SIZE - (length + (64 << 10))
        );
        mm.unmap(apart[1], length).unwrap();
        assert_eq!(map(&mm, Placement::Hint(0), length, WRITE), apart[1]);
        assert_eq!(mm.space.read().apart, 3);
        mm.space.write().apart = 128;
        assert_ne!(map(&mm, Placement::Hint(0), length, WRITE) % BLOCK_SIZE, 0);
        mm.restored = false;
        mm.space.write().apart = 0;
        assert_ne!(map(&mm, Placement::Hint(0), length, WRITE) % BLOCK_SIZE, 0);
    }
}
