//! How guest threads sleep and are woken.
//!
//! A kernel object that can become ready owns a [`WaitQueue`] and calls [`WaitQueue::notify`] whenever its state changed.
//! Whoever waits registers a [`Wake`] with the queue *before* it looks at the object's state, so that no wake-up is lost.
//! Nothing here blocks inside the host kernel on a guest's behalf: a sleeping guest thread is always parked on its own
//! [`Parker`], and so can always be interrupted (signal, pause for a snapshot, exit).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// Something that wants to know that an object's state may have changed.
pub trait Wake: Send + Sync {
    /// Called after a change; must not block and must not call back into the queue that notifies.
    fn wake(&self);
}

/// The waiters of one object.
#[derive(Default)]
pub struct WaitQueue {
    waiters: Mutex<Vec<(u64, Weak<dyn Wake>)>>,
}

static NEXT_REGISTRATION: AtomicU64 = AtomicU64::new(1);

impl WaitQueue {
    /// Registers `waker` until the returned [`Registration`] is dropped.
    pub fn register(&self, waker: Weak<dyn Wake>) -> Registration<'_> {
        Registration { queue: self, id: self.add(waker) }
    }

    /// Registers `waker` until [`WaitQueue::remove`] is called with the returned id; for owners that can't borrow the queue.
    pub fn add(&self, waker: Weak<dyn Wake>) -> u64 {
        let id = NEXT_REGISTRATION.fetch_add(1, Ordering::Relaxed);
        self.waiters.lock().push((id, waker));
        id
    }

    /// Ends a registration made by [`WaitQueue::add`].
    pub fn remove(&self, id: u64) {
        self.waiters.lock().retain(|(other, _)| *other != id);
    }

    /// Wakes every waiter. Call it after the state change is visible.
    pub fn notify(&self) {
        // Upgraded under the lock, woken outside it: a waker may take other queues' locks (epoll in epoll).
        let wakers: Vec<Arc<dyn Wake>> =
            self.waiters.lock().iter().filter_map(|(_, waker)| waker.upgrade()).collect();
        for waker in wakers {
            waker.wake();
        }
    }

    /// Whether anybody waits.
    pub fn is_empty(&self) -> bool {
        self.waiters.lock().is_empty()
    }
}

impl std::fmt::Debug for WaitQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WaitQueue({} waiting)", self.waiters.lock().len())
    }
}

/// A waiter's place in a queue; dropping it leaves the queue.
#[derive(Debug)]
pub struct Registration<'queue> {
    queue: &'queue WaitQueue,
    id: u64,
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        self.queue.remove(self.id);
    }
}

/// Where one thread sleeps. A wake-up that comes while it is awake is kept for its next sleep.
#[derive(Default, Debug)]
pub struct Parker {
    woken: Mutex<bool>,
    changed: Condvar,
    asleep: AtomicBool,
}

impl Parker {
    /// Forgets wake-ups that came so far. Call it before looking at the state that the next sleep depends on.
    pub fn reset(&self) {
        *self.woken.lock() = false;
    }

    /// Sleeps until woken, at most for `limit`. Returns whether it was woken.
    pub fn park(&self, limit: Option<Duration>) -> bool {
        let mut woken = self.woken.lock();
        if *woken {
            return true;
        }
        self.asleep.store(true, Ordering::Relaxed);
        match limit {
            None => self.changed.wait_while(&mut woken, |woken| !*woken),
            Some(limit) => {
                self.changed.wait_while_for(&mut woken, |woken| !*woken, limit);
            }
        }
        self.asleep.store(false, Ordering::Relaxed);
        *woken
    }

    /// Whether its thread sleeps at this moment and nothing has woken it yet.
    pub fn is_asleep(&self) -> bool {
        self.asleep.load(Ordering::Relaxed) && !*self.woken.lock()
    }
}

impl Wake for Parker {
    fn wake(&self) {
        *self.woken.lock() = true;
        self.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wake_up_before_the_sleep_is_not_lost() {
        let parker = Arc::new(Parker::default());
        let queue = WaitQueue::default();
        let as_wake: Arc<dyn Wake> = parker.clone();
        let registration = queue.register(Arc::downgrade(&as_wake));
        parker.reset();
        queue.notify();
        assert!(parker.park(Some(Duration::from_secs(60))));
        drop(registration);
        assert!(queue.is_empty());
    }
}
