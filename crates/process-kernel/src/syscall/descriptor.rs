//! Descriptors themselves: fcntl, flock, ioctl.

use std::any::Any;
use std::os::raw::c_long;

use rustix::io::Errno;

use super::{Arguments, Cx, SysResult};
use crate::file::{AccessMode, Fd, OpenFile, StatusFlags};
use crate::fs::tmpfs::{Seals, TmpfsFile};

pub(super) fn dispatch(cx: &mut Cx<'_>, number: c_long, a: Arguments) -> Option<SysResult> {
    Some(match number {
        libc::SYS_fcntl => fcntl(cx, a[0] as Fd, a[1] as i32, a[2]),
        libc::SYS_ioctl => ioctl(cx, a[0] as Fd, a[1] as u32, a[2]),
        _ => return None,
    })
}

fn fcntl(cx: &Cx<'_>, fd: Fd, command: i32, argument: u64) -> SysResult {
    let file = cx.file(fd)?;
    let files = &cx.process.files;
    match command {
        libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => {
            let from = Fd::try_from(argument as i64).map_err(|_| Errno::INVAL)?;
            return super::open::dup(cx, fd, from, command == libc::F_DUPFD_CLOEXEC);
        }
        libc::F_GETFD => return Ok(u64::from(files.close_on_exec(fd)?)),
        libc::F_SETFD => {
            files.set_close_on_exec(fd, argument & libc::FD_CLOEXEC as u64 != 0)?;
            return Ok(0);
        }
        libc::F_GETFL => return Ok(u64::from(status_of(&file))),
        // O_PATH descriptors know only the commands above.
        _ if file.access == AccessMode::Path => return Err(Errno::BADF.into()),
        libc::F_SETFL => file.set_flags(StatusFlags::from_bits_truncate(argument as u32)),
        // Nothing sends SIGIO here, so no one can own it.
        libc::F_GETOWN | libc::F_SETOWN => {}
        libc::F_GETLK | libc::F_SETLK | libc::F_SETLKW => {
            return super::lock::fcntl_lock(cx, &file, command, argument);
        }
        libc::F_OFD_GETLK | libc::F_OFD_SETLK | libc::F_OFD_SETLKW => {
            return super::lock::fcntl_lock(cx, &file, command, argument);
        }
        libc::F_GET_SEALS => return Ok(u64::from(in_memory(&file)?.seals().bits())),
        libc::F_ADD_SEALS => {
            let seals = u32::try_from(argument).ok().and_then(Seals::from_bits).ok_or(Errno::INVAL)?;
            in_memory(&file)?.add_seals(seals)?;
        }
        libc::F_GETPIPE_SZ => return super::pipe::pipe_size(&file),
        libc::F_SETPIPE_SZ => return super::pipe::set_pipe_size(&file, argument),
        _ => return Err(Errno::INVAL.into()),
    }
    Ok(0)
}

/// # Errors
/// EINVAL for files that know no seals.
fn in_memory(file: &OpenFile) -> Result<&TmpfsFile, Errno> {
    let object: &dyn Any = &*file.object;
    object.downcast_ref().ok_or(Errno::INVAL)
}

/// F_GETFL's answer.
fn status_of(file: &OpenFile) -> u32 {
    /// What the kernel adds for every file opened by a 64-bit program; the C library calls it 0.
    const LARGEFILE: u32 = 0o100_000;
    let large = if file.object.place().is_some() && file.access != AccessMode::Path { LARGEFILE } else { 0 };
    file.access.bits() | file.flags().bits() | large
}

/// FIONREAD
const FIONREAD: u32 = 0x541b;
/// FIONBIO
const FIONBIO: u32 = 0x5421;
/// FIONCLEX
const FIONCLEX: u32 = 0x5450;
/// FIOCLEX
const FIOCLEX: u32 = 0x5451;
/// FIOASYNC
const FIOASYNC: u32 = 0x5452;

fn ioctl(cx: &mut Cx<'_>, fd: Fd, request: u32, argument: u64) -> SysResult {
    let file = cx.usable_file(fd)?;
    match request {
        FIOCLEX | FIONCLEX => cx.process.files.set_close_on_exec(fd, request == FIOCLEX)?,
        FIONBIO | FIOASYNC => {
            let on: i32 = cx.mm().read_value(argument)?;
            let flag = if request == FIONBIO { StatusFlags::NONBLOCK } else { StatusFlags::ASYNC };
            let mut flags = file.flags();
            flags.set(flag, on != 0);
            file.set_flags(flags);
        }
        // How much can be read of a regular file follows from its size.
        FIONREAD if file.object.clone().mappable().is_some() => {
            let left = file.object.size()?.saturating_sub(*file.position());
            cx.mm().write_value(argument, &i32::try_from(left).unwrap_or(i32::MAX))?;
        }
        _ => return Ok(file.object.ioctl(cx, request, argument)?),
    }
    Ok(0)
}
