//! What to do when the guest's own access fails.
//!
//! Two ways lead here. A page without an entry, or with an entry that forbids the access, gives a page fault with its
//! address. An access that only the host mapping forbids ends KVM_RUN with EFAULT, on software KVM without the address
//! (docs/process-guest.md): then the entries of every page that the program may not use are withdrawn, the shadow pages
//! dropped once, and the instruction run again, which now gives a page fault with the address.

use std::ops::Range;

use pages::PAGE_SIZE;

use super::page_tables::Entry;
use super::vma::{Access, Vma, VmaMap};
use super::{AddressSpace, Mm, layout};

/// Pages given at once to a large area that is touched for the first time: 512 KiB, so that the exit's cost vanishes
/// beside the host's own page faults.
const TOUCH_CHUNK: u64 = 128 * PAGE_SIZE;

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
        let mut space = self.space.write();
        let Some(area) = space.areas.find(address) else { return FaultOutcome::Segv(SegvCode::Unmapped) };
        if !permits(area, access) {
            return FaultOutcome::Segv(SegvCode::Forbidden);
        }
        let page = address & !(PAGE_SIZE - 1);
        if space.assigned.page(address).is_none() {
            let start = area.start.max(page & !(TOUCH_CHUNK - 1));
            let end = area.end.min((page & !(TOUCH_CHUNK - 1)) + TOUCH_CHUNK);
            return match self.assign(&mut space, start..end) {
                Ok(()) => FaultOutcome::Retry,
                Err(_) => FaultOutcome::OutOfMemory,
            };
        }
        if let Some(index) = space.withdrawn.iter().position(|range| range.contains(&page)) {
            let range = space.withdrawn.swap_remove(index);
            return self.enforce_in_entries(&mut space, range);
        }
        // The entry permits it: a shadow page was out of date.
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
        let mut space = self.space.write();
        space.withdrawn.clear();
        self.enforce_in_entries(&mut space, 0..layout::USER_END)
    }

    /// Writes the entries of all assigned pages in `range` as strict as their areas are, notes where they are stricter
    /// than "everything", and drops the shadow pages.
    fn enforce_in_entries(&self, space: &mut AddressSpace, range: Range<u64>) -> FaultOutcome {
        let extents: Vec<_> = space.assigned.pieces(range).collect();
        for extent in extents {
            for (part, entry) in strict_entries(&space.areas, extent.range) {
                let Some(first) = space.assigned.page(part.start) else { continue };
                if space.rewrite_entries(&self.memory, part.clone(), first, entry).is_err() {
                    return FaultOutcome::OutOfMemory;
                }
                if entry != Entry::UserWrite {
                    space.withdrawn.push(part);
                }
            }
        }
        match self.slots.drop_shadow_pages() {
            Ok(()) => FaultOutcome::Retry,
            Err(_) => FaultOutcome::Bus,
        }
    }
}

/// The entries that say no more than `areas` permit, for consecutive parts of `range`.
fn strict_entries(areas: &VmaMap, range: Range<u64>) -> Vec<(Range<u64>, Entry)> {
    let mut parts = Vec::new();
    let mut next = range.start;
    for area in areas.overlapping(range.clone()) {
        let area = area.clipped(&range);
        if next < area.start {
            parts.push((next..area.start, Entry::Absent));
        }
        let entry = if area.access.contains(Access::WRITE) {
            Entry::UserWrite
        } else if area.access.is_empty() {
            Entry::Absent
        } else {
            Entry::UserRead
        };
        parts.push((area.start..area.end, entry));
        next = area.end;
    }
    if next < range.end {
        parts.push((next..range.end, Entry::Absent));
    }
    parts
}
