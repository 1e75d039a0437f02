//! Guest-physical space: which of it is in use, and for what.
//!
//! It is handed out in blocks of 2 MiB, aligned, since a virtual block of 2 MiB always has one such block behind it
//! ([`super::assignment`]). What belongs to the worker itself (page tables, vCPUs' pages) is taken page by page from blocks
//! that no program's address ever leads to.

use std::collections::BTreeSet;

use pages::{Block, PageCount, PageIndex, PageRange};
use serde::{Deserialize, Serialize};

use super::layout;

/// Pages of a block.
pub(crate) const BLOCK_PAGES: u64 = Block::PAGES.0;
/// Bytes of a block.
pub(crate) const BLOCK_SIZE: u64 = BLOCK_PAGES * pages::PAGE_SIZE;

/// Hands out guest-physical space: mostly in ascending order, so that what is mapped together lies together.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PhysicalPages {
    /// First block never handed out.
    next: Block,
    /// Blocks that came back.
    free: BTreeSet<Block>,
    /// No block from here on.
    limit: Block,
    /// The worker's own pages that are in use, ascending; the last run grows until its block is full.
    own: Vec<PageRange>,
}

impl PhysicalPages {
    /// All of `size`. The pages below [`layout::FIRST_FREE_PAGE`] are in use.
    pub fn new(size: PageCount) -> Self {
        Self {
            next: layout::FIRST_BLOCK,
            free: BTreeSet::new(),
            limit: Block(size.0 / BLOCK_PAGES),
            own: vec![PageRange::new(PageIndex(0), PageCount(layout::FIRST_FREE_PAGE))],
        }
    }

    /// One past the highest page of the blocks handed out: the size of the guest-physical space in use.
    pub fn used(&self) -> PageCount {
        PageCount(self.next.first().0)
    }

    /// The worker's own pages, but for the page tables of blocks.
    pub fn own(&self) -> &[PageRange] {
        &self.own
    }

    /// A page for the worker itself, or `None` when there is none.
    pub fn allocate_own(&mut self) -> Option<PageIndex> {
        if let Some(last) = self.own.last_mut()
            && last.end().0 % BLOCK_PAGES != 0
        {
            let page = last.end();
            last.count.0 += 1;
            return Some(page);
        }
        let page = self.allocate()?.first();
        self.own.push(PageRange::new(page, PageCount(1)));
        self.own.sort_unstable_by_key(|range| (range.end().0 % BLOCK_PAGES != 0, range.start));
        Some(page)
    }

    /// A block, or `None` when there is none.
    pub fn allocate(&mut self) -> Option<Block> {
        if let Some(block) = self.free.pop_first() {
            return Some(block);
        }
        let block = self.next;
        if block >= self.limit {
            return None;
        }
        self.next = Block(block.0 + 1);
        Some(block)
    }

    /// Takes a block back.
    pub fn release(&mut self, block: Block) {
        self.free.insert(block);
        while self.next > layout::FIRST_BLOCK && self.free.remove(&Block(self.next.0 - 1)) {
            self.next = Block(self.next.0 - 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_blocks_are_used_again_and_given_up_at_the_end() {
        let mut pages = PhysicalPages::new(PageCount(BLOCK_PAGES * 5));
        let first = layout::FIRST_BLOCK.0;
        let blocks: Vec<_> = std::iter::from_fn(|| pages.allocate()).collect();
        assert_eq!(blocks, (first..5).map(Block).collect::<Vec<_>>());
        pages.release(blocks[0]);
        assert_eq!(pages.used(), PageCount(5 * BLOCK_PAGES));
        assert_eq!(pages.allocate(), Some(blocks[0]));
        for block in blocks {
            pages.release(block);
        }
        assert_eq!(pages.used(), PageCount(first * BLOCK_PAGES));
    }

    #[test]
    fn own_pages_go_on_in_a_new_block_when_one_is_full() {
        let mut pages = PhysicalPages::new(PageCount(BLOCK_PAGES * 5));
        for page in layout::FIRST_FREE_PAGE..BLOCK_PAGES {
            assert_eq!(pages.allocate_own(), Some(PageIndex(page)));
        }
        let first = layout::FIRST_BLOCK.first();
        assert_eq!(pages.allocate_own(), Some(first));
        assert_eq!(pages.allocate(), Some(Block(layout::FIRST_BLOCK.0 + 1)));
        assert_eq!(pages.allocate_own(), Some(PageIndex(first.0 + 1)));
        assert_eq!(pages.own().len(), 2);
    }
}
