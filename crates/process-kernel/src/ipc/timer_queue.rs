//! Callbacks at moments of guest-monotonic time, run by one thread per process that starts with the first timer.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use parking_lot::{Condvar, Mutex};
use rustix::io::Errno;

use crate::clock::{Clock, Deadline};

/// A scheduled callback, for [`TimerQueue::cancel`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct TimerId {
    deadline: Deadline,
    serial: u64,
}

type Callback = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    timers: BTreeMap<TimerId, Callback>,
    serial: u64,
    started: bool,
    stopping: bool,
}

struct Shared {
    clock: Arc<Clock>,
    state: Mutex<State>,
    changed: Condvar,
}

/// The timers of one process. Deadlines are in guest-monotonic nanoseconds, so whoever schedules one can save it and
/// schedule it again in a restored process; the queue itself is not saved.
pub struct TimerQueue {
    shared: Arc<Shared>,
}

/// Timers one process may have at a time, beyond any count of descriptors and POSIX timers.
const MAX_TIMERS: usize = 1 << 18;

impl TimerQueue {
    /// An empty queue; its thread starts with the first timer.
    pub fn new(clock: Arc<Clock>) -> Arc<Self> {
        let shared = Shared { clock, state: Mutex::default(), changed: Condvar::new() };
        Arc::new(Self { shared: Arc::new(shared) })
    }

    /// Runs `callback` on the queue's thread once `deadline` has passed, without any lock held. Callbacks run one after
    /// the other and must be short.
    ///
    /// # Errors
    /// EAGAIN when there are too many timers or the host can't start the thread.
    pub fn schedule(
        &self,
        deadline: Deadline,
        callback: impl FnOnce() + Send + 'static,
    ) -> Result<TimerId, Errno> {
        let mut state = self.shared.state.lock();
        if state.timers.len() >= MAX_TIMERS {
            return Err(Errno::AGAIN);
        }
        if !state.started {
            let shared = Arc::downgrade(&self.shared);
            std::thread::Builder::new()
                .name("timers".to_owned())
                .spawn(move || run(&shared))
                .map_err(|_| Errno::AGAIN)?;
            state.started = true;
        }
        state.serial += 1;
        let id = TimerId { deadline, serial: state.serial };
        let first = state.timers.first_key_value().is_none_or(|(earliest, _)| id < *earliest);
        state.timers.insert(id, Box::new(callback));
        drop(state);
        if first {
            self.shared.changed.notify_one();
        }
        Ok(id)
    }

    /// Takes a timer out again. Returns whether it had not run; a callback that is running is not waited for.
    pub fn cancel(&self, id: TimerId) -> bool {
        let removed = self.shared.state.lock().timers.remove(&id);
        // Dropped here, without the lock: the callback may own objects.
        removed.is_some()
    }
}

impl Drop for TimerQueue {
    fn drop(&mut self) {
        self.shared.state.lock().stopping = true;
        self.shared.changed.notify_one();
    }
}

fn run(shared: &Weak<Shared>) {
    while let Some(shared) = shared.upgrade() {
        let mut state = shared.state.lock();
        if state.stopping {
            return;
        }
        let Some(id) = state.timers.first_key_value().map(|(id, _)| *id) else {
            shared.changed.wait(&mut state);
            continue;
        };
        let left = shared.clock.remaining(id.deadline);
        if left.is_zero() {
            let callback = state.timers.remove(&id);
            drop(state);
            if let Some(callback) = callback {
                callback();
            }
        } else {
            shared.changed.wait_for(&mut state, left);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn timers_run_in_the_order_of_their_deadlines() {
        let clock = Arc::new(Clock::default());
        let queue = TimerQueue::new(clock.clone());
        let (send, receive) = mpsc::channel();
        let now = clock.monotonic();
        for (name, after) in [("late", 30_000_000), ("early", 10_000_000), ("past", 0)] {
            let send = send.clone();
            queue.schedule(Deadline(now + after), move || send.send(name).unwrap()).unwrap();
        }
        let order: Vec<_> = receive.iter().take(3).collect();
        assert_eq!(order, ["past", "early", "late"]);
    }

    #[test]
    fn a_cancelled_timer_does_not_run() {
        let clock = Arc::new(Clock::default());
        let queue = TimerQueue::new(clock.clone());
        let (send, receive) = mpsc::channel();
        let cancelled = send.clone();
        let at = |after| Deadline(clock.monotonic() + after);
        let id = queue.schedule(at(20_000_000), move || cancelled.send("cancelled").unwrap()).unwrap();
        assert!(queue.cancel(id));
        assert!(!queue.cancel(id));
        queue.schedule(at(40_000_000), move || send.send("kept").unwrap()).unwrap();
        assert_eq!(receive.iter().next(), Some("kept"));
    }

    #[test]
    fn dropping_the_queue_drops_its_callbacks() {
        let clock = Arc::new(Clock::default());
        let queue = TimerQueue::new(clock);
        let (send, receive) = mpsc::channel::<()>();
        queue.schedule(Deadline(u64::MAX), move || drop(send)).unwrap();
        drop(queue);
        assert!(receive.recv().is_err());
    }
}
