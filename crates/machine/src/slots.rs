//! Memory slots: which guest-physical pages KVM knows.

use std::sync::Arc;

use guest_memory::GuestMemory;
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use pages::{GuestPhysical, PAGE_SIZE, PageCount};
use parking_lot::Mutex;

use crate::error::{MachineError, during};

/// Slots grow by at least this much: software KVM pays for each page of a slot, so one huge slot would cost a restore
/// (0.35 ms a GiB), and many tiny ones would cost a lookup at each fault.
const STEP: PageCount = PageCount((256 << 20) / PAGE_SIZE);

/// Where the slot that only exists to be removed lies: above any guest-physical address in use.
const DUMMY_ADDRESS: u64 = 1 << 38;

#[derive(Debug, Default)]
struct State {
    covered: PageCount,
    slots: u32,
}

/// The slots of one virtual machine: guest-physical 0 up to what is covered, without holes.
#[derive(Debug)]
pub(crate) struct Slots {
    memory: Arc<GuestMemory>,
    state: Mutex<State>,
}

impl Slots {
    pub fn new(memory: Arc<GuestMemory>) -> Self {
        Self { memory, state: Mutex::new(State::default()) }
    }

    /// Makes slots cover the first `pages` pages.
    pub fn cover(&self, vm: &VmFd, pages: PageCount) -> Result<(), MachineError> {
        let mut state = self.state.lock();
        if pages <= state.covered {
            return Ok(());
        }
        let wanted = pages.0.max(state.covered.0 + STEP.0).next_multiple_of(STEP.0);
        let end = PageCount(wanted.min(self.memory.reserved().0));
        let region = kvm_userspace_memory_region {
            slot: state.slots,
            flags: 0,
            guest_phys_addr: state.covered.bytes(),
            memory_size: end.bytes().saturating_sub(state.covered.bytes()),
            userspace_addr: self.memory.host_address(GuestPhysical(state.covered.bytes())),
        };
        // SAFETY: the region lies inside the reservation, which lives as long as the virtual machine (both are held by `Vm`);
        // no Rust reference into it exists.
        unsafe { vm.set_user_memory_region(region) }.map_err(during("KVM_SET_USER_MEMORY_REGION"))?;
        state.covered = end;
        state.slots += 1;
        Ok(())
    }

    /// Adds and removes a slot: KVM then drops every shadow page (and flushes every TLB on hardware paging).
    pub fn drop_shadow_pages(&self, vm: &VmFd) -> Result<(), MachineError> {
        let state = self.state.lock();
        for size in [PAGE_SIZE, 0] {
            let region = kvm_userspace_memory_region {
                slot: state.slots,
                flags: 0,
                guest_phys_addr: DUMMY_ADDRESS,
                memory_size: size,
                userspace_addr: self.memory.host_address(GuestPhysical(0)),
            };
            // SAFETY: as in `cover`; the guest's page tables never refer to the dummy address.
            unsafe { vm.set_user_memory_region(region) }.map_err(during("KVM_SET_USER_MEMORY_REGION"))?;
        }
        Ok(())
    }
}
