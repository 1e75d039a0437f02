//! The state of a machine and of its processors, as a snapshot keeps it.

use kvm_bindings::{
    kvm_clock_data, kvm_debugregs, kvm_irqchip, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_pit_state2,
    kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use serde::{Deserialize, Serialize};

/// Interrupt controllers, interval timer, clock. In KVM's own structures, which are part of its stable interface.
#[derive(Debug, Serialize, Deserialize)]
pub struct SystemState {
    pub(super) pic_master: kvm_irqchip,
    pub(super) pic_slave: kvm_irqchip,
    pub(super) ioapic: kvm_irqchip,
    pub(super) pit: kvm_pit_state2,
    pub(super) clock: kvm_clock_data,
}

/// One processor's state.
#[derive(Debug, Serialize, Deserialize)]
pub struct VcpuState {
    pub(super) regs: kvm_regs,
    pub(super) sregs: kvm_sregs,
    pub(super) xsave: kvm_xsave,
    pub(super) xcrs: kvm_xcrs,
    pub(super) msrs: Vec<kvm_msr_entry>,
    pub(super) lapic: kvm_lapic_state,
    pub(super) mp_state: kvm_mp_state,
    pub(super) events: kvm_vcpu_events,
    pub(super) debug: kvm_debugregs,
    pub(super) tsc_khz: u32,
}
