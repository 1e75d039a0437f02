//! Which pages a spare worker makes ready: those that the next function to be restored is likely to touch.
//!
//! Functions of one runtime have their interpreter at the same guest-physical pages, since a guest's space is handed out in
//! the order in which it is asked for. Of ten Python functions nine tenths of what `hello` touches are touched by the others, too.

use std::path::Path;

use pages::{Block, PageCount, PageIndex, PageRange, PageSet};
use snapshot::Snapshot;

use crate::layout::{Access, Backing, GuestLayout, Region};
use crate::loading_set::LoadingSet;
use crate::placement::with_bridges;
use crate::recording::memory_pages;
use crate::strategy::RestoreStrategy;

/// Zero pages up to so many away from a known page of the same memory are likely, too: an allocator cuts up next what lies beside
/// what it has cut up.
const NEAR: u64 = 128;
/// Blocks beyond those that the recorded invocation grew into: another's input may be larger.
const FURTHER_BLOCKS: usize = 2;
/// What is ready of each of these: as much as Python's allocator asks for at once.
const FURTHER: PageCount = PageCount(256);

/// Guest-physical pages that are made ready, or are likely to be of use to a restore.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ReadyPages {
    /// All of them.
    pub pages: PageSet,
    /// Those of them that the guest's own page tables let it write. Their shadow tables may do so as well; others' would be
    /// made anew at the first write.
    pub writable: PageSet,
}

impl ReadyPages {
    /// What a restore of the snapshot in `directory` by the FaaSnap strategy is likely to use, by its recording; `None` when there is
    /// none that can be used. `grows` says whether it is a process guest's, which asks for memory as it needs it: another
    /// has all that it will have.
    pub fn of_snapshot(directory: &Path, grows: bool) -> Option<Self> {
        let snapshot = Snapshot::open(directory).ok()?;
        let layout = GuestLayout::from_snapshot(&snapshot).ok()?;
        let name = LoadingSet::file_name(RestoreStrategy::FaaSnap);
        let set = LoadingSet::open(&snapshot, name, &layout).ok()?;
        Some(Self::likely(&layout, snapshot.stored_pages(), &set, grows))
    }

    fn likely(layout: &GuestLayout, stored: &PageSet, set: &LoadingSet, grows: bool) -> Self {
        let whole = set.regions().iter().filter(|region| region.is_whole_block).map(|region| region.range);
        let known = set.pages().union(set.fresh()).union(&with_bridges(set.files(), layout));
        let near = if grows { near(&known, layout, stored) } else { PageSet::new() };
        let growth = if grows { likely_growth(set.fresh(), layout) } else { PageSet::new() };
        // Whole blocks get memory in one piece ([`crate::huge_blocks`]).
        let known = known.union(&near).difference(&whole.collect());
        let writable = known.intersection(&may_be_written(layout));
        Self { pages: known.union(&growth), writable }
    }

    /// Those that a guest with `layout` can use: none whose shadow tables permit what the guest's own forbid.
    pub(crate) fn usable(&self, layout: &GuestLayout) -> PageSet {
        let regions: PageSet = layout.regions().iter().map(|region| region.range).collect();
        let forbidden = regions.difference(&may_be_written(layout));
        self.pages.difference(&self.writable.intersection(&forbidden))
    }
}

/// The pages that the guest's own page tables let it write, and whose writes last no longer than it does.
fn may_be_written(layout: &GuestLayout) -> PageSet {
    let is_writable = |region: &&Region| {
        let is_private = matches!(region.backing, Backing::Memory | Backing::File { shared: false, .. });
        is_private && region.access == Access::ReadWrite
    };
    layout.regions().iter().filter(is_writable).map(|region| region.range).collect()
}

/// Zero pages near those that are `known`, in memory that the guest may write.
fn near(known: &PageSet, layout: &GuestLayout, stored: &PageSet) -> PageSet {
    let zero = memory_pages(layout).difference(stored).intersection(&may_be_written(layout));
    let around = |region: &Region| {
        let around = known.within(region.range).map(|run| {
            let start = PageIndex(run.start.0.saturating_sub(NEAR));
            PageRange::between(start, PageIndex(run.end().0 + NEAR)).intersection(region.range)
        });
        around.collect::<Vec<_>>()
    };
    layout.regions().iter().flat_map(around).collect::<PageSet>().intersection(&zero)
}

/// What a guest with `layout` is likely to use of blocks that it doesn't have yet, when it is known to have used `fresh`: more of
/// the same blocks, since inputs differ, and a part of some further ones.
pub(crate) fn likely_growth(fresh: &PageSet, layout: &GuestLayout) -> PageSet {
    let grown = layout.in_free_blocks(fresh);
    let mut blocks: Vec<Block> = grown.runs().iter().flat_map(|run| Block::meeting(*run)).collect();
    blocks.dedup();
    let mut likely = PageSet::new();
    for block in &blocks {
        let first = grown.within(block.pages()).next().map_or(block.first(), |run| run.start);
        likely.insert(PageRange::between(first, block.pages().end()));
    }
    let after =
        blocks.last().map_or(0, |block| block.0 + 1).max(layout.page_count().0.div_ceil(Block::PAGES.0));
    let further = (after..).take(FURTHER_BLOCKS).map(|block| PageRange::new(Block(block).first(), FURTHER));
    layout.in_free_blocks(&likely.union(&further.collect()))
}

/// How the pages are chosen.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct ReadyRule {
    /// A page that less than this share of restores touches is not made ready. A page that is ready and not touched costs a
    /// restore some 0.5 us, one that is touched and not ready 5 to 10 us, so that memory decides, not time.
    pub share: f64,
    /// At most this many: the likeliest.
    pub most: PageCount,
}

impl Default for ReadyRule {
    /// A fifth, and 40 MiB.
    fn default() -> Self {
        Self { share: 0.2, most: PageCount(10_240) }
    }
}

impl ReadyRule {
    /// What to make ready, when restores use each of these as often as its weight says. Weights are positive.
    pub fn choose(&self, likely: &[(f64, ReadyPages)]) -> ReadyPages {
        let pages = self.pages(likely.iter().map(|(weight, ready)| (*weight, &ready.pages)));
        let writable = self.pages(likely.iter().map(|(weight, ready)| (*weight, &ready.writable)));
        // What some may only read is of use to all when it can be read.
        let read_only: Vec<(f64, PageSet)> =
            likely.iter().map(|(weight, ready)| (*weight, ready.pages.difference(&ready.writable))).collect();
        let read_only = self.pages(read_only.iter().map(|(weight, pages)| (*weight, pages)));
        let writable = writable.intersection(&pages).difference(&read_only);
        ReadyPages { pages, writable }
    }

    /// The pages that are likely enough, when restores touch each of these sets as often as its weight says.
    fn pages<'a>(&self, touched: impl IntoIterator<Item = (f64, &'a PageSet)>) -> PageSet {
        let (mut all, mut borders) = (0.0, Vec::new());
        for (weight, pages) in touched {
            all += weight;
            let runs = pages.runs().iter();
            borders.extend(runs.flat_map(|run| [(run.start, weight), (run.end(), -weight)]));
        }
        borders.sort_unstable_by_key(|(page, _)| *page);
        let mut likely = Vec::new();
        let (mut weight, mut since) = (0.0, PageIndex(0));
        for (page, change) in borders {
            // Sums of fractions are off by a little.
            if page > since && weight >= all * self.share - all * 1e-9 && weight > all * 1e-9 {
                likely.push((weight, PageRange::between(since, page)));
            }
            (weight, since) = (weight + change, page);
        }
        likely.sort_by(|(one, first), (other, second)| {
            other.total_cmp(one).then(first.start.cmp(&second.start))
        });
        let mut left = self.most.0;
        let chosen = likely.into_iter().map(|(_, run)| {
            let run = PageRange::new(run.start, PageCount(run.count.0.min(left)));
            left -= run.count.0;
            run
        });
        chosen.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::FileIndex;
    use crate::tests::sample::{range, set};

    fn pages(share: f64, most: u64, touched: &[(f64, &[(u64, u64)])]) -> PageSet {
        let touched: Vec<_> = touched.iter().map(|(weight, runs)| (*weight, set(runs))).collect();
        let rule = ReadyRule { share, most: PageCount(most) };
        rule.pages(touched.iter().map(|(weight, pages)| (*weight, pages)))
    }

    #[test]
    fn what_enough_restores_touch_is_made_ready() {
        let touched: [(f64, &[(u64, u64)]); 3] =
            [(1.0, &[(0, 10), (100, 110)]), (1.0, &[(5, 20), (105, 106)]), (2.0, &[(5, 8), (200, 210)])];
        assert_eq!(pages(0.5, 1000, &touched), set(&[(5, 10), (105, 106), (200, 210)]));
        assert_eq!(pages(0.75, 1000, &touched), set(&[(5, 8)]));
        assert_eq!(pages(0.0, 1000, &touched), set(&[(0, 20), (100, 110), (200, 210)]));
    }

    #[test]
    fn the_likeliest_come_first_when_there_is_no_room_for_all() {
        let touched: [(f64, &[(u64, u64)]); 2] = [(1.0, &[(0, 10), (100, 120)]), (3.0, &[(105, 109)])];
        assert_eq!(pages(0.2, 6, &touched), set(&[(0, 2), (105, 109)]));
        assert_eq!(pages(0.2, 4, &touched), set(&[(105, 109)]));
    }

    #[test]
    fn what_some_may_only_read_is_not_made_writable() {
        let ready = |pages: &[(u64, u64)], writable: &[(u64, u64)]| ReadyPages {
            pages: set(pages),
            writable: set(writable),
        };
        let rule = ReadyRule { share: 0.3, most: PageCount(1000) };
        let likely = [
            (2.0, ready(&[(0, 20)], &[(5, 15)])),
            (2.0, ready(&[(0, 20)], &[(0, 10)])),
            (1.0, ready(&[(0, 30)], &[(5, 5)])),
        ];
        assert_eq!(rule.choose(&likely), ready(&[(0, 20)], &[(5, 10)]));
        assert_eq!(rule.choose(&likely[..1]), likely[0].1);
    }

    #[test]
    fn what_the_guest_may_not_write_is_usable_only_where_it_can_not_be_written() {
        let region = |start, end, backing, access| Region { range: range(start, end), backing, access };
        let file = |shared| Backing::File { file: FileIndex(0), offset: 0, shared };
        let regions = vec![
            region(0, 10, file(false), Access::Read),
            region(10, 20, file(false), Access::ReadWrite),
            region(20, 30, file(true), Access::ReadWrite),
            region(30, 40, Backing::Memory, Access::ReadWrite),
            region(40, 50, Backing::Memory, Access::Read),
        ];
        let layout = GuestLayout::new(PageCount(60), regions).unwrap();
        let writable: Vec<(u64, u64)> = (0..12).map(|ten| (ten * 5, ten * 5 + 3)).collect();
        let ready = ReadyPages { pages: set(&[(0, 70)]), writable: set(&writable) };
        let forbidden = set(&[(0, 3), (5, 8), (20, 23), (25, 28), (40, 43), (45, 48)]);
        assert_eq!(ready.usable(&layout), set(&[(0, 70)]).difference(&forbidden));
    }

    #[test]
    fn zero_pages_beside_known_ones_are_likely() {
        let region =
            |start, end, access| Region { range: range(start, end), backing: Backing::Memory, access };
        let regions = vec![
            region(0, 300, Access::ReadWrite),
            region(300, 310, Access::Read),
            region(310, 400, Access::ReadWrite),
        ];
        let layout = GuestLayout::new(PageCount(400), regions).unwrap();
        let near = near(&set(&[(100, 102), (298, 305)]), &layout, &set(&[(95, 105), (150, 160), (290, 320)]));
        assert_eq!(near, set(&[(0, 95), (105, 150), (160, 230), (170, 290)]));
    }

    #[test]
    fn growth_is_what_was_seen_of_free_blocks_and_what_follows() {
        let region = |start, end| Region {
            range: range(start, end),
            backing: Backing::Memory,
            access: Access::ReadWrite,
        };
        // Two blocks of it are free, and what is beyond.
        let layout = GuestLayout::new(PageCount(4 * 512), vec![region(0, 600), region(1600, 1601)]).unwrap();
        let further = [(6 * 512, 6 * 512 + 256), (7 * 512, 7 * 512 + 256)];
        let fresh =
            set(&[(590, 700), (1024, 1124), (2 * 512 + 200, 2 * 512 + 300), (5 * 512 + 8, 5 * 512 + 510)]);
        let [first, second] = further;
        let expected = set(&[(1024, 3 * 512), (5 * 512 + 8, 6 * 512), first, second]);
        assert_eq!(likely_growth(&fresh, &layout), expected);
        let beyond = set(&[(4 * 512, 4 * 512 + 256), (5 * 512, 5 * 512 + 256)]);
        assert_eq!(likely_growth(&PageSet::new(), &layout), beyond);
    }

    #[test]
    fn nothing_known_means_nothing_ready() {
        assert_eq!(pages(0.2, 100, &[]), PageSet::new());
        assert_eq!(pages(0.0, 100, &[(1.0, &[])]), PageSet::new());
    }
}
