//! The guest's clocks.
//!
//! CLOCK_MONOTONIC goes on from the snapshot's value when an instance is restored; CLOCK_REALTIME is the host's.
//! Deadlines are kept in guest-monotonic nanoseconds, so that they keep their meaning across a restore.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// A moment on the guest's CLOCK_MONOTONIC, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Deadline(pub u64);

/// The guest's clocks.
#[derive(Debug, Default)]
pub struct Clock {
    /// Guest monotonic time minus host monotonic time, nanoseconds.
    monotonic_offset: AtomicI64,
}

fn host(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    (now.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec as u64)
}

impl Clock {
    /// A clock whose monotonic time reads `now` at this moment (a restored guest).
    pub fn continuing_from(now: u64) -> Self {
        let clock = Self::default();
        clock.continue_from(now);
        clock
    }

    /// Sets monotonic time to `now`, nanoseconds.
    pub fn continue_from(&self, now: u64) {
        let offset = now.wrapping_sub(host(ClockId::Monotonic)) as i64;
        self.monotonic_offset.store(offset, Ordering::SeqCst);
    }

    /// Guest monotonic minus host monotonic time, nanoseconds; for the vDSO.
    pub fn monotonic_offset(&self) -> i64 {
        self.monotonic_offset.load(Ordering::SeqCst)
    }

    /// Guest CLOCK_MONOTONIC, nanoseconds.
    pub fn monotonic(&self) -> u64 {
        host(ClockId::Monotonic).wrapping_add_signed(self.monotonic_offset())
    }

    /// Guest CLOCK_REALTIME, nanoseconds since the epoch.
    pub fn realtime(&self) -> u64 {
        host(ClockId::Realtime)
    }

    /// The deadline `after` from now.
    pub fn deadline_after(&self, after: Duration) -> Deadline {
        Deadline(self.monotonic().saturating_add(u64::try_from(after.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// The deadline at which CLOCK_REALTIME will read `realtime` nanoseconds.
    pub fn deadline_at_realtime(&self, realtime: u64) -> Deadline {
        Deadline(self.monotonic().saturating_add(realtime.saturating_sub(self.realtime())))
    }

    /// Time left until `deadline`; zero once it has passed.
    pub fn remaining(&self, deadline: Deadline) -> Duration {
        Duration::from_nanos(deadline.0.saturating_sub(self.monotonic()))
    }
}
