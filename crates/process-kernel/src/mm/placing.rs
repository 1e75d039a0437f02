//! Where a new area goes that may go anywhere.

use std::ops::Range;

use super::physical::BLOCK_SIZE;
use super::vma::{Access, Backing, VmaMap};
use super::{AddressSpace, layout};

/// Sizes of areas that get a block of their own in a restored process: what allocators map to cut up, and large buffers.
const APART: Range<u64> = 128 << 10..BLOCK_SIZE;
/// Blocks that are handed out for them (256 MiB of guest-physical space): enough for what a spare worker can have ready.
const MOST_APART: usize = 128;

/// Below which address such an area goes.
fn ceiling_for(backing: &Backing) -> u64 {
    match backing {
        Backing::Anonymous => layout::ANONYMOUS_TOP,
        Backing::File { .. } => layout::MMAP_TOP,
    }
}

/// The start of a free range of `length` bytes, whole pages. Where huge pages would serve anonymous memory (`huge`), it begins at a
/// multiple of 2 MiB if there is room, as Linux places it (since 6.7): all but its end lies in whole blocks then, and a block
/// comes with one fault.
pub(super) fn free_range(areas: &mut VmaMap, length: u64, backing: &Backing, huge: bool) -> Option<u64> {
    let ceiling = ceiling_for(backing);
    if huge && matches!(backing, Backing::Anonymous) && length >= BLOCK_SIZE {
        let roomy = length.checked_add(BLOCK_SIZE - pages::PAGE_SIZE)?;
        if let Some(start) = areas.find_gap(roomy, layout::LOWEST, ceiling) {
            return Some(start.next_multiple_of(BLOCK_SIZE));
        }
    }
    areas.find_gap(length, layout::LOWEST, ceiling)
}

impl AddressSpace {
    /// The same for memory of the program's own in a restored process, at the beginning of a block in which nothing else is. A block
    /// that is handed out for one area can have memory ready for it ([`super::growth`]), and comes with one fault; one
    /// that areas share is mapped piece by piece, and its pages come by eight. Others go where [`free_range`] says.
    pub(super) fn range_apart(&mut self, length: u64, access: Access, backing: &Backing) -> Option<u64> {
        let suits = matches!(backing, Backing::Anonymous)
            && access.contains(Access::WRITE)
            && APART.contains(&length);
        if !suits || self.apart >= MOST_APART {
            return None;
        }
        let start = self.areas.find_free_block(BLOCK_SIZE, layout::LOWEST, layout::ANONYMOUS_TOP)?;
        self.apart += usize::from(self.assigned.page(start).is_none());
        Some(start)
    }
}

#[cfg(test)]
mod tests {
    use super::super::vma::Vma;
    use super::*;

    #[test]
    fn large_anonymous_areas_begin_where_huge_pages_do() {
        let mut areas = VmaMap::default();
        let backing = Backing::Anonymous;
        let place = |areas: &mut VmaMap, length, huge| {
            let start = free_range(areas, length, &backing, huge).unwrap();
            areas.insert(Vma {
                start,
                end: start + length,
                access: Access::READ,
                backing: backing.clone(),
                wipe_on_fork: false,
                name: "",
            });
            start
        };
        let small = place(&mut areas, 0x3000, true);
        assert_eq!(small, layout::ANONYMOUS_TOP - 0x3000);
        let large = place(&mut areas, BLOCK_SIZE + 0x1000, true);
        assert_eq!(large % BLOCK_SIZE, 0);
        let stack = place(&mut areas, BLOCK_SIZE, false);
        assert_eq!(stack, large - BLOCK_SIZE);
        let between = place(&mut areas, 0x4000, true);
        assert!(between > large && between < small, "what alignment left free is used");
    }
}
