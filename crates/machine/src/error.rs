//! What can go wrong with KVM.

use thiserror::Error;

/// A KVM call that failed.
#[derive(Debug, Error)]
pub enum MachineError {
    /// /dev/kvm can't be opened.
    #[error("opening /dev/kvm failed; `faasnap doctor` says what this machine has and how to mend it")]
    Open(#[source] kvm_ioctls::Error),
    /// The kernel's KVM lacks something that is needed.
    #[error("this kernel's KVM lacks {what}")]
    Missing {
        /// The capability.
        what: &'static str,
    },
    /// An ioctl failed.
    #[error("{operation} failed")]
    Ioctl {
        /// The ioctl's name.
        operation: &'static str,
        /// KVM's errno.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// A register list was only partly accepted.
    #[error("KVM refused model-specific register {index:#x}")]
    RefusedMsr {
        /// The register.
        index: u32,
    },
    /// Installing the kick signal's handler failed.
    #[error("installing the kick signal's handler failed")]
    Signal(#[source] std::io::Error),
}

/// Names the ioctl in its error.
pub(crate) fn during(operation: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> MachineError {
    move |source| MachineError::Ioctl { operation, source }
}
