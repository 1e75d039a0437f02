//! One processor of a [`super::FurnishedVm`].

use kvm_bindings::{CpuId, Msrs, kvm_fpu, kvm_msr_entry, kvm_regs, kvm_sregs};
use kvm_ioctls::{VcpuExit, VcpuFd};

use super::state::VcpuState;
use crate::error::{MachineError, during};
use crate::kick::Kicker;
use crate::vcpu::Attached;

/// KVM takes at most this many registers at once (KVM_MAX_MSR_ENTRIES is 256).
const MSRS_AT_ONCE: usize = 128;

const MSR_IA32_TSC: u32 = 0x10;
const MSR_IA32_TSC_DEADLINE: u32 = 0x6e0;
const MSR_IA32_MISC_ENABLE: u32 = 0x1a0;
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
/// Fast string operations.
const MISC_ENABLE_FAST_STRING: u64 = 1;
/// MTRRs on, memory is write-back unless said otherwise.
const MTRR_WRITE_BACK: u64 = 1 << 11 | 6;
/// Offsets of the local interrupt lines in the APIC's registers, and their delivery modes (Intel SDM vol. 3, 11.5.1).
const APIC_LVT0: usize = 0x350;
const APIC_LVT1: usize = 0x360;
const APIC_MODE_NMI: u32 = 4;
const APIC_MODE_EXTINT: u32 = 7;

/// What a processor's accesses outside its memory go to. Data is in the guest's byte order; whoever has nothing at an
/// address leaves what is read as it is (all ones).
pub trait Bus {
    /// `in`
    fn port_read(&mut self, port: u16, data: &mut [u8]);
    /// `out`
    fn port_write(&mut self, port: u16, data: &[u8]);
    /// A load from where there is no memory.
    fn memory_read(&mut self, address: u64, data: &mut [u8]);
    /// A store to where there is no memory.
    fn memory_write(&mut self, address: u64, data: &[u8]);
}

/// Why a processor stopped running guest code.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SystemExit {
    /// An access was served by the [`Bus`]; the processor can go on.
    Served,
    /// Kicked. Everything that was under way is complete: the state may be saved.
    Interrupted,
    /// It can't go on: what KVM says.
    Dead(String),
}

/// Makes a timer that has run out run out once more. KVM clears the deadline before the interrupt has reached the local APIC, and
/// what is under way between them is in no state that can be saved: the guest would wait for its timer for ever. An interrupt
/// too many is one that finds no timer due. (Firecracker does the same, its pull request 4618.)
fn keep_timer(msrs: &mut [kvm_msr_entry]) {
    let value = |index| move |entry: &&mut kvm_msr_entry| entry.index == index;
    let Some(now) = msrs.iter_mut().find(value(MSR_IA32_TSC)).map(|entry| entry.data) else { return };
    if let Some(deadline) = msrs.iter_mut().find(value(MSR_IA32_TSC_DEADLINE)).filter(|entry| entry.data == 0)
    {
        deadline.data = now;
    }
}

/// One processor.
#[derive(Debug)]
pub struct SystemVcpu {
    pub(super) vcpu: VcpuFd,
    kicker: Kicker,
    msrs: Vec<u32>,
}

impl SystemVcpu {
    pub(super) fn new(vcpu: VcpuFd, cpuid: &CpuId, msrs: &[u32]) -> Result<Self, MachineError> {
        vcpu.set_cpuid2(cpuid).map_err(during("KVM_SET_CPUID2"))?;
        Ok(Self { vcpu, kicker: Kicker::new(), msrs: msrs.to_vec() })
    }

    /// A handle for other threads.
    pub fn kicker(&self) -> Kicker {
        self.kicker.clone()
    }

    /// Makes the calling thread the processor's driver until the guard is dropped.
    pub fn attach(&mut self) -> Attached {
        self.kicker.attach(self.vcpu.get_kvm_run());
        Attached::new(self.kicker.clone())
    }

    /// Runs guest code until it accesses something that `bus` serves, or is kicked.
    pub fn run(&mut self, bus: &mut impl Bus) -> SystemExit {
        let exit = match self.vcpu.run() {
            Ok(VcpuExit::IoIn(port, data)) => {
                data.fill(0xff);
                bus.port_read(port, data);
                SystemExit::Served
            }
            Ok(VcpuExit::IoOut(port, data)) => {
                bus.port_write(port, data);
                SystemExit::Served
            }
            Ok(VcpuExit::MmioRead(address, data)) => {
                data.fill(0xff);
                bus.memory_read(address, data);
                SystemExit::Served
            }
            Ok(VcpuExit::MmioWrite(address, data)) => {
                bus.memory_write(address, data);
                SystemExit::Served
            }
            Ok(VcpuExit::Intr) => SystemExit::Interrupted,
            Ok(VcpuExit::Shutdown) => SystemExit::Dead("its processor shut down (triple fault)".to_owned()),
            Ok(VcpuExit::InternalError) => {
                SystemExit::Dead("KVM could not emulate an instruction".to_owned())
            }
            Ok(VcpuExit::FailEntry(reason, cpu)) => SystemExit::Dead(format!(
                "the processor refused the guest's state (reason {reason:#x}, CPU {cpu})"
            )),
            Ok(other) => SystemExit::Dead(format!("unexpected KVM exit {other:?}")),
            Err(error) => match error.errno() {
                libc::EINTR | libc::EAGAIN => SystemExit::Interrupted,
                libc::EFAULT => SystemExit::Dead("the memory behind a guest page failed".to_owned()),
                _ => SystemExit::Dead(format!("KVM_RUN failed: {error}")),
            },
        };
        if exit == SystemExit::Interrupted {
            self.vcpu.set_kvm_immediate_exit(0);
        }
        exit
    }

    /// Sets up what a boot loader finds on real hardware, and then the registers that `change` makes of the initial ones.
    ///
    /// # Errors
    /// [`MachineError`].
    pub fn prepare(&self, regs: &kvm_regs, change: impl FnOnce(&mut kvm_sregs)) -> Result<(), MachineError> {
        let fpu = kvm_fpu { fcw: 0x37f, mxcsr: 0x1f80, ..Default::default() };
        self.vcpu.set_fpu(&fpu).map_err(during("KVM_SET_FPU"))?;
        let msr = |index, data| kvm_msr_entry { index, data, ..Default::default() };
        self.set_msrs(&[
            msr(MSR_IA32_MISC_ENABLE, MISC_ENABLE_FAST_STRING),
            msr(MSR_MTRR_DEF_TYPE, MTRR_WRITE_BACK),
        ])?;
        let mut sregs = self.vcpu.get_sregs().map_err(during("KVM_GET_SREGS"))?;
        change(&mut sregs);
        self.vcpu.set_sregs(&sregs).map_err(during("KVM_SET_SREGS"))?;
        self.vcpu.set_regs(regs).map_err(during("KVM_SET_REGS"))?;
        let mut lapic = self.vcpu.get_lapic().map_err(during("KVM_GET_LAPIC"))?;
        for (offset, mode) in [(APIC_LVT0, APIC_MODE_EXTINT), (APIC_LVT1, APIC_MODE_NMI)] {
            if let Some(bytes) = lapic.regs.get_mut(offset + 1..offset + 2) {
                // Bits 8 to 10 of the register are the delivery mode.
                for byte in bytes {
                    *byte = (*byte as u8 & !7 | mode as u8) as _;
                }
            }
        }
        self.vcpu.set_lapic(&lapic).map_err(during("KVM_SET_LAPIC"))
    }

    fn set_msrs(&self, entries: &[kvm_msr_entry]) -> Result<(), MachineError> {
        for piece in entries.chunks(MSRS_AT_ONCE) {
            let Ok(msrs) = Msrs::from_entries(piece) else {
                return Err(MachineError::Missing { what: "room for so many model-specific registers" });
            };
            let accepted = self.vcpu.set_msrs(&msrs).map_err(during("KVM_SET_MSRS"))?;
            if let Some(refused) = piece.get(accepted) {
                return Err(MachineError::RefusedMsr { index: refused.index });
            }
        }
        Ok(())
    }

    /// Reads every register that this processor has of KVM's list: some on it exist only with features that are off.
    fn msrs(&self) -> Result<Vec<kvm_msr_entry>, MachineError> {
        let mut found = Vec::with_capacity(self.msrs.len());
        let mut left = self.msrs.as_slice();
        while !left.is_empty() {
            let piece = left.get(..MSRS_AT_ONCE.min(left.len())).unwrap_or(left);
            let entries: Vec<_> =
                piece.iter().map(|index| kvm_msr_entry { index: *index, ..Default::default() }).collect();
            let Ok(mut msrs) = Msrs::from_entries(&entries) else {
                return Err(MachineError::Missing { what: "room for so many model-specific registers" });
            };
            let read = self.vcpu.get_msrs(&mut msrs).map_err(during("KVM_GET_MSRS"))?;
            found.extend(msrs.as_slice().iter().take(read).copied());
            // KVM stops at the first that it doesn't have: that one is left out.
            let taken = if read < piece.len() { read + 1 } else { read };
            left = left.get(taken..).unwrap_or_default();
        }
        Ok(found)
    }

    /// The whole state. The processor must not run, and its last exit must have been [`SystemExit::Interrupted`].
    ///
    /// # Errors
    /// [`MachineError::Ioctl`].
    pub fn save(&self) -> Result<VcpuState, MachineError> {
        // First, since asking for it completes what an earlier exit left pending (Documentation/virt/kvm/api.rst,
        // KVM_GET_MP_STATE); events before the registers that they change.
        let mp_state = self.vcpu.get_mp_state().map_err(during("KVM_GET_MP_STATE"))?;
        let mut msrs = self.msrs()?;
        keep_timer(&mut msrs);
        Ok(VcpuState {
            mp_state,
            regs: self.vcpu.get_regs().map_err(during("KVM_GET_REGS"))?,
            sregs: self.vcpu.get_sregs().map_err(during("KVM_GET_SREGS"))?,
            xsave: self.vcpu.get_xsave().map_err(during("KVM_GET_XSAVE"))?,
            xcrs: self.vcpu.get_xcrs().map_err(during("KVM_GET_XCRS"))?,
            msrs,
            debug: self.vcpu.get_debug_regs().map_err(during("KVM_GET_DEBUGREGS"))?,
            lapic: self.vcpu.get_lapic().map_err(during("KVM_GET_LAPIC"))?,
            events: self.vcpu.get_vcpu_events().map_err(during("KVM_GET_VCPU_EVENTS"))?,
            tsc_khz: self.vcpu.get_tsc_khz().map_err(during("KVM_GET_TSC_KHZ"))?,
        })
    }

    /// Takes over saved state.
    ///
    /// # Errors
    /// [`MachineError::RefusedMsr`], [`MachineError::OtherTsc`], [`MachineError::Ioctl`] when KVM finds it invalid.
    pub fn restore(&self, state: &VcpuState) -> Result<(), MachineError> {
        let here = self.vcpu.get_tsc_khz().map_err(during("KVM_GET_TSC_KHZ"))?;
        // The kernel's own tolerance for a counter that needs no scaling (kvm's tsc_tolerance_ppm).
        if here.abs_diff(state.tsc_khz) > here / 4000 && self.vcpu.set_tsc_khz(state.tsc_khz).is_err() {
            return Err(MachineError::OtherTsc { saved: state.tsc_khz, here });
        }
        self.vcpu.set_mp_state(state.mp_state).map_err(during("KVM_SET_MP_STATE"))?;
        self.vcpu.set_regs(&state.regs).map_err(during("KVM_SET_REGS"))?;
        self.vcpu.set_sregs(&state.sregs).map_err(during("KVM_SET_SREGS"))?;
        self.vcpu.set_xcrs(&state.xcrs).map_err(during("KVM_SET_XCRS"))?;
        // SAFETY: only the fixed 4096 bytes are read: no feature with a larger state is ever enabled for a guest, since
        // nothing requests XSTATE permission for it (arch_prctl ARCH_REQ_XCOMP_GUEST_PERM).
        unsafe { self.vcpu.set_xsave(&state.xsave) }.map_err(during("KVM_SET_XSAVE"))?;
        self.vcpu.set_debug_regs(&state.debug).map_err(during("KVM_SET_DEBUGREGS"))?;
        self.vcpu.set_lapic(&state.lapic).map_err(during("KVM_SET_LAPIC"))?;
        // The counter first and the timer that compares with it last, or the timer would be taken for one that is due.
        let rank = |entry: &kvm_msr_entry| match entry.index {
            MSR_IA32_TSC => 0,
            MSR_IA32_TSC_DEADLINE => 2,
            _ => 1,
        };
        let mut msrs = state.msrs.clone();
        msrs.sort_by_key(rank);
        self.set_msrs(&msrs)?;
        self.vcpu.set_vcpu_events(&state.events).map_err(during("KVM_SET_VCPU_EVENTS"))?;
        // Without it, a guest whose clock stood still sees a soft lockup; it fails when the guest has no such clock.
        let _ = self.vcpu.kvmclock_ctrl();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_that_has_run_out_is_due_after_a_restore_and_one_that_has_not_keeps_its_time() {
        let msr = |index, data| kvm_msr_entry { index, data, ..Default::default() };
        let after = |deadline| {
            let mut msrs = [msr(MSR_IA32_TSC_DEADLINE, deadline), msr(MSR_IA32_TSC, 70)];
            keep_timer(&mut msrs);
            msrs.map(|entry| entry.data)
        };
        assert_eq!(after(0), [70, 70]);
        assert_eq!(after(90), [90, 70]);
    }
}
