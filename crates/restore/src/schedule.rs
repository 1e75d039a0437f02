//! In which order memory is brought in: pieces of work, each with what makes its blocks complete.
//!
//! The first is done before the guest runs. Each of the others is a block that something is known of, or, last, all blocks
//! that nothing is known of. Whichever of them the guest waits for is taken next ([`crate::progress`]).

use std::collections::{HashMap, HashSet};

use pages::{Block, PageRange, PageSet};

use crate::loading_set::Piece;
use crate::placement::{FromFile, Placement};
use crate::plan::RestorePlan;

/// What makes the blocks of one piece of work complete.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Unit {
    /// Those of its blocks that are let in when it is done.
    pub blocks: Vec<Block>,
    /// What is mapped, in order.
    pub steps: RestorePlan,
    /// Where a fault is to read a single page.
    pub random: Vec<PageRange>,
    /// Chunks of the loading set that have pages with a place in it.
    pub chunks: Vec<usize>,
    /// Pages of the guest's files with a place in it.
    pub files: Vec<FromFile>,
    /// How many of its blocks are read as wholes, by threads for these.
    pub huge: usize,
}

impl Unit {
    /// Whether something has to be read for it beside whole blocks.
    pub fn has_content(&self) -> bool {
        !(self.chunks.is_empty() && self.files.is_empty())
    }
}

/// All pieces of work, in order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Schedule {
    pub units: Vec<Unit>,
    /// How many of them are mapped before the guest runs.
    pub first: usize,
    /// The blocks that are read as wholes, by number, each with the piece of work that it belongs to; in order.
    pub huge: Vec<(usize, usize)>,
    /// The piece of work that lets a late block in. All other blocks are the first one's.
    unit_of: HashMap<Block, usize>,
}

/// Which blocks may come in late.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Late<'a> {
    pub blocks: &'a [Block],
    /// Those needed first, in that order.
    pub first: &'a [Block],
}

impl Schedule {
    /// The work of `plan`, which leaves the pages of `placement` alone, and of reading these, partly from `chunks`.
    pub fn new(plan: &RestorePlan, placement: &Placement, chunks: &[Vec<Piece>], late: Late<'_>) -> Self {
        let mut schedule = Self::of_blocks(placement, chunks, late);
        schedule.units.resize_with(schedule.units.len().max(1), Unit::default);
        for (block, unit) in &schedule.unit_of {
            if let Some(unit) = schedule.units.get_mut(*unit) {
                unit.blocks.push(*block);
            }
        }
        schedule.units.iter_mut().for_each(|unit| unit.blocks.sort_unstable());
        for step in &plan.steps {
            for (unit, range) in schedule.parts(step.range()) {
                schedule.edit(unit, |unit| unit.steps.steps.push(step.part(range)));
            }
        }
        for (number, chunk) in chunks.iter().enumerate() {
            for run in chunk.iter().flat_map(|piece| placement.pages.within(piece.range)) {
                for (unit, _) in schedule.parts(run) {
                    schedule.edit(unit, |unit| match unit.chunks.last() {
                        Some(last) if *last == number => {}
                        _ => unit.chunks.push(number),
                    });
                }
            }
        }
        for file in &placement.files {
            for (unit, range) in schedule.parts(file.range) {
                schedule.edit(unit, |unit| unit.files.push(file.part(range)));
            }
        }
        schedule
    }

    /// Which block belongs to which piece of work.
    fn of_blocks(placement: &Placement, chunks: &[Vec<Piece>], late: Late<'_>) -> Self {
        let blocks: HashSet<Block> = late.blocks.iter().copied().collect();
        // When something of a block is needed first, as far as the set's order tells.
        let mut needed: HashMap<Block, usize> = HashMap::new();
        let placed = placement.pages.runs().iter().map(|run| (usize::MAX, *run));
        let loaded = chunks
            .iter()
            .enumerate()
            .flat_map(|(number, chunk)| chunk.iter().map(move |piece| (number, piece.range)));
        for (number, range) in placed.chain(loaded) {
            for block in Block::meeting(range).filter(|block| blocks.contains(block)) {
                let known = needed.entry(block).or_insert(number);
                *known = number.min(*known);
            }
        }
        for block in late.first.iter().filter(|block| blocks.contains(block)) {
            needed.entry(*block).or_insert(0);
        }
        let rank = |block: &Block| late.first.iter().position(|first| first == block).unwrap_or(usize::MAX);
        let mut ordered: Vec<(Block, usize)> = needed.into_iter().collect();
        ordered.sort_unstable_by_key(|(block, number)| (rank(block), *number, *block));
        let mut unit_of: HashMap<Block, usize> =
            ordered.iter().enumerate().map(|(index, (block, _))| (*block, index + 1)).collect();
        let last = ordered.len() + 1;
        for block in late.blocks {
            unit_of.entry(*block).or_insert(last);
        }
        let first = 1 + ordered.iter().take_while(|(block, _)| rank(block) != usize::MAX).count();
        let count = unit_of.values().max().map_or(1, |last| last + 1);
        Self { units: vec![Unit::default(); count], first, huge: Vec::new(), unit_of }
    }

    /// The piece of work that `block` belongs to.
    pub fn unit_of(&self, block: Block) -> usize {
        self.unit_of.get(&block).copied().unwrap_or(0)
    }

    /// Whether something is mapped while the guest runs.
    pub fn has_late_units(&self) -> bool {
        self.first < self.units.len()
    }

    fn edit(&mut self, unit: usize, change: impl FnOnce(&mut Unit)) {
        if let Some(unit) = self.units.get_mut(unit) {
            change(unit);
        }
    }

    /// `range` cut where blocks of different pieces of work meet.
    fn parts(&self, range: PageRange) -> Vec<(usize, PageRange)> {
        let mut parts: Vec<(usize, PageRange)> = Vec::new();
        for block in Block::meeting(range) {
            let (unit, part) = (self.unit_of(block), block.pages().intersection(range));
            match parts.last_mut() {
                Some((last, before)) if *last == unit => {
                    *before = PageRange::between(before.start, part.end())
                }
                _ => parts.push((unit, part)),
            }
        }
        parts
    }

    /// `blocks` are read as wholes.
    pub fn read_whole(&mut self, blocks: impl Iterator<Item = Block>) {
        for (number, block) in blocks.enumerate() {
            let unit = self.unit_of(block);
            self.edit(unit, |unit| unit.huge += 1);
            self.huge.push((number, unit));
        }
        self.huge.sort_by_key(|(_, unit)| *unit);
    }

    /// Faults on `pages` are to read single pages, from when they are mapped on.
    pub fn read_singly(&mut self, pages: &PageSet) {
        for run in pages.runs() {
            for (unit, range) in self.parts(*run) {
                self.edit(unit, |unit| unit.random.push(range));
            }
        }
    }

    /// The chunks that have pages with a place, in the order in which they are needed.
    pub fn chunks(&self) -> Vec<usize> {
        self.units.iter().flat_map(|unit| unit.chunks.iter().copied()).collect()
    }

    /// How many mappings are made.
    pub fn mappings(&self) -> usize {
        self.units.iter().map(|unit| unit.steps.mappings()).sum()
    }
}

#[cfg(test)]
mod tests {
    use pages::PageCount;

    use super::*;
    use crate::layout::{Access, Backing, FileIndex, GuestLayout, Region};
    use crate::plan::StoredPages;
    use crate::tests::sample::{range, set};

    /// Ten blocks: 0 and 1 are the worker's own; 2 and 4 have pages with a place, 6 only loaded ones, 3, 5 and 7 to 9 nothing
    /// that is known.
    fn schedule(late: Late<'_>) -> Schedule {
        let region =
            |start, end, backing| Region { range: range(start, end), backing, access: Access::ReadWrite };
        let file = Backing::File { file: FileIndex(0), offset: 0, shared: false };
        let layout = GuestLayout::new(
            PageCount(5120),
            vec![
                region(0, 1024, Backing::Memory),
                region(1024, 1200, file),
                region(1200, 1536, Backing::Memory),
                region(1536, 5120, Backing::Memory),
            ],
        )
        .unwrap();
        let stored = set(&[(0, 20), (1210, 1300), (2040, 2060), (3100, 3110)]);
        let how = StoredPages::Mapped { merge_gap: PageCount(8) };
        let placement = Placement {
            pages: set(&[(1100, 1110), (1216, 1232), (2048, 2060)]),
            files: vec![FromFile { range: range(1100, 1110), file: FileIndex(0), offset: 0x1000 }],
            ..Placement::default()
        };
        let plan = RestorePlan::build(&layout, &stored, how, &[]).around(&placement.pages);
        let piece = |start, end| Piece { range: range(start, end), offset: start * 4096 };
        let chunks =
            [vec![piece(3100, 3110)], vec![piece(2040, 2060), piece(1216, 1220)], vec![piece(1224, 1232)]];
        Schedule::new(&plan, &placement, &chunks, late)
    }

    fn shown(unit: &Unit) -> Vec<String> {
        unit.steps.steps.iter().map(ToString::to_string).collect()
    }

    fn blocks(numbers: impl IntoIterator<Item = u64>) -> Vec<Block> {
        numbers.into_iter().map(Block).collect()
    }

    #[test]
    fn without_late_blocks_everything_is_done_first() {
        let schedule = schedule(Late::default());
        assert_eq!(schedule.units.len(), 1);
        assert!(!schedule.has_late_units());
        assert_eq!(schedule.units[0].chunks, [1, 2]);
        assert!(schedule.units[0].blocks.is_empty());
    }

    #[test]
    fn blocks_come_in_the_order_of_need_and_unknown_ones_last() {
        let late = blocks(2..10);
        let schedule = schedule(Late { blocks: &late, first: &blocks([7, 4]) });
        let order: Vec<_> = schedule.units.iter().map(|unit| unit.blocks.clone()).collect();
        assert_eq!(schedule.first, 3, "the worker's own and those needed first");
        let expected: [&[u64]; 7] = [&[], &[7], &[4], &[6], &[2], &[3], &[5, 8, 9]];
        assert_eq!(order, expected.map(|numbers| blocks(numbers.iter().copied())));
        let [first, _, four, six, two, three, _] = &schedule.units[..] else { panic!() };
        assert_eq!(shown(first), ["anonymous 20..1024 read-write", "memory-file 0..20 read-write"]);
        assert_eq!((&four.chunks[..], six.has_content()), (&[1][..], false));
        assert_eq!(two.chunks, [1, 2]);
        assert_eq!(two.files[0].range, range(1100, 1110));
        // A run of the memory file that lies in two blocks is mapped in two pieces, one of them around its place.
        assert!(shown(three).contains(&"memory-file 2040..2048 read-write".to_owned()), "{:?}", shown(three));
        assert_eq!(schedule.chunks(), [1, 1, 2]);
        assert_eq!(schedule.unit_of(Block(0)), 0);
    }

    #[test]
    fn every_page_is_mapped_by_one_piece_of_work_as_it_is_by_the_plan() {
        let (whole, late) = (schedule(Late::default()), blocks(2..10));
        let cut = schedule(Late { blocks: &late, first: &[] });
        let pages = |schedule: &Schedule| -> u64 {
            let steps = schedule.units.iter().flat_map(|unit| &unit.steps.steps);
            steps.map(|step| step.range().count.0).sum()
        };
        assert_eq!(pages(&whole), pages(&cut));
        for unit in &cut.units {
            for step in &unit.steps.steps {
                assert!(
                    Block::meeting(step.range())
                        .all(|block| { cut.unit_of(block) == 0 || unit.blocks.contains(&block) })
                );
            }
        }
    }
}
