//! The KVM device and one virtual machine.

use std::os::fd::{IntoRawFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use guest_memory::GuestMemory;
use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Cap, VmFd};
use pages::PageCount;

use crate::error::{MachineError, during};
use crate::kick;
use crate::slots::Slots;
use crate::vcpu::Vcpu;

/// The device as [`Kvm::provide`] was given it.
static PROVIDED: OnceLock<OwnedFd> = OnceLock::new();

/// Whether software KVM (`kvm_pvm`) is behind /dev/kvm. Asked of the host once, at the latest by [`Kvm::provide`]: a jailed
/// process sees no /sys.
pub(crate) fn is_software() -> bool {
    static SOFTWARE: OnceLock<bool> = OnceLock::new();
    *SOFTWARE.get_or_init(|| Path::new("/sys/module/kvm_pvm").exists())
}

/// An open /dev/kvm.
#[derive(Debug)]
pub struct Kvm {
    pub(crate) device: kvm_ioctls::Kvm,
    pub(crate) cpuid: CpuId,
}

impl Kvm {
    /// Makes [`Self::open`] use a /dev/kvm that somebody else opened, and learns what else it needs of the host: for a
    /// process that is about to be jailed. The first one given stays.
    pub fn provide(device: OwnedFd) {
        is_software();
        let _ = PROVIDED.set(device);
    }

    /// Opens /dev/kvm, or takes the one that was provided, and checks what is needed of it.
    ///
    /// # Errors
    /// [`MachineError::Open`], [`MachineError::Missing`].
    pub fn open() -> Result<Self, MachineError> {
        match PROVIDED.get() {
            Some(device) => Self::from_descriptor(device.try_clone().map_err(|error| {
                MachineError::Open(kvm_ioctls::Error::new(error.raw_os_error().unwrap_or(libc::EBADF)))
            })?),
            None => Self::check(kvm_ioctls::Kvm::new().map_err(MachineError::Open)?),
        }
    }

    /// Uses a descriptor of /dev/kvm that somebody else opened (a jailed worker gets it from the node).
    ///
    /// # Errors
    /// [`MachineError::Missing`], [`MachineError::Ioctl`] when it is no KVM device.
    pub fn from_descriptor(device: OwnedFd) -> Result<Self, MachineError> {
        // SAFETY: the descriptor is owned and is not used elsewhere; if it is no KVM device, the first ioctl says so.
        Self::check(unsafe { std::os::fd::FromRawFd::from_raw_fd(device.into_raw_fd()) })
    }

    fn check(device: kvm_ioctls::Kvm) -> Result<Self, MachineError> {
        let needs = [
            (Cap::UserMemory, "user memory slots"),
            (Cap::ImmediateExit, "immediate exits"),
            (Cap::SyncRegs, "synchronised registers"),
            (Cap::Xsave, "XSAVE state"),
        ];
        for (capability, what) in needs {
            if !device.check_extension(capability) {
                return Err(MachineError::Missing { what });
            }
        }
        let cpuid =
            device.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(during("KVM_GET_SUPPORTED_CPUID"))?;
        Ok(Self { device, cpuid })
    }

    /// Makes a virtual machine over `memory`.
    ///
    /// # Errors
    /// [`MachineError::Ioctl`].
    pub fn create_vm(&self, memory: Arc<GuestMemory>) -> Result<Vm, MachineError> {
        kick::install_handler()?;
        let vm = self.device.create_vm().map_err(during("KVM_CREATE_VM"))?;
        Ok(Vm { vm, slots: Slots::new(memory), cpuid: self.cpuid.clone() })
    }
}

/// One virtual machine. KVM binds it to the process that made it.
#[derive(Debug)]
pub struct Vm {
    vm: VmFd,
    slots: Slots,
    cpuid: CpuId,
}

impl Vm {
    /// Makes memory slots cover the first `pages` pages of guest-physical space.
    ///
    /// # Errors
    /// [`MachineError::Ioctl`].
    pub fn cover(&self, pages: PageCount) -> Result<(), MachineError> {
        self.slots.cover(&self.vm, pages)
    }

    /// Makes KVM forget every shadow page, so that page-table entries changed by the VMM count (54 us on software KVM).
    ///
    /// # Errors
    /// [`MachineError::Ioctl`].
    pub fn drop_shadow_pages(&self) -> Result<(), MachineError> {
        self.slots.drop_shadow_pages(&self.vm)
    }

    /// Makes vCPU number `id`. A virtual machine can't free one: use it again instead.
    ///
    /// # Errors
    /// [`MachineError::Ioctl`].
    pub fn create_vcpu(&self, id: u64) -> Result<Vcpu, MachineError> {
        let vcpu = self.vm.create_vcpu(id).map_err(during("KVM_CREATE_VCPU"))?;
        Vcpu::new(vcpu, &self.cpuid)
    }
}
