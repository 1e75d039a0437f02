//! timerfd.

use std::any::Any;
use std::os::raw::c_long;

use rustix::io::Errno;

use super::event::nonblocking;
use super::timer::{read_setting, write_setting};
use super::{Arguments, Cx, SysResult};
use crate::file::{AccessMode, Fd, OpenFile};
use crate::ipc::{TimerClock, TimerFd};

pub(super) fn dispatch(cx: &mut Cx<'_>, number: c_long, a: Arguments) -> Option<SysResult> {
    Some(match number {
        libc::SYS_timerfd_create => create(cx, a[0] as i32, a[1] as i32),
        libc::SYS_timerfd_settime => set(cx, a[0] as Fd, a[1] as i32, a[2], a[3]),
        libc::SYS_timerfd_gettime => get(cx, a[0] as Fd, a[1]),
        _ => return None,
    })
}

const SECOND: u64 = 1_000_000_000;

fn create(cx: &Cx<'_>, clock: i32, flags: i32) -> SysResult {
    if flags & !(libc::TFD_CLOEXEC | libc::TFD_NONBLOCK) != 0 {
        return Err(Errno::INVAL.into());
    }
    let clock = TimerClock::from_number(clock).ok_or(Errno::INVAL)?;
    let timer = TimerFd::new(&cx.process.ipc, &cx.process.clock, clock);
    let file = OpenFile::new(timer, AccessMode::ReadWrite, nonblocking(flags));
    Ok(cx.install(file, flags & libc::TFD_CLOEXEC != 0)?)
}

fn timer(file: &OpenFile) -> Result<&TimerFd, Errno> {
    let any: &dyn Any = &*file.object;
    any.downcast_ref().ok_or(Errno::INVAL)
}

fn set(cx: &Cx<'_>, fd: Fd, flags: i32, new: u64, old: u64) -> SysResult {
    if flags & !(libc::TFD_TIMER_ABSTIME | libc::TFD_TIMER_CANCEL_ON_SET) != 0 {
        return Err(Errno::INVAL.into());
    }
    let (first, interval) = read_setting(cx, new, SECOND)?;
    let file = cx.file(fd)?;
    // TFD_TIMER_CANCEL_ON_SET is accepted: nothing in a guest sets the clock, and a restore is not reported as such.
    let before = timer(&file)?.set(first, interval, flags & libc::TFD_TIMER_ABSTIME != 0)?;
    if old != 0 {
        write_setting(cx, old, before, SECOND)?;
    }
    Ok(0)
}

fn get(cx: &Cx<'_>, fd: Fd, to: u64) -> SysResult {
    let file = cx.file(fd)?;
    Ok(write_setting(cx, to, timer(&file)?.get(), SECOND)?)
}
