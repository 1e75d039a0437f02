//! KVM: virtual machines, memory slots, vCPUs.
//!
//! Architecture invariants: this crate knows no guest kind (what runs on a vCPU, what its registers mean) and no
//! snapshot. It wraps KVM's ioctls safely: memory slots only ever point into a [`guest_memory::GuestMemory`] that the
//! virtual machine keeps alive.

mod error;
mod exit;
mod kick;
mod slots;
mod system;
mod vcpu;
mod vm;

pub use error::MachineError;
pub use exit::Exit;
pub use kick::{KickTarget, Kicker};
pub use kvm_bindings::{kvm_dtable, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs};
pub use system::{
    Bus, FurnishedVm, Interrupt, SystemExit, SystemState, SystemVcpu, SystemVm, VcpuState, is_software_only,
};
pub use vcpu::{Attached, Vcpu};
pub use vm::{Kvm, Vm};
