//! timerfd: timers that are read.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rustix::io::Errno;

use super::{Expiry, Ipc, TimerClock, TimerId, TimerQueue, anonymous};
use crate::clock::Clock;
use crate::file::{Destination, FileObject, Readiness, Stat};
use crate::object::{Object, RestoreError, Restorer, SaveError, Saver};
use crate::wait::WaitQueue;

#[derive(Default)]
struct State {
    expiry: Expiry,
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
        self.state.lock().expiry.get(&self.clock)
    }

    /// Sets the timer to `first` nanoseconds, from now or (`absolute`) on its clock, and every `interval` nanoseconds
    /// after that; `first` 0 stops it. Returns what [`TimerFd::get`] gave before.
    ///
    /// # Errors
    /// EAGAIN when no timer can be had.
    pub fn set(&self, first: u64, interval: u64, absolute: bool) -> Result<(u64, u64), Errno> {
        let expiry = Expiry::new(self.timer_clock, &self.clock, first, interval, absolute);
        let mut state = self.state.lock();
        let before = state.expiry.get(&self.clock);
        state.expiry = expiry;
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
        if let Some(deadline) = state.expiry.deadline(&self.clock) {
            let this = self.this.clone();
            let callback = move || {
                if let Some(this) = this.upgrade() {
                    this.queue.notify();
                }
            };
            state.scheduled = Some(self.timers.schedule(deadline, callback)?);
        }
        Ok(())
    }

    /// See [`crate::object::RestoreFn`].
    ///
    /// # Errors
    /// [`RestoreError`] when the payload is damaged or no timer can be had.
    pub fn restore(payload: &[u8], restorer: &mut Restorer<'_>) -> Result<Arc<dyn Object>, RestoreError> {
        let (timer_clock, expiry) = Restorer::decode(Self::KIND, payload)?;
        let timer = Self::new(&restorer.context.ipc, &restorer.context.clock, timer_clock);
        let mut state = timer.state.lock();
        state.expiry = expiry;
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
        saver.encode(Self::KIND, &(self.timer_clock, state.expiry))
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
        let expirations = state.expiry.expirations(&self.clock).ok_or(Errno::AGAIN)?;
        into.put(&expirations.to_ne_bytes())?;
        state.expiry.advance(expirations);
        self.schedule(&mut state)?;
        Ok(8)
    }

    fn readiness(&self) -> Readiness {
        if self.state.lock().expiry.has_expired(&self.clock) {
            Readiness::IN | Readiness::RDNORM
        } else {
            Readiness::empty()
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
