//! Virtual memory areas: what the guest's program has mapped where.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bitflags::bitflags;
use pages::PAGE_SIZE;

use crate::file::Mappable;

bitflags! {
    /// PROT_* bits.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Access: u32 {
        /// PROT_READ
        const READ = 1;
        /// PROT_WRITE
        const WRITE = 2;
        /// PROT_EXEC. Not enforced: see docs/process-guest.md.
        const EXECUTE = 4;
    }
}

/// Where an area's bytes come from.
#[derive(Clone)]
pub enum Backing {
    /// Zero pages. Shared anonymous memory is the same thing in a guest of one process.
    Anonymous,
    /// Pages of a file.
    File {
        /// The file.
        file: Arc<dyn Mappable>,
        /// Byte offset of the area's first page.
        offset: u64,
        /// MAP_SHARED: writes go to the file.
        shared: bool,
    },
}

impl Backing {
    /// The backing of the part that starts `bytes` further on.
    fn advanced(&self, bytes: u64) -> Self {
        match self {
            Self::Anonymous => Self::Anonymous,
            Self::File { file, offset, shared } => {
                Self::File { file: file.clone(), offset: offset + bytes, shared: *shared }
            }
        }
    }

    /// Whether `next` continues this backing after `bytes`.
    fn continues(&self, bytes: u64, next: &Self) -> bool {
        match (self, next) {
            (Self::Anonymous, Self::Anonymous) => true,
            (
                Self::File { file: a, offset, shared: x },
                Self::File { file: b, offset: next_offset, shared: y },
            ) => Arc::ptr_eq(a, b) && offset + bytes == *next_offset && x == y,
            _ => false,
        }
    }
}

/// One area: page-aligned, with one protection and one backing.
#[derive(Clone)]
pub struct Vma {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
    /// What the program may do.
    pub access: Access,
    /// Where the bytes come from.
    pub backing: Backing,
    /// MADV_WIPEONFORK: a restore, which multiplies the process as a fork does, zeroes it.
    pub wipe_on_fork: bool,
    /// Pseudo-path for /proc/self/maps ("[heap]", "[stack]", "[vdso]"), or empty.
    pub name: &'static str,
}

impl Vma {
    /// Bytes.
    pub fn length(&self) -> u64 {
        self.end - self.start
    }

    /// The part of the area inside `range`.
    pub fn clipped(&self, range: &Range<u64>) -> Self {
        let start = self.start.max(range.start);
        let end = self.end.min(range.end);
        Self { start, end, backing: self.backing.advanced(start - self.start), ..self.clone() }
    }

    fn merges_with(&self, next: &Self) -> bool {
        self.end == next.start
            && self.access == next.access
            && self.wipe_on_fork == next.wipe_on_fork
            && self.name == next.name
            && self.backing.continues(self.length(), &next.backing)
    }
}

/// All areas, disjoint and sorted.
#[derive(Default)]
pub struct VmaMap {
    areas: BTreeMap<u64, Vma>,
    /// One for each ceiling.
    searched: Vec<Searched>,
}

/// Areas that a search for a free block looks at.
const LOOKED_AT: usize = 1024;

/// What the last search for a gap found out, so that the next one need not walk over the same areas: the address space fills
/// from the top, and a program may have tens of thousands of areas.
#[derive(Clone, Copy)]
struct Searched {
    ceiling: u64,
    length: u64,
    /// Between here and the ceiling there is no gap of `length` bytes.
    full_above: u64,
}

impl VmaMap {
    /// The area that holds `address`.
    pub fn find(&self, address: u64) -> Option<&Vma> {
        let (_, area) = self.areas.range(..=address).next_back()?;
        (address < area.end).then_some(area)
    }

    /// The areas that meet `range`, whole.
    pub fn overlapping(&self, range: Range<u64>) -> impl Iterator<Item = &Vma> {
        let first = self.find(range.start).map_or(range.start, |area| area.start);
        self.areas.range(first..range.end.max(first)).map(|(_, area)| area)
    }

    /// Every area in order.
    pub fn iter(&self) -> impl Iterator<Item = &Vma> {
        self.areas.values()
    }

    /// How many areas there are.
    pub fn count(&self) -> usize {
        self.areas.len()
    }

    /// Takes the parts of areas inside `range` out and returns them.
    pub fn remove(&mut self, range: Range<u64>) -> Vec<Vma> {
        self.searched.retain(|known| range.end <= known.full_above);
        let keys: Vec<u64> = self.overlapping(range.clone()).map(|area| area.start).collect();
        let mut removed = Vec::with_capacity(keys.len());
        for key in keys {
            let Some(area) = self.areas.remove(&key) else { continue };
            if area.start < range.start {
                let left = area.clipped(&(area.start..range.start));
                self.areas.insert(left.start, left);
            }
            if area.end > range.end {
                let right = area.clipped(&(range.end..area.end));
                self.areas.insert(right.start, right);
            }
            removed.push(area.clipped(&range));
        }
        removed
    }

    /// Puts `area` where nothing is, and merges it with like neighbours.
    pub fn insert(&mut self, mut area: Vma) {
        if area.start >= area.end {
            return;
        }
        if let Some(before) = area.start.checked_sub(1).and_then(|address| self.find(address))
            && before.merges_with(&area)
        {
            let start = before.start;
            if let Some(before) = self.areas.remove(&start) {
                area = Vma { start, backing: before.backing, ..area };
            }
        }
        if let Some(after) = self.areas.get(&area.end)
            && area.merges_with(after)
        {
            let (key, end) = (after.start, after.end);
            self.areas.remove(&key);
            area.end = end;
        }
        self.areas.insert(area.start, area);
    }

    /// Changes every area inside `range` by `change`, splitting at the ends.
    pub fn update(&mut self, range: Range<u64>, mut change: impl FnMut(&mut Vma)) {
        for mut area in self.remove(range) {
            change(&mut area);
            self.insert(area);
        }
    }

    /// Whether areas cover all of `range`.
    pub fn covers(&self, range: Range<u64>) -> bool {
        let mut next = range.start;
        for area in self.overlapping(range.clone()) {
            if area.start > next {
                return false;
            }
            next = area.end;
        }
        next >= range.end
    }

    /// Whether nothing lies in `range`.
    pub fn is_free(&self, range: Range<u64>) -> bool {
        self.overlapping(range).next().is_none()
    }

    /// The highest free gap of `length` bytes below `ceiling` and not below `floor`.
    pub fn find_gap(&mut self, length: u64, floor: u64, ceiling: u64) -> Option<u64> {
        let known = self.searched.iter().find(|known| known.ceiling == ceiling && known.length <= length);
        let mut top = known.map_or(ceiling, |known| known.full_above);
        for (_, area) in self.areas.range(..top).rev() {
            if area.end <= top && top - area.end >= length {
                break;
            }
            top = top.min(area.start);
        }
        self.searched.retain(|known| known.ceiling != ceiling);
        self.searched.push(Searched { ceiling, length, full_above: top });
        let start = top.checked_sub(length)?;
        (start >= floor).then_some(start & !(PAGE_SIZE - 1))
    }

    /// The highest free range of `size` bytes that begins at a multiple of `size`, a power of two, below `ceiling` and not below
    /// `floor`; `None` when there is none among the highest areas.
    pub fn find_free_block(&self, size: u64, floor: u64, ceiling: u64) -> Option<u64> {
        let highest = |top: u64| top.checked_sub(size).map(|start| start & !(size - 1));
        let mut top = ceiling;
        for (_, area) in self.areas.range(..ceiling).rev().take(LOOKED_AT) {
            if highest(top).is_some_and(|start| start >= area.end) {
                return highest(top).filter(|start| *start >= floor);
            }
            top = top.min(area.start);
        }
        let is_lowest = self.areas.range(..top).next().is_none();
        highest(top).filter(|start| is_lowest && *start >= floor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn area(start: u64, end: u64, access: Access) -> Vma {
        Vma { start, end, access, backing: Backing::Anonymous, wipe_on_fork: false, name: "" }
    }

    fn shape(map: &VmaMap) -> Vec<(u64, u64)> {
        map.iter().map(|area| (area.start, area.end)).collect()
    }

    #[test]
    fn neighbours_of_one_kind_merge_and_others_do_not() {
        let mut map = VmaMap::default();
        map.insert(area(0x1000, 0x2000, Access::READ));
        map.insert(area(0x3000, 0x4000, Access::READ));
        map.insert(area(0x2000, 0x3000, Access::READ));
        map.insert(area(0x4000, 0x5000, Access::WRITE));
        assert_eq!(shape(&map), [(0x1000, 0x4000), (0x4000, 0x5000)]);
    }

    #[test]
    fn removing_the_middle_splits() {
        let mut map = VmaMap::default();
        map.insert(area(0x1000, 0x9000, Access::READ));
        let removed = map.remove(0x3000..0x5000);
        assert_eq!((removed[0].start, removed[0].end), (0x3000, 0x5000));
        assert_eq!(shape(&map), [(0x1000, 0x3000), (0x5000, 0x9000)]);
        assert!(map.is_free(0x3000..0x5000));
        assert!(!map.covers(0x2000..0x6000));
    }

    #[test]
    fn gaps_are_found_from_the_top() {
        let mut map = VmaMap::default();
        map.insert(area(0x8000, 0x9000, Access::READ));
        map.insert(area(0x4000, 0x7000, Access::READ));
        assert_eq!(map.find_gap(0x1000, 0x1000, 0xa000), Some(0x9000));
        assert_eq!(map.find_gap(0x1000, 0x1000, 0x9000), Some(0x7000));
        assert_eq!(map.find_gap(0x2000, 0x1000, 0x9000), Some(0x2000));
        assert_eq!(map.find_gap(0x8000, 0x1000, 0x9000), None);
        assert_eq!(map.find_gap(0x1000, 0x1000, 0x8800), Some(0x7000));
        // What is given back above an earlier search's end is found again.
        assert_eq!(map.find_gap(0x2000, 0x1000, 0x9000), Some(0x2000));
        map.remove(0x8000..0x9000);
        assert_eq!(map.find_gap(0x2000, 0x1000, 0x9000), Some(0x7000));
        map.insert(area(0x7000, 0x9000, Access::READ));
        assert_eq!(map.find_gap(0x2000, 0x1000, 0x9000), Some(0x2000));
    }

    #[test]
    fn free_blocks_are_aligned() {
        let mut map = VmaMap::default();
        assert_eq!(map.find_free_block(0x4000, 0x1000, 0x1_a000), Some(0x1_4000));
        for (start, end) in [(0x1_5000, 0x1_6000), (0xa000, 0xc000), (0x5000, 0x6000)] {
            map.insert(area(start, end, Access::READ));
        }
        assert_eq!(map.find_free_block(0x4000, 0x1000, 0x1_a000), Some(0x1_0000));
        map.insert(area(0xd000, 0x1_3000, Access::WRITE));
        assert_eq!(map.find_free_block(0x4000, 0x1000, 0x1_a000), None);
        map.remove(0x5000..0x6000);
        assert_eq!(map.find_free_block(0x4000, 0x1000, 0x1_a000), Some(0x4000));
        assert_eq!(map.find_free_block(0x4000, 0x5000, 0x1_a000), None);
    }
}
