//! Pages whose content is put into memory that was ready before the request.
//!
//! A spare worker has populated the first part of guest-physical memory, and on software KVM even the shadow page tables for
//! it. A page mapped there anew loses both. So pages known to be touched keep the memory that is there, and their content
//! is read into it; everything else is mapped as usual. All of it is in place before the guest runs, since nothing may
//! arrive late in plain memory.

use std::num::NonZeroU64;
use std::os::fd::BorrowedFd;

use guest_memory::GuestMemory;
use pages::{PAGE_SIZE, PageRange, PageSet};
use rustix::fs::{Advice, fadvise};
use snapshot::Snapshot;

use crate::error::RestoreError;
use crate::layout::{Access, Backing, FileIndex, GuestLayout};
use crate::loading_set::LoadingSet;

/// Known pages with at most this many others between them are one run, and the others are read with them: a mapping of their own
/// would cost more (5 us, and 0.2 us a page for what was ready there).
const GAP: u64 = 8;

/// A run of pages and where in a file of the guest its content is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct FromFile {
    range: PageRange,
    file: FileIndex,
    offset: u64,
}

/// Which pages stay, and what is read into them beside the loading set, which the loader reads.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Placement {
    /// All of them.
    pub pages: PageSet,
    /// Stored pages between those of the loading set.
    stored: PageSet,
    /// Pages of the guest's files.
    files: Vec<FromFile>,
}

impl Placement {
    /// What to place of a guest with `layout` and `stored` pages into `ready` memory, which is zero.
    pub fn new(ready: PageRange, layout: &GuestLayout, stored: &PageSet, set: &LoadingSet) -> Self {
        let loading = set.pages();
        let known = loading.union(set.fresh()).union(set.files());
        Self::of(ready, layout, stored, &loading, &known)
    }

    fn of(
        ready: PageRange,
        layout: &GuestLayout,
        stored: &PageSet,
        loading: &PageSet,
        known: &PageSet,
    ) -> Self {
        let mut placement = Self::default();
        for region in layout.regions() {
            let range = region.range.intersection(ready);
            let is_private = !matches!(region.backing, Backing::Absent | Backing::File { shared: true, .. });
            if range.is_empty() || region.access == Access::None || !is_private {
                continue;
            }
            let mut pages = PageSet::new();
            let mut previous: Option<PageRange> = None;
            for run in known.within(range) {
                let near = previous.filter(|before| run.start.0 - before.end().0 <= GAP);
                let run = PageRange::between(near.map_or(run.start, |before| before.end()), run.end());
                pages.insert(run);
                previous = Some(run);
            }
            placement.stored = placement.stored.union(&pages.intersection(stored).difference(loading));
            if let Backing::File { file, offset, .. } = region.backing {
                let from_file = pages.difference(stored).difference(loading);
                placement.files.extend(from_file.runs().iter().map(|run| FromFile {
                    range: *run,
                    file,
                    offset: offset + (run.start.0 - region.range.start.0) * PAGE_SIZE,
                }));
            }
            placement.pages = placement.pages.union(&pages);
        }
        placement
    }

    /// Asks for what [`Self::fill`] reads of the memory file, without waiting for it.
    pub fn ask(&self, snapshot: &Snapshot) {
        let file = snapshot.memory_file();
        // Hints. Without the first, each of the small reads would bring in the device's whole window around it.
        let _ = fadvise(file, 0, None, Advice::Random);
        for run in self.stored.runs() {
            let _ =
                fadvise(file, run.start.address().0, NonZeroU64::new(run.count.bytes()), Advice::WillNeed);
        }
    }

    /// Reads everything but the loading set.
    pub fn fill(
        &self,
        memory: &GuestMemory,
        snapshot: &Snapshot,
        guest_files: &[BorrowedFd<'_>],
    ) -> Result<(), RestoreError> {
        use std::os::fd::AsFd;
        for run in self.stored.runs() {
            memory.read_in(*run, snapshot.memory_file().as_fd(), run.start.address().0)?;
        }
        for FromFile { range, file, offset } in &self.files {
            let (index, supplied) = (file.0, guest_files.len());
            let file =
                guest_files.get(index as usize).ok_or(RestoreError::MissingFile { index, supplied })?;
            // Behind a file's end a mapping has zeros to the end of the page, as this memory has.
            memory.read_in_to_end(*range, *file, *offset)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use pages::PageCount;

    use super::*;
    use crate::layout::Region;
    use crate::tests::sample::{range, set};

    #[test]
    fn known_pages_stay_with_what_lies_between_them_and_others_do_not() {
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
        let known = loading.union(&set(&[(3, 5), (103, 105), (122, 124), (190, 195)]));
        let placement = Placement::of(range(2, 160), &layout, &stored, &loading, &known);
        assert_eq!(placement.pages, set(&[(3, 12), (52, 60), (80, 82), (150, 155)]));
        assert_eq!(placement.stored, set(&[(10, 11), (54, 58)]));
        let offset = 0x3000 + 3 * PAGE_SIZE;
        assert_eq!(placement.files, [FromFile { range: range(3, 10), file: FileIndex(2), offset }]);
    }
}
