//! From a recording to the regions of a loading-set file: what is in it, what is merged, in which order it is read.

use std::fs::File;

use pages::{Block, PageCount, PageRange, PageSet};
use serde::{Deserialize, Serialize};

use crate::layout::{Backing, GuestLayout};
use crate::loading_set::costs::CostModel;
use crate::recording::{Recording, memory_pages};

/// At most this many regions; with twice as many mappings (each may split one of the memory file) and the guest's own it
/// stays far below the kernel's limit.
const MAX_REGIONS: usize = 8192;

/// How often the merge rule is made coarser to stay below that.
const MAX_COARSENINGS: usize = 16;

/// Pages between may be at most one for so many that were seen: what is in the file is read, and held, by every restore.
const SEEN_FOR_ONE_BETWEEN: u64 = 4;
/// How often the merge rule is made finer for that. Each takes a quarter off what a region is taken to cost: together they turn
/// the most that one can cost into less than a page.
const MAX_REFINEMENTS: usize = 24;

/// From so many known pages of its 512 on a block is loaded as a whole: the others are few, and as one huge page all of it costs
/// the guest one fault.
const NEARLY_WHOLE: PageCount = PageCount(384);

/// When two runs of pages become one region of the file, with the pages between them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MergeRule {
    /// Never, unless they touch and are of one group.
    Never,
    /// When at most this many pages lie between them (the paper: fewer than 32), whatever their groups.
    Gap(PageCount),
    /// When the pages between cost less than a region.
    Weighed(CostModel),
}

/// The order of regions in the file, which is the order of loading.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// By working-set group, then by address.
    Group,
    /// By address.
    Address,
}

/// Whether the chunks of a loading set are in its file compressed, too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compression {
    /// They are not.
    Never,
    /// Where the disk takes longer for what is saved than decoding does, both as measured when the file is written.
    Weighed,
    /// All that get shorter, whatever the disk is like.
    Always,
}

/// How a recording becomes a loading set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LoadingSetRule {
    /// Whether pages that only readahead would have brought in belong to it, as in the paper. Off by default: measured, it
    /// costs more than it saves even when a fifth of the next invocation's pages are others.
    pub include_read_ahead: bool,
    /// What is merged.
    pub merge: MergeRule,
    /// In which order it is loaded.
    pub order: Order,
    /// Whether blocks of 2 MiB that the recording knows nearly whole become regions of their own, with all their pages.
    pub whole_blocks: bool,
    /// What is compressed.
    pub compression: Compression,
}

impl Default for LoadingSetRule {
    fn default() -> Self {
        Self {
            include_read_ahead: false,
            merge: MergeRule::Weighed(CostModel::default()),
            order: Order::Group,
            whole_blocks: true,
            compression: Compression::Weighed,
        }
    }
}

/// A run of guest pages that is loaded as one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LoadingRegion {
    /// The pages.
    pub range: PageRange,
    /// The working-set group that it is loaded with.
    pub group: u32,
}

impl LoadingSetRule {
    /// The default rule with what mappings and pages cost on this machine, measured with `file`, from which they would be mapped.
    pub fn measured(file: &File) -> Self {
        Self { merge: MergeRule::Weighed(CostModel::measured(file)), ..Self::default() }
    }

    /// What a region costs by this rule, nanoseconds; as is known where it does not weigh.
    pub(crate) fn region_ns(&self) -> u64 {
        match self.merge {
            MergeRule::Weighed(costs) => costs.region_ns,
            MergeRule::Never | MergeRule::Gap(_) => CostModel::default().region_ns,
        }
    }

    /// What of a group's pages is loaded.
    fn loaded(&self, group: &PageSet, stored: &PageSet, recording: &Recording) -> PageSet {
        let pages = group.intersection(stored);
        if self.include_read_ahead { pages } else { pages.difference(&recording.read_ahead) }
    }

    /// The pages of the blocks that `recording` knows nearly whole, all of whose pages are the guest's own memory. At least half of
    /// one comes from the snapshot; for one that is mostly zero there is little to read.
    pub(crate) fn whole_blocks(
        &self,
        layout: &GuestLayout,
        stored: &PageSet,
        recording: &Recording,
    ) -> PageSet {
        if !self.whole_blocks {
            return PageSet::new();
        }
        let memory = memory_pages(layout);
        let loaded = self.loaded(&recording.seen(), stored, recording);
        let known = loaded.union(&recording.fresh);
        let count = |pages: &PageSet, block: Block| {
            PageCount(pages.within(block.pages()).map(|run| run.count.0).sum())
        };
        let mut blocks: Vec<Block> = loaded.runs().iter().flat_map(|run| Block::meeting(*run)).collect();
        blocks.dedup();
        let is_whole = |block: &Block| {
            count(&known, *block) >= NEARLY_WHOLE
                && count(&loaded, *block).0 * 2 >= Block::PAGES.0
                && count(&memory, *block) == Block::PAGES
        };
        blocks.into_iter().filter(is_whole).map(Block::pages).collect()
    }

    /// The regions for `recording`, in the order of loading. No region crosses the border of a region of `layout`; over a
    /// guest's file a region holds stored pages only, since the pages between belong to the file. Blocks that are loaded as wholes
    /// are regions of their own, whatever lies in them.
    pub fn regions(
        &self,
        layout: &GuestLayout,
        stored: &PageSet,
        recording: &Recording,
    ) -> Vec<LoadingRegion> {
        let whole = self.whole_blocks(layout, stored, recording);
        let groups: Vec<PageSet> =
            recording.groups.iter().map(|group| self.loaded(group, stored, recording)).collect();
        let rest: Vec<PageSet> = groups.iter().map(|group| group.difference(&whole)).collect();
        let mut rule = self.merge;
        let mut regions = merged(rule, layout, &rest, &whole);
        for _ in 0..MAX_REFINEMENTS {
            let MergeRule::Weighed(costs) = rule else { break };
            if has_few_between(&regions, &rest) {
                break;
            }
            rule = MergeRule::Weighed(CostModel { region_ns: costs.region_ns * 3 / 4, ..costs });
            regions = merged(rule, layout, &rest, &whole);
        }
        for _ in 0..MAX_COARSENINGS {
            if regions.len() <= MAX_REGIONS {
                break;
            }
            rule = coarser(rule);
            regions = merged(rule, layout, &rest, &whole);
        }
        let first_group = |block: Block| {
            let is_in = |group: &PageSet| group.within(block.pages()).next().is_some();
            (0u32..).zip(&groups).find(|(_, group)| is_in(group)).map_or(0, |(number, _)| number)
        };
        let blocks = whole.runs().iter().flat_map(|run| Block::meeting(*run));
        regions.extend(blocks.map(|block| LoadingRegion { range: block.pages(), group: first_group(block) }));
        match self.order {
            Order::Group => regions.sort_by_key(|region| (region.group, region.range.start)),
            Order::Address => regions.sort_by_key(|region| region.range.start),
        }
        // Runs over a guest's files can't be merged: what is still too much is left to faults on demand.
        regions.truncate(MAX_REGIONS);
        regions
    }
}

/// Whether few enough of the regions' pages are there only because they lie between those of `groups`.
fn has_few_between(regions: &[LoadingRegion], groups: &[PageSet]) -> bool {
    let all: u64 = regions.iter().map(|region| region.range.count.0).sum();
    let seen: u64 = groups.iter().map(|group| group.count().0).sum();
    all.saturating_sub(seen) * SEEN_FOR_ONE_BETWEEN <= seen
}

/// The runs of `groups`, merged by `rule` but never over a page of `whole`, in the order of addresses.
fn merged(rule: MergeRule, layout: &GuestLayout, groups: &[PageSet], whole: &PageSet) -> Vec<LoadingRegion> {
    let mut runs = Vec::new();
    for (group, pages) in (0u32..).zip(groups) {
        runs.extend(pages.runs().iter().map(|range| LoadingRegion { range: *range, group }));
    }
    runs.sort_by_key(|run| run.range.start);
    let mut regions: Vec<LoadingRegion> = Vec::new();
    for region in layout.regions() {
        let mut previous: Option<LoadingRegion> = None;
        let first = runs.partition_point(|run| run.range.end() <= region.range.start);
        let inside = runs.iter().skip(first).take_while(|run| run.range.start < region.range.end());
        for run in inside {
            let run = LoadingRegion { range: run.range.intersection(region.range), ..*run };
            match previous {
                Some(before)
                    if joins(rule, region.backing, before, run)
                        && whole.within(gap(before, run)).next().is_none() =>
                {
                    let joined = LoadingRegion {
                        range: PageRange::between(before.range.start, run.range.end()),
                        group: before.group.min(run.group),
                    };
                    previous = Some(joined);
                }
                _ => regions.extend(previous.replace(run)),
            }
        }
        regions.extend(previous);
    }
    regions
}

/// What lies between two regions, the first of which ends before the other begins.
fn gap(before: LoadingRegion, next: LoadingRegion) -> PageRange {
    PageRange::between(before.range.end(), next.range.start)
}

fn joins(rule: MergeRule, backing: Backing, before: LoadingRegion, next: LoadingRegion) -> bool {
    let gap = gap(before, next).count;
    if gap.0 > 0 && backing != Backing::Memory {
        return false;
    }
    match rule {
        MergeRule::Never => gap.0 == 0 && before.group == next.group,
        MergeRule::Gap(largest) => gap <= largest,
        MergeRule::Weighed(costs) => {
            let misplaced =
                if before.group == next.group { 0 } else { before.range.count.min(next.range.count).0 };
            gap.0.saturating_mul(costs.page_ns) + misplaced.saturating_mul(costs.misplaced_page_ns)
                <= costs.region_ns
        }
    }
}

/// A rule that merges more.
fn coarser(rule: MergeRule) -> MergeRule {
    match rule {
        MergeRule::Never => MergeRule::Gap(PageCount(1)),
        MergeRule::Gap(gap) => MergeRule::Gap(PageCount(gap.0 * 2 + 1)),
        MergeRule::Weighed(costs) => {
            MergeRule::Weighed(CostModel { region_ns: costs.region_ns.saturating_mul(2).max(1), ..costs })
        }
    }
}

#[cfg(test)]
mod tests {
    use snapshot::SnapshotId;

    use super::*;
    use crate::layout::{Access, FileIndex, Region};
    use crate::tests::sample::{range, set};

    fn layout() -> GuestLayout {
        let file = Backing::File { file: FileIndex(0), offset: 0, shared: false };
        let region =
            |start, end, backing| Region { range: range(start, end), backing, access: Access::ReadWrite };
        let regions = vec![
            region(0, 100, file),
            region(100, 1000, Backing::Memory),
            region(1000, 90_000, Backing::Memory),
        ];
        GuestLayout::new(PageCount(100_000), regions).unwrap()
    }

    fn recording(groups: &[&[(u64, u64)]]) -> Recording {
        Recording {
            snapshot: SnapshotId([1; 16]),
            strategy: crate::RestoreStrategy::FaaSnap,
            readahead_window: PageCount(1),
            groups: groups.iter().map(|runs| set(runs)).collect(),
            read_ahead: PageSet::new(),
            written: PageSet::new(),
            fresh: PageSet::new(),
            files: PageSet::new(),
        }
    }

    fn regions(merge: MergeRule, groups: &[&[(u64, u64)]]) -> Vec<(u64, u64, u32)> {
        let rule = LoadingSetRule { merge, ..LoadingSetRule::default() };
        let found = rule.regions(&layout(), &set(&[(0, 90_000)]), &recording(groups));
        found.iter().map(|region| (region.range.start.0, region.range.end().0, region.group)).collect()
    }

    #[test]
    fn small_gaps_are_bridged_and_large_ones_are_not() {
        let weighed = MergeRule::Weighed(CostModel::default());
        assert_eq!(
            regions(weighed, &[&[(200, 210), (213, 220), (230, 240)]]),
            [(200, 220, 0), (230, 240, 0)]
        );
        assert_eq!(regions(MergeRule::Gap(PageCount(31)), &[&[(200, 210), (241, 250)]]), [(200, 250, 0)]);
        assert_eq!(
            regions(MergeRule::Gap(PageCount(31)), &[&[(200, 210), (242, 250)]]),
            [(200, 210, 0), (242, 250, 0)]
        );
    }

    #[test]
    fn what_lies_between_is_a_quarter_of_what_was_seen_at_most() {
        // Every second page of many: bridged, the file would have twice what was seen.
        let scattered: Vec<(u64, u64)> =
            (0..50).map(|number| (2000 + 2 * number, 2001 + 2 * number)).collect();
        let weighed = MergeRule::Weighed(CostModel::default());
        assert_eq!(regions(weighed, &[&scattered]).len(), 50);
        let dear = MergeRule::Weighed(CostModel { region_ns: 1_000_000, ..CostModel::default() });
        assert_eq!(regions(dear, &[&scattered]).len(), 50);
        // The same where more was seen.
        let more: Vec<(u64, u64)> = [(200, 400)].into_iter().chain(scattered).collect();
        assert_eq!(regions(weighed, &[&more]), [(200, 400, 0), (2000, 2099, 0)]);
    }

    #[test]
    fn where_mappings_are_dear_larger_gaps_are_bridged() {
        let dear =
            MergeRule::Weighed(CostModel { region_ns: 400_000, page_ns: 20_000, misplaced_page_ns: 300 });
        let groups: &[&[(u64, u64)]] = &[&[(200, 300), (320, 400), (450, 500)]];
        assert_eq!(regions(MergeRule::Weighed(CostModel::default()), groups).len(), 3);
        assert_eq!(regions(dear, groups), [(200, 400, 0), (450, 500, 0)]);
    }

    #[test]
    fn groups_order_the_file_and_long_runs_keep_theirs() {
        let weighed = MergeRule::Weighed(CostModel::default());
        assert_eq!(
            regions(weighed, &[&[(600, 700)], &[(200, 300), (700, 800), (801, 802)]]),
            [(600, 700, 0), (200, 300, 1), (700, 802, 1)]
        );
        assert_eq!(regions(weighed, &[&[(600, 700)], &[(700, 710)]]), [(600, 710, 0)]);
    }

    #[test]
    fn borders_and_gaps_over_files_are_respected() {
        let gap = MergeRule::Gap(PageCount(1000));
        assert_eq!(
            regions(gap, &[&[(90, 95), (97, 105), (999, 1001)]]),
            [(90, 95, 0), (97, 100, 0), (100, 1000, 0), (1000, 1001, 0)]
        );
    }

    #[test]
    fn the_number_of_regions_is_bounded() {
        let every_eighth: Vec<(u64, u64)> = (1000..90_000).step_by(8).map(|page| (page, page + 1)).collect();
        let found = regions(MergeRule::Weighed(CostModel::default()), &[&every_eighth]);
        assert!(found.len() <= MAX_REGIONS);
    }

    #[test]
    fn readahead_is_left_out_unless_wanted() {
        let recording = Recording { read_ahead: set(&[(205, 210)]), ..recording(&[&[(200, 210)]]) };
        let stored = set(&[(0, 90_000)]);
        let without = LoadingSetRule::default().regions(&layout(), &stored, &recording);
        assert_eq!(without, [LoadingRegion { range: range(200, 205), group: 0 }]);
        let rule = LoadingSetRule { include_read_ahead: true, ..LoadingSetRule::default() };
        assert_eq!(rule.regions(&layout(), &stored, &recording)[0].range, range(200, 210));
    }

    #[test]
    fn blocks_known_nearly_whole_are_regions_of_their_own() {
        let stored = set(&[(0, 90_000)]);
        // Of block 3 (1536 to 2048) 128 pages are not known, of block 4 one more; block 2 has two regions' memory, block 0 a file's.
        let groups: [&[(u64, u64)]; 2] =
            [&[(0, 512), (1700, 1710)], &[(1024, 1536), (1536, 1664), (1710, 1956), (2048, 2431)]];
        let recording = recording(&groups);
        let rule = LoadingSetRule { merge: MergeRule::Gap(PageCount(2000)), ..LoadingSetRule::default() };
        let found = rule.regions(&layout(), &stored, &recording);
        let whole = rule.whole_blocks(&layout(), &stored, &recording);
        assert_eq!(whole, set(&[(1024, 2048)]));
        let found: Vec<_> =
            found.iter().map(|region| (region.range.start.0, region.range.end().0, region.group)).collect();
        assert_eq!(found, [(0, 100, 0), (100, 512, 0), (1536, 2048, 0), (1024, 1536, 1), (2048, 2431, 1)]);
        let without = LoadingSetRule { whole_blocks: false, ..rule };
        assert!(without.whole_blocks(&layout(), &stored, &recording).is_empty());
        assert_eq!(without.regions(&layout(), &stored, &recording).len(), 3);
    }

    #[test]
    fn zero_pages_that_are_touched_count_but_mostly_zero_blocks_are_not_read() {
        let stored = set(&[(1024, 1280), (1536, 1791)]);
        let recording = Recording {
            fresh: set(&[(1280, 1408), (1791, 2048)]),
            ..recording(&[&[(1024, 1280), (1536, 1791)]])
        };
        let whole = LoadingSetRule::default().whole_blocks(&layout(), &stored, &recording);
        assert_eq!(whole, set(&[(1024, 1536)]));
    }
}
