//! Timers that send signals: alarm, setitimer, timer_create and their kin.

use std::os::raw::c_long;

use rustix::io::Errno;

use super::time::read_duration;
use super::{Arguments, Cx, SysResult};
use crate::ipc::TimerClock;
use crate::task::signal::is_valid;
use crate::task::{Notify, TimerName, TimerRule};

pub(super) fn dispatch(cx: &mut Cx<'_>, number: c_long, a: Arguments) -> Option<SysResult> {
    Some(match number {
        libc::SYS_alarm => alarm(cx, a[0] as u32),
        libc::SYS_getitimer => getitimer(cx, a[0], a[1]),
        libc::SYS_setitimer => setitimer(cx, a[0], a[1], a[2]),
        libc::SYS_timer_create => create(cx, a[0] as i32, a[1], a[2]),
        libc::SYS_timer_settime => settime(cx, a[0] as i32, a[1], a[2], a[3]),
        libc::SYS_timer_gettime => cx
            .process
            .timer(TimerName::Posix(a[0] as i32))
            .and_then(|setting| write_setting(cx, a[1], setting, SECOND))
            .map_err(Into::into),
        libc::SYS_timer_getoverrun => {
            cx.process.timer_overrun(TimerName::Posix(a[0] as i32)).map(u64::from).map_err(Into::into)
        }
        libc::SYS_timer_delete => {
            cx.process.delete_timer(TimerName::Posix(a[0] as i32)).map(|()| 0).map_err(Into::into)
        }
        _ => return None,
    })
}

const SECOND: u64 = 1_000_000_000;
const MICROSECONDS: u64 = 1_000_000;

/// Reads interval and value of a `struct itimerspec` (`unit` nanoseconds) or `struct itimerval` (microseconds).
pub(super) fn read_setting(cx: &Cx<'_>, address: u64, unit: u64) -> Result<(u64, u64), Errno> {
    let nanoseconds = |address| {
        let time = read_duration(cx, address, unit as i64)?;
        Ok::<u64, Errno>(time.as_nanos().try_into().unwrap_or(u64::MAX))
    };
    let interval = nanoseconds(address)?;
    let first = nanoseconds(address.checked_add(16).ok_or(Errno::FAULT)?)?;
    Ok((first, interval))
}

/// Writes what [`read_setting`] reads: interval, then what is left.
pub(super) fn write_setting(
    cx: &Cx<'_>,
    address: u64,
    (left, interval): (u64, u64),
    unit: u64,
) -> Result<u64, Errno> {
    // Rounded up: what is still to come is never 0.
    let fraction = |time: u64| (time % SECOND).div_ceil(SECOND / unit);
    let words = [interval / SECOND, fraction(interval), left / SECOND, fraction(left)];
    cx.mm().write_value(address, &words)?;
    Ok(0)
}

/// What setitimer's timers do.
fn interval_rule(which: u64) -> Result<(TimerName, TimerRule), Errno> {
    let (follows, signal) = match which as i32 {
        libc::ITIMER_REAL => (TimerClock::Monotonic, libc::SIGALRM),
        // A guest's system calls are served outside it; user time and CPU time are the same here.
        libc::ITIMER_VIRTUAL => (TimerClock::Cpu, libc::SIGVTALRM),
        libc::ITIMER_PROF => (TimerClock::Cpu, libc::SIGPROF),
        _ => return Err(Errno::INVAL),
    };
    let rule = TimerRule { follows, notify: Notify::Process, signal, value: 0 };
    Ok((TimerName::Interval(which as u8), rule))
}

fn alarm(cx: &Cx<'_>, seconds: u32) -> SysResult {
    let (name, rule) = interval_rule(0)?;
    let first = u64::from(seconds) * SECOND;
    let (left, _) = cx.process.set_timer(name, Some(rule), first, 0, false)?;
    Ok(left.div_ceil(SECOND))
}

fn getitimer(cx: &Cx<'_>, which: u64, to: u64) -> SysResult {
    let (name, _) = interval_rule(which)?;
    let setting = cx.process.timer(name)?;
    Ok(write_setting(cx, to, setting, MICROSECONDS)?)
}

fn setitimer(cx: &Cx<'_>, which: u64, new: u64, old: u64) -> SysResult {
    let (name, rule) = interval_rule(which)?;
    // Linux takes a null pointer for "stop".
    let (first, interval) = if new == 0 { (0, 0) } else { read_setting(cx, new, MICROSECONDS)? };
    let before = cx.process.set_timer(name, Some(rule), first, interval, false)?;
    if old != 0 {
        write_setting(cx, old, before, MICROSECONDS)?;
    }
    Ok(0)
}

fn create(cx: &Cx<'_>, clock: i32, event: u64, to: u64) -> SysResult {
    let follows = match clock {
        libc::CLOCK_PROCESS_CPUTIME_ID => TimerClock::Cpu,
        // A thread's own CPU time can't be watched from outside it.
        libc::CLOCK_THREAD_CPUTIME_ID => return Err(Errno::OPNOTSUPP.into()),
        other => TimerClock::from_number(other).ok_or(Errno::INVAL)?,
    };
    // struct sigevent: value, signal, kind, thread.
    let (value, signal, notify) = if event == 0 {
        (None, libc::SIGALRM, Notify::Process)
    } else {
        let value: u64 = cx.mm().read_value(event)?;
        let [signal, kind, tid]: [i32; 3] = cx.mm().read_value(event.checked_add(8).ok_or(Errno::FAULT)?)?;
        let notify = match kind {
            libc::SIGEV_NONE => Notify::Nobody,
            libc::SIGEV_SIGNAL => Notify::Process,
            libc::SIGEV_THREAD_ID if cx.process.thread(tid).is_some() => Notify::Thread(tid),
            _ => return Err(Errno::INVAL.into()),
        };
        (Some(value), signal, notify)
    };
    if notify != Notify::Nobody && !is_valid(signal) {
        return Err(Errno::INVAL.into());
    }
    let rule = |id: i32| TimerRule { follows, notify, signal, value: value.unwrap_or(id as u64) };
    let id = cx.process.create_timer(rule)?;
    if let Err(errno) = cx.mm().write_value(to, &id) {
        cx.process.delete_timer(TimerName::Posix(id))?;
        return Err(errno.into());
    }
    Ok(0)
}

fn settime(cx: &Cx<'_>, id: i32, flags: u64, new: u64, old: u64) -> SysResult {
    let (first, interval) = read_setting(cx, new, SECOND)?;
    let absolute = flags & libc::TIMER_ABSTIME as u64 != 0;
    let before = cx.process.set_timer(TimerName::Posix(id), None, first, interval, absolute)?;
    if old != 0 {
        write_setting(cx, old, before, SECOND)?;
    }
    Ok(0)
}
