//! Pipes.

use std::any::Any;
use std::os::raw::c_long;
use std::sync::Arc;

use rustix::io::Errno;

use super::{Arguments, Cx, SysResult};
use crate::file::{AccessMode, FileObject, OpenFile, StatusFlags};
use crate::ipc::{Pipe, PipeEnd};

pub(super) fn dispatch(cx: &mut Cx<'_>, number: c_long, a: Arguments) -> Option<SysResult> {
    Some(match number {
        libc::SYS_pipe => pipe(cx, a[0], 0),
        libc::SYS_pipe2 => pipe(cx, a[0], a[1] as i32),
        _ => return None,
    })
}

fn pipe(cx: &Cx<'_>, to: u64, flags: i32) -> SysResult {
    if flags & !(libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_DIRECT) != 0 {
        return Err(Errno::INVAL.into());
    }
    let (reader, writer) = PipeEnd::pair(&cx.process.ipc, flags & libc::O_DIRECT != 0);
    let status = StatusFlags::from_bits_truncate((flags & !libc::O_CLOEXEC) as u32);
    let ends =
        [OpenFile::new(reader, AccessMode::Read, status), OpenFile::new(writer, AccessMode::Write, status)];
    cx.install_pair(ends, flags & libc::O_CLOEXEC != 0, to)?;
    Ok(0)
}

impl Cx<'_> {
    /// Gives two files the lowest free descriptors and writes the numbers to the guest's `int[2]` at `to`; on an error
    /// neither is left open.
    ///
    /// # Errors
    /// EMFILE, EFAULT.
    pub(super) fn install_pair(
        &self,
        files: [Arc<OpenFile>; 2],
        close_on_exec: bool,
        to: u64,
    ) -> Result<(), Errno> {
        let [first, second] = files;
        let first = self.install(first, close_on_exec)? as i32;
        let second = self.install(second, close_on_exec).map(|fd| fd as i32);
        let outcome = second.and_then(|second| self.mm().write_value(to, &[first, second]));
        if outcome.is_err() {
            // Another thread may have closed them already: nothing more to undo then.
            let _ = self.process.files.close(first);
            if let Ok(second) = second {
                let _ = self.process.files.close(second);
            }
        }
        outcome
    }
}

fn pipe_of(object: &dyn FileObject) -> Result<&Arc<Pipe>, Errno> {
    let any: &dyn Any = object;
    any.downcast_ref::<PipeEnd>().map(PipeEnd::pipe).ok_or(Errno::BADF)
}

/// fcntl(F_GETPIPE_SZ).
///
/// # Errors
/// EBADF when it is no pipe.
pub fn pipe_size(file: &OpenFile) -> SysResult {
    Ok(pipe_of(&*file.object)?.capacity() as u64)
}

/// fcntl(F_SETPIPE_SZ): sets the capacity to at least `bytes`; answers what it became.
///
/// # Errors
/// EBADF when it is no pipe, else as [`Pipe::set_capacity`].
pub fn set_pipe_size(file: &OpenFile, bytes: u64) -> SysResult {
    let bytes = usize::try_from(bytes).map_err(|_| Errno::INVAL)?;
    Ok(pipe_of(&*file.object)?.set_capacity(bytes)? as u64)
}
