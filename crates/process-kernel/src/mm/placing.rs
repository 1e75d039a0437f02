//! Where a new area goes that may go anywhere.

use super::layout;
use super::physical::BLOCK_SIZE;
use super::vma::{Backing, VmaMap};

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

#[cfg(test)]
mod tests {
    use super::super::vma::{Access, Vma};
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
