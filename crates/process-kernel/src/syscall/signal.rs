//! Signals.

use std::os::raw::c_long;

use rustix::io::Errno;

use super::time::read_timeout;
use super::{Arguments, Cx, Restart, Stop, SysResult};
use crate::task::signal::{
    self, ALT_STACK_AUTODISARM, ALT_STACK_DISABLED, ALT_STACK_IN_USE, Action, AltStack, SignalInfo,
    SignalSet, UNBLOCKABLE, codes, is_valid,
};
use crate::task::{ExitStatus, rt_sigreturn};

pub(super) fn dispatch(cx: &mut Cx<'_>, number: c_long, a: Arguments) -> Option<SysResult> {
    Some(match number {
        libc::SYS_rt_sigaction => sigaction(cx, a[0] as i32, a[1], a[2], a[3]),
        libc::SYS_rt_sigprocmask => sigprocmask(cx, a[0] as i32, a[1], a[2], a[3]),
        libc::SYS_rt_sigreturn => rt_sigreturn(cx),
        libc::SYS_rt_sigpending => sigpending(cx, a[0], a[1]),
        libc::SYS_rt_sigsuspend => sigsuspend(cx, a[0], a[1]),
        libc::SYS_rt_sigtimedwait => sigtimedwait(cx, a[0], a[1], a[2], a[3]),
        libc::SYS_sigaltstack => sigaltstack(cx, a[0], a[1]),
        libc::SYS_kill => kill(cx, a[0] as i32, a[1] as i32),
        libc::SYS_tkill => tgkill(cx, cx.process.identity.pid, a[0] as i32, a[1] as i32),
        libc::SYS_tgkill => tgkill(cx, a[0] as i32, a[1] as i32, a[2] as i32),
        libc::SYS_rt_sigqueueinfo => sigqueueinfo(cx, a[0] as i32, None, a[1] as i32, a[2]),
        libc::SYS_rt_tgsigqueueinfo => sigqueueinfo(cx, a[0] as i32, Some(a[1] as i32), a[2] as i32, a[3]),
        libc::SYS_pause => cx.wait(&[], None, Restart::Never, || Err::<u64, _>(Errno::AGAIN)).map(|_| 0),
        _ => return None,
    })
}

fn check_set_size(size: u64) -> Result<(), Errno> {
    if size == 8 { Ok(()) } else { Err(Errno::INVAL) }
}

fn sigaction(cx: &Cx<'_>, number: i32, new: u64, old: u64, size: u64) -> SysResult {
    check_set_size(size)?;
    if !is_valid(number) || (new != 0 && signal::bit(number) & UNBLOCKABLE != 0) {
        return Err(Errno::INVAL.into());
    }
    let previous = if new == 0 {
        cx.process.signals.action(number)
    } else {
        let mut action: Action = cx.mm().read_value(new)?;
        action.mask &= !UNBLOCKABLE;
        cx.process.signals.set_action(number, action)
    };
    if old != 0 {
        cx.mm().write_value(old, &previous)?;
    }
    Ok(0)
}

/// Replaces the calling thread's mask and looks whether that lets something in.
fn set_mask(cx: &Cx<'_>, mask: SignalSet) {
    cx.thread.signals.lock().mask = mask & !UNBLOCKABLE;
    if cx.process.pending_for(cx.thread) & !mask != 0 {
        cx.thread.notify();
    }
}

fn sigprocmask(cx: &Cx<'_>, how: i32, new: u64, old: u64, size: u64) -> SysResult {
    check_set_size(size)?;
    let current = cx.thread.signals.lock().mask;
    if new != 0 {
        let set: SignalSet = cx.mm().read_value(new)?;
        let mask = match how {
            libc::SIG_BLOCK => current | set,
            libc::SIG_UNBLOCK => current & !set,
            libc::SIG_SETMASK => set,
            _ => return Err(Errno::INVAL.into()),
        };
        set_mask(cx, mask);
    }
    if old != 0 {
        cx.mm().write_value(old, &current)?;
    }
    Ok(0)
}

fn sigpending(cx: &Cx<'_>, to: u64, size: u64) -> SysResult {
    if size > 8 {
        return Err(Errno::INVAL.into());
    }
    let blocked = cx.process.pending_for(cx.thread) & cx.thread.signals.lock().mask;
    cx.mm().write(to, &blocked.to_le_bytes()[..size as usize])?;
    Ok(0)
}

impl Cx<'_> {
    /// Serves the rest of a call under another signal mask (sigsuspend, ppoll, pselect, epoll_pwait). When the call is
    /// interrupted the mask stays until the handler's frame has been made, which keeps the old one.
    ///
    /// # Errors
    /// The call's own.
    pub fn with_signal_mask<T>(
        &mut self,
        mask: Option<SignalSet>,
        call: impl FnOnce(&mut Self) -> Result<T, Stop>,
    ) -> Result<T, Stop> {
        let Some(mask) = mask else { return call(self) };
        let old = {
            let mut signals = self.thread.signals.lock();
            std::mem::replace(&mut signals.mask, mask & !UNBLOCKABLE)
        };
        if self.process.pending_for(self.thread) & !mask != 0 {
            self.thread.notify();
        }
        let result = call(self);
        if matches!(result, Err(Stop::Interrupted(_))) {
            self.thread.signals.lock().saved_mask = Some(old);
        } else {
            self.thread.signals.lock().mask = old;
            if self.process.pending_for(self.thread) & !old != 0 {
                self.thread.notify();
            }
        }
        result
    }

    /// Sends the calling thread a signal that its call brought about (SIGPIPE).
    pub fn raise_on_self(&self, number: i32) {
        let info = SignalInfo::from_sender(
            number,
            codes::USER,
            self.process.identity.pid,
            self.process.identity.uid,
        );
        // A full queue can only concern real-time signals, which no call raises.
        let _ = self.process.send_to_thread(self.thread, info);
    }
}

fn sigsuspend(cx: &mut Cx<'_>, mask: u64, size: u64) -> SysResult {
    check_set_size(size)?;
    let mask: SignalSet = cx.mm().read_value(mask)?;
    cx.with_signal_mask(Some(mask), |cx| {
        cx.wait(&[], None, Restart::Never, || Err::<u64, _>(Errno::AGAIN)).map(|_| 0)
    })
}

fn sigtimedwait(cx: &mut Cx<'_>, set: u64, info: u64, timeout: u64, size: u64) -> SysResult {
    check_set_size(size)?;
    let set: SignalSet = cx.mm().read_value::<u64>(set)? & !UNBLOCKABLE;
    let deadline = cx.deadline(read_timeout(cx, timeout)?);
    let taken = cx.wait(&[&cx.process.signals.arrived], deadline, Restart::Never, || {
        cx.process.take_pending(cx.thread, set).ok_or(Errno::AGAIN)
    })?;
    let taken = taken.ok_or(Errno::AGAIN)?;
    if info != 0 {
        cx.mm().write(info, &taken.to_bytes())?;
    }
    Ok(taken.signal as u64)
}

fn sigaltstack(cx: &Cx<'_>, new: u64, old: u64) -> SysResult {
    /// MINSIGSTKSZ of Linux on x86-64.
    const SMALLEST: u64 = 2048;
    let on_it = {
        let signals = cx.thread.signals.lock();
        let current = signals.alt_stack;
        let on_it = current.flags & ALT_STACK_AUTODISARM == 0 && current.holds(cx.cpu.registers.rsp);
        let mut reported = current;
        if on_it {
            reported.flags |= ALT_STACK_IN_USE;
        }
        (on_it, reported)
    };
    let replacement = if new == 0 { None } else { Some(cx.mm().read_value::<AltStack>(new)?) };
    if old != 0 {
        cx.mm().write_value(old, &on_it.1)?;
    }
    if let Some(stack) = replacement {
        if on_it.0 {
            return Err(Errno::PERM.into());
        }
        let mode = stack.flags & !ALT_STACK_AUTODISARM;
        let stack = match mode {
            ALT_STACK_DISABLED => AltStack::default(),
            0 | ALT_STACK_IN_USE if stack.size < SMALLEST => return Err(Errno::NOMEM.into()),
            0 | ALT_STACK_IN_USE => AltStack { flags: stack.flags & ALT_STACK_AUTODISARM, ..stack },
            _ => return Err(Errno::INVAL.into()),
        };
        cx.thread.signals.lock().alt_stack = stack;
    }
    Ok(0)
}

fn own_process(cx: &Cx<'_>, pid: i32) -> bool {
    // 0 and the negative id mean the process group, of which the guest is the only member; -1 means everybody else.
    pid == 0 || cx.process.has_pid(pid) || pid == -cx.process.identity.pid
}

fn kill(cx: &Cx<'_>, pid: i32, number: i32) -> SysResult {
    if number != 0 && !is_valid(number) {
        return Err(Errno::INVAL.into());
    }
    if !own_process(cx, pid) {
        return Err(Errno::SRCH.into());
    }
    if number != 0 {
        let identity = &cx.process.identity;
        cx.process.send_to_process(SignalInfo::from_sender(
            number,
            codes::USER,
            identity.pid,
            identity.uid,
        ))?;
    }
    Ok(0)
}

fn tgkill(cx: &Cx<'_>, pid: i32, tid: i32, number: i32) -> SysResult {
    if pid <= 0 || tid <= 0 || (number != 0 && !is_valid(number)) {
        return Err(Errno::INVAL.into());
    }
    let target = cx.process.thread(tid).filter(|_| cx.process.has_pid(pid)).ok_or(Errno::SRCH)?;
    if number == libc::SIGKILL {
        cx.process.exit(ExitStatus::Signal(libc::SIGKILL));
    } else if number != 0 {
        let identity = &cx.process.identity;
        let info = SignalInfo::from_sender(number, codes::THREAD, identity.pid, identity.uid);
        cx.process.send_to_thread(&target, info)?;
    }
    Ok(0)
}

fn sigqueueinfo(cx: &Cx<'_>, pid: i32, tid: Option<i32>, number: i32, info: u64) -> SysResult {
    let mut bytes = [0; 128];
    cx.mm().read(info, &mut bytes)?;
    if !is_valid(number) {
        return Err(Errno::INVAL.into());
    }
    let info = SignalInfo { signal: number, ..SignalInfo::from_bytes(&bytes) };
    if !own_process(cx, pid) {
        return Err(Errno::SRCH.into());
    }
    match tid {
        None => cx.process.send_to_process(info)?,
        Some(tid) => {
            let target = cx.process.thread(tid).ok_or(Errno::SRCH)?;
            cx.process.send_to_thread(&target, info)?;
        }
    }
    Ok(0)
}
