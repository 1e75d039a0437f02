//! When a timer expires: the arithmetic that timer files and timers that send signals share.

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::clock::{Clock, Deadline};

/// Which of the guest's clocks a timer follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum TimerClock {
    /// CLOCK_MONOTONIC and CLOCK_BOOTTIME, which agree in a guest, and CLOCK_BOOTTIME_ALARM.
    Monotonic,
    /// CLOCK_REALTIME and CLOCK_REALTIME_ALARM.
    Realtime,
    /// CLOCK_PROCESS_CPUTIME_ID: the worker's, which does nothing but run its guest.
    Cpu,
}

impl TimerClock {
    /// The clock with a CLOCK_* number, if timer files can follow it.
    pub fn from_number(clock: i32) -> Option<Self> {
        match clock {
            libc::CLOCK_MONOTONIC | libc::CLOCK_BOOTTIME | libc::CLOCK_BOOTTIME_ALARM => {
                Some(Self::Monotonic)
            }
            libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_ALARM => Some(Self::Realtime),
            _ => None,
        }
    }
}

/// The process's CPU time, nanoseconds.
fn cpu_time() -> u64 {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    (now.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(now.tv_nsec as u64)
}

/// How long a timer that follows CPU time sleeps at least before it looks at the clock again.
const CPU_LOOK: u64 = 1_000_000;

/// When a timer expires next.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum Next {
    /// At a moment of guest-monotonic time.
    Monotonic(Deadline),
    /// When CLOCK_REALTIME reads this many nanoseconds; it is looked at again after a restore.
    Realtime(u64),
    /// When the process has used this many nanoseconds of CPU time.
    Cpu(u64),
}

impl Next {
    /// When to look whether it has come.
    fn deadline(self, clock: &Clock) -> Deadline {
        match self {
            Self::Monotonic(deadline) => deadline,
            Self::Realtime(nanoseconds) => clock.deadline_at_realtime(nanoseconds),
            Self::Cpu(target) => {
                // Several threads use up CPU time faster than the wall clock goes.
                let left = target.saturating_sub(cpu_time());
                let threads = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
                Deadline(clock.monotonic().saturating_add((left / threads).max(CPU_LOOK)))
            }
        }
    }

    /// How long ago it was; `None` when it is still to come.
    fn passed(self, clock: &Clock) -> Option<u64> {
        match self {
            Self::Monotonic(deadline) => clock.monotonic().checked_sub(deadline.0),
            Self::Realtime(nanoseconds) => clock.realtime().checked_sub(nanoseconds),
            Self::Cpu(target) => cpu_time().checked_sub(target),
        }
    }

    fn left(self, clock: &Clock) -> u64 {
        let left = match self {
            Self::Cpu(target) => target.saturating_sub(cpu_time()),
            other => u64::try_from(clock.remaining(other.deadline(clock)).as_nanos()).unwrap_or(u64::MAX),
        };
        left.max(1)
    }

    fn later(self, nanoseconds: u64) -> Self {
        match self {
            Self::Monotonic(deadline) => Self::Monotonic(Deadline(deadline.0.saturating_add(nanoseconds))),
            Self::Realtime(moment) => Self::Realtime(moment.saturating_add(nanoseconds)),
            Self::Cpu(target) => Self::Cpu(target.saturating_add(nanoseconds)),
        }
    }
}

/// When a timer expires next and how often after that; the default never does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Expiry {
    next: Option<Next>,
    /// Nanoseconds between expirations; 0: once.
    interval: u64,
}

impl Expiry {
    /// Expires `first` nanoseconds from now or (`absolute`) when `follows` reads that, and every `interval` nanoseconds
    /// after that. Never, if `first` is 0.
    pub fn new(follows: TimerClock, clock: &Clock, first: u64, interval: u64, absolute: bool) -> Self {
        let next = match (first, absolute, follows) {
            (0, _, _) => return Self::default(),
            (_, true, TimerClock::Monotonic) => Next::Monotonic(Deadline(first)),
            (_, true, TimerClock::Realtime) => Next::Realtime(first),
            (_, true, TimerClock::Cpu) => Next::Cpu(first),
            (_, false, TimerClock::Cpu) => Next::Cpu(cpu_time().saturating_add(first)),
            // Relative times do not follow changes of the wall clock.
            (_, false, _) => Next::Monotonic(Deadline(clock.monotonic().saturating_add(first))),
        };
        Self { next: Some(next), interval }
    }

    /// Nanoseconds until the next expiration (0: never), and the interval.
    pub fn get(&self, clock: &Clock) -> (u64, u64) {
        let Some(next) = self.next else { return (0, self.interval) };
        let left = match next.passed(clock) {
            // Periodic timers show the expiration to come, even when earlier ones were not taken.
            Some(ago) if self.interval > 0 => self.interval - ago % self.interval,
            Some(_) => 0,
            None => next.left(clock),
        };
        (left, self.interval)
    }

    /// When to look at the timer next, if ever.
    pub fn deadline(&self, clock: &Clock) -> Option<Deadline> {
        self.next.map(|next| next.deadline(clock))
    }

    /// Whether it has expired since it was taken last.
    pub fn has_expired(&self, clock: &Clock) -> bool {
        self.next.is_some_and(|next| next.passed(clock).is_some())
    }

    /// How often it has expired, if it has; what is to come stays.
    pub fn expirations(&self, clock: &Clock) -> Option<u64> {
        let ago = self.next?.passed(clock)?;
        Some(ago.checked_div(self.interval).map_or(1, |more| more.saturating_add(1)))
    }

    /// Goes on behind that many expirations.
    pub fn advance(&mut self, expirations: u64) {
        self.next = match self.interval {
            0 => None,
            interval => self.next.map(|next| next.later(expirations.saturating_mul(interval))),
        };
    }

    /// As it is kept in a snapshot: CPU time starts anew in another process.
    pub fn saved(mut self) -> Self {
        if let Some(Next::Cpu(target)) = &mut self.next {
            *target = target.saturating_sub(cpu_time());
        }
        self
    }

    /// The other way of [`Expiry::saved`].
    pub fn restored(mut self) -> Self {
        if let Some(Next::Cpu(target)) = &mut self.next {
            *target = target.saturating_add(cpu_time());
        }
        self
    }
}
