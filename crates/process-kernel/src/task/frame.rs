//! Signal frames: what the kernel puts on a thread's stack for a handler, and sigreturn takes back.
//!
//! Layout: `struct rt_sigframe` of arch/x86/include/asm/sigframe.h: return address, `struct ucontext`, `siginfo_t`; above it
//! the XSAVE area with the software-reserved bytes that tell its size (arch/x86/kernel/fpu/signal.c).

use bytemuck::{Pod, Zeroable};
use rustix::io::Errno;

use super::signal::{self, Action, AltStack, SignalInfo, SignalSet, flags};
use crate::mm::layout;
use crate::syscall::{Cx, Stop, SysResult};

/// `struct sigcontext`
#[derive(Clone, Copy, Default, Pod, Zeroable)]
#[repr(C)]
struct SignalContext {
    r8: u64,
    r9: u64,
    r10: u64,
    r11: u64,
    r12: u64,
    r13: u64,
    r14: u64,
    r15: u64,
    rdi: u64,
    rsi: u64,
    rbp: u64,
    rbx: u64,
    rdx: u64,
    rax: u64,
    rcx: u64,
    rsp: u64,
    rip: u64,
    rflags: u64,
    cs: u16,
    gs: u16,
    fs: u16,
    ss: u16,
    error: u64,
    trap: u64,
    old_mask: u64,
    fault_address: u64,
    fpstate: u64,
    reserved: [u64; 8],
}

/// `struct rt_sigframe` without the siginfo, which follows it.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Frame {
    return_address: u64,
    uc_flags: u64,
    uc_link: u64,
    stack: AltStack,
    context: SignalContext,
    mask: SignalSet,
}

const FRAME_SIZE: u64 = size_of::<Frame>() as u64;
const INFO_SIZE: u64 = 128;

/// UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS
const UC_FLAGS: u64 = 7;
const FP_XSTATE_MAGIC1: u32 = 0x4650_5853;
const FP_XSTATE_MAGIC2: u32 = 0x4650_5845;
/// Offset of the software-reserved bytes in the legacy area.
const SOFTWARE_RESERVED: usize = 464;
/// Offset of the XSAVE header.
const XSAVE_HEADER: usize = 512;
/// The flags that a program may set: CF PF AF ZF SF TF DF OF RF AC, and ID.
pub(crate) const USER_FLAGS: u64 = 0x0025_0dd5;
/// Flags that are always set at CPL3: bit 1 and IF.
pub(crate) const FIXED_FLAGS: u64 = 0x202;
const DIRECTION_TRAP_RESUME: u64 = 0x0001_0500;
const USER_CS: u16 = 0x33;
const USER_SS: u16 = 0x2b;

/// Pushes a frame and makes the registers enter the handler.
pub(super) fn push(
    cx: &mut Cx<'_>,
    action: &Action,
    info: &SignalInfo,
    mask: SignalSet,
    alt_stack: AltStack,
) -> Result<(), Errno> {
    let registers = cx.cpu.registers;
    let on_alternate = action.flags & flags::ONSTACK != 0
        && alt_stack.flags & signal::ALT_STACK_DISABLED == 0
        && !alt_stack.holds(registers.rsp);
    let top = if on_alternate {
        alt_stack.pointer.wrapping_add(alt_stack.size)
    } else {
        // The red zone below the stack pointer is the program's (System V ABI, AMD64, 3.2.2).
        registers.rsp.wrapping_sub(128)
    };
    let mut area = cx.fpu.xsave();
    let size = cx.fpu.user_size().min(area.len());
    area.truncate(size);
    mark_area(&mut area, cx.fpu.features());
    let fpstate = top.wrapping_sub(size as u64 + 4) & !63;
    let at = (fpstate.wrapping_sub(FRAME_SIZE + INFO_SIZE) & !15).wrapping_sub(8);
    let frame = Frame {
        return_address: action.restorer,
        uc_flags: UC_FLAGS,
        uc_link: 0,
        stack: alt_stack,
        context: SignalContext {
            r8: registers.r8,
            r9: registers.r9,
            r10: registers.r10,
            r11: registers.r11,
            r12: registers.r12,
            r13: registers.r13,
            r14: registers.r14,
            r15: registers.r15,
            rdi: registers.rdi,
            rsi: registers.rsi,
            rbp: registers.rbp,
            rbx: registers.rbx,
            rdx: registers.rdx,
            rax: registers.rax,
            rcx: registers.rcx,
            rsp: registers.rsp,
            rip: registers.rip,
            rflags: registers.rflags,
            cs: USER_CS,
            ss: USER_SS,
            trap: if info.signal == libc::SIGSEGV { 14 } else { 0 },
            error: if info.signal == libc::SIGSEGV { 4 } else { 0 },
            old_mask: mask,
            fault_address: if info.signal == libc::SIGSEGV { info.first } else { 0 },
            fpstate,
            ..SignalContext::default()
        },
        mask,
    };
    let mm = cx.mm();
    mm.write(fpstate, &area)?;
    mm.write(at + FRAME_SIZE, &info.to_bytes())?;
    mm.write_value(at, &frame)?;
    let registers = &mut cx.cpu.registers;
    registers.rdi = info.signal as u64;
    registers.rsi = at + FRAME_SIZE;
    registers.rdx = at + 8;
    registers.rax = 0;
    registers.rsp = at;
    registers.rip = action.handler;
    registers.rflags &= !DIRECTION_TRAP_RESUME;
    Ok(())
}

/// Writes the software-reserved bytes and the second magic number behind the area.
fn mark_area(area: &mut Vec<u8>, features: u64) {
    let size = area.len() as u32;
    let mut put = |at: usize, bytes: &[u8]| area[at..at + bytes.len()].copy_from_slice(bytes);
    put(SOFTWARE_RESERVED, &FP_XSTATE_MAGIC1.to_le_bytes());
    put(SOFTWARE_RESERVED + 4, &(size + 4).to_le_bytes());
    put(SOFTWARE_RESERVED + 8, &features.to_le_bytes());
    put(SOFTWARE_RESERVED + 16, &size.to_le_bytes());
    area.extend_from_slice(&FP_XSTATE_MAGIC2.to_le_bytes());
}

/// rt_sigreturn(2): takes the frame at the stack pointer back.
pub(crate) fn rt_sigreturn(cx: &mut Cx<'_>) -> SysResult {
    if pop(cx).is_err() {
        super::force(cx, SignalInfo::fault(libc::SIGSEGV, signal::codes::KERNEL, 0));
    }
    Err(Stop::RegistersSet)
}

fn pop(cx: &mut Cx<'_>) -> Result<(), Errno> {
    // The handler's `ret` has taken the return address off.
    let at = cx.cpu.registers.rsp.wrapping_sub(8);
    let frame: Frame = cx.mm().read_value(at)?;
    let context = frame.context;
    if context.fpstate != 0 {
        let area = read_area(cx, context.fpstate)?;
        if !cx.fpu.load(&area) {
            return Err(Errno::INVAL);
        }
    } else {
        cx.fpu.reset();
    }
    let registers = &mut cx.cpu.registers;
    registers.r8 = context.r8;
    registers.r9 = context.r9;
    registers.r10 = context.r10;
    registers.r11 = context.r11;
    registers.r12 = context.r12;
    registers.r13 = context.r13;
    registers.r14 = context.r14;
    registers.r15 = context.r15;
    registers.rdi = context.rdi;
    registers.rsi = context.rsi;
    registers.rbp = context.rbp;
    registers.rbx = context.rbx;
    registers.rdx = context.rdx;
    registers.rax = context.rax;
    registers.rcx = context.rcx;
    registers.rsp = context.rsp;
    registers.rip = context.rip;
    registers.rflags = context.rflags & USER_FLAGS | FIXED_FLAGS;
    cx.cpu.original_rax = -1;
    if context.rip >= layout::USER_END {
        return Err(Errno::FAULT);
    }
    {
        let mut signals = cx.thread.signals.lock();
        signals.mask = frame.mask & !signal::UNBLOCKABLE;
        signals.alt_stack = AltStack { flags: frame.stack.flags & !signal::ALT_STACK_IN_USE, ..frame.stack };
    }
    // The mask may have let something in.
    if cx.process.pending_for(cx.thread) & !frame.mask != 0 {
        cx.thread.notify();
    }
    Ok(())
}

/// Reads an XSAVE area that the program may have changed, so that loading it can't be refused for its header.
fn read_area(cx: &Cx<'_>, fpstate: u64) -> Result<Vec<u8>, Errno> {
    let mut area = vec![0; 512];
    cx.mm().read(fpstate, &mut area)?;
    let word = |area: &[u8], at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&area[at..at + 8]);
        u64::from_le_bytes(word)
    };
    let extended = word(&area, SOFTWARE_RESERVED) as u32 == FP_XSTATE_MAGIC1;
    let size = word(&area, SOFTWARE_RESERVED + 16) as u32 as usize;
    let allowed = cx.fpu.user_size();
    if extended && size > XSAVE_HEADER + 64 && size <= allowed {
        area.resize(size, 0);
        cx.mm().read(fpstate + 512, &mut area[512..])?;
        let present = word(&area, XSAVE_HEADER) & word(&area, SOFTWARE_RESERVED + 8) & cx.fpu.features();
        area[XSAVE_HEADER..XSAVE_HEADER + 64].fill(0);
        area[XSAVE_HEADER..XSAVE_HEADER + 8].copy_from_slice(&present.to_le_bytes());
    } else {
        // Only the legacy area: x87 and SSE.
        area.resize(allowed.max(XSAVE_HEADER + 64), 0);
        area[XSAVE_HEADER] = 3;
    }
    // Reserved bits of MXCSR make the processor refuse the area.
    area[26..28].fill(0);
    area[SOFTWARE_RESERVED..512].fill(0);
    Ok(area)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frame_has_the_kernels_layout() {
        assert_eq!(size_of::<SignalContext>(), 256);
        assert_eq!(FRAME_SIZE, 312);
        assert_eq!(std::mem::offset_of!(SignalContext, fpstate), 184);
        assert_eq!(std::mem::offset_of!(Frame, mask), 304);
    }
}
