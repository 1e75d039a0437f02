//! Restore plans: what a strategy does to guest memory before the guest runs, as plain data.
//!
//! A plan is a short list of steps over one reservation, in layers: anonymous memory for all of it, then the files that the
//! guest has mapped, then the snapshot's memory file, then the loading-set file, then protections where a layer's own don't
//! fit. Later steps lie over earlier ones. Its text form is what tests compare and what a user is shown.

use std::fmt;

use pages::{PageCount, PageIndex, PageRange, PageSet};

use crate::layout::{Access, Backing, GuestLayout, Region};
use crate::map_step::MapStep;

/// Everything that is done to guest memory before the guest runs, in order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RestorePlan {
    /// The steps.
    pub steps: Vec<MapStep>,
}

/// How pages that the snapshot stores come into their place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum StoredPages {
    /// The memory file is mapped; pieces closer than this many pages share a mapping (the pages between are holes of the
    /// file and read as zero). Pages that the loading-set file is mapped over don't count: a mapping over another costs one, as
    /// beside it.
    Mapped {
        /// Largest gap that is mapped with its neighbours.
        merge_gap: PageCount,
    },
    /// Anonymous memory, read into before the guest runs.
    Read,
    /// Anonymous memory whose missing pages a userfault server provides.
    Userfault,
}

/// A run of loading-set pages inside one region of the layout.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PlacedRun {
    pub range: PageRange,
    pub offset: u64,
}

/// A run of pages within one region of the layout.
#[derive(Clone, Copy)]
struct Piece {
    range: PageRange,
    access: Access,
}

impl RestorePlan {
    /// The plan for `layout`, with `stored` pages placed as `how` says and `loading_set` runs over them.
    ///
    /// The caller has checked that `stored` fits the layout, and that each loading-set run lies in memory or holds only
    /// stored pages.
    pub(crate) fn build(
        layout: &GuestLayout,
        stored: &PageSet,
        how: StoredPages,
        loading_set: &[PlacedRun],
    ) -> Self {
        let runs = access_runs(layout);
        let base = most_frequent_access(&runs);
        // Content that is read in or installed needs the page to be writable until then.
        let base = if how == StoredPages::Read { Access::ReadWrite } else { base };
        let whole = PageRange::new(PageIndex(0), layout.page_count());
        let mut builder = Builder::default();
        if !whole.is_empty() {
            builder.steps.push(MapStep::Anonymous { range: whole, access: base });
        }
        for region in layout.regions() {
            if let Backing::File { file, offset, shared } = region.backing {
                let (range, access) = (region.range, region.access);
                builder.cover(MapStep::GuestFile { range, file, offset, shared, access }, range);
            }
        }
        let loaded: PageSet = loading_set.iter().map(|run| run.range).collect();
        let rest = stored.difference(&loaded);
        match how {
            StoredPages::Mapped { merge_gap } => {
                for Piece { range, access } in pieces(layout, &rest, &loaded, merge_gap) {
                    builder.cover(MapStep::MemoryFile { range, access }, range);
                }
            }
            StoredPages::Read => {
                builder.anonymous_content(layout, &rest, |range| MapStep::ReadMemoryFile { range })
            }
            StoredPages::Userfault => {
                builder.anonymous_content(layout, &rest, |range| MapStep::Userfault { range })
            }
        }
        for run in loading_set {
            for region in regions_within(layout, run.range) {
                let range = region.range.intersection(run.range);
                let offset = run.offset + (range.start.0 - run.range.start.0) * pages::PAGE_SIZE;
                builder.cover(MapStep::LoadingSet { range, offset, access: region.access }, range);
            }
        }
        for Piece { range, access } in runs {
            // A run that only explicit mappings cover has its protection from them, except where pages were read in.
            let covered = builder.covered.within(range).map(|run| run.count.0).sum::<u64>() == range.count.0;
            if access != base && !covered {
                builder.steps.push(MapStep::Protect { range, access });
            }
        }
        Self { steps: builder.steps }
    }

    /// The pages that are mapped from the snapshot's own files.
    pub(crate) fn snapshot_pages(&self) -> PageSet {
        let ranges = self.steps.iter().filter_map(|step| match step {
            MapStep::MemoryFile { range, .. } | MapStep::LoadingSet { range, .. } => Some(*range),
            _ => None,
        });
        ranges.collect()
    }

    /// The same outcome for every page but those of `kept`, which are left as they are. Each page is mapped once, by the step
    /// that is the last to map it, unless nothing is kept: layers are fewer mappings then.
    #[must_use]
    pub(crate) fn around(&self, kept: &PageSet) -> Self {
        if kept.is_empty() {
            return self.clone();
        }
        let mut done = kept.clone();
        let mut steps = Vec::new();
        for step in self.steps.iter().rev() {
            let range = step.range();
            let left_alone = match step {
                MapStep::Protect { .. } => kept,
                _ => &done,
            };
            let rest: Vec<PageRange> = left_alone.gaps(range).collect();
            steps.extend(rest.into_iter().rev().map(|run| step.part(run)));
            if step.maps() {
                done.insert(range);
            }
        }
        steps.reverse();
        Self { steps }
    }

    /// How many mappings the plan makes.
    pub fn mappings(&self) -> usize {
        self.steps.iter().filter(|step| step.maps()).count()
    }
}

#[derive(Default)]
struct Builder {
    steps: Vec<MapStep>,
    /// Pages whose protection an explicit mapping has set.
    covered: PageSet,
}

impl Builder {
    fn cover(&mut self, step: MapStep, range: PageRange) {
        self.steps.push(step);
        self.covered.insert(range);
    }

    /// Content for anonymous pages: private copies over the guest's files get anonymous memory of their own first.
    fn anonymous_content(
        &mut self,
        layout: &GuestLayout,
        stored: &PageSet,
        step: impl Fn(PageRange) -> MapStep,
    ) {
        for region in layout.regions() {
            if matches!(region.backing, Backing::File { .. }) {
                for range in stored.within(region.range) {
                    self.steps.push(MapStep::Anonymous { range, access: Access::ReadWrite });
                }
            }
        }
        // Pages over a file are writable now and must get the region's protection afterwards.
        self.covered = self.covered.difference(stored);
        self.steps.extend(stored.runs().iter().map(|range| step(*range)));
    }
}

/// The regions of `layout` that have a page in `range`.
fn regions_within(layout: &GuestLayout, range: PageRange) -> impl Iterator<Item = &Region> {
    let first = layout.regions().partition_point(|region| region.range.end() <= range.start);
    layout.regions().iter().skip(first).take_while(move |region| region.range.start < range.end())
}

/// The runs of `wanted`, cut at the borders of regions; runs in a memory region that are not more than `merge_gap` pages
/// apart, those of `loaded` not counted, become one.
fn pieces(layout: &GuestLayout, wanted: &PageSet, loaded: &PageSet, merge_gap: PageCount) -> Vec<Piece> {
    let mut found: Vec<Piece> = Vec::new();
    for region in layout.regions() {
        let mut previous: Option<PageRange> = None;
        for run in wanted.within(region.range) {
            let merged = previous.filter(|before| {
                let gap = PageRange::between(before.end(), run.start);
                let replaced: u64 = loaded.within(gap).map(|run| run.count.0).sum();
                region.backing == Backing::Memory && gap.count.0 - replaced <= merge_gap.0
            });
            let range = match merged {
                Some(before) => PageRange::between(before.start, run.end()),
                None => run,
            };
            if merged.is_some() {
                found.pop();
            }
            found.push(Piece { range, access: region.access });
            previous = Some(range);
        }
    }
    // Neighbouring regions with the same protection share a mapping: the memory file is contiguous across them.
    let mut joined: Vec<Piece> = Vec::with_capacity(found.len());
    for piece in found {
        match joined.last_mut() {
            Some(last) if last.range.end() == piece.range.start && last.access == piece.access => {
                last.range = PageRange::between(last.range.start, piece.range.end());
            }
            _ => joined.push(piece),
        }
    }
    joined
}

/// Maximal runs of one protection over all of guest-physical space; pages in no region allow nothing.
fn access_runs(layout: &GuestLayout) -> Vec<Piece> {
    let mut runs: Vec<Piece> = Vec::new();
    let mut push = |range: PageRange, access| match runs.last_mut() {
        _ if range.is_empty() => {}
        Some(last) if last.access == access => {
            last.range = PageRange::between(last.range.start, range.end());
        }
        _ => runs.push(Piece { range, access }),
    };
    let mut end = PageIndex(0);
    for region in layout.regions() {
        push(PageRange::between(end, region.range.start), Access::None);
        let access = if region.backing == Backing::Absent { Access::None } else { region.access };
        push(region.range, access);
        end = region.range.end();
    }
    push(PageRange::between(end, PageIndex(layout.page_count().0)), Access::None);
    runs
}

/// The protection that the most runs want, so that the base mapping leaves the fewest to change.
fn most_frequent_access(runs: &[Piece]) -> Access {
    let count = |access| runs.iter().filter(|run| run.access == access).count();
    [Access::ReadWrite, Access::None, Access::Read]
        .into_iter()
        .rev()
        .max_by_key(|access| count(*access))
        .unwrap_or(Access::ReadWrite)
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Read => "read",
            Self::ReadWrite => "read-write",
        })
    }
}

impl fmt::Display for RestorePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.steps.iter().try_for_each(|step| writeln!(f, "{step}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::FileIndex;
    use crate::tests::sample::{range, set};

    fn region(start: u64, end: u64, backing: Backing, access: Access) -> Region {
        Region { range: range(start, end), backing, access }
    }

    /// Text, data, a hole, heap, a shared file, a guard page and a stack.
    fn layout() -> GuestLayout {
        let file = |offset, shared| Backing::File { file: FileIndex(1), offset, shared };
        GuestLayout::new(
            PageCount(100),
            vec![
                region(0, 10, file(0x2000, false), Access::Read),
                region(10, 20, file(0xc000, false), Access::ReadWrite),
                region(30, 60, Backing::Memory, Access::ReadWrite),
                region(60, 64, file(0, true), Access::ReadWrite),
                region(70, 71, Backing::Memory, Access::None),
                region(71, 90, Backing::Memory, Access::ReadWrite),
            ],
        )
        .unwrap()
    }

    fn stored() -> PageSet {
        set(&[(12, 14), (30, 35), (37, 40), (50, 52), (70, 75), (88, 90)])
    }

    fn check(plan: &RestorePlan, expected: &[&str]) {
        assert_eq!(plan.to_string().lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn on_demand_maps_in_layers() {
        let how = StoredPages::Mapped { merge_gap: PageCount(4) };
        check(
            &RestorePlan::build(&layout(), &stored(), how, &[]),
            &[
                "anonymous 0..100 read-write",
                "guest-file 0..10 read private file 1 at 0x2000",
                "guest-file 10..20 read-write private file 1 at 0xc000",
                "guest-file 60..64 read-write shared file 1 at 0x0",
                "memory-file 12..14 read-write",
                "memory-file 30..40 read-write",
                "memory-file 50..52 read-write",
                "memory-file 70..71 none",
                "memory-file 71..75 read-write",
                "memory-file 88..90 read-write",
                "protect 20..30 none",
                "protect 64..71 none",
                "protect 90..100 none",
            ],
        );
    }

    #[test]
    fn loading_set_runs_lie_over_the_rest_and_do_not_cut_it() {
        let how = StoredPages::Mapped { merge_gap: PageCount(16) };
        let loading_set = [
            PlacedRun { range: range(31, 39), offset: 0x1000 },
            PlacedRun { range: range(70, 73), offset: 0x9000 },
        ];
        let plan = RestorePlan::build(&layout(), &stored(), how, &loading_set);
        let text: Vec<_> = plan
            .to_string()
            .lines()
            .filter(|line| line.contains("-set") || line.contains("memory-"))
            .map(str::to_owned)
            .collect();
        assert_eq!(
            text,
            [
                "memory-file 12..14 read-write",
                "memory-file 30..52 read-write",
                "memory-file 73..90 read-write",
                "loading-set 31..39 read-write at 0x1000",
                "loading-set 70..71 none at 0x9000",
                "loading-set 71..73 read-write at 0xa000",
            ]
        );
    }

    #[test]
    fn around_kept_pages_every_page_is_mapped_once() {
        let how = StoredPages::Mapped { merge_gap: PageCount(4) };
        let plan = RestorePlan::build(&layout(), &stored(), how, &[]);
        check(
            &plan.around(&set(&[(2, 6), (11, 13), (33, 34), (80, 85)])),
            &[
                "anonymous 20..30 read-write",
                "anonymous 40..50 read-write",
                "anonymous 52..60 read-write",
                "anonymous 64..70 read-write",
                "anonymous 75..80 read-write",
                "anonymous 85..88 read-write",
                "anonymous 90..100 read-write",
                "guest-file 0..2 read private file 1 at 0x2000",
                "guest-file 6..10 read private file 1 at 0x8000",
                "guest-file 10..11 read-write private file 1 at 0xc000",
                "guest-file 14..20 read-write private file 1 at 0x10000",
                "guest-file 60..64 read-write shared file 1 at 0x0",
                "memory-file 13..14 read-write",
                "memory-file 30..33 read-write",
                "memory-file 34..40 read-write",
                "memory-file 50..52 read-write",
                "memory-file 70..71 none",
                "memory-file 71..75 read-write",
                "memory-file 88..90 read-write",
                "protect 20..30 none",
                "protect 64..71 none",
                "protect 90..100 none",
            ],
        );
    }

    #[test]
    fn eager_reads_before_it_protects() {
        let text = RestorePlan::build(&layout(), &stored(), StoredPages::Read, &[]).to_string();
        let lines: Vec<_> = text.lines().collect();
        let position = |wanted: &str| lines.iter().position(|line| *line == wanted).expect(wanted);
        assert!(position("anonymous 12..14 read-write") < position("read 12..14"));
        assert!(
            position("guest-file 10..20 read-write private file 1 at 0xc000")
                < position("anonymous 12..14 read-write")
        );
        assert!(position("read 70..75") < position("protect 64..71 none"));
    }

    #[test]
    fn userfaults_cover_stored_pages_only() {
        let text = RestorePlan::build(&layout(), &stored(), StoredPages::Userfault, &[]).to_string();
        let ranges: Vec<_> = text.lines().filter(|line| line.starts_with("userfault")).collect();
        assert_eq!(
            ranges,
            [
                "userfault 12..14",
                "userfault 30..35",
                "userfault 37..40",
                "userfault 50..52",
                "userfault 70..75",
                "userfault 88..90"
            ]
        );
    }

    #[test]
    fn a_plan_for_nothing_is_empty() {
        let layout = GuestLayout::new(PageCount(0), Vec::new()).unwrap();
        check(&RestorePlan::build(&layout, &PageSet::new(), StoredPages::Read, &[]), &[]);
    }
}
