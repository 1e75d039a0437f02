//! How often guest code was left, and when first.
//!
//! On software KVM each of these costs what ten thousand instructions do, so their number says much of where a call's time goes.

use std::sync::atomic::{AtomicU64, Ordering};

use process_kernel::task::Process;

/// Exits to the worker, by what the guest did. What software KVM serves by itself (the faults of its shadow page tables) is not
/// among them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Exits {
    /// For system calls.
    pub system_calls: u64,
    /// For page faults of the guest: memory that gets its place when it is touched, or that was still to come.
    pub page_faults: u64,
}

/// Counts them, for all threads of a guest.
#[derive(Default)]
pub(crate) struct ExitCounts {
    /// When guest code was left for the first time: host CLOCK_MONOTONIC in nanoseconds, or 0.
    first: AtomicU64,
    system_calls: AtomicU64,
    page_faults: AtomicU64,
}

impl ExitCounts {
    /// When guest code was left for the first time; see [`crate::ProcessGuest::first_exit`].
    pub fn first(&self) -> Option<u64> {
        Some(self.first.load(Ordering::SeqCst)).filter(|time| *time != 0)
    }

    /// How many there were.
    pub fn so_far(&self) -> Exits {
        Exits {
            system_calls: self.system_calls.load(Ordering::Relaxed),
            page_faults: self.page_faults.load(Ordering::Relaxed),
        }
    }

    pub fn system_call(&self) {
        self.system_calls.fetch_add(1, Ordering::Relaxed);
    }

    pub fn page_fault(&self) {
        self.page_faults.fetch_add(1, Ordering::Relaxed);
    }
}

/// When guest code was left, if it may have been for the first time; only the first of all threads counts.
pub(crate) struct FirstExit<'a>(Option<(&'a ExitCounts, &'a Process, u64)>);

impl<'a> FirstExit<'a> {
    /// Guest code was left just now.
    pub fn now(exits: &'a ExitCounts, process: &'a Process) -> Self {
        Self((exits.first.load(Ordering::Relaxed) == 0).then(|| (exits, process, monotonic())))
    }

    /// It was left for what the guest did, not only to wait for memory that was still to come.
    pub fn note(self) {
        if let Self(Some((exits, process, now))) = self
            && exits.first.compare_exchange(0, now, Ordering::SeqCst, Ordering::SeqCst).is_ok()
        {
            process.mm.guest_left();
        }
    }
}

/// Host CLOCK_MONOTONIC, nanoseconds.
fn monotonic() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
