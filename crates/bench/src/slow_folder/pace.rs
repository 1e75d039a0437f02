//! How fast a limited device is.

use std::time::{Duration, Instant};

use crate::throttle::ReadLimits;

/// When reads are done on a device that is limited by bytes and by reads a second.
pub(super) struct Pace {
    limits: ReadLimits,
    /// When the device is done with what was asked of it.
    free_at: Instant,
}

impl Pace {
    pub(super) fn new(limits: ReadLimits) -> Self {
        Self { limits, free_at: Instant::now() }
    }

    /// When a read of `bytes` that is asked for at `now` is done.
    pub(super) fn done_at(&mut self, now: Instant, bytes: u64) -> Instant {
        let per_second = |amount: u64, rate: u64| Duration::from_secs_f64(amount as f64 / rate as f64);
        let takes =
            per_second(bytes, self.limits.bytes_per_second).max(per_second(1, self.limits.reads_per_second));
        self.free_at = self.free_at.max(now) + takes;
        self.free_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_queue_by_bytes_and_by_number() {
        let limits = ReadLimits { bytes_per_second: 1 << 20, reads_per_second: 1000 };
        let start = Instant::now();
        let mut pace = Pace { limits, free_at: start };
        let after = |done: Instant| (done - start).as_micros();
        // A small one takes its share of the reads a second, a large one that of the bytes.
        assert_eq!(after(pace.done_at(start, 512)), 1000);
        assert_eq!(after(pace.done_at(start, 512 << 10)), 501_000);
        // After a pause nothing is owed and nothing was saved up.
        assert_eq!(after(pace.done_at(start + Duration::from_secs(2), 0)), 2_001_000);
    }
}
