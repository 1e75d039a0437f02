//! What the host kernel counts for this process.

use std::mem::MaybeUninit;

/// Page faults of this process so far, those taken for KVM included.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ProcessFaults {
    /// Served without I/O.
    pub minor: u64,
    /// Had to wait for a disk.
    pub major: u64,
}

impl ProcessFaults {
    /// Reads the counters (getrusage(2)). Threads that have ended are included.
    pub fn of_this_process() -> Self {
        let mut usage = MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: `usage` is a writable rusage; with RUSAGE_SELF and a valid pointer the call can't fail, and all-zero is a
        // valid rusage in any case.
        let usage = unsafe {
            libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
            usage.assume_init()
        };
        Self { minor: usage.ru_minflt.unsigned_abs(), major: usage.ru_majflt.unsigned_abs() }
    }
}
