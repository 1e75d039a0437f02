//! The process guest: a Linux program straight on vCPUs at CPL3, without a guest kernel.
//!
//! Each guest thread is a vCPU driven by a host thread of its own. A system call enters a stub at CPL0 whose one `out`
//! instruction exits to this process, where [`process_kernel`] serves it; the vCPU is then put straight back to CPL3.
//! Exceptions take the same way through the guest's interrupt descriptor table.
//!
//! Architecture invariants: no Linux semantics live here (they are process-kernel's), and no KVM ioctls (they are
//! machine's). This crate knows nothing of Lambda, snapshots on disk or the node.

mod cpu;
mod driver;
mod entry;
mod exception;
mod exits;
mod guest;
mod ready_memory;
mod run;
mod slots;

pub use exits::Exits;
pub use guest::{GuestError, ProcessConfig, ProcessGuest, SavedGuest};
pub use process_kernel::task::Revival;
