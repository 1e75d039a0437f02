//! What lies where in guest-physical memory: the input of every plan, kept in a snapshot section of its own.

use guest_memory::Protection;
use pages::{Block, PAGE_SIZE, PageCount, PageIndex, PageRange, PageSet};
use serde::{Deserialize, Serialize};
use snapshot::{SectionKind, Snapshot, SnapshotBuilder, SnapshotError};
use thiserror::Error;

/// Where guest-physical memory ends that can be made ready ahead: the first 512 blocks (docs/process-guest.md).
pub(crate) const READY_END: PageIndex = PageIndex(Block::PAGES.0 * Block::PAGES.0);

/// Number of a file in the list that the guest supplies at restore.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FileIndex(pub u32);

/// What the guest may do with the pages of a region.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Access {
    /// Nothing.
    None,
    /// Read.
    Read,
    /// Read and write.
    ReadWrite,
}

impl From<Access> for Protection {
    fn from(access: Access) -> Self {
        match access {
            Access::None => Self::None,
            Access::Read => Self::Read,
            Access::ReadWrite => Self::ReadWrite,
        }
    }
}

impl From<Protection> for Access {
    fn from(protection: Protection) -> Self {
        match protection {
            Protection::None => Self::None,
            Protection::Read => Self::Read,
            Protection::ReadWrite => Self::ReadWrite,
        }
    }
}

/// Where the content of a region comes from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Backing {
    /// Nothing is mapped; no page of it is stored.
    Absent,
    /// The guest's own memory: stored pages come from the snapshot, all others are zero.
    Memory,
    /// A file that the guest has mapped.
    File {
        /// Which file.
        file: FileIndex,
        /// Byte offset of the region's first page, page-aligned.
        offset: u64,
        /// Shared: writes go to the file and no page is stored. Private: the pages that the guest wrote are stored in the
        /// snapshot and lie over the file's.
        shared: bool,
    },
}

/// A run of guest-physical pages with one backing and one protection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Region {
    /// The pages.
    pub range: PageRange,
    /// Where their content comes from.
    pub backing: Backing,
    /// What the guest may do with them.
    pub access: Access,
}

/// A layout that can't be restored.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum LayoutError {
    /// Regions overlap, are out of order, empty, or reach past the end.
    #[error(
        "region number {index} ({range:?}) is empty, out of order or past the {page_count} pages of the guest"
    )]
    Order {
        /// Place in the list.
        index: usize,
        /// The region's pages.
        range: PageRange,
        /// Pages in guest-physical space.
        page_count: u64,
    },
    /// A file offset that is not page-aligned or too large.
    #[error("region number {index} maps a file at offset {offset}, which can't be mapped")]
    Offset {
        /// Place in the list.
        index: usize,
        /// The offset.
        offset: u64,
    },
    /// The snapshot stores pages that, by the layout, have no content of their own.
    #[error("the snapshot stores page {} in a region that is absent, shared or in no region", page.0)]
    StoredWithoutMemory {
        /// The first such page.
        page: PageIndex,
    },
    /// The layout's size isn't the snapshot's.
    #[error("the layout has {layout} pages, the snapshot {snapshot}")]
    PageCount {
        /// Pages in the layout.
        layout: u64,
        /// Pages in the snapshot.
        snapshot: u64,
    },
}

/// Everything in guest-physical memory: regions in ascending order. Pages in no region are absent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GuestLayout {
    page_count: PageCount,
    regions: Vec<Region>,
}

impl GuestLayout {
    /// The section that holds an encoded layout.
    pub const SECTION: SectionKind = SectionKind::named("guest-layout");
    /// Version of that section: this type in postcard.
    pub const VERSION: u16 = 1;

    /// A layout of `page_count` pages with `regions` in ascending order.
    ///
    /// # Errors
    /// [`LayoutError`] naming the first region that breaks a rule.
    pub fn new(page_count: PageCount, regions: Vec<Region>) -> Result<Self, LayoutError> {
        let layout = Self { page_count, regions };
        layout.check()?;
        Ok(layout)
    }

    fn check(&self) -> Result<(), LayoutError> {
        let mut end = 0;
        for (index, region) in self.regions.iter().enumerate() {
            let range = region.range;
            let region_end = range.start.0.checked_add(range.count.0).filter(|end| *end <= self.page_count.0);
            match region_end {
                Some(region_end) if range.start.0 >= end && !range.is_empty() => end = region_end,
                _ => return Err(LayoutError::Order { index, range, page_count: self.page_count.0 }),
            }
            if let Backing::File { offset, .. } = region.backing {
                let file_end = offset.checked_add(range.count.bytes());
                if offset % PAGE_SIZE != 0 || file_end.is_none_or(|end| i64::try_from(end).is_err()) {
                    return Err(LayoutError::Offset { index, offset });
                }
            }
        }
        Ok(())
    }

    /// Size of guest-physical space.
    pub fn page_count(&self) -> PageCount {
        self.page_count
    }

    /// The regions, ascending.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// Makes sure that `stored` (the pages a snapshot stores) lies only where stored pages have a meaning: in memory and
    /// over private files.
    pub(crate) fn check_stored(&self, stored: &PageSet) -> Result<(), LayoutError> {
        let own: PageSet = self
            .regions
            .iter()
            .filter(|region| matches!(region.backing, Backing::Memory | Backing::File { shared: false, .. }))
            .map(|region| region.range)
            .collect();
        match stored.difference(&own).runs().first() {
            Some(run) => Err(LayoutError::StoredWithoutMemory { page: run.start }),
            None => Ok(()),
        }
    }

    /// Those of `pages` that lie in blocks in which no region has a part, and that can be made ready: such blocks are handed out whole.
    #[must_use]
    pub(crate) fn in_free_blocks(&self, pages: &PageSet) -> PageSet {
        let blocks = self.regions.iter().flat_map(|region| Block::meeting(region.range));
        let used: PageSet = blocks.map(Block::pages).collect();
        let free = pages.difference(&used);
        free.within(PageRange::between(PageIndex(0), READY_END)).collect()
    }

    /// The same with writing allowed wherever reading is: for a guest whose own page tables forbid the writes that its regions
    /// don't allow. Shared files stay as they are, since a write there would last.
    #[must_use]
    pub(crate) fn writable(&self) -> Self {
        let writable = |region: &Region| match (region.access, region.backing) {
            (_, Backing::File { shared: true, .. }) | (Access::None, _) => *region,
            _ => Region { access: Access::ReadWrite, ..*region },
        };
        Self { page_count: self.page_count, regions: self.regions.iter().map(writable).collect() }
    }

    /// Adds the layout to a snapshot being written.
    ///
    /// # Errors
    /// As [`SnapshotBuilder::section`].
    pub fn add_to(&self, builder: &mut SnapshotBuilder) -> Result<(), SnapshotError> {
        builder.section_postcard(Self::SECTION, Self::VERSION, self)
    }

    /// Reads and checks the layout of `snapshot`.
    ///
    /// # Errors
    /// [`SnapshotError`] when it is missing, damaged or makes no sense.
    pub fn from_snapshot(snapshot: &Snapshot) -> Result<Self, SnapshotError> {
        let layout: Self = snapshot.section_postcard(Self::SECTION, Self::VERSION)?;
        layout.check().map_err(|error| snapshot.section_error(Self::SECTION, error.to_string()))?;
        Ok(layout)
    }
}
