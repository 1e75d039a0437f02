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
}
