//! Page numbers, counts and ranges.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::address::{GuestPhysical, PAGE_SHIFT, PAGE_SIZE};

/// The number of a guest-physical page (address / 4096).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PageIndex(pub u64);

impl PageIndex {
    /// The page's first byte.
    pub const fn address(self) -> GuestPhysical {
        GuestPhysical(self.0 << PAGE_SHIFT)
    }

    /// The page that holds `address`.
    pub const fn containing(address: GuestPhysical) -> Self {
        Self(address.0 >> PAGE_SHIFT)
    }
}

/// How many pages.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PageCount(pub u64);

impl PageCount {
    /// Enough pages for `bytes`, rounded up.
    pub const fn for_bytes(bytes: u64) -> Self {
        Self(bytes.div_ceil(PAGE_SIZE))
    }

    /// Size in bytes.
    pub const fn bytes(self) -> u64 {
        self.0 << PAGE_SHIFT
    }
}

/// A half-open run of pages, `start .. start + count`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct PageRange {
    /// First page.
    pub start: PageIndex,
    /// Number of pages.
    pub count: PageCount,
}

impl PageRange {
    /// The range of `count` pages from `start`.
    pub const fn new(start: PageIndex, count: PageCount) -> Self {
        Self { start, count }
    }

    /// The range from `start` up to but not including `end`; empty when `end <= start`.
    pub const fn between(start: PageIndex, end: PageIndex) -> Self {
        Self { start, count: PageCount(end.0.saturating_sub(start.0)) }
    }

    /// One past the last page; the largest page number for a range that would reach past it.
    pub const fn end(self) -> PageIndex {
        PageIndex(self.start.0.saturating_add(self.count.0))
    }

    /// Whether the range holds no page.
    pub const fn is_empty(self) -> bool {
        self.count.0 == 0
    }

    /// Whether `page` lies inside.
    pub const fn contains(self, page: PageIndex) -> bool {
        page.0 >= self.start.0 && page.0 < self.end().0
    }

    /// The pages in both ranges; empty when they don't meet.
    pub fn intersection(self, other: Self) -> Self {
        Self::between(self.start.max(other.start), self.end().min(other.end()))
    }

    /// Every page in order.
    pub fn iter(self) -> impl DoubleEndedIterator<Item = PageIndex> {
        (self.start.0..self.end().0).map(PageIndex)
    }
}

impl fmt::Debug for PageRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pages {}..{}", self.start.0, self.end().0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_intersect_or_are_empty() {
        let a = PageRange::between(PageIndex(2), PageIndex(8));
        assert_eq!(
            a.intersection(PageRange::between(PageIndex(5), PageIndex(20))),
            PageRange::between(PageIndex(5), PageIndex(8))
        );
        assert!(a.intersection(PageRange::between(PageIndex(8), PageIndex(9))).is_empty());
    }
}
