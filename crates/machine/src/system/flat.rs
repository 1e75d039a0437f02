//! Short programs of the host's own on a processor that has no guest yet.

use kvm_bindings::{kvm_regs, kvm_segment};

use super::vcpu::{Bus, SystemExit, SystemVcpu};
use crate::error::{MachineError, during};

/// Protected mode, and the bit that is always set.
const CR0: u64 = 0x11;
/// Types of segment (AMD APM vol. 2, 4.7): code that can be read, data that can be written, both accessed.
const CODE: u8 = 0xb;
const DATA: u8 = 0x3;

/// Nothing is behind the ports of such a program.
struct Nowhere;

impl Bus for Nowhere {
    fn port_read(&mut self, _: u16, _: &mut [u8]) {}
    fn port_write(&mut self, _: u16, _: &[u8]) {}
    fn memory_read(&mut self, _: u64, _: &mut [u8]) {}
    fn memory_write(&mut self, _: u64, _: &[u8]) {}
}

fn segment(selector: u16, type_: u8) -> kvm_segment {
    let (limit, present, db, s, g) = (u32::MAX, 1, 1, 1, 1);
    kvm_segment { limit, selector, type_, present, db, s, g, ..Default::default() }
}

impl SystemVcpu {
    /// Runs a program in flat 32-bit mode without paging, from `entry` on, with `esi` and `edi`, to its first access to a port. It
    /// must make one: interrupts are off, and nobody is there to kick it. The processor's registers are as before then.
    ///
    /// # Errors
    /// [`MachineError::Ioctl`]; [`MachineError::Died`].
    pub fn run_flat(&mut self, entry: u32, [esi, edi]: [u32; 2]) -> Result<(), MachineError> {
        let sregs = self.vcpu.get_sregs().map_err(during("KVM_GET_SREGS"))?;
        let regs = self.vcpu.get_regs().map_err(during("KVM_GET_REGS"))?;
        let mut flat = sregs;
        flat.cs = segment(8, CODE);
        [flat.ds, flat.es, flat.fs, flat.gs, flat.ss] = [segment(16, DATA); 5];
        (flat.cr0, flat.cr4, flat.efer) = (CR0, 0, 0);
        self.vcpu.set_sregs(&flat).map_err(during("KVM_SET_SREGS"))?;
        let (rip, rsi, rdi, rflags) = (entry.into(), esi.into(), edi.into(), 2);
        let start = kvm_regs { rip, rsi, rdi, rflags, ..Default::default() };
        self.vcpu.set_regs(&start).map_err(during("KVM_SET_REGS"))?;
        {
            let _attached = self.attach();
            while let exit @ (SystemExit::Interrupted | SystemExit::Dead(_)) = self.run(&mut Nowhere) {
                if let SystemExit::Dead(reason) = exit {
                    return Err(MachineError::Died { reason });
                }
            }
            // The access is complete only when the processor has been entered again (Documentation/virt/kvm/api.rst, KVM_RUN).
            self.vcpu.set_kvm_immediate_exit(1);
            self.run(&mut Nowhere);
        }
        self.vcpu.set_sregs(&sregs).map_err(during("KVM_SET_SREGS"))?;
        self.vcpu.set_regs(&regs).map_err(during("KVM_SET_REGS"))
    }
}
