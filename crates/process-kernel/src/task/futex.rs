//! Futexes: threads asleep on words of guest memory (futex(2)).
//!
//! Keyed by virtual address: a guest is one process, so private and shared futexes are the same thing, except for a word
//! that is mapped at two addresses, which is not supported.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustix::io::Errno;

use crate::clock::Deadline;
use crate::mm::Mm;
use crate::syscall::{Cx, Restart, Stop};
use crate::wait::{Parker, Wake};

/// One sleeping thread.
struct Waiter {
    parker: Arc<Parker>,
    bits: u32,
    woken: AtomicBool,
    /// Where it waits now; FUTEX_REQUEUE changes it.
    address: Mutex<u64>,
}

impl Waiter {
    fn wake(&self) {
        self.woken.store(true, Ordering::SeqCst);
        self.parker.wake();
    }
}

/// All sleeping threads by the word they sleep on. Number and size are bounded by the number of threads.
#[derive(Default)]
pub struct FutexTable {
    queues: Mutex<HashMap<u64, VecDeque<Arc<Waiter>>>>,
}

/// Matches every waiter (FUTEX_BITSET_MATCH_ANY).
pub const ANY_BITS: u32 = u32::MAX;

impl FutexTable {
    /// Sleeps on `address` if it holds `expected`, until woken. `Ok(false)` when the deadline passes.
    ///
    /// # Errors
    /// EAGAIN when the word holds something else, EFAULT, EINVAL; [`Stop::Interrupted`].
    pub fn wait(
        &self,
        cx: &Cx<'_>,
        address: u64,
        expected: u32,
        bits: u32,
        deadline: Option<Deadline>,
        restart: Restart,
    ) -> Result<bool, Stop> {
        if !address.is_multiple_of(4) || bits == 0 {
            return Err(Errno::INVAL.into());
        }
        let waiter = Arc::new(Waiter {
            parker: cx.thread.parker().clone(),
            bits,
            woken: AtomicBool::new(false),
            address: Mutex::new(address),
        });
        {
            // The word is read under the lock that every wake takes: a wake after the word's change finds the waiter.
            let mut queues = self.queues.lock();
            if cx.mm().read_value::<u32>(address)? != expected {
                return Err(Errno::AGAIN.into());
            }
            waiter.parker.reset();
            queues.entry(address).or_default().push_back(waiter.clone());
        }
        let ended = loop {
            if waiter.woken.load(Ordering::SeqCst) {
                return Ok(true);
            }
            if cx.thread.wants_attention() {
                break Err(Stop::Interrupted(restart));
            }
            let limit = deadline.map(|deadline| cx.process.clock.remaining(deadline));
            if limit.is_some_and(|limit| limit.is_zero()) {
                break Ok(false);
            }
            waiter.parker.park(limit);
            waiter.parker.reset();
        };
        // A wake may have come in the meantime: then it must not be lost.
        self.forget(&waiter);
        if waiter.woken.load(Ordering::SeqCst) { Ok(true) } else { ended }
    }

    fn forget(&self, waiter: &Arc<Waiter>) {
        let mut queues = self.queues.lock();
        let address = *waiter.address.lock();
        if let Some(queue) = queues.get_mut(&address) {
            queue.retain(|other| !Arc::ptr_eq(other, waiter));
            if queue.is_empty() {
                queues.remove(&address);
            }
        }
    }

    /// Wakes up to `count` threads that sleep on `address` with a common bit. Returns how many.
    pub fn wake(&self, address: u64, count: u32, bits: u32) -> u32 {
        let mut queues = self.queues.lock();
        wake_some(&mut queues, address, count, bits)
    }

    /// FUTEX_REQUEUE and FUTEX_CMP_REQUEUE: wakes up to `wake` threads and moves up to `moved` others to `target`.
    /// Returns how many were woken, and how many moved.
    ///
    /// # Errors
    /// EAGAIN when the word doesn't hold `expected`, EFAULT.
    pub fn requeue(
        &self,
        mm: &Mm,
        address: u64,
        wake: u32,
        target: u64,
        moved: u32,
        expected: Option<u32>,
    ) -> Result<(u32, u32), Errno> {
        let mut queues = self.queues.lock();
        if let Some(expected) = expected
            && mm.read_value::<u32>(address)? != expected
        {
            return Err(Errno::AGAIN);
        }
        let woken = wake_some(&mut queues, address, wake, ANY_BITS);
        let mut count = 0;
        while count < moved {
            let Some(waiter) = queues.get_mut(&address).and_then(VecDeque::pop_front) else { break };
            *waiter.address.lock() = target;
            queues.entry(target).or_default().push_back(waiter);
            count += 1;
        }
        if queues.get(&address).is_some_and(VecDeque::is_empty) {
            queues.remove(&address);
        }
        Ok((woken, count))
    }
}

fn wake_some(queues: &mut HashMap<u64, VecDeque<Arc<Waiter>>>, address: u64, count: u32, bits: u32) -> u32 {
    let Some(queue) = queues.get_mut(&address) else { return 0 };
    let mut woken = 0;
    queue.retain(|waiter| {
        if woken < count && waiter.bits & bits != 0 {
            woken += 1;
            waiter.wake();
            false
        } else {
            true
        }
    });
    if queue.is_empty() {
        queues.remove(&address);
    }
    woken
}
