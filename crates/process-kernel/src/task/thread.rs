//! One thread of the guest's process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::clock::Deadline;
use crate::wait::{Parker, Wake};

/// A guest thread. It runs on one vCPU, driven by one host thread.
pub struct Thread {
    /// Thread id inside the guest; survives snapshots.
    pub tid: i32,
    parker: Arc<Parker>,
    /// Set when the thread has to leave guest code or its wait and look at its state.
    attention: AtomicBool,
    /// Makes the vCPU leave guest code.
    kick: Mutex<Option<Box<dyn Fn() + Send>>>,
    /// The deadline of the call being served; kept while the call is run again.
    call_deadline: Mutex<Option<Deadline>>,
    signals: Mutex<ThreadSignals>,
}

/// Signal state of one thread; bit `n - 1` of a set stands for signal `n`.
#[derive(Default)]
struct ThreadSignals {
    blocked: u64,
    pending: u64,
    /// The mask that the next delivered handler returns to, when a call replaced it for its duration.
    after_delivery: Option<u64>,
}

impl Thread {
    /// Where the thread sleeps.
    pub fn parker(&self) -> &Arc<Parker> {
        &self.parker
    }

    /// Whether the thread has to look at its state (signal, pause, exit) before it waits any longer.
    pub fn wants_attention(&self) -> bool {
        self.attention.load(Ordering::SeqCst)
    }

    /// Makes the thread look at its state soon, wherever it is.
    pub fn notify(&self) {
        self.attention.store(true, Ordering::SeqCst);
        self.parker.wake();
        if let Some(kick) = &*self.kick.lock() {
            kick();
        }
    }

    /// The deadline of the call being served: the one it got the first time, else `first`.
    pub fn call_deadline(&self, first: impl FnOnce() -> Deadline) -> Deadline {
        *self.call_deadline.lock().get_or_insert_with(first)
    }

    /// Makes `signal` pending for this thread.
    pub fn raise(&self, signal: i32) {
        if (1..=64).contains(&signal) {
            self.signals.lock().pending |= 1 << (signal - 1);
            self.attention.store(true, Ordering::SeqCst);
        }
    }

    /// Replaces the signal mask and returns the old one.
    pub fn swap_signal_mask(&self, mask: u64) -> u64 {
        std::mem::replace(&mut self.signals.lock().blocked, mask)
    }

    /// Leaves the present mask in force until a signal is delivered (or found not to be), then returns to `mask`.
    pub fn restore_signal_mask_after_delivery(&self, mask: u64) {
        self.signals.lock().after_delivery = Some(mask);
    }
}
