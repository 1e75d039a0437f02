//! What an exception means to the program: a page to bring in, or a signal.

use process_kernel::mm::{FaultAccess, FaultOutcome, SegvCode};
use process_kernel::task::signal::{SignalInfo, codes};

/// A processor exception at CPL3.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Exception {
    /// Vector.
    pub vector: u8,
    /// Error code, 0 where there is none.
    pub error: u64,
    /// The faulting address of a page fault.
    pub address: u64,
}

/// The kind of access that caused a page fault.
pub(crate) fn fault_access(error: u64) -> FaultAccess {
    if error & 2 != 0 { FaultAccess::Write } else { FaultAccess::Read }
}

/// The signal for a fault that memory management can't mend; `None` when the program may run on.
pub(crate) fn fault_signal(outcome: FaultOutcome, address: u64) -> Option<SignalInfo> {
    match outcome {
        FaultOutcome::Retry | FaultOutcome::Arrived | FaultOutcome::Lost => None,
        FaultOutcome::Segv(SegvCode::Unmapped) => Some(SignalInfo::fault(libc::SIGSEGV, 1, address)),
        FaultOutcome::Segv(SegvCode::Forbidden) => Some(SignalInfo::fault(libc::SIGSEGV, 2, address)),
        // BUS_ADRERR
        FaultOutcome::Bus => Some(SignalInfo::fault(libc::SIGBUS, 2, address)),
        FaultOutcome::OutOfMemory => Some(SignalInfo::fault(libc::SIGKILL, codes::KERNEL, 0)),
    }
}

/// The signal that Linux sends for an exception other than a page fault (arch/x86/kernel/traps.c).
pub(crate) fn signal(exception: Exception, rip: u64) -> SignalInfo {
    match exception.vector {
        // FPE_INTDIV
        0 => SignalInfo::fault(libc::SIGFPE, 1, rip),
        // TRAP_TRACE
        1 => SignalInfo::fault(libc::SIGTRAP, 2, rip),
        3 => SignalInfo::fault(libc::SIGTRAP, codes::KERNEL, 0),
        4 | 5 | 9 | 10 | 11 | 13 => SignalInfo::fault(libc::SIGSEGV, codes::KERNEL, 0),
        // ILL_ILLOPN; 7 is the use of state that is not enabled (AMX tiles).
        6 | 7 => SignalInfo::fault(libc::SIGILL, 2, rip),
        12 => SignalInfo::fault(libc::SIGBUS, codes::KERNEL, 0),
        // FPE_FLTINV; which one of several it was would have to be read from the vector state.
        16 | 19 => SignalInfo::fault(libc::SIGFPE, 7, rip),
        // BUS_ADRALN
        17 => SignalInfo::fault(libc::SIGBUS, 1, 0),
        _ => SignalInfo::fault(libc::SIGSEGV, codes::KERNEL, 0),
    }
}
