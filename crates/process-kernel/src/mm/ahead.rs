//! Memory that is in place before a program touches it.
//!
//! On software KVM each first touch of a fresh page leaves the guest, which costs some eighty times what the host needs to put
//! one in place; of pages that are in place already, eight come with one fault. Allocators map small areas to use them, and
//! unmap what they don't need to map as much anew a moment later. So small areas get their pages at once, on credit: what a
//! program has that way and may never touch is bounded, and what it gives back it can have again.

use guest_memory::{Advice, GuestMemory};
use pages::{PAGE_SIZE, PageCount, PageRange};

use super::AddressSpace;
use super::vma::{Access, Backing, Vma};

/// Pages that are put in place ahead, at most, unless as many are given back: 16 MiB.
const MOST: u64 = 4096;

/// How many pages more may be put in place ahead.
#[derive(Debug)]
pub(crate) struct Credit(u64);

impl Default for Credit {
    fn default() -> Self {
        Self(MOST)
    }
}

fn is_private_memory(area: &Vma) -> bool {
    matches!(area.backing, Backing::Anonymous) && area.access.contains(Access::WRITE)
}

impl Credit {
    /// Notes that `pages` of `area` are about to be given back. Only those count that are in memory.
    pub fn note(&mut self, memory: &GuestMemory, area: &Vma, pages: PageRange) {
        let room = MOST - self.0;
        if room == 0 || !is_private_memory(area) {
            return;
        }
        let asked = PageRange::new(pages.start, PageCount(pages.count.0.min(room)));
        // What the host doesn't tell is not counted: this only concerns speed.
        let resident = memory.resident(asked).unwrap_or_default();
        self.0 += resident.into_iter().filter(|resident| *resident).count() as u64;
    }

    /// Whether there is credit for a new area.
    fn take(&mut self, area: &Vma) -> bool {
        let pages = area.length() / PAGE_SIZE;
        let taken = is_private_memory(area) && pages <= self.0;
        if taken {
            self.0 -= pages;
        }
        taken
    }
}

impl AddressSpace {
    /// Puts the pages of a new `area`, which has its guest-physical pages, in place if there is credit for them.
    pub(super) fn put_in_place(&mut self, memory: &GuestMemory, area: &Vma) {
        if self.credit.take(area) {
            for extent in self.assigned.pieces(area.start..area.end) {
                // If there is no memory for it now, the program's touches tell.
                let _ = memory.advise(extent.pages(), Advice::PopulateWrite);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{MapRequest, Mm, NoSlots, Placement};
    use super::*;

    /// As large as areas are that get their pages at once.
    const LENGTH: u64 = 1 << 20;
    const PAGES: u64 = LENGTH / PAGE_SIZE;

    fn mm() -> Mm {
        let memory = Arc::new(GuestMemory::reserve(PageCount(1 << 15)).unwrap());
        Mm::new(memory, Arc::new(NoSlots)).unwrap()
    }

    fn map(mm: &Mm, access: Access) -> u64 {
        mm.map(MapRequest {
            placement: Placement::Hint(0),
            length: LENGTH,
            access,
            backing: Backing::Anonymous,
            name: "",
        })
        .unwrap()
    }

    /// How many pages of an area are in memory.
    fn in_place(mm: &Mm, start: u64) -> u64 {
        let space = mm.space.read();
        let extents = space.assigned.pieces(start..start + LENGTH);
        let resident = extents.iter().flat_map(|extent| mm.memory.resident(extent.pages()).unwrap());
        resident.filter(|resident| *resident).count() as u64
    }

    #[test]
    fn small_areas_are_in_place_until_the_credit_is_used_up() {
        let mm = mm();
        let write = Access::READ | Access::WRITE;
        assert_eq!(in_place(&mm, map(&mm, Access::READ)), 0, "what can't be written stays zero");
        let areas: Vec<u64> = (0..MOST / PAGES).map(|_| map(&mm, write)).collect();
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
        let areas: Vec<u64> = (0..MOST / PAGES + 1).map(|_| map(&mm, write)).collect();
        let untouched = areas[areas.len() - 1];
        mm.unmap(untouched, LENGTH).unwrap();
        assert_eq!(in_place(&mm, map(&mm, write)), 0);
    }
}
