//! One thread of the guest's process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::cpu::CpuState;
use super::signal::{SavedThreadSignals, ThreadSignals};
use crate::clock::Deadline;
use crate::wait::{Parker, Wake};

/// A guest thread. It runs on one vCPU, driven by one host thread.
pub struct Thread {
    /// Thread id inside the guest; survives snapshots.
    pub tid: i32,
    parker: Arc<Parker>,
    /// Set when the thread has to leave guest code or its wait and look at its state.
    attention: AtomicBool,
    /// The thread has to end (another one calls execve).
    ending: AtomicBool,
    /// Makes the vCPU leave guest code.
    kick: Mutex<Option<Box<dyn Fn() + Send>>>,
    /// The deadline of the call being served; kept while the call is run again.
    call_deadline: Mutex<Option<Deadline>>,
    /// Signal mask, pending signals, alternate stack.
    pub signals: Mutex<ThreadSignals>,
    /// Where to write 0 and wake a futex when the thread ends (set_tid_address), or 0.
    pub clear_child_tid: AtomicU64,
    /// Head of the robust futex list, or 0.
    pub robust_list: AtomicU64,
    /// Name (prctl PR_SET_NAME), at most 15 bytes.
    pub name: Mutex<Vec<u8>>,
    /// Processor state while the thread rests at a safe point.
    pub(super) resting: Mutex<Option<RestingState>>,
}

/// What a thread's vCPU held when it came to rest, ready to run on another vCPU.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RestingState {
    /// Registers; an interrupted system call is about to be run again.
    pub cpu: CpuState,
    /// Vector state, standard XSAVE format.
    #[serde(with = "serde_bytes")]
    pub fpu: Vec<u8>,
}

/// A thread's saved form.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SavedThread {
    tid: i32,
    name: Vec<u8>,
    clear_child_tid: u64,
    robust_list: u64,
    call_deadline: Option<Deadline>,
    signals: SavedThreadSignals,
    pub(super) state: RestingState,
}

impl Thread {
    /// A new thread with signal state `signals` (a clone inherits its maker's mask).
    pub fn new(tid: i32, name: Vec<u8>, signals: ThreadSignals) -> Arc<Self> {
        Arc::new(Self {
            tid,
            parker: Arc::new(Parker::default()),
            attention: AtomicBool::new(false),
            ending: AtomicBool::new(false),
            kick: Mutex::new(None),
            call_deadline: Mutex::new(None),
            signals: Mutex::new(signals),
            clear_child_tid: AtomicU64::new(0),
            robust_list: AtomicU64::new(0),
            name: Mutex::new(name),
            resting: Mutex::new(None),
        })
    }

    /// Where the thread sleeps.
    pub fn parker(&self) -> &Arc<Parker> {
        &self.parker
    }

    /// Sets how the vCPU is made to leave guest code; `None` when it has none any more.
    pub fn set_kick(&self, kick: Option<Box<dyn Fn() + Send>>) {
        *self.kick.lock() = kick;
    }

    /// Whether the thread has to look at its state (signal, pause, exit) before it waits any longer.
    pub fn wants_attention(&self) -> bool {
        self.attention.load(Ordering::SeqCst)
    }

    /// Takes note that the thread looks at its state now.
    pub(super) fn take_attention(&self) -> bool {
        self.attention.swap(false, Ordering::SeqCst)
    }

    /// Makes the thread look at its state soon, wherever it is.
    pub fn notify(&self) {
        self.attention.store(true, Ordering::SeqCst);
        self.parker.wake();
        if let Some(kick) = &*self.kick.lock() {
            kick();
        }
    }

    /// Makes the thread end soon.
    pub(super) fn end(&self) {
        self.ending.store(true, Ordering::SeqCst);
        self.notify();
    }

    /// Whether the thread has been told to end.
    pub(super) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::SeqCst)
    }

    /// The deadline of the call being served: the one it got the first time, else `first`.
    pub fn call_deadline(&self, first: impl FnOnce() -> Deadline) -> Deadline {
        *self.call_deadline.lock().get_or_insert_with(first)
    }

    /// The call is over: the next one gets a deadline of its own.
    pub fn forget_call_deadline(&self) {
        *self.call_deadline.lock() = None;
    }

    /// The thread's saved form; `None` unless it rests at a safe point.
    pub fn save(&self) -> Option<SavedThread> {
        Some(SavedThread {
            tid: self.tid,
            name: self.name.lock().clone(),
            clear_child_tid: self.clear_child_tid.load(Ordering::SeqCst),
            robust_list: self.robust_list.load(Ordering::SeqCst),
            call_deadline: *self.call_deadline.lock(),
            signals: self.signals.lock().save(),
            state: self.resting.lock().clone()?,
        })
    }

    /// Makes a saved thread again, and the state it goes on with.
    pub fn restore(saved: SavedThread) -> (Arc<Self>, RestingState) {
        let thread = Self::new(saved.tid, saved.name, ThreadSignals::restore(saved.signals));
        thread.clear_child_tid.store(saved.clear_child_tid, Ordering::SeqCst);
        thread.robust_list.store(saved.robust_list, Ordering::SeqCst);
        *thread.call_deadline.lock() = saved.call_deadline;
        (thread, saved.state)
    }
}
