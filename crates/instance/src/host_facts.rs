//! What a worker needs of the host's files and devices: taken along before it is shut in.

use std::os::fd::OwnedFd;

use guest_memory::Userfault;
use machine::Kvm;

/// Learns what this process will need to know of the machine, and takes the devices that it can't open any more once it is
/// jailed: /dev/kvm, and /dev/userfaultfd where there is one.
///
/// # Errors
/// The host's, when its processor can't be identified.
pub fn take_along(kvm: Option<OwnedFd>, userfaultfd: Option<OwnedFd>) -> std::io::Result<()> {
    snapshot::MachineIdentity::of_this_machine()?;
    restore::learn_disks();
    if let Some(device) = kvm {
        Kvm::provide(device);
    }
    if let Some(device) = userfaultfd {
        Userfault::provide(device);
    }
    Ok(())
}
