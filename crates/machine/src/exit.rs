//! Why a vCPU stopped running guest code.

use kvm_ioctls::VcpuExit;

/// A vCPU's exit, reduced to what guests are served by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Exit {
    /// An `out` instruction to this port.
    PortWrite {
        /// The port.
        port: u16,
    },
    /// A store to a guest-physical address that no memory slot covers.
    MmioWrite {
        /// The address.
        address: u64,
    },
    /// Kicked by another thread, or by a signal.
    Interrupted,
    /// The host mapping behind an accessed guest page forbids the access or has failed. Software KVM does not say where.
    HostFault,
    /// The guest's processor can't go on (triple fault, failed emulation, ...): what KVM says.
    Dead(String),
}

pub(crate) fn translate(result: Result<VcpuExit<'_>, kvm_ioctls::Error>) -> Exit {
    match result {
        Ok(VcpuExit::IoOut(port, _)) => Exit::PortWrite { port },
        Ok(VcpuExit::MmioWrite(address, _)) => Exit::MmioWrite { address },
        Ok(VcpuExit::MemoryFault { .. }) => Exit::HostFault,
        Ok(VcpuExit::Intr) => Exit::Interrupted,
        Ok(VcpuExit::Shutdown) => Exit::Dead("the guest's processor shut down (triple fault)".to_owned()),
        Ok(VcpuExit::InternalError) => {
            Exit::Dead("KVM could not emulate an instruction of the guest".to_owned())
        }
        Ok(VcpuExit::FailEntry(reason, cpu)) => {
            Exit::Dead(format!("the processor refused the guest's state (reason {reason:#x}, CPU {cpu})"))
        }
        Ok(other) => Exit::Dead(format!("unexpected KVM exit {other:?}")),
        Err(error) => match error.errno() {
            libc::EINTR | libc::EAGAIN => Exit::Interrupted,
            libc::EFAULT => Exit::HostFault,
            _ => Exit::Dead(format!("KVM_RUN failed: {error}")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_kvm_run_are_told_apart() {
        assert_eq!(translate(Err(kvm_ioctls::Error::new(libc::EINTR))), Exit::Interrupted);
        assert_eq!(translate(Err(kvm_ioctls::Error::new(libc::EFAULT))), Exit::HostFault);
        assert!(matches!(translate(Err(kvm_ioctls::Error::new(libc::EIO))), Exit::Dead(_)));
        assert!(matches!(translate(Ok(VcpuExit::Shutdown)), Exit::Dead(_)));
    }
}
