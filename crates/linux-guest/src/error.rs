//! What can go wrong with a microVM.

use guest_memory::{AccessError, MapError};
use machine::MachineError;
use thiserror::Error;

/// A microVM that can't be made, booted, saved or restored.
#[derive(Debug, Error)]
pub enum LinuxGuestError {
    /// KVM.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// Guest memory can't be had.
    #[error("guest memory can't be set up")]
    Memory(#[from] MapError),
    /// Memory could not be made ready ahead.
    #[error("making memory ready ahead")]
    NotReady {
        /// What could not be written.
        #[source]
        source: AccessError,
    },
    /// A size that can't be served.
    #[error("{what} must be {range}, not {value}")]
    Size {
        /// What has the size.
        what: &'static str,
        /// What is allowed.
        range: &'static str,
        /// What was asked for.
        value: u64,
    },
    /// The kernel image can't be read.
    #[error("reading the kernel image failed")]
    ReadKernel(#[source] std::io::Error),
    /// The kernel can't be loaded.
    #[error("this is no kernel that can be booted: {reason}")]
    Kernel {
        /// Why.
        reason: String,
    },
    /// Kernel and initial file system don't fit.
    #[error(
        "{memory_mib} MB of memory are too little for this kernel and its initial file system; {needed_mib} MB are needed"
    )]
    TooLittleMemory {
        /// What there is.
        memory_mib: u64,
        /// What they take, without anything for programs.
        needed_mib: u64,
    },
    /// The command line is too long or not ASCII.
    #[error("the kernel's command line must be ASCII of at most {limit} bytes")]
    CommandLine {
        /// The limit.
        limit: usize,
    },
    /// A disk can't be opened or has no usable size.
    #[error("the disk can't be used")]
    Disk(#[source] std::io::Error),
    /// A network card can't be watched.
    #[error("the network card can't be used")]
    Card(#[source] std::io::Error),
    /// A thread can't be started, or an event queue can't be made.
    #[error("starting a thread of the virtual machine failed")]
    Thread(#[source] std::io::Error),
    /// A saved device does not fit the machine that is to take it over.
    #[error("the saved state of device {device} does not fit this machine: {reason}")]
    DeviceState {
        /// Its number.
        device: usize,
        /// Why.
        reason: String,
    },
    /// The saved serial port contradicts itself.
    #[error("the saved state of the serial port can't be taken over: {reason}")]
    SerialState {
        /// Why.
        reason: String,
    },
    /// The machine ended before what was asked for could be done.
    #[error("the virtual machine has ended: {0}")]
    Ended(String),
}
