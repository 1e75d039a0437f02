//! System calls: typed handlers, one file per family, and the dispatcher.
//!
//! A handler takes decoded arguments and answers `Result<u64, Stop>`. It never blocks inside the host kernel: whatever
//! has to wait goes through [`Cx::wait`], so that a signal, a pause for a snapshot or the end of the process can
//! interrupt it; an interrupted call is run again at the same instruction (see [`Restart`]).

mod attributes;
mod control;
mod descriptor;
mod directory;
mod dispatch;
mod event;
mod file;
mod identity;
mod lock;
mod memory;
mod message;
mod metadata;
mod names;
mod open;
mod path;
mod pipe;
mod poll;
mod signal;
mod socket;
mod socket_option;
#[cfg(test)]
mod tests;
mod thread;
mod time;
mod timer;
mod timer_fd;
mod transfer;

use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;

pub(crate) use identity::{KERNEL_RELEASE, KERNEL_VERSION};

pub use dispatch::{dispatch, name as syscall_name};
pub use pipe::{pipe_size, set_pipe_size};

use crate::clock::Deadline;
use crate::file::{Fd, OpenFile, Origin};
use crate::fs::Caller;
use crate::mm::Mm;
use crate::task::{CpuState, Fpu, Process, Thread};
use crate::wait::{WaitQueue, Wake};

/// What happens to a call that was interrupted when a signal handler is going to run; without a handler it is always
/// run again, unnoticed by the program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Restart {
    /// Run again after the handler if it was installed with SA_RESTART, else EINTR (ERESTARTSYS in Linux).
    WithFlag,
    /// Always EINTR after a handler (ERESTARTNOHAND): sleeps and polls, whose timeout has partly passed. When no handler
    /// runs, the call goes on with the deadline that [`Cx::deadline`] gave it first.
    Never,
}

/// Why a handler has no value to return.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// The call failed.
    Errno(Errno),
    /// The call was interrupted before it did anything that counts.
    Interrupted(Restart),
    /// The registers were set as they have to be (sigreturn, execve): nothing is returned.
    RegistersSet,
    /// The thread ends.
    ThreadExit,
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

/// A handler's answer.
pub type SysResult = Result<u64, Stop>;

/// The call's six arguments as they are in the registers.
pub type Arguments = [u64; 6];

/// How to write or send.
#[derive(Clone, Copy, Debug)]
struct Sending {
    /// When to give up waiting (SO_SNDTIMEO).
    deadline: Option<Deadline>,
    /// MSG_NOSIGNAL.
    quiet: bool,
    /// O_NONBLOCK or MSG_DONTWAIT.
    nonblocking: bool,
}

fn attempt_once<T>(attempt: impl FnOnce() -> Result<T, Errno>) -> Result<T, Stop> {
    Ok(attempt()?)
}

/// Who calls: everything a handler may need.
pub struct Cx<'a> {
    /// The guest's process.
    pub process: &'a Arc<Process>,
    /// The calling thread.
    pub thread: &'a Arc<Thread>,
    /// Its registers.
    pub cpu: &'a mut CpuState,
    /// Its vector and floating-point registers.
    pub fpu: &'a mut dyn Fpu,
}

impl Cx<'_> {
    /// Guest memory.
    pub fn mm(&self) -> &Mm {
        &self.process.mm
    }

    /// Who calls, as file permissions see it.
    pub fn caller(&self) -> Caller {
        let identity = &self.process.identity;
        Caller { tid: self.thread.tid, uid: identity.uid, gid: identity.gid }
    }

    /// The open file behind `fd`.
    ///
    /// # Errors
    /// EBADF.
    pub fn file(&self, fd: Fd) -> Result<Arc<OpenFile>, Errno> {
        self.process.files.get(fd)
    }

    /// Gives `file` the lowest free descriptor.
    ///
    /// # Errors
    /// EMFILE.
    pub fn install(&self, file: Arc<OpenFile>, close_on_exec: bool) -> Result<u64, Errno> {
        let limit = self.process.limits.open_files();
        self.process.files.insert(file, 0, limit, close_on_exec).map(|fd| fd as u64)
    }

    /// The deadline for a wait of `timeout` (`None`: for ever). A call that is run again after an interruption gets the
    /// deadline that it got the first time.
    pub fn deadline(&self, timeout: Option<Duration>) -> Option<Deadline> {
        let timeout = timeout?;
        Some(self.thread.call_deadline(|| self.process.clock.deadline_after(timeout)))
    }

    /// Runs `attempt` until it gives something other than EAGAIN, sleeping on `queues` in between; `None` when the
    /// deadline passes first. Every queue whose notification could change the outcome must be given.
    ///
    /// # Errors
    /// The attempt's errno, or [`Stop::Interrupted`] with `restart`.
    pub fn wait<T>(
        &self,
        queues: &[&WaitQueue],
        deadline: Option<Deadline>,
        restart: Restart,
        mut attempt: impl FnMut() -> Result<T, Errno>,
    ) -> Result<Option<T>, Stop> {
        let parker = self.thread.parker();
        let as_wake: Arc<dyn Wake> = parker.clone();
        let _registrations: Vec<_> =
            queues.iter().map(|queue| queue.register(Arc::downgrade(&as_wake))).collect();
        loop {
            parker.reset();
            match attempt() {
                Err(Errno::AGAIN) => {}
                Err(errno) => return Err(Stop::Errno(errno)),
                Ok(value) => return Ok(Some(value)),
            }
            if self.thread.wants_attention() {
                return Err(Stop::Interrupted(restart));
            }
            let limit = deadline.map(|deadline| self.process.clock.remaining(deadline));
            if limit.is_some_and(|limit| limit.is_zero()) {
                return Ok(None);
            }
            parker.park(limit);
        }
    }

    /// Writes as write(2) does to `file`: a blocking pipe, stream socket or terminal takes every byte before the call
    /// returns, and a signal in between makes it return what was taken so far. `attempt` writes what it can at once.
    /// EPIPE raises SIGPIPE unless `quiet` (MSG_NOSIGNAL).
    ///
    /// # Errors
    /// As [`Cx::wait`].
    pub fn write_file(
        &self,
        file: &OpenFile,
        from: &mut Origin<'_>,
        deadline: Option<Deadline>,
        quiet: bool,
        attempt: impl FnMut(&OpenFile, &mut Origin<'_>) -> Result<usize, Errno>,
    ) -> SysResult {
        let deadline = deadline.or_else(|| self.send_deadline(file));
        self.write_with(file, from, Sending { deadline, quiet, nonblocking: file.nonblocking() }, attempt)
    }

    /// As [`Cx::write_file`], with everything said.
    ///
    /// # Errors
    /// As [`Cx::wait`].
    fn write_with(
        &self,
        file: &OpenFile,
        from: &mut Origin<'_>,
        sending: Sending,
        mut attempt: impl FnMut(&OpenFile, &mut Origin<'_>) -> Result<usize, Errno>,
    ) -> SysResult {
        let queue = file.object.wait_queue().filter(|_| !sending.nonblocking);
        let fully = file.object.writes_fully() && queue.is_some();
        let mut done = 0_usize;
        loop {
            let attempt = || attempt(file, from);
            let outcome = match queue {
                None => attempt_once(attempt),
                Some(queue) => self
                    .wait(&[queue], sending.deadline, Restart::WithFlag, attempt)
                    .and_then(|written| written.ok_or(Stop::Errno(Errno::AGAIN))),
            };
            match outcome {
                Ok(count) => {
                    done += count;
                    if !fully || count == 0 || from.remaining() == 0 {
                        return Ok(done as u64);
                    }
                }
                Err(stop) => {
                    if stop == Stop::Errno(Errno::PIPE) && !sending.quiet {
                        self.raise_on_self(libc::SIGPIPE);
                    }
                    return if done > 0 { Ok(done as u64) } else { Err(stop) };
                }
            }
        }
    }

    /// Waits as [`Cx::wait`] does if the open file blocks; answers EAGAIN at once if it is O_NONBLOCK.
    ///
    /// # Errors
    /// As [`Cx::wait`].
    pub fn wait_file<T>(
        &self,
        file: &OpenFile,
        deadline: Option<Deadline>,
        mut attempt: impl FnMut() -> Result<T, Errno>,
    ) -> Result<T, Stop> {
        let Some(queue) = file.object.wait_queue().filter(|_| !file.nonblocking()) else {
            return Ok(attempt()?);
        };
        self.wait(&[queue], deadline, Restart::WithFlag, attempt)?.ok_or(Stop::Errno(Errno::AGAIN))
    }
}
