//! What the guest asked for and did not get, so that a user sees why a program failed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

/// System calls that answered ENOSYS, by number.
#[derive(Default, Debug)]
pub struct UnsupportedCalls {
    counts: Mutex<BTreeMap<u64, u64>>,
    second_process: AtomicBool,
}

/// Distinct numbers kept: a guest that calls random numbers must not fill the worker's memory.
const MAX_KINDS: usize = 512;

impl UnsupportedCalls {
    /// Counts one call.
    pub fn count(&self, number: u64) {
        let mut counts = self.counts.lock();
        if counts.len() < MAX_KINDS || counts.contains_key(&number) {
            *counts.entry(number).or_default() += 1;
        }
    }

    /// Notes an attempt to make a second process; said once in the log.
    pub fn second_process(&self) {
        if !self.second_process.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "the program tried to start a second process (fork, vfork or clone), which a process guest does not have yet: \
                 the call answers ENOSYS"
            );
        }
    }

    /// Number and count of each.
    pub fn counts(&self) -> Vec<(u64, u64)> {
        self.counts.lock().iter().map(|(number, count)| (*number, *count)).collect()
    }
}
