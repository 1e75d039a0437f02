//! Clocks and sleeping.

use std::os::raw::c_long;
use std::time::Duration;

use rustix::io::Errno;
use rustix::time::{ClockId, clock_getres, clock_gettime};

use super::{Arguments, Cx, Restart, SysResult};
use crate::clock::Deadline;

pub(super) fn dispatch(cx: &mut Cx<'_>, number: c_long, a: Arguments) -> Option<SysResult> {
    Some(match number {
        libc::SYS_clock_gettime => gettime(cx, a[0] as i32, a[1]),
        libc::SYS_clock_getres => getres(cx, a[0] as i32, a[1]),
        libc::SYS_gettimeofday => gettimeofday(cx, a[0], a[1]),
        libc::SYS_time => time(cx, a[0]),
        libc::SYS_nanosleep => sleep(cx, libc::CLOCK_MONOTONIC, 0, a[0], a[1]),
        libc::SYS_clock_nanosleep => sleep(cx, a[0] as i32, a[1], a[2], a[3]),
        libc::SYS_clock_settime | libc::SYS_settimeofday | libc::SYS_adjtimex | libc::SYS_clock_adjtime => {
            Err(Errno::PERM.into())
        }
        libc::SYS_times => times(cx, a[0]),
        _ => return None,
    })
}

/// `struct timespec` or `struct timeval` (the second field in `unit`ths of a second) as a duration.
pub(super) fn read_duration(cx: &Cx<'_>, address: u64, unit: i64) -> Result<Duration, Errno> {
    let [seconds, fraction]: [i64; 2] = cx.mm().read_value(address)?;
    if seconds < 0 || !(0..unit).contains(&fraction) {
        return Err(Errno::INVAL);
    }
    Ok(Duration::new(seconds as u64, (fraction * (1_000_000_000 / unit)) as u32))
}

/// As [`read_duration`] for a `struct timespec`; a null pointer is `None`.
pub(super) fn read_timeout(cx: &Cx<'_>, address: u64) -> Result<Option<Duration>, Errno> {
    if address == 0 { Ok(None) } else { read_duration(cx, address, 1_000_000_000).map(Some) }
}

fn split(nanoseconds: u64, unit: u64) -> [i64; 2] {
    let seconds = nanoseconds / 1_000_000_000;
    let rest = nanoseconds % 1_000_000_000 / (1_000_000_000 / unit);
    [seconds as i64, rest as i64]
}

fn own_cpu_time(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    (now.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(now.tv_nsec as u64)
}

/// What a guest's clock shows, nanoseconds.
fn read_clock(cx: &Cx<'_>, clock: i32) -> Result<u64, Errno> {
    match clock {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE | libc::CLOCK_REALTIME_ALARM | libc::CLOCK_TAI => {
            Ok(cx.process.clock.realtime())
        }
        libc::CLOCK_MONOTONIC
        | libc::CLOCK_MONOTONIC_RAW
        | libc::CLOCK_MONOTONIC_COARSE
        | libc::CLOCK_BOOTTIME
        | libc::CLOCK_BOOTTIME_ALARM => Ok(cx.process.clock.monotonic()),
        // The worker serves nothing but this guest: its CPU time is the guest's.
        libc::CLOCK_PROCESS_CPUTIME_ID => Ok(own_cpu_time(ClockId::ProcessCPUTime)),
        // A guest thread's calls are served on the very host thread that drives its vCPU.
        libc::CLOCK_THREAD_CPUTIME_ID => Ok(own_cpu_time(ClockId::ThreadCPUTime)),
        // Clocks of processes and threads by id (clock_getcpuclockid): a guest sees only its own.
        negative if negative < 0 => Ok(own_cpu_time(ClockId::ProcessCPUTime)),
        _ => Err(Errno::INVAL),
    }
}

fn gettime(cx: &Cx<'_>, clock: i32, to: u64) -> SysResult {
    let now = read_clock(cx, clock)?;
    cx.mm().write_value(to, &split(now, 1_000_000_000))?;
    Ok(0)
}

fn getres(cx: &Cx<'_>, clock: i32, to: u64) -> SysResult {
    read_clock(cx, clock)?;
    let coarse = clock == libc::CLOCK_REALTIME_COARSE || clock == libc::CLOCK_MONOTONIC_COARSE;
    let resolution = if coarse { clock_getres(ClockId::MonotonicCoarse).tv_nsec as u64 } else { 1 };
    if to != 0 {
        cx.mm().write_value(to, &split(resolution, 1_000_000_000))?;
    }
    Ok(0)
}

fn gettimeofday(cx: &Cx<'_>, to: u64, zone: u64) -> SysResult {
    if to != 0 {
        cx.mm().write_value(to, &split(cx.process.clock.realtime(), 1_000_000))?;
    }
    if zone != 0 {
        cx.mm().write_value(zone, &[0i32; 2])?;
    }
    Ok(0)
}

fn time(cx: &Cx<'_>, to: u64) -> SysResult {
    let seconds = cx.process.clock.realtime() / 1_000_000_000;
    if to != 0 {
        cx.mm().write_value(to, &seconds)?;
    }
    Ok(seconds)
}

fn times(cx: &Cx<'_>, to: u64) -> SysResult {
    const TICK: u64 = 10_000_000;
    if to != 0 {
        let ticks = own_cpu_time(ClockId::ProcessCPUTime) / TICK;
        cx.mm().write_value(to, &[ticks, 0, 0, 0])?;
    }
    Ok(cx.process.clock.monotonic() / TICK)
}

/// The deadline of an absolute time on `clock`.
pub(super) fn absolute_deadline(cx: &Cx<'_>, clock: i32, time: Duration) -> Result<Deadline, Errno> {
    let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    match clock {
        libc::CLOCK_REALTIME | libc::CLOCK_TAI | libc::CLOCK_REALTIME_ALARM => {
            Ok(cx.process.clock.deadline_at_realtime(nanoseconds))
        }
        libc::CLOCK_MONOTONIC | libc::CLOCK_BOOTTIME | libc::CLOCK_BOOTTIME_ALARM => {
            Ok(Deadline(nanoseconds))
        }
        _ => Err(Errno::OPNOTSUPP),
    }
}

fn sleep(cx: &mut Cx<'_>, clock: i32, flags: u64, request: u64, remaining: u64) -> SysResult {
    let time = read_duration(cx, request, 1_000_000_000)?;
    let absolute = flags & libc::TIMER_ABSTIME as u64 != 0;
    read_clock(cx, clock)?;
    if clock == libc::CLOCK_THREAD_CPUTIME_ID || clock == libc::CLOCK_MONOTONIC_RAW {
        return Err(Errno::OPNOTSUPP.into());
    }
    let deadline = if absolute { Some(absolute_deadline(cx, clock, time)?) } else { cx.deadline(Some(time)) };
    let outcome = cx.wait(&[], deadline, Restart::Never, || Err::<(), _>(Errno::AGAIN));
    if let (Err(super::Stop::Interrupted(_)), Some(deadline), false) = (&outcome, deadline, absolute)
        && remaining != 0
    {
        let left = cx.process.clock.remaining(deadline).as_nanos() as u64;
        cx.mm().write_value(remaining, &split(left, 1_000_000_000))?;
    }
    outcome.map(|_| 0)
}
