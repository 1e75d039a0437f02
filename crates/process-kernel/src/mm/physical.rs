//! Guest-physical page numbers: which are in use, and for what.

use pages::{PageCount, PageIndex, PageRange};
use serde::{Deserialize, Serialize};

/// Hands out guest-physical pages: mostly in ascending order, so that what is mapped together lies together.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PhysicalPages {
    /// First page never handed out.
    next: PageIndex,
    /// Pages that came back, sorted and disjoint.
    free: Vec<PageRange>,
    /// No page from here on.
    limit: PageCount,
}

impl PhysicalPages {
    /// Pages from `first` up to `limit`.
    pub fn new(first: PageIndex, limit: PageCount) -> Self {
        Self { next: first, free: Vec::new(), limit }
    }

    /// One past the highest page ever handed out: the size of the guest-physical space in use.
    pub fn used(&self) -> PageCount {
        PageCount(self.next.0)
    }

    /// Pages below [`PhysicalPages::used`] that are not in use, ascending.
    pub fn free_ranges(&self) -> impl Iterator<Item = PageRange> + '_ {
        self.free.iter().copied()
    }

    /// A run of `count` pages that lie together, or `None` when there is none.
    pub fn allocate(&mut self, count: PageCount) -> Option<PageRange> {
        if let Some(index) = self.free.iter().position(|range| range.count >= count) {
            let range = self.free[index];
            let taken = PageRange::new(range.start, count);
            let rest = PageRange::between(taken.end(), range.end());
            if rest.is_empty() {
                self.free.remove(index);
            } else {
                self.free[index] = rest;
            }
            return Some(taken);
        }
        let end = self.next.0.checked_add(count.0).filter(|end| *end <= self.limit.0)?;
        let taken = PageRange::between(self.next, PageIndex(end));
        self.next = PageIndex(end);
        Some(taken)
    }

    /// Takes `range` back.
    pub fn release(&mut self, range: PageRange) {
        if range.is_empty() {
            return;
        }
        let at = self.free.partition_point(|free| free.start < range.start);
        self.free.insert(at, range);
        if at + 1 < self.free.len() && self.free[at].end() == self.free[at + 1].start {
            self.free[at].count.0 += self.free[at + 1].count.0;
            self.free.remove(at + 1);
        }
        if at > 0 && self.free[at - 1].end() == self.free[at].start {
            self.free[at - 1].count.0 += self.free[at].count.0;
            self.free.remove(at);
        }
        if let Some(last) = self.free.last().copied()
            && last.end() == self.next
        {
            self.next = last.start;
            self.free.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_pages_join_and_are_used_again() {
        let mut pages = PhysicalPages::new(PageIndex(10), PageCount(30));
        let a = pages.allocate(PageCount(4)).unwrap();
        let b = pages.allocate(PageCount(4)).unwrap();
        let c = pages.allocate(PageCount(4)).unwrap();
        assert_eq!(c.start, PageIndex(18));
        pages.release(a);
        pages.release(b);
        assert_eq!(pages.allocate(PageCount(8)).unwrap().start, PageIndex(10));
        pages.release(c);
        assert_eq!(pages.used(), PageCount(18));
        assert_eq!(pages.allocate(PageCount(13)), None);
    }
}
