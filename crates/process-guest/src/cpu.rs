//! One vCPU as a guest thread sees it: CPL3 registers in, an event out.

use std::sync::Arc;

use guest_memory::GuestMemory;
use machine::{Exit, Kicker, MachineError, Vcpu, Vm, kvm_msr_entry, kvm_regs, kvm_sregs};
use pages::{GuestPhysical, PageIndex};
use process_kernel::mm::layout;
use process_kernel::task::{CpuState, Fpu, Registers};

use crate::entry;
use crate::exception::Exception;
use crate::guest::GuestError;

const MSR_STAR: u32 = 0xc000_0081;
const MSR_LSTAR: u32 = 0xc000_0082;
const MSR_CSTAR: u32 = 0xc000_0083;
const MSR_SYSCALL_MASK: u32 = 0xc000_0084;
/// Flags cleared on entry to the stub; it never runs on, so this only keeps the processor in a defined state.
const SYSCALL_FLAG_MASK: u64 = 0x4_7700;
/// x87, SSE, AVX and AVX-512 state: what KVM's 4096-byte XSAVE area carries. Tiles (AMX) and PKRU are left out.
const USABLE_FEATURES: u64 = 0xe7;

/// Kicks that may hit one run of an entry stub before something must be wrong.
const MAX_STUB_ENTRIES: usize = 1000;

/// Why guest code stopped.
#[derive(Debug)]
pub(crate) enum Event {
    /// The `syscall` instruction; its number is in `rax`.
    SystemCall,
    /// An exception.
    Exception(Exception),
    /// An access that the host mapping forbids or could not serve.
    HostFault,
    /// Kicked.
    Interrupted,
    /// The vCPU can't go on.
    Dead(String),
}

/// A vCPU set up for CPL3, but without a place in guest memory yet: it can be made before there is a guest.
pub(crate) struct SpareCpu {
    vcpu: Vcpu,
    fresh: kvm_sregs,
    features: u64,
    /// Ticks per millisecond of its time-stamp counter, if that is the host's.
    pub tsc_khz: Option<u32>,
}

impl SpareCpu {
    /// Makes vCPU number `id` of `vm`.
    pub fn new(vm: &Vm, id: u64) -> Result<Self, GuestError> {
        let vcpu = vm.create_vcpu(id)?;
        let fresh = vcpu.system_registers()?;
        let msr = |index, data| kvm_msr_entry { index, data, ..kvm_msr_entry::default() };
        vcpu.set_msrs(&[
            msr(MSR_STAR, entry::star()),
            msr(MSR_LSTAR, entry::syscall_entry()),
            msr(MSR_CSTAR, entry::syscall_entry()),
            msr(MSR_SYSCALL_MASK, SYSCALL_FLAG_MASK),
        ])?;
        let features = host_features();
        vcpu.set_xcr0(features)?;
        let tsc_khz = vcpu.follow_host_tsc();
        Ok(Self { vcpu, fresh, features, tsc_khz })
    }

    /// Gives the vCPU its page (already written, see [`entry::write_cpu_page`]) and the page tables at `root`.
    pub fn place(
        self,
        memory: &Arc<GuestMemory>,
        page: PageIndex,
        root: GuestPhysical,
    ) -> Result<GuestCpu, GuestError> {
        let mut user = entry::user_system_registers(&self.fresh, root, page);
        if self.vcpu.write_system_registers(&user).is_err() {
            user = entry::without_xsave(&user);
            self.vcpu.write_system_registers(&user)?;
        }
        let user_size = area_size(self.features);
        Ok(GuestCpu {
            vcpu: self.vcpu,
            memory: memory.clone(),
            page,
            user,
            features: self.features,
            user_size,
        })
    }
}

impl SpareCpu {
    /// Runs code at CPL3, by the page tables at `root`, from `rip` to its first exit, with rdi and rsi as given. It must leave by
    /// itself: nobody can kick it.
    pub fn run_at(
        &mut self,
        root: GuestPhysical,
        rip: u64,
        [rdi, rsi]: [u64; 2],
    ) -> Result<Exit, MachineError> {
        let mut user = entry::user_system_registers(&self.fresh, root, PageIndex(0));
        if self.vcpu.write_system_registers(&user).is_err() {
            user = entry::without_xsave(&user);
            self.vcpu.write_system_registers(&user)?;
        }
        let _attached = self.vcpu.attach();
        *self.vcpu.registers() = kvm_regs { rip, rdi, rsi, rflags: 2, ..Default::default() };
        self.vcpu.registers_changed();
        Ok(self.vcpu.run())
    }
}

/// A vCPU set up for CPL3.
pub(crate) struct GuestCpu {
    vcpu: Vcpu,
    memory: Arc<GuestMemory>,
    page: PageIndex,
    /// System registers at CPL3; FS and GS bases vary.
    user: kvm_sregs,
    features: u64,
    user_size: usize,
}

impl GuestCpu {
    /// A handle that makes the vCPU leave guest code.
    pub fn kicker(&self) -> Kicker {
        self.vcpu.kicker()
    }

    /// Makes the calling thread the vCPU's driver.
    pub fn attach(&mut self) -> machine::Attached {
        self.vcpu.attach()
    }

    /// Runs guest code at CPL3 from `cpu`, and leaves in `cpu` what it was at the event.
    pub fn enter(&mut self, cpu: &mut CpuState) -> Event {
        self.user.fs.base = cpu.fs_base;
        self.user.gs.base = cpu.gs_base;
        self.vcpu.set_system_registers(&self.user);
        store(&cpu.registers, self.vcpu.registers());
        self.vcpu.registers_changed();
        for _ in 0..MAX_STUB_ENTRIES {
            let exit = self.vcpu.run();
            let at_exit = load(self.vcpu.registers());
            let in_stub = at_exit.rip >= layout::USER_END;
            match exit {
                Exit::MmioWrite { address } if address == layout::DOORBELL_PAGE.address().0 => {
                    // The instruction left the return address in rcx and the flags in r11 (Intel SDM vol. 2, SYSCALL).
                    cpu.registers = Registers { rip: at_exit.rcx, rflags: at_exit.r11, ..at_exit };
                    cpu.original_rax = at_exit.rax as i64;
                    return Event::SystemCall;
                }
                Exit::PortWrite { port } if port < 32 => return self.exception(port as u8, at_exit, cpu),
                // Between the program and the stub's end: nothing is left undone, the stub just goes on.
                Exit::Interrupted if in_stub => {}
                Exit::Interrupted => {
                    cpu.registers = at_exit;
                    cpu.original_rax = -1;
                    return Event::Interrupted;
                }
                Exit::HostFault if !in_stub => {
                    cpu.registers = at_exit;
                    cpu.original_rax = -1;
                    return Event::HostFault;
                }
                other => {
                    cpu.registers = at_exit;
                    return Event::Dead(match other {
                        Exit::Dead(reason) => reason,
                        other => format!("unexpected exit {other:?} at {:#x}", at_exit.rip),
                    });
                }
            }
        }
        Event::Dead("an entry stub did not come to its end".to_owned())
    }

    fn exception(&mut self, vector: u8, at_exit: Registers, cpu: &mut CpuState) -> Event {
        let has_error = matches!(vector, 8 | 10..=14 | 17 | 21 | 29 | 30);
        let mut frame = [0u64; 6];
        let words = if has_error { &mut frame[..] } else { &mut frame[1..] };
        let Some(at) = entry::exception_frame(self.page, at_exit.rsp, words.len() as u64 * 8) else {
            return Event::Dead(format!("exception {vector} at CPL0, stack pointer {:#x}", at_exit.rsp));
        };
        let mut bytes = vec![0; words.len() * 8];
        if self.memory.read(at, &mut bytes).is_err() {
            return Event::Dead("an exception frame can't be read".to_owned());
        }
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        let [error, rip, _cs, rflags, rsp, _ss] = frame;
        cpu.registers = Registers { rip, rflags, rsp, ..at_exit };
        cpu.original_rax = -1;
        let address = if vector == 14 {
            match self.vcpu.system_registers() {
                Ok(registers) => registers.cr2,
                Err(error) => return Event::Dead(error.to_string()),
            }
        } else {
            0
        };
        Event::Exception(Exception { vector, error, address })
    }
}

impl Fpu for GuestCpu {
    fn xsave(&mut self) -> Vec<u8> {
        // A vCPU that can't be read can't be run either: the next entry reports it.
        self.vcpu.xsave().unwrap_or_else(|_: MachineError| vec![0; 4096])
    }

    fn load(&mut self, area: &[u8]) -> bool {
        self.vcpu.set_xsave(area).is_ok()
    }

    fn reset(&mut self) {
        // FCW and MXCSR as after finit and reset (System V ABI, AMD64, 3.4.1); everything else zero.
        let mut area = vec![0; 4096];
        area[0..2].copy_from_slice(&0x37f_u16.to_le_bytes());
        area[24..28].copy_from_slice(&0x1f80_u32.to_le_bytes());
        area[512] = 3;
        self.load(&area);
    }

    fn user_size(&self) -> usize {
        self.user_size
    }

    fn features(&self) -> u64 {
        self.features
    }
}

/// The state components that this processor has enabled and guests may use.
fn host_features() -> u64 {
    let leaf = std::arch::x86_64::__cpuid_count(0xd, 0);
    (u64::from(leaf.edx) << 32 | u64::from(leaf.eax)) & USABLE_FEATURES
}

/// Bytes of a standard-format XSAVE area with `features` (Intel SDM vol. 1, 13.4.3).
fn area_size(features: u64) -> usize {
    (2..8)
        .filter(|feature| features >> feature & 1 == 1)
        .map(|feature| {
            let leaf = std::arch::x86_64::__cpuid_count(0xd, feature);
            (leaf.eax + leaf.ebx) as usize
        })
        .max()
        .unwrap_or(576)
        .min(4096)
}

/// A register set of one type from one of the other: both name the registers alike.
macro_rules! registers {
    ($type:ident, $from:expr) => {
        $type {
            rax: $from.rax,
            rbx: $from.rbx,
            rcx: $from.rcx,
            rdx: $from.rdx,
            rsi: $from.rsi,
            rdi: $from.rdi,
            rsp: $from.rsp,
            rbp: $from.rbp,
            r8: $from.r8,
            r9: $from.r9,
            r10: $from.r10,
            r11: $from.r11,
            r12: $from.r12,
            r13: $from.r13,
            r14: $from.r14,
            r15: $from.r15,
            rip: $from.rip,
            rflags: $from.rflags,
        }
    };
}

fn store(from: &Registers, to: &mut kvm_regs) {
    *to = registers!(kvm_regs, from);
    // Bit 1 is always set (Intel SDM vol. 1, 3.4.3).
    to.rflags |= 2;
}

fn load(from: &kvm_regs) -> Registers {
    registers!(Registers, from)
}
