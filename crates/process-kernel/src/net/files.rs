//! What all sockets are as files.

use rustix::io::Errno;

use super::socket::{Outgoing, ReceiveFlags, Socket, SocketType};
use crate::file::{Destination, FileObject, Origin, Readiness, Stat};
use crate::syscall::Cx;
use crate::wait::WaitQueue;

impl<S: Socket> FileObject for S {
    fn stat(&self) -> Result<Stat, Errno> {
        let (ino, mode) = (self.inode_number(), libc::S_IFSOCK | 0o777);
        Ok(Stat { ino, mode, nlink: 1, blksize: 4096, ..Stat::default() })
    }

    fn read(&self, _: Option<u64>, into: &mut Destination<'_>) -> Result<usize, Errno> {
        self.receive(into, ReceiveFlags::default()).map(|incoming| incoming.count)
    }

    fn write(&self, _: Option<u64>, from: &mut Origin<'_>) -> Result<usize, Errno> {
        self.send(from, &mut Outgoing { credentials: self.credentials(), ..Outgoing::default() })
    }

    fn writes_fully(&self) -> bool {
        self.options().socket_type == SocketType::Stream
    }

    fn readiness(&self) -> Readiness {
        self.ready()
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(self.queue())
    }

    /// FIONREAD (SIOCINQ). EINVAL for listeners, as Linux has it; ENOTTY for all else.
    fn ioctl(&self, cx: &mut Cx<'_>, request: u32, argument: u64) -> Result<u64, Errno> {
        if u64::from(request) != libc::FIONREAD {
            return Err(Errno::NOTTY);
        }
        if self.listening() {
            return Err(Errno::INVAL);
        }
        let count = i32::try_from(self.readable_bytes()).unwrap_or(i32::MAX);
        cx.mm().write_value(argument, &count)?;
        Ok(0)
    }

    fn as_socket(&self) -> Option<&dyn Socket> {
        Some(self)
    }

    fn describe(&self) -> String {
        format!("socket:[{}]", self.inode_number())
    }
}
