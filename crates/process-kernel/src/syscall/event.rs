//! eventfd, signalfd and epoll.

use std::any::Any;
use std::os::raw::c_long;
use std::time::Duration;

use bytemuck::{Pod, Zeroable};
use rustix::io::Errno;

use super::time::read_timeout;
use super::{Arguments, Cx, Restart, SysResult};
use crate::file::{AccessMode, Fd, OpenFile, StatusFlags};
use crate::ipc::{Epoll, EventFd, Interest, SignalFd};

pub(super) fn dispatch(cx: &mut Cx<'_>, number: c_long, a: Arguments) -> Option<SysResult> {
    Some(match number {
        libc::SYS_eventfd => eventfd(cx, a[0], 0),
        libc::SYS_eventfd2 => eventfd(cx, a[0], a[1] as i32),
        libc::SYS_signalfd => signalfd(cx, a[0] as Fd, a[1], a[2], 0),
        libc::SYS_signalfd4 => signalfd(cx, a[0] as Fd, a[1], a[2], a[3] as i32),
        libc::SYS_epoll_create => epoll_create_sized(cx, a[0] as i32),
        libc::SYS_epoll_create1 => epoll_create(cx, a[0] as i32),
        libc::SYS_epoll_ctl => epoll_ctl(cx, a[0] as Fd, a[1] as i32, a[2] as Fd, a[3]),
        libc::SYS_epoll_wait => {
            epoll_wait(cx, a[0] as Fd, a[1], a[2] as i32, milliseconds(a[3] as i32), (0, 8))
        }
        libc::SYS_epoll_pwait => {
            epoll_wait(cx, a[0] as Fd, a[1], a[2] as i32, milliseconds(a[3] as i32), (a[4], a[5]))
        }
        libc::SYS_epoll_pwait2 => match read_timeout(cx, a[3]) {
            Ok(timeout) => epoll_wait(cx, a[0] as Fd, a[1], a[2] as i32, timeout, (a[4], a[5])),
            Err(errno) => Err(errno.into()),
        },
        _ => return None,
    })
}

/// A timeout in milliseconds; negative: none.
pub(super) fn milliseconds(timeout: i32) -> Option<Duration> {
    u64::try_from(timeout).ok().map(Duration::from_millis)
}

/// A signal mask argument: pointer and size; a null pointer is none.
pub(super) fn read_mask(cx: &Cx<'_>, (address, size): (u64, u64)) -> Result<Option<u64>, Errno> {
    match (address, size) {
        (0, _) => Ok(None),
        (_, 8) => cx.mm().read_value(address).map(Some),
        _ => Err(Errno::INVAL),
    }
}

/// Status flags for the NONBLOCK bit, which all kinds share with O_NONBLOCK.
pub(super) fn nonblocking(flags: i32) -> StatusFlags {
    StatusFlags::from_bits_truncate(flags as u32) & StatusFlags::NONBLOCK
}

fn eventfd(cx: &Cx<'_>, value: u64, flags: i32) -> SysResult {
    if flags & !(libc::EFD_SEMAPHORE | libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) != 0 {
        return Err(Errno::INVAL.into());
    }
    let event = EventFd::new(u64::from(value as u32), flags & libc::EFD_SEMAPHORE != 0);
    let file = OpenFile::new(event, AccessMode::ReadWrite, nonblocking(flags));
    Ok(cx.install(file, flags & libc::EFD_CLOEXEC != 0)?)
}

fn signalfd(cx: &Cx<'_>, fd: Fd, set: u64, size: u64, flags: i32) -> SysResult {
    if flags & !(libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) != 0 || size != 8 {
        return Err(Errno::INVAL.into());
    }
    let set: u64 = cx.mm().read_value(set)?;
    if fd == -1 {
        let signals = SignalFd::new(&cx.process.ipc.signals, set);
        let file = OpenFile::new(signals, AccessMode::ReadWrite, nonblocking(flags));
        return Ok(cx.install(file, flags & libc::SFD_CLOEXEC != 0)?);
    }
    let file = cx.file(fd)?;
    let any: &dyn Any = &*file.object;
    any.downcast_ref::<SignalFd>().ok_or(Errno::INVAL)?.set(set);
    Ok(fd as u64)
}

fn epoll_create_sized(cx: &Cx<'_>, size: i32) -> SysResult {
    if size <= 0 {
        return Err(Errno::INVAL.into());
    }
    epoll_create(cx, 0)
}

fn epoll_create(cx: &Cx<'_>, flags: i32) -> SysResult {
    if flags & !libc::EPOLL_CLOEXEC != 0 {
        return Err(Errno::INVAL.into());
    }
    let epoll = Epoll::new(&cx.process.ipc);
    let file = OpenFile::new(epoll, AccessMode::ReadWrite, StatusFlags::empty());
    Ok(cx.install(file, flags != 0)?)
}

/// `struct epoll_event`, which is packed on x86-64.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, packed)]
struct RawEvent {
    events: u32,
    data: u64,
}

fn epoll_ctl(cx: &Cx<'_>, epoll: Fd, operation: i32, fd: Fd, event: u64) -> SysResult {
    let event: RawEvent = match operation {
        libc::EPOLL_CTL_DEL => RawEvent::zeroed(),
        _ => cx.mm().read_value(event)?,
    };
    let set_file = cx.file(epoll)?;
    let file = cx.file(fd)?;
    if file.object.wait_queue().is_none() {
        return Err(Errno::PERM.into());
    }
    let set = Epoll::of(&set_file).ok_or(Errno::INVAL)?;
    let interest = Interest::from_bits_truncate(event.events);
    match operation {
        libc::EPOLL_CTL_ADD => set.add(fd, &file, interest, event.data)?,
        libc::EPOLL_CTL_MOD => set.modify(fd, &file, interest, event.data)?,
        libc::EPOLL_CTL_DEL => set.remove(fd, &file)?,
        _ => return Err(Errno::INVAL.into()),
    }
    Ok(0)
}

/// Events one call returns at most; more come with the next call.
const MAX_EVENTS: usize = 65_536;

fn epoll_wait(
    cx: &mut Cx<'_>,
    epoll: Fd,
    to: u64,
    max: i32,
    timeout: Option<Duration>,
    mask: (u64, u64),
) -> SysResult {
    let limit = usize::try_from(max).ok().filter(|max| (1..=i32::MAX as usize / 12).contains(max));
    let limit = limit.ok_or(Errno::INVAL)?.min(MAX_EVENTS);
    let file = cx.file(epoll)?;
    let set = Epoll::of(&file).ok_or(Errno::INVAL)?;
    let queue = [file.object.wait_queue().ok_or(Errno::INVAL)?];
    let mask = read_mask(cx, mask)?;
    let deadline = cx.deadline(timeout);
    let events =
        cx.with_signal_mask(mask, |cx| cx.wait(&queue, deadline, Restart::Never, || set.collect(limit)))?;
    let events = events.unwrap_or_default();
    let raw: Vec<RawEvent> =
        events.iter().map(|event| RawEvent { events: event.ready.bits(), data: event.data }).collect();
    cx.mm().write(to, bytemuck::cast_slice(&raw))?;
    Ok(raw.len() as u64)
}
