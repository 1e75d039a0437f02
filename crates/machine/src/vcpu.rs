//! One vCPU: registers in, guest code, exit out.

use std::os::fd::AsRawFd;

use kvm_bindings::{
    CpuId, KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, Msrs, kvm_device_attr, kvm_msr_entry, kvm_regs, kvm_sregs,
    kvm_xcr, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::{SyncReg, VcpuFd};

use crate::error::{MachineError, during};
use crate::exit::{Exit, translate};
use crate::kick::Kicker;

/// _IOW(KVMIO, 0xe1, struct kvm_device_attr)
const KVM_SET_DEVICE_ATTR: libc::c_ulong = 0x4018_aee1;

/// One vCPU. Registers travel through the shared kvm_run page (KVM_CAP_SYNC_REGS), not through ioctls.
#[derive(Debug)]
pub struct Vcpu {
    vcpu: VcpuFd,
    kicker: Kicker,
}

impl Vcpu {
    pub(crate) fn new(mut vcpu: VcpuFd, cpuid: &CpuId) -> Result<Self, MachineError> {
        vcpu.set_cpuid2(cpuid).map_err(during("KVM_SET_CPUID2"))?;
        vcpu.set_sync_valid_reg(SyncReg::Register);
        Ok(Self { vcpu, kicker: Kicker::new() })
    }

    /// A handle for other threads.
    pub fn kicker(&self) -> Kicker {
        self.kicker.clone()
    }

    /// Makes the calling thread the vCPU's driver until the guard is dropped; kicks reach it from then on.
    pub fn attach(&mut self) -> Attached {
        self.kicker.attach(self.vcpu.get_kvm_run());
        Attached { kicker: self.kicker.clone() }
    }

    /// Runs guest code until it exits. The calling thread must be attached.
    pub fn run(&mut self) -> Exit {
        let exit = translate(self.vcpu.run());
        if exit == Exit::Interrupted {
            self.vcpu.set_kvm_immediate_exit(0);
        }
        exit
    }

    /// General-purpose registers as they were at the last exit; changes count after [`Vcpu::registers_changed`].
    pub fn registers(&mut self) -> &mut kvm_regs {
        &mut self.vcpu.sync_regs_mut().regs
    }

    /// Makes the next run start with the changed general-purpose registers.
    pub fn registers_changed(&mut self) {
        self.vcpu.set_sync_dirty_reg(SyncReg::Register);
    }

    /// Makes the next run start with these system registers.
    pub fn set_system_registers(&mut self, sregs: &kvm_sregs) {
        self.vcpu.sync_regs_mut().sregs = *sregs;
        self.vcpu.set_sync_dirty_reg(SyncReg::SystemRegister);
    }

    /// System registers, by ioctl (they are not part of every exit).
    ///
    /// # Errors
    /// [`MachineError::Ioctl`].
    pub fn system_registers(&self) -> Result<kvm_sregs, MachineError> {
        self.vcpu.get_sregs().map_err(during("KVM_GET_SREGS"))
    }

    /// Sets system registers at once, by ioctl, so that a refusal shows here.
    ///
    /// # Errors
    /// [`MachineError::Ioctl`].
    pub fn write_system_registers(&self, sregs: &kvm_sregs) -> Result<(), MachineError> {
        self.vcpu.set_sregs(sregs).map_err(during("KVM_SET_SREGS"))
    }

    /// Sets model-specific registers.
    ///
    /// # Errors
    /// [`MachineError::RefusedMsr`] naming the first that KVM refused.
    pub fn set_msrs(&self, entries: &[kvm_msr_entry]) -> Result<(), MachineError> {
        let Ok(msrs) = Msrs::from_entries(entries) else {
            return Err(MachineError::Missing { what: "room for so many model-specific registers" });
        };
        let accepted = self.vcpu.set_msrs(&msrs).map_err(during("KVM_SET_MSRS"))?;
        match entries.get(accepted) {
            None => Ok(()),
            Some(refused) => Err(MachineError::RefusedMsr { index: refused.index }),
        }
    }

    /// Sets XCR0, which vector state the guest may use.
    ///
    /// # Errors
    /// [`MachineError::Ioctl`].
    pub fn set_xcr0(&self, value: u64) -> Result<(), MachineError> {
        let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
        xcrs.xcrs[0] = kvm_xcr { xcr: 0, value, ..Default::default() };
        self.vcpu.set_xcrs(&xcrs).map_err(during("KVM_SET_XCRS"))
    }

    /// Makes the guest's time-stamp counter the host's and returns its ticks per millisecond; `None` when it can't be made
    /// so (hardware KVM before Linux 5.16). Software KVM has no offset: its guests read the host's counter anyway.
    pub fn follow_host_tsc(&self) -> Option<u32> {
        let offset = 0u64;
        let attribute = kvm_device_attr {
            group: KVM_VCPU_TSC_CTRL,
            attr: u64::from(KVM_VCPU_TSC_OFFSET),
            addr: &raw const offset as u64,
            flags: 0,
        };
        // kvm-ioctls offers this ioctl for vCPUs on other architectures only.
        // SAFETY: the attribute is a live, correctly laid out structure that points to 8 readable bytes; the kernel keeps
        // neither pointer. A kernel without the attribute answers ENXIO and changes nothing.
        let set =
            unsafe { libc::ioctl(self.vcpu.as_raw_fd(), KVM_SET_DEVICE_ATTR, &raw const attribute) } == 0;
        let software = crate::vm::is_software();
        if set || software { self.vcpu.get_tsc_khz().ok() } else { None }
    }

    /// Vector and floating-point state, in the standard format of XSAVE (4096 bytes).
    ///
    /// # Errors
    /// [`MachineError::Ioctl`].
    pub fn xsave(&self) -> Result<Vec<u8>, MachineError> {
        let area = self.vcpu.get_xsave().map_err(during("KVM_GET_XSAVE"))?;
        Ok(area.region.iter().flat_map(|word| word.to_le_bytes()).collect())
    }

    /// Loads vector and floating-point state; a shorter area is filled up with zeros.
    ///
    /// # Errors
    /// [`MachineError::Ioctl`] when KVM finds it invalid.
    pub fn set_xsave(&self, bytes: &[u8]) -> Result<(), MachineError> {
        let mut area = kvm_xsave::default();
        for (word, bytes) in area.region.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        // SAFETY: only the fixed 4096 bytes are read: no feature with a larger state (AMX) is ever enabled for a guest, since
        // nothing requests XSTATE permission for it (arch_prctl ARCH_REQ_XCOMP_GUEST_PERM).
        unsafe { self.vcpu.set_xsave(&area) }.map_err(during("KVM_SET_XSAVE"))
    }
}

/// Marks the thread that drives a vCPU; see [`Vcpu::attach`].
#[derive(Debug)]
pub struct Attached {
    kicker: Kicker,
}

impl Attached {
    pub(crate) fn new(kicker: Kicker) -> Self {
        Self { kicker }
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.kicker.detach();
    }
}
