//! Pages whose content is put into memory that was ready before the request.
//!
//! A spare worker has populated pages that its guest is likely to touch ([`crate::ReadyRule`]), and on software KVM even made
//! the shadow page tables for them. A page mapped there anew loses both. So pages known to be touched keep the memory that is
//! there, and their content is read into it; everything else is mapped as usual. All of a block is in place before the guest
//! can see it, since nothing may arrive late in plain memory.

use pages::{PAGE_SIZE, PageCount, PageRange, PageSet};

use crate::layout::{Access, Backing, FileIndex, GuestLayout, Region};
use crate::loading_set::LoadingSet;

/// Pages of a file between two that are known are placed with them, up to so many: each takes 0.3 us to copy from the page
/// cache, a mapping in their place 4.5 us, and a file's pages read together need one call.
pub(crate) const BRIDGE: PageCount = PageCount(8);

/// The pages `files` of the guest's files, and those between them in the same region.
pub(crate) fn with_bridges(files: &PageSet, layout: &GuestLayout) -> PageSet {
    let of_files = layout.regions().iter().filter(|region| matches!(region.backing, Backing::File { .. }));
    let bridged = |region: &Region| files.within(region.range).collect::<PageSet>().bridged(BRIDGE);
    of_files.flat_map(|region| bridged(region).runs().to_vec()).collect::<PageSet>().union(files)
}

/// A run of pages and where in a file of the guest its content is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FromFile {
    pub range: PageRange,
    pub file: FileIndex,
    pub offset: u64,
}

impl FromFile {
    /// The same for `part` of its pages.
    pub fn part(&self, part: PageRange) -> Self {
        let further = (part.start.0 - self.range.start.0) * PAGE_SIZE;
        Self { range: part, offset: self.offset + further, ..*self }
    }
}

/// Which pages stay, and what is read into them beside the loading set, which the loader reads.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Placement {
    /// All that are ready and known to be touched. What lies between them is mapped: a mapping costs less than reading a few pages.
    pub pages: PageSet,
    /// Ready pages that nobody knows, but that are as they have to be: zero, and the guest may write them.
    pub idle: PageSet,
    /// Pages of the guest's files.
    pub files: Vec<FromFile>,
    /// Blocks that become huge pages; none of the pages above lies in one.
    pub huge: PageSet,
    /// Pages of blocks in which the guest has nothing yet, for when it gets them.
    pub growth: PageSet,
}

impl Placement {
    /// What to place of a guest with `layout` and `stored` pages into `ready` memory, which is zero.
    pub fn new(ready: &PageSet, layout: &GuestLayout, stored: &PageSet, set: &LoadingSet) -> Self {
        let loading = set.pages();
        let known = loading.union(set.fresh()).union(&with_bridges(set.files(), layout));
        Self::of(ready, layout, stored, &loading, &known)
    }

    fn of(
        ready: &PageSet,
        layout: &GuestLayout,
        stored: &PageSet,
        loading: &PageSet,
        known: &PageSet,
    ) -> Self {
        let mut placement = Self::default();
        // A stored page that no recording brings is never taken for known, whatever a damaged one says.
        let known = known.difference(&stored.difference(loading)).intersection(ready);
        let unknown = ready.difference(&known).difference(stored);
        let of_files = known.difference(loading);
        for region in layout.regions() {
            let is_private = !matches!(region.backing, Backing::Absent | Backing::File { shared: true, .. });
            if region.access == Access::None || !is_private {
                continue;
            }
            placement.pages.extend(known.within(region.range));
            match region.backing {
                Backing::Memory if region.access == Access::ReadWrite => {
                    placement.idle.extend(unknown.within(region.range));
                }
                Backing::File { file, offset, .. } => {
                    let from_file = of_files.within(region.range).map(|run| FromFile {
                        range: run,
                        file,
                        offset: offset + (run.start.0 - region.range.start.0) * PAGE_SIZE,
                    });
                    placement.files.extend(from_file);
                }
                _ => {}
            }
        }
        placement
    }

    /// What no mapping of the plan may replace.
    pub fn kept(&self) -> PageSet {
        self.pages.union(&self.idle).union(&self.huge).union(&self.growth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::sample::{range, set};

    #[test]
    fn known_pages_stay_and_others_do_not() {
        let file = |shared| Backing::File { file: FileIndex(2), offset: 0x3000, shared };
        let region = |start, end, backing, access| Region { range: range(start, end), backing, access };
        let regions = vec![
            region(0, 50, file(false), Access::Read),
            region(50, 100, Backing::Memory, Access::ReadWrite),
            region(100, 120, Backing::Memory, Access::None),
            region(120, 140, file(true), Access::Read),
            region(140, 200, Backing::Memory, Access::ReadWrite),
        ];
        let layout = GuestLayout::new(PageCount(200), regions).unwrap();
        let stored = set(&[(10, 12), (52, 70), (100, 110), (140, 200)]);
        let loading = set(&[(11, 12), (52, 54), (58, 60), (80, 82), (150, 155)]);
        let known = loading.union(&set(&[(3, 5), (10, 11), (54, 55), (103, 105), (122, 124), (190, 195)]));
        let placement = Placement::of(&set(&[(2, 160)]), &layout, &stored, &loading, &known);
        assert_eq!(placement.pages, set(&[(3, 5), (11, 12), (52, 54), (58, 60), (80, 82), (150, 155)]));
        assert_eq!(placement.idle, set(&[(50, 52), (70, 80), (82, 100)]));
        let offset = 0x3000 + 3 * PAGE_SIZE;
        assert_eq!(placement.files, [FromFile { range: range(3, 5), file: FileIndex(2), offset }]);
    }

    #[test]
    fn gaps_in_files_are_bridged_but_not_from_one_region_to_the_next() {
        let file = |offset| Backing::File { file: FileIndex(0), offset, shared: false };
        let region = |start, end, backing| Region { range: range(start, end), backing, access: Access::Read };
        let regions =
            vec![region(0, 50, file(0)), region(50, 60, file(0x5_0000)), region(60, 99, Backing::Memory)];
        let layout = GuestLayout::new(PageCount(100), regions).unwrap();
        let files = set(&[(0, 2), (10, 14), (25, 26), (48, 49), (52, 53), (70, 71), (73, 74)]);
        let bridged = set(&[(0, 14), (25, 26), (48, 49), (52, 53), (70, 71), (73, 74)]);
        assert_eq!(with_bridges(&files, &layout), bridged);
    }

    #[test]
    fn only_what_is_ready_stays() {
        let region = Region { range: range(0, 100), backing: Backing::Memory, access: Access::ReadWrite };
        let layout = GuestLayout::new(PageCount(100), vec![region]).unwrap();
        let (stored, loading) = (set(&[(0, 60)]), set(&[(10, 20), (24, 30)]));
        let ready = set(&[(12, 14), (19, 22), (40, 42), (80, 82)]);
        let placement = Placement::of(&ready, &layout, &stored, &loading, &loading);
        assert_eq!(placement.pages, set(&[(12, 14), (19, 20)]));
        assert_eq!(placement.idle, set(&[(80, 82)]));
    }
}
