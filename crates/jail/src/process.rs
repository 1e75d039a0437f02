//! A jailed process, from outside.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use crate::cgroup::{Group, ResourceLimits};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

/// A process that ends with this value.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    descriptor: OwnedFd,
    last_words: File,
    end: Option<End>,
    group: Option<Group>,
}

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// By itself, with this status.
    Status(i32),
    /// By this signal.
    Signal(i32),
}

impl fmt::Display for End {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(formatter, "exit status {status}"),
            Self::Signal(signal) => write!(formatter, "signal {signal}"),
        }
    }
}

impl Process {
    pub(crate) fn new(pid: Pid, descriptor: OwnedFd, last_words: File, group: Option<Group>) -> Self {
        Self { pid, descriptor, last_words, end: None, group }
    }

    /// Limits what it may use. Where there are no groups ([`Cgroups::Unavailable`](crate::Cgroups)) nothing happens: what it
    /// reserves is limited by whoever runs in it, by looking.
    ///
    /// # Errors
    /// The kernel's, when it uses more already.
    pub fn limit(&self, limits: ResourceLimits) -> io::Result<()> {
        self.group.as_ref().map_or(Ok(()), |group| group.limit(limits))
    }

    /// Its number in this process's pid namespace.
    pub fn id(&self) -> u32 {
        self.pid.as_raw_pid().unsigned_abs()
    }

    /// Whether it has not ended.
    pub fn is_alive(&mut self) -> bool {
        let asked = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        self.end.is_none() && matches!(waitid(WaitId::PidFd(self.descriptor.as_fd()), asked), Ok(None))
    }

    /// Ends it. Not an error when it has ended already.
    ///
    /// # Errors
    /// The kernel's, which has none for a child of one's own.
    pub fn kill(&self) -> io::Result<()> {
        match pidfd_send_signal(self.descriptor.as_fd(), Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// The kernel's, when somebody else has waited for it.
    pub fn wait(&mut self) -> io::Result<End> {
        if let Some(end) = self.end {
            return Ok(end);
        }
        loop {
            match waitid(WaitId::PidFd(self.descriptor.as_fd()), WaitIdOptions::EXITED) {
                Ok(Some(status)) => {
                    let end = match (status.exit_status(), status.terminating_signal()) {
                        (Some(code), _) => End::Status(code),
                        (None, signal) => End::Signal(signal.unwrap_or(0)),
                    };
                    self.end = Some(end);
                    return Ok(end);
                }
                Ok(None) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// What it wrote to standard error: nothing, unless it crashed. Written by a process that may be hostile: control
    /// characters are left out.
    pub fn last_words(&self) -> String {
        let mut bytes = vec![0; 16 << 10];
        let read = self.last_words.read_at(&mut bytes, 0).unwrap_or(0);
        bytes.truncate(read);
        let text = String::from_utf8_lossy(&bytes);
        let kept = text.chars().take_while(|letter| *letter != '\0');
        kept.filter(|letter| !letter.is_control() || *letter == '\n').collect::<String>().trim().to_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Either fails only when it has ended and was waited for, which is as well.
        let _ = self.kill();
        let _ = self.wait();
        // Its group, now empty, goes with the fields.
    }
}
