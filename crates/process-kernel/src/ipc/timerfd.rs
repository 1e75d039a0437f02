//! timerfd: timers that are read.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::{Ipc, TimerId, TimerQueue, anonymous};
use crate::clock::{Clock, Deadline};
use crate::file::{Destination, FileObject, Readiness, Stat};
use crate::object::{Object, RestoreError, Restorer, SaveError, Saver};
use crate::wait::WaitQueue;

/// Which of the guest's clocks a timer follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum TimerClock {
    /// CLOCK_MONOTONIC and CLOCK_BOOTTIME, which agree in a guest, and CLOCK_BOOTTIME_ALARM.
    Monotonic,
    /// CLOCK_REALTIME and CLOCK_REALTIME_ALARM.
    Realtime,
}

impl TimerClock {
    /// The clock with a CLOCK_* number, if timers can follow it.
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

/// When a timer expires next.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum Next {
    /// At a moment of guest-monotonic time.
    Monotonic(Deadline),
    /// When CLOCK_REALTIME reads this many nanoseconds; it is looked at again after a restore.
    Realtime(u64),
}

impl Next {
    fn deadline(self, clock: &Clock) -> Deadline {
        match self {
            Self::Monotonic(deadline) => deadline,
            Self::Realtime(nanoseconds) => clock.deadline_at_realtime(nanoseconds),
        }
    }

    /// How long ago it was; `None` when it is still to come.
    fn passed(self, clock: &Clock) -> Option<u64> {
        match self {
            Self::Monotonic(deadline) => clock.monotonic().checked_sub(deadline.0),
            Self::Realtime(nanoseconds) => clock.realtime().checked_sub(nanoseconds),
        }
    }

    fn later(self, nanoseconds: u64) -> Self {
        match self {
            Self::Monotonic(deadline) => Self::Monotonic(Deadline(deadline.0.saturating_add(nanoseconds))),
            Self::Realtime(moment) => Self::Realtime(moment.saturating_add(nanoseconds)),
        }
    }
}

#[derive(Default)]
struct State {
    next: Option<Next>,
    /// Nanoseconds between expirations; 0: once.
    interval: u64,
    scheduled: Option<TimerId>,
}

/// A timer file. Snapshot rule: saved with its next expiration and interval; what expired meanwhile is counted when it is
/// read. A monotonic timer goes on where it was, a realtime timer follows the wall clock.
pub struct TimerFd {
    state: Mutex<State>,
    timer_clock: TimerClock,
    clock: Arc<Clock>,
    timers: Arc<TimerQueue>,
    queue: WaitQueue,
    /// Itself, for the timer's callback.
    this: Weak<Self>,
}

impl TimerFd {
    /// Registry key.
    pub const KIND: &'static str = "timerfd";

    /// A timer that is not set.
    pub fn new(ipc: &Ipc, clock: &Arc<Clock>, timer_clock: TimerClock) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            state: Mutex::default(),
            timer_clock,
            clock: clock.clone(),
            timers: ipc.timers.clone(),
            queue: WaitQueue::default(),
            this: this.clone(),
        })
    }

    /// Nanoseconds until the next expiration (0 when not set), and the interval.
    pub fn get(&self) -> (u64, u64) {
        let state = self.state.lock();
        (self.left(&state), state.interval)
    }

    fn left(&self, state: &State) -> u64 {
        let Some(next) = state.next else { return 0 };
        match next.passed(&self.clock) {
            // Periodic timers show the expiration to come, even when earlier ones were not read.
            Some(ago) if state.interval > 0 => state.interval - ago % state.interval,
            Some(_) => 0,
            None => {
                let left = self.clock.remaining(next.deadline(&self.clock));
                u64::try_from(left.as_nanos()).unwrap_or(u64::MAX).max(1)
            }
        }
    }

    /// Sets the timer to `first` nanoseconds, from now or (`absolute`) on its clock, and every `interval` nanoseconds
    /// after that; `first` 0 stops it. Returns what [`TimerFd::get`] gave before.
    ///
    /// # Errors
    /// EAGAIN when no timer can be had.
    pub fn set(&self, first: u64, interval: u64, absolute: bool) -> Result<(u64, u64), Errno> {
        let next = match (first, absolute, self.timer_clock) {
            (0, _, _) => None,
            (_, true, TimerClock::Monotonic) => Some(Next::Monotonic(Deadline(first))),
            (_, true, TimerClock::Realtime) => Some(Next::Realtime(first)),
            // Relative times do not follow changes of the wall clock.
            (_, false, _) => Some(Next::Monotonic(Deadline(self.clock.monotonic().saturating_add(first)))),
        };
        let mut state = self.state.lock();
        let before = (self.left(&state), state.interval);
        state.next = next;
        state.interval = if next.is_some() { interval } else { 0 };
        let scheduled = self.schedule(&mut state);
        drop(state);
        self.queue.notify();
        scheduled.map(|()| before)
    }

    /// Makes the timer queue notify at the next expiration.
    fn schedule(&self, state: &mut State) -> Result<(), Errno> {
        if let Some(old) = state.scheduled.take() {
            self.timers.cancel(old);
        }
        if let Some(next) = state.next {
            let this = self.this.clone();
            let callback = move || {
                if let Some(this) = this.upgrade() {
                    this.queue.notify();
                }
            };
            state.scheduled = Some(self.timers.schedule(next.deadline(&self.clock), callback)?);
        }
        Ok(())
    }

    /// See [`crate::object::RestoreFn`].
    ///
    /// # Errors
    /// [`RestoreError`] when the payload is damaged or no timer can be had.
    pub fn restore(payload: &[u8], restorer: &mut Restorer<'_>) -> Result<Arc<dyn Object>, RestoreError> {
        let (timer_clock, next, interval) = Restorer::decode(Self::KIND, payload)?;
        let timer = Self::new(&restorer.context.ipc, &restorer.context.clock, timer_clock);
        let mut state = timer.state.lock();
        (state.next, state.interval) = (next, interval);
        timer
            .schedule(&mut state)
            .map_err(|errno| RestoreError::Host { what: "a timer", source: errno.into() })?;
        drop(state);
        Ok(timer)
    }
}

impl Drop for TimerFd {
    fn drop(&mut self) {
        if let Some(scheduled) = self.state.get_mut().scheduled.take() {
            self.timers.cancel(scheduled);
        }
    }
}

impl Object for TimerFd {
    fn kind(&self) -> &'static str {
        Self::KIND
    }

    fn save(&self, saver: &mut Saver) -> Result<Vec<u8>, SaveError> {
        let state = self.state.lock();
        saver.encode(Self::KIND, &(self.timer_clock, state.next, state.interval))
    }

    fn as_file(self: Arc<Self>) -> Option<Arc<dyn FileObject>> {
        Some(self)
    }
}

impl FileObject for TimerFd {
    fn stat(&self) -> Result<Stat, Errno> {
        Ok(anonymous::stat())
    }

    fn read(&self, _: Option<u64>, into: &mut Destination<'_>) -> Result<usize, Errno> {
        if into.remaining() < 8 {
            return Err(Errno::INVAL);
        }
        let mut state = self.state.lock();
        let next = state.next.ok_or(Errno::AGAIN)?;
        let ago = next.passed(&self.clock).ok_or(Errno::AGAIN)?;
        let expirations = ago.checked_div(state.interval).map_or(1, |more| more.saturating_add(1));
        into.put(&expirations.to_ne_bytes())?;
        state.next = match state.interval {
            0 => None,
            interval => Some(next.later(expirations.saturating_mul(interval))),
        };
        self.schedule(&mut state)?;
        Ok(8)
    }

    fn readiness(&self) -> Readiness {
        let state = self.state.lock();
        match state.next.and_then(|next| next.passed(&self.clock)) {
            Some(_) => Readiness::IN | Readiness::RDNORM,
            None => Readiness::empty(),
        }
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.queue)
    }

    fn describe(&self) -> String {
        "anon_inode:[timerfd]".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ipc::testing::{self, read};
    use crate::wait::{Parker, Wake};

    const SECOND: u64 = 1_000_000_000;

    fn timer(clock: TimerClock) -> (Arc<Clock>, Arc<TimerFd>) {
        let ipc = testing::ipc();
        let guest = Arc::new(Clock::default());
        let timer = TimerFd::new(&ipc, &guest, clock);
        (guest, timer)
    }

    fn expirations(timer: &dyn FileObject) -> u64 {
        u64::from_ne_bytes(read(timer, 8).unwrap().try_into().unwrap())
    }

    #[test]
    fn a_timer_that_expires_wakes_its_waiters() {
        let (_, timer) = timer(TimerClock::Monotonic);
        let parker = Arc::new(Parker::default());
        let as_wake: Arc<dyn Wake> = parker.clone();
        let _registration = timer.queue.register(Arc::downgrade(&as_wake));
        timer.set(10_000_000, 0, false).unwrap();
        parker.reset();
        while timer.readiness().is_empty() {
            assert!(parker.park(Some(Duration::from_secs(60))), "lost wake-up");
            parker.reset();
        }
        assert_eq!(expirations(&*timer), 1);
        assert_eq!(read(&*timer, 8), Err(Errno::AGAIN));
        assert_eq!(timer.get(), (0, 0));
    }

    #[test]
    fn missed_expirations_are_counted() {
        let (clock, timer) = timer(TimerClock::Monotonic);
        let start = clock.monotonic() - 10 * SECOND - SECOND / 2;
        timer.set(start, SECOND, true).unwrap();
        let first = expirations(&*timer);
        assert!((11..20).contains(&first), "{first} expirations");
        let (left, interval) = timer.get();
        assert_eq!(interval, SECOND);
        assert!(left <= SECOND);
    }

    #[test]
    fn absolute_realtime_and_stopping() {
        let (clock, timer) = timer(TimerClock::Realtime);
        timer.set(clock.realtime() + 3600 * SECOND, 5, true).unwrap();
        assert_eq!(timer.readiness(), Readiness::empty());
        let (left, interval) = timer.set(0, 7, false).unwrap();
        assert!(left > 3000 * SECOND && left <= 3600 * SECOND);
        assert_eq!(interval, 5);
        assert_eq!(timer.get(), (0, 0));
        timer.set(1, 0, true).unwrap();
        assert_eq!(expirations(&*timer), 1);
    }

    #[test]
    fn a_restored_timer_goes_on() {
        let (clock, timer) = timer(TimerClock::Monotonic);
        timer.set(clock.monotonic() - SECOND, 100 * SECOND, true).unwrap();
        let (_, restored) = testing::round_trip(&timer);
        assert_eq!(expirations(&*restored), 1);
        assert_eq!(read(&*restored, 8), Err(Errno::AGAIN));
    }
}
