//! The run loop of one guest thread.

use std::sync::Arc;

use process_kernel::mm::FaultOutcome;
use process_kernel::syscall::{Cx, Restart, Stop, dispatch};
use process_kernel::task::{CpuState, ExitStatus, Next, Process, Thread, end_thread, force, safe_point};

use crate::cpu::{Event, GuestCpu};
use crate::exception::{self, Exception};
use crate::exits::{ExitCounts, FirstExit};

/// Remembers the last fault of a thread, to tell a repeated one.
#[derive(Default)]
struct LastFault {
    rip: u64,
    address: Option<u64>,
    count: u32,
}

/// Faults of one instruction at one address that are answered by running it again, before the guest is given up. Several in a
/// row are normal (several pages per instruction, another thread's mprotect in between).
const MAX_REPEATS: u32 = 64;

impl LastFault {
    /// Notes a fault and returns how often it came in a row before.
    fn note(&mut self, rip: u64, address: Option<u64>) -> u32 {
        if self.rip == rip && self.address == address {
            self.count += 1;
        } else {
            *self = Self { rip, address, count: 0 };
        }
        self.count
    }
}

/// Runs `thread` on `cpu` until it ends. The calling host thread drives the vCPU all the while.
pub(crate) fn run_thread(
    process: &Arc<Process>,
    thread: &Arc<Thread>,
    cpu: &mut GuestCpu,
    mut state: CpuState,
    exits: &ExitCounts,
) {
    let attached = cpu.attach();
    let kicker = cpu.kicker();
    thread.set_kick(Some(Box::new(move || kicker.kick())));
    let mut last_fault = LastFault::default();
    let mut interrupted = None;
    let mut status = ExitStatus::Code(0);
    loop {
        if goes_on(Cx { process, thread, cpu: &mut state, fpu: cpu }, interrupted.take()) == Next::End {
            break;
        }
        let event = cpu.enter(&mut state);
        let left = FirstExit::now(exits, process);
        match event {
            Event::SystemCall => {
                left.note();
                exits.system_call();
                let number = state.registers.rax;
                let arguments = call_arguments(&state);
                let mut cx = Cx { process, thread, cpu: &mut state, fpu: cpu };
                match dispatch(&mut cx, number, arguments) {
                    Ok(value) => finish_call(thread, &mut state, value),
                    Err(Stop::Errno(errno)) => {
                        finish_call(thread, &mut state, (-i64::from(errno.raw_os_error())) as u64);
                    }
                    Err(Stop::Interrupted(restart)) => interrupted = Some(restart),
                    Err(Stop::RegistersSet) => thread.forget_call_deadline(),
                    Err(Stop::ThreadExit) => {
                        status = ExitStatus::Code(arguments[0] as u8);
                        break;
                    }
                }
            }
            Event::Exception(fault @ Exception { vector: 14, .. }) => {
                exits.page_fault();
                let repeats = last_fault.note(state.registers.rip, Some(fault.address));
                let outcome =
                    process.mm.page_fault(fault.address, exception::fault_access(fault.error), repeats > 0);
                if outcome != FaultOutcome::Arrived {
                    left.note();
                }
                if repeats > MAX_REPEATS {
                    process.fail(format!(
                        "the instruction at {:#x} faults at {:#x} for ever",
                        state.registers.rip, fault.address
                    ));
                }
                after_fault(process, thread, cpu, &mut state, outcome, fault.address);
            }
            Event::Exception(exception) => {
                left.note();
                let info = exception::signal(exception, state.registers.rip);
                force(&mut Cx { process, thread, cpu: &mut state, fpu: cpu }, info);
            }
            Event::HostFault => {
                left.note();
                let repeats = last_fault.note(state.registers.rip, None);
                let outcome = process.mm.unlocated_fault(repeats > 0);
                after_fault(process, thread, cpu, &mut state, outcome, 0);
            }
            Event::Interrupted => left.note(),
            Event::Dead(reason) => {
                process.fail(format!("{reason} (at {:#x})", state.registers.rip));
                break;
            }
        }
    }
    thread.set_kick(None);
    drop(attached);
    end_thread(process, thread, status);
}

/// The safe point before guest code runs. It doesn't when memory that was to come is lost.
fn goes_on(mut cx: Cx<'_>, interrupted: Option<Restart>) -> Next {
    if let Some(reason) = cx.process.mm.loss() {
        cx.process.fail(reason);
    }
    safe_point(&mut cx, interrupted)
}

/// A system call's arguments in the registers of the x86-64 ABI.
fn call_arguments(state: &CpuState) -> [u64; 6] {
    let registers = &state.registers;
    [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9]
}

fn finish_call(thread: &Thread, state: &mut CpuState, value: u64) {
    state.registers.rax = value;
    state.original_rax = -1;
    thread.forget_call_deadline();
}

fn after_fault(
    process: &Arc<Process>,
    thread: &Arc<Thread>,
    cpu: &mut GuestCpu,
    state: &mut CpuState,
    outcome: FaultOutcome,
    address: u64,
) {
    if let Some(info) = exception::fault_signal(outcome, address) {
        if info.signal == libc::SIGKILL {
            process.exit(ExitStatus::Signal(libc::SIGKILL));
        } else {
            force(&mut Cx { process, thread, cpu: state, fpu: cpu }, info);
        }
    }
}
