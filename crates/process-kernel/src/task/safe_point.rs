//! What a thread does between leaving guest code (or a system call) and running guest code again.

use super::process::ExitStatus;
use super::signal::{self, DefaultAction, SignalInfo, bit, default_action, flags};
use super::thread::RestingState;
use super::{CpuState, frame};
use crate::syscall::{Cx, Restart};

/// How the thread goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Run guest code.
    Run,
    /// The thread ends.
    End,
}

/// Length of the `syscall` instruction.
const SYSCALL_LENGTH: u64 = 2;

/// Makes the registers run the system call again that they have just left.
fn run_again(cpu: &mut CpuState) {
    if cpu.original_rax >= 0 {
        cpu.registers.rip = cpu.registers.rip.wrapping_sub(SYSCALL_LENGTH);
        cpu.registers.rax = cpu.original_rax as u64;
    }
}

/// Obeys pauses, ends and signals. `interrupted` is the restart rule of a call that was interrupted.
pub fn safe_point(cx: &mut Cx<'_>, interrupted: Option<Restart>) -> Next {
    let mut interrupted = interrupted;
    loop {
        // First taken note of, then looked at: what comes later sets it again.
        cx.thread.take_attention();
        if cx.process.exit_status().is_some() || cx.thread.is_ending() {
            return Next::End;
        }
        if cx.process.is_pausing() {
            let mut cpu = *cx.cpu;
            if interrupted.is_some() {
                run_again(&mut cpu);
            }
            cpu.original_rax = -1;
            *cx.thread.resting.lock() = Some(RestingState { cpu, fpu: cx.fpu.xsave() });
            cx.process.rest();
            *cx.thread.resting.lock() = None;
            continue;
        }
        let mask = cx.thread.signals.lock().mask;
        let Some(info) = cx.process.take_pending(cx.thread, !mask | signal::UNBLOCKABLE) else { break };
        match deliver(cx, info, &mut interrupted) {
            Delivered::Handled => cx.thread.forget_call_deadline(),
            Delivered::Ignored => {}
            Delivered::Fatal => {
                cx.process.exit(ExitStatus::Signal(info.signal));
                return Next::End;
            }
        }
    }
    let saved_mask = cx.thread.signals.lock().saved_mask.take();
    if let Some(mask) = saved_mask {
        cx.thread.signals.lock().mask = mask;
    }
    if interrupted.is_some() {
        run_again(cx.cpu);
    }
    cx.cpu.original_rax = -1;
    // Something may have come between the last look and now: then the vCPU must not be entered.
    if cx.thread.wants_attention() { safe_point(cx, None) } else { Next::Run }
}

enum Delivered {
    Handled,
    Ignored,
    Fatal,
}

fn deliver(cx: &mut Cx<'_>, info: SignalInfo, interrupted: &mut Option<Restart>) -> Delivered {
    let action = cx.process.signals.action(info.signal);
    match action.handler {
        signal::IGNORE => return Delivered::Ignored,
        signal::DEFAULT => {
            return match default_action(info.signal) {
                DefaultAction::Ignore => Delivered::Ignored,
                DefaultAction::Terminate => Delivered::Fatal,
            };
        }
        _ => {}
    }
    if let Some(restart) = interrupted.take() {
        if restart == Restart::WithFlag && action.flags & flags::RESTART != 0 {
            run_again(cx.cpu);
        } else {
            cx.cpu.registers.rax = (-i64::from(libc::EINTR)) as u64;
        }
        cx.cpu.original_rax = -1;
    }
    let (mask, alt_stack) = {
        let mut signals = cx.thread.signals.lock();
        (signals.saved_mask.take().unwrap_or(signals.mask), signals.alt_stack)
    };
    if frame::push(cx, &action, &info, mask, alt_stack).is_err() {
        // No room for the frame: Linux forces SIGSEGV, which a handler that needs the same stack can't handle either.
        return if info.signal == libc::SIGSEGV {
            Delivered::Fatal
        } else {
            force(cx, SignalInfo::fault(libc::SIGSEGV, signal::codes::KERNEL, 0));
            Delivered::Ignored
        };
    }
    let mut signals = cx.thread.signals.lock();
    signals.mask |= action.mask & !signal::UNBLOCKABLE;
    if action.flags & flags::NODEFER == 0 {
        signals.mask |= bit(info.signal);
    }
    if alt_stack.flags & signal::ALT_STACK_AUTODISARM != 0 {
        signals.alt_stack = signal::AltStack::default();
    }
    drop(signals);
    if action.flags & flags::RESETHAND != 0 {
        cx.process.signals.set_action(info.signal, signal::Action::default());
    }
    Delivered::Handled
}

/// Sends the calling thread a signal for something it just did; blocked or ignored, it is fatal (force_sig in Linux).
pub fn force(cx: &mut Cx<'_>, info: SignalInfo) {
    let action = cx.process.signals.action(info.signal);
    let mut signals = cx.thread.signals.lock();
    let blocked = signals.mask & bit(info.signal) != 0;
    if blocked || action.handler == signal::IGNORE {
        cx.process.signals.set_action(info.signal, signal::Action::default());
        signals.mask &= !bit(info.signal);
    }
    // One of each standard signal is kept, so this can't fail for synchronous ones.
    let _ = signals.pending.push(info);
    drop(signals);
    cx.thread.notify();
}
