//! Zero pages that are known to be touched: they get memory ahead, piece by piece.

use guest_memory::{Advice, GuestMemory};
use pages::{PageCount, PageRange, PageSet};

use crate::loading_set::CHUNK;
use crate::strategy::Techniques;

/// At most this many zero pages get memory ahead (64 MiB): beyond that the guest's own faults keep up.
const FRESH_LIMIT: PageCount = PageCount(1 << 14);

/// Zero pages that the recorded invocation touched, given memory piece by piece between the chunks.
pub(crate) struct Fresh {
    runs: Vec<PageRange>,
    share: PageCount,
}

impl Fresh {
    /// For `pages`, some of them after each of `chunks` chunks.
    pub fn new(pages: &PageSet, chunks: usize, techniques: Techniques) -> Self {
        if !techniques.fresh_ahead {
            return Self { runs: Vec::new(), share: PageCount(0) };
        }
        let mut left = FRESH_LIMIT.0;
        let mut runs: Vec<PageRange> = Vec::new();
        for run in pages.runs() {
            let count = run.count.0.min(left);
            left -= count;
            if count > 0 {
                runs.push(PageRange::new(run.start, PageCount(count)));
            }
        }
        // Taken from the end: the lowest addresses first.
        runs.reverse();
        let share = (FRESH_LIMIT.0 - left).div_ceil(chunks.max(1) as u64);
        Self { runs, share: PageCount(share) }
    }

    /// Gives memory to one chunk's share.
    pub fn prepare_some(&mut self, memory: &GuestMemory) {
        let mut left = self.share.0;
        while left > 0
            && let Some(run) = self.runs.pop()
        {
            let count = PageCount(run.count.0.min(left));
            let now = PageRange::new(run.start, count);
            // As for `populate`, the guest may have other plans for these pages by now.
            let _ = memory.advise(now, Advice::PopulateWrite);
            left -= count.0;
            let rest = PageRange::between(now.end(), run.end());
            if !rest.is_empty() {
                self.runs.push(rest);
            }
        }
    }

    /// Gives memory to all that is left.
    pub fn prepare_rest(&mut self, memory: &GuestMemory, is_stopped: impl Fn() -> bool) {
        self.share = self.share.max(CHUNK);
        while !self.runs.is_empty() && !is_stopped() {
            self.prepare_some(memory);
        }
    }
}
