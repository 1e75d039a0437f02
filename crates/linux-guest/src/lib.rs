//! An unmodified Linux in a microVM.
//!
//! [`ReadyGuest`] boots a kernel with an initial file system on processors of a [`machine::FurnishedVm`] and serves the few devices
//! that it finds through ACPI: virtio block, vsock, entropy, balloon and network devices, a serial port for its messages, a keyboard controller
//! that only resets. The whole state can be saved and taken over by another virtual machine; memory is brought back by
//! whoever restores.
//!
//! Architecture invariants: this crate knows no Lambda, no snapshot container, no home directory and no process guest. The
//! guest is hostile: what it writes into registers and queues is checked where it is used, and a device that finds nonsense
//! stops until it is reset.
#![forbid(unsafe_code)]

mod acpi;
mod devices;
mod error;
mod guest;
mod initial_files;
mod kernel;
mod layout;
mod monitor;
mod program;
mod ready_memory;
mod ready_threads;
mod session;
mod virtio;

pub use error::LinuxGuestError;
pub use guest::{Fittings, GuestError, Hardware, ReadyGuest, RunningGuest, SpareGuest};
pub use initial_files::{MODULES, OPTIONAL_MODULES, initial_files};
pub use kernel::KernelImage;
pub use layout::memory as memory_ranges;
pub use monitor::{End, MicroVm, PausedVm, SavedVm, check_machine};
pub use program::{Program, ProgramEnd, Streams};
pub use session::{Beginning, Hear, Line, Session, WhenEnded};
#[cfg(feature = "fuzzing")]
pub use virtio::hostile;
pub use virtio::{Card, Disk, Scratch};
