//! What to do when the guest's own access fails.
//!
//! Two ways lead here. A page without an entry, or with an entry that forbids the access, gives a page fault with its
//! address. An access that only the host mapping forbids ends KVM_RUN with EFAULT, on software KVM without the address
//! (docs/process-guest.md): then every entry is made as strict as the areas are, the shadow pages are dropped once, and the
//! instruction is run again, which now gives a page fault with the address. Strict entries follow the areas from then on.

use super::Mm;
use super::assignment::Strictness;
use super::late::page_around;
use super::vma::{Access, Vma};

/// The kind of access that failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultAccess {
    /// A load, or an instruction fetch.
    Read,
    /// A store.
    Write,
}

/// SIGSEGV's si_code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SegvCode {
    /// Nothing is mapped there (SEGV_MAPERR, 1).
    Unmapped,
    /// The mapping forbids it (SEGV_ACCERR, 2).
    Forbidden,
}

/// How a fault ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultOutcome {
    /// Run the instruction again.
    Retry,
    /// The same: memory that was to come has come.
    Arrived,
    /// Memory that was to come will not: the process must not run on ([`Mm::loss`]).
    Lost,
    /// The program gets SIGSEGV.
    Segv(SegvCode),
    /// The area permits it, but its backing failed: a page beyond a file's end. The program gets SIGBUS.
    Bus,
    /// No memory for the page: the instance has run out.
    OutOfMemory,
}

fn permits(area: &Vma, access: FaultAccess) -> bool {
    match access {
        FaultAccess::Read => !area.access.is_empty(),
        FaultAccess::Write => area.access.contains(Access::WRITE),
    }
}

impl Mm {
    /// A page fault at `address`. `repeated` says that the same instruction faulted there just before, although that was
    /// answered by [`FaultOutcome::Retry`].
    pub fn page_fault(&self, address: u64, access: FaultAccess, repeated: bool) -> FaultOutcome {
        let Ok(waited) = self.arrive(page_around(address)) else { return FaultOutcome::Lost };
        let mut space = self.space.write();
        let Some(area) = space.areas.find(address) else { return FaultOutcome::Segv(SegvCode::Unmapped) };
        if !permits(area, access) {
            return FaultOutcome::Segv(SegvCode::Forbidden);
        }
        if space.assigned.page(address).is_none() {
            return match self.assign(&mut space, page_around(address)) {
                Ok(()) => {
                    space.put_touched_in_place(&self.memory, address);
                    FaultOutcome::Retry
                }
                Err(_) => FaultOutcome::OutOfMemory,
            };
        }
        // It came between the touch and this, if it had not to be waited for.
        if waited || (!repeated && self.came_late(&space, address)) {
            return FaultOutcome::Arrived;
        }
        // The entry permits it, since strict entries follow the areas: a shadow page was out of date.
        if repeated && self.slots.drop_shadow_pages().is_err() {
            return FaultOutcome::Bus;
        }
        FaultOutcome::Retry
    }

    /// KVM_RUN ended with EFAULT at an unknown address: makes the next try give a page fault. `repeated` says that this was
    /// done just before for the same instruction: then nothing forbids the access, so its backing has failed.
    pub fn unlocated_fault(&self, repeated: bool) -> FaultOutcome {
        if repeated {
            return FaultOutcome::Bus;
        }
        // Every entry is written anew below.
        if self.wait_for_all().is_err() {
            return FaultOutcome::Lost;
        }
        let mut space = self.space.write();
        let numbers: Vec<u64> = space.assigned.iter().map(|(number, _)| number).collect();
        for number in numbers {
            if space.write_strict(&self.memory, number, Strictness::Exact).is_err() {
                return FaultOutcome::OutOfMemory;
            }
        }
        match self.slots.drop_shadow_pages() {
            Ok(()) => FaultOutcome::Retry,
            Err(_) => FaultOutcome::Bus,
        }
    }
}
