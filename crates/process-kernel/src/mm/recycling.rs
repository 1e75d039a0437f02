//! Memory that a program gives back and takes again.
//!
//! Allocators unmap what they don't need and map as much anew a moment later. On software KVM each first touch of a fresh page
//! leaves the guest, which costs more than the page's content ever will; of pages that the host has in place already, eight
//! come with one fault. So as many pages as a program has just given back are put in place at once when it maps memory
//! again. It never has more that way than it had before, and one that only ever takes gets nothing ahead.

use guest_memory::{Advice, GuestMemory};
use pages::{PAGE_SIZE, PageCount, PageRange};

use super::AddressSpace;
use super::vma::{Access, Backing, Vma};

/// Pages that are remembered as given back, and put in place ahead at a time, at most: 4 MiB.
const MOST: u64 = 1024;

/// How many pages a program has given back and not taken again, up to [`MOST`].
#[derive(Debug, Default)]
pub(crate) struct GivenBack(u64);

fn is_private_memory(area: &Vma) -> bool {
    matches!(area.backing, Backing::Anonymous) && area.access.contains(Access::WRITE)
}

impl GivenBack {
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

    /// Whether a new area takes back what was given back before.
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
    /// Puts the pages of a new `area`, which has its guest-physical pages, in place if the program has given back as many.
    pub(super) fn put_in_place(&mut self, memory: &GuestMemory, area: &Vma) {
        if self.given_back.take(area) {
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

    const LENGTH: u64 = 16 * PAGE_SIZE;

    fn mm() -> Mm {
        let memory = Arc::new(GuestMemory::reserve(PageCount(1 << 14)).unwrap());
        Mm::new(memory, Arc::new(NoSlots)).unwrap()
    }

    fn map(mm: &Mm) -> u64 {
        mm.map(MapRequest {
            placement: Placement::Hint(0),
            length: LENGTH,
            access: Access::READ | Access::WRITE,
            backing: Backing::Anonymous,
            name: "",
        })
        .unwrap()
    }

    /// How many pages of an area are in memory.
    fn in_place(mm: &Mm, start: u64) -> usize {
        let space = mm.space.read();
        let extents = space.assigned.pieces(start..start + LENGTH);
        extents
            .iter()
            .flat_map(|extent| mm.memory.resident(extent.pages()).unwrap())
            .filter(|resident| *resident)
            .count()
    }

    #[test]
    fn as_much_as_was_given_back_is_put_in_place() {
        let mm = mm();
        let first = map(&mm);
        assert_eq!(in_place(&mm, first), 0, "a program that only takes gets nothing ahead");
        mm.write(first, &[7; LENGTH as usize]).unwrap();
        mm.unmap(first, LENGTH).unwrap();

        let second = map(&mm);
        assert_eq!(in_place(&mm, second), 16);
        let mut bytes = [1; LENGTH as usize];
        mm.read(second, &mut bytes).unwrap();
        assert!(bytes.iter().all(|byte| *byte == 0), "what comes back is zero");

        let third = map(&mm);
        assert_eq!(in_place(&mm, third), 0, "nothing more was given back");
    }

    #[test]
    fn untouched_memory_does_not_count() {
        let mm = mm();
        let first = map(&mm);
        mm.write(first, &[7; PAGE_SIZE as usize]).unwrap();
        mm.unmap(first, LENGTH).unwrap();
        let second = map(&mm);
        assert_eq!(in_place(&mm, second), 0);
    }
}
