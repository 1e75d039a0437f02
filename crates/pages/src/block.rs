//! Blocks of 2 MiB: what one entry of the second level of page tables maps, and what a huge page holds.

use serde::{Deserialize, Serialize};

use crate::{PageCount, PageIndex, PageRange};

/// Number of a block of guest-physical space: its address divided by 2 MiB.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Block(pub u64);

impl Block {
    /// Pages of a block.
    pub const PAGES: PageCount = PageCount(512);

    /// Its pages.
    pub const fn pages(self) -> PageRange {
        PageRange::new(self.first(), Self::PAGES)
    }

    /// The block that `page` lies in.
    pub const fn containing(page: PageIndex) -> Self {
        Self(page.0 / Self::PAGES.0)
    }

    /// Its first page.
    pub const fn first(self) -> PageIndex {
        PageIndex(self.0 * Self::PAGES.0)
    }

    /// The blocks that have a page in `range`, ascending.
    pub fn meeting(range: PageRange) -> impl Iterator<Item = Self> {
        let end = range.end().0.div_ceil(Self::PAGES.0);
        let start = if range.is_empty() { end } else { Self::containing(range.start).0 };
        (start..end).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_meets_the_blocks_that_it_has_pages_in() {
        let meeting = |start, count| -> Vec<u64> {
            Block::meeting(PageRange::new(PageIndex(start), PageCount(count))).map(|block| block.0).collect()
        };
        assert_eq!(meeting(511, 2), [0, 1]);
        assert_eq!(meeting(512, 512), [1]);
        assert_eq!(meeting(700, 0), []);
        assert_eq!(Block(3).pages().end(), Block(4).first());
        assert_eq!(Block::containing(PageIndex(2047)), Block(3));
    }
}
