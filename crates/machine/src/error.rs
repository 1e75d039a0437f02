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
    /// A processor could not run a program of ours to its end.
    #[error("a processor stopped in a program of the host's own: {reason}")]
    Died {
        /// What KVM says.
        reason: String,
    },
    /// Software KVM, and what is to run needs hardware.
    #[error(
        "a linux guest needs hardware KVM (kvm_amd or kvm_intel), and this machine's KVM is software (kvm_pvm): use a \
         process guest here, or a machine with hardware virtualisation"
    )]
    SoftwareOnly,
    /// An event descriptor can't be made.
    #[error("creating an event descriptor failed")]
    EventFd(#[source] std::io::Error),
    /// A snapshot's processor counts time at another rate, and this one can't be made to.
    #[error(
        "the snapshot's time-stamp counter runs at {saved} kHz, this machine's at {here} kHz, and it can't be scaled"
    )]
    OtherTsc {
        /// The snapshot's rate.
        saved: u32,
        /// This machine's.
        here: u32,
    },
    /// Installing the kick signal's handler failed.
    #[error("installing the kick signal's handler failed")]
    Signal(#[source] std::io::Error),
}

/// Names the ioctl in its error.
pub(crate) fn during(operation: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> MachineError {
    move |source| MachineError::Ioctl { operation, source }
}
