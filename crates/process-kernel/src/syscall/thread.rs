//! Threads, futexes, execve and exit.

use std::os::raw::c_long;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::io::Errno;

use super::time::{absolute_deadline, read_duration};
use super::{Arguments, Cx, Restart, Stop, SysResult};
use crate::clock::Deadline;
use crate::mm::MAX_STRING;
use crate::task::{ExecRequest, ExitStatus, Thread, exec};

pub(super) fn dispatch(cx: &mut Cx<'_>, number: c_long, a: Arguments) -> Option<SysResult> {
    Some(match number {
        libc::SYS_clone => {
            clone(cx, CloneArguments { flags: a[0], stack: a[1], parent: a[2], child: a[3], tls: a[4] })
        }
        libc::SYS_clone3 => clone3(cx, a[0], a[1]),
        libc::SYS_fork | libc::SYS_vfork => no_second_process(cx),
        libc::SYS_execve => execve(cx, a[0], a[1], a[2]),
        libc::SYS_exit => Err(exit_thread(a[0])),
        libc::SYS_exit_group => {
            cx.process.exit(ExitStatus::Code(a[0] as u8));
            Err(exit_thread(a[0]))
        }
        libc::SYS_set_tid_address => {
            cx.thread.clear_child_tid.store(a[0], Ordering::SeqCst);
            Ok(cx.thread.tid as u64)
        }
        libc::SYS_set_robust_list => {
            if a[1] != 24 {
                return Some(Err(Errno::INVAL.into()));
            }
            cx.thread.robust_list.store(a[0], Ordering::SeqCst);
            Ok(0)
        }
        libc::SYS_get_robust_list => get_robust_list(cx, a[0] as i32, a[1], a[2]),
        libc::SYS_futex => futex(cx, a),
        // A guest has no children.
        libc::SYS_wait4 | libc::SYS_waitid => Err(Errno::CHILD.into()),
        // glibc falls back where there is no rseq.
        libc::SYS_rseq => Err(Errno::NOSYS.into()),
        libc::SYS_membarrier => membarrier(a[0] as i32),
        _ => return None,
    })
}

fn exit_thread(_code: u64) -> Stop {
    Stop::ThreadExit
}

struct CloneArguments {
    flags: u64,
    stack: u64,
    parent: u64,
    child: u64,
    tls: u64,
}

/// What pthread_create asks for; everything else would be a second process.
const THREAD_FLAGS: u64 =
    (libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_FILES | libc::CLONE_SIGHAND | libc::CLONE_THREAD) as u64;

fn no_second_process(cx: &Cx<'_>) -> SysResult {
    cx.process.unsupported.second_process();
    Err(Errno::NOSYS.into())
}

fn clone(cx: &mut Cx<'_>, arguments: CloneArguments) -> SysResult {
    let flags = arguments.flags;
    if flags & THREAD_FLAGS != THREAD_FLAGS {
        return no_second_process(cx);
    }
    let namespaces = (libc::CLONE_NEWNS
        | libc::CLONE_NEWCGROUP
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET) as u64;
    if flags & namespaces != 0 {
        return Err(Errno::PERM.into());
    }
    let signals = cx.thread.signals.lock().inherited();
    let name = cx.thread.name.lock().clone();
    let thread = Thread::new(cx.process.new_tid(), name, signals);
    let tid = thread.tid;
    if flags & libc::CLONE_PARENT_SETTID as u64 != 0 {
        cx.mm().write_value(arguments.parent, &tid)?;
    }
    if flags & libc::CLONE_CHILD_SETTID as u64 != 0 {
        cx.mm().write_value(arguments.child, &tid)?;
    }
    if flags & libc::CLONE_CHILD_CLEARTID as u64 != 0 {
        thread.clear_child_tid.store(arguments.child, Ordering::SeqCst);
    }
    let mut cpu = *cx.cpu;
    cpu.original_rax = -1;
    cpu.registers.rax = 0;
    if arguments.stack != 0 {
        cpu.registers.rsp = arguments.stack;
    }
    if flags & libc::CLONE_SETTLS as u64 != 0 {
        cpu.fs_base = arguments.tls;
    }
    let fpu = cx.fpu.xsave();
    cx.process.add_thread(&thread)?;
    if let Err(errno) = cx.process.hooks.spawn(cx.process, &thread, cpu, fpu) {
        cx.process.remove_thread(tid, ExitStatus::Code(0));
        return Err(errno.into());
    }
    Ok(tid as u64)
}

fn clone3(cx: &mut Cx<'_>, address: u64, size: u64) -> SysResult {
    if !(64..=4096).contains(&size) {
        return Err(Errno::INVAL.into());
    }
    // struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, ...
    let [flags, _, child, parent, _, stack, stack_size, tls]: [u64; 8] = cx.mm().read_value(address)?;
    let top = stack.checked_add(stack_size).ok_or(Errno::INVAL)?;
    clone(cx, CloneArguments { flags, stack: top, parent, child, tls })
}

fn get_robust_list(cx: &Cx<'_>, tid: i32, head: u64, length: u64) -> SysResult {
    let thread = if tid == 0 { cx.thread.clone() } else { cx.process.thread(tid).ok_or(Errno::SRCH)? };
    cx.mm().write_value(head, &thread.robust_list.load(Ordering::SeqCst))?;
    cx.mm().write_value(length, &24u64)?;
    Ok(0)
}

/// A NULL-terminated array of strings.
fn read_strings(cx: &Cx<'_>, mut address: u64) -> Result<Vec<Vec<u8>>, Errno> {
    /// Strings and bytes that execve takes: a quarter of the 8 MiB stack.
    const MOST: usize = 2 << 20;
    let mut strings = Vec::new();
    let mut total = 0;
    while address != 0 {
        let pointer: u64 = cx.mm().read_value(address)?;
        if pointer == 0 {
            break;
        }
        let text = cx
            .mm()
            .read_string(pointer, MAX_STRING)
            .map_err(|errno| if errno == Errno::NAMETOOLONG { Errno::TOOBIG } else { errno })?;
        total += text.len() + 9;
        if total > MOST {
            return Err(Errno::TOOBIG);
        }
        strings.push(text);
        address = address.checked_add(8).ok_or(Errno::FAULT)?;
    }
    Ok(strings)
}

fn execve(cx: &mut Cx<'_>, path: u64, arguments: u64, environment: u64) -> SysResult {
    let path = cx.mm().read_string(path, 4096)?;
    let arguments = read_strings(cx, arguments)?;
    let environment = read_strings(cx, environment)?;
    let request = ExecRequest { path, arguments, environment };
    match exec(cx.process, cx.thread, &request)? {
        Ok(cpu) => {
            *cx.cpu = cpu;
            cx.fpu.reset();
            Err(Stop::RegistersSet)
        }
        Err(_) => {
            cx.process.exit(ExitStatus::Signal(libc::SIGKILL));
            Err(Stop::ThreadExit)
        }
    }
}

fn membarrier(command: i32) -> SysResult {
    // A guest's threads run on different host threads; every exit and entry orders memory, but running ones are not made to
    // exit: only the query is answered, with nothing offered.
    if command == 0 { Ok(0) } else { Err(Errno::INVAL.into()) }
}

const FUTEX_CLOCK_REALTIME: i32 = 256;
const FUTEX_PRIVATE: i32 = 128;

fn futex_deadline(
    cx: &Cx<'_>,
    timeout: u64,
    absolute: bool,
    realtime: bool,
) -> Result<Option<Deadline>, Errno> {
    if timeout == 0 {
        return Ok(None);
    }
    let time: Duration = read_duration(cx, timeout, 1_000_000_000)?;
    if !absolute {
        return Ok(cx.deadline(Some(time)));
    }
    let clock = if realtime { libc::CLOCK_REALTIME } else { libc::CLOCK_MONOTONIC };
    absolute_deadline(cx, clock, time).map(Some)
}

fn futex(cx: &mut Cx<'_>, a: Arguments) -> SysResult {
    let [address, operation, value, timeout, second, third] = a;
    let (operation, value) = (operation as i32, value as u32);
    let realtime = operation & FUTEX_CLOCK_REALTIME != 0;
    let table = &cx.process.futexes;
    match operation & !(FUTEX_CLOCK_REALTIME | FUTEX_PRIVATE) {
        libc::FUTEX_WAIT => {
            let deadline = futex_deadline(cx, timeout, false, realtime)?;
            let woken = table.wait(cx, address, value, u32::MAX, deadline, Restart::WithFlag)?;
            if woken { Ok(0) } else { Err(Errno::TIMEDOUT.into()) }
        }
        libc::FUTEX_WAIT_BITSET => {
            let deadline = futex_deadline(cx, timeout, true, realtime)?;
            let woken = table.wait(cx, address, value, third as u32, deadline, Restart::WithFlag)?;
            if woken { Ok(0) } else { Err(Errno::TIMEDOUT.into()) }
        }
        libc::FUTEX_WAKE => wake(cx, address, value, u32::MAX),
        libc::FUTEX_WAKE_BITSET if third as u32 != 0 => wake(cx, address, value, third as u32),
        libc::FUTEX_REQUEUE => {
            let (woken, moved) = table.requeue(cx.mm(), address, value, second, timeout as u32, None)?;
            Ok(u64::from(woken + moved))
        }
        libc::FUTEX_CMP_REQUEUE => {
            let expected = Some(third as u32);
            let (woken, moved) = table.requeue(cx.mm(), address, value, second, timeout as u32, expected)?;
            Ok(u64::from(woken + moved))
        }
        libc::FUTEX_WAKE_OP => wake_operation(cx, address, value, second, timeout as u32, third as u32),
        libc::FUTEX_LOCK_PI => lock_pi(cx, address, futex_deadline(cx, timeout, true, true)?),
        libc::FUTEX_LOCK_PI2 => lock_pi(cx, address, futex_deadline(cx, timeout, true, realtime)?),
        libc::FUTEX_TRYLOCK_PI => {
            if try_lock_pi(cx, address)? {
                Ok(0)
            } else {
                Err(Errno::AGAIN.into())
            }
        }
        libc::FUTEX_UNLOCK_PI => unlock_pi(cx, address),
        _ => Err(Errno::NOSYS.into()),
    }
}

fn wake(cx: &Cx<'_>, address: u64, count: u32, bits: u32) -> SysResult {
    if !address.is_multiple_of(4) {
        return Err(Errno::INVAL.into());
    }
    Ok(u64::from(cx.process.futexes.wake(address, count, bits)))
}

/// FUTEX_WAKE_OP: changes the second word, wakes on the first, and on the second if the old value compares.
fn wake_operation(
    cx: &Cx<'_>,
    first: u64,
    count: u32,
    second: u64,
    second_count: u32,
    encoded: u32,
) -> SysResult {
    let operation = encoded >> 28 & 0x7;
    let comparison = encoded >> 24 & 0xf;
    let sign_extended = |value: u32| ((value << 20) as i32) >> 20;
    let mut operand = sign_extended(encoded >> 12 & 0xfff) as u32;
    let compared = sign_extended(encoded & 0xfff);
    // FUTEX_OP_ARG_SHIFT
    if encoded >> 31 & 1 == 1 {
        operand = 1 << (operand & 31);
    }
    let old = cx.mm().update_word(second, |word| {
        Some(match operation {
            0 => operand,
            1 => word.wrapping_add(operand),
            2 => word | operand,
            3 => word & !operand,
            4 => word ^ operand,
            _ => word,
        })
    })? as i32;
    let matches = match comparison {
        0 => old == compared,
        1 => old != compared,
        2 => old < compared,
        3 => old <= compared,
        4 => old > compared,
        5 => old >= compared,
        _ => return Err(Errno::NOSYS.into()),
    };
    let mut woken = cx.process.futexes.wake(first, count, u32::MAX);
    if matches {
        woken += cx.process.futexes.wake(second, second_count, u32::MAX);
    }
    Ok(u64::from(woken))
}

const FUTEX_WAITERS: u32 = 0x8000_0000;
const FUTEX_TID_MASK: u32 = 0x3fff_ffff;

/// Takes a priority-inheritance lock if it is free. Priorities don't exist in a guest, so these are plain locks.
fn try_lock_pi(cx: &Cx<'_>, address: u64) -> Result<bool, Stop> {
    let own = cx.thread.tid as u32;
    let old = cx
        .mm()
        .update_word(address, |word| (word & FUTEX_TID_MASK == 0).then_some(word & FUTEX_WAITERS | own))?;
    if old & FUTEX_TID_MASK == own {
        return Err(Errno::DEADLK.into());
    }
    Ok(old & FUTEX_TID_MASK == 0)
}

fn lock_pi(cx: &Cx<'_>, address: u64, deadline: Option<Deadline>) -> SysResult {
    loop {
        if try_lock_pi(cx, address)? {
            return Ok(0);
        }
        let word = cx.mm().update_word(address, |word| Some(word | FUTEX_WAITERS))? | FUTEX_WAITERS;
        if word & FUTEX_TID_MASK == 0 {
            continue;
        }
        match cx.process.futexes.wait(cx, address, word, u32::MAX, deadline, Restart::WithFlag) {
            Ok(true) | Err(Stop::Errno(Errno::AGAIN)) => {}
            Ok(false) => return Err(Errno::TIMEDOUT.into()),
            Err(stop) => return Err(stop),
        }
    }
}

fn unlock_pi(cx: &Cx<'_>, address: u64) -> SysResult {
    let own = cx.thread.tid as u32;
    let old = cx.mm().update_word(address, |word| (word & FUTEX_TID_MASK == own).then_some(0))?;
    if old & FUTEX_TID_MASK != own {
        return Err(Errno::PERM.into());
    }
    // All waiters try again: who comes first takes the lock and marks it as waited for.
    cx.process.futexes.wake(address, u32::MAX, u32::MAX);
    Ok(0)
}
