//! Descriptors inherited from the caller of `faasnap exec`: terminal, pipe, socket, file.
//!
//! Their open file descriptions are shared with the caller, so O_NONBLOCK must not be set on them. Pipes, FIFOs and
//! terminals are opened once more through /proc/self/fd, which gives a description of our own that doesn't block; sockets
//! are used with MSG_DONTWAIT. Where opening again fails, the descriptor is polled first and written in pieces that a
//! ready pipe takes; a reader outside that shares the pipe could then still take the bytes away in between.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags, SeekFrom, fcntl_getfl, fstat, seek};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use super::Ipc;
use super::reactor::Watch;
use crate::file::{AccessMode, Destination, FileObject, OpenFile, Origin, Readiness, Stat, StatusFlags};
use crate::host::{self, TerminalRequest};
use crate::object::{Object, SaveError, Saver};
use crate::syscall::Cx;
use crate::wait::WaitQueue;

/// How the descriptor is kept from blocking.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Manner {
    /// A regular file or block device: never blocks long, has a position.
    Positioned,
    /// A description of our own with O_NONBLOCK, or a device that never blocks.
    NonBlocking,
    /// A socket: MSG_DONTWAIT.
    Socket,
    /// Polled first.
    Polled,
}

/// Bytes that a pipe which polls writable takes without blocking (PIPE_BUF).
const SAFE_WRITE: usize = 4096;

/// Bytes moved through a socket in one call.
const SOCKET_PIECE: usize = 64 << 10;

/// A descriptor of the host. Snapshot rule: none; a process that has one can't be part of a snapshot.
pub struct HostStream {
    fd: Arc<OwnedFd>,
    manner: Manner,
    queue: Arc<WaitQueue>,
    /// `None` for files that are always ready.
    watch: Option<Watch>,
    description: String,
}

impl HostStream {
    /// Registry key; nothing is ever restored under it.
    pub const KIND: &'static str = "host-stream";

    /// The open file that a guest gets for the caller's descriptor `fd`, with the same access mode, flags and position.
    ///
    /// # Errors
    /// The host's errno.
    pub fn inherit(ipc: &Ipc, fd: OwnedFd) -> Result<Arc<OpenFile>, Errno> {
        let flags = fcntl_getfl(&fd)?;
        let access = match flags & OFlags::RWMODE {
            OFlags::WRONLY => AccessMode::Write,
            OFlags::RDWR => AccessMode::ReadWrite,
            _ => AccessMode::Read,
        };
        // How our side avoids blocking is not the guest's affair: it sees the caller's flags.
        let status = StatusFlags::from_bits_truncate(flags.bits());
        let stream = Arc::new(Self::new(ipc, fd, flags)?);
        let position = if stream.manner == Manner::Positioned { stream.host_position()? } else { 0 };
        let file = OpenFile::new(stream, access, status);
        *file.position() = position;
        Ok(file)
    }

    fn new(ipc: &Ipc, fd: OwnedFd, flags: OFlags) -> Result<Self, Errno> {
        let description = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))
            .map_or_else(|_| "host:[inherited]".to_owned(), |path| path.to_string_lossy().into_owned());
        let kind = FileType::from_raw_mode(fstat(&fd)?.st_mode);
        let (fd, manner) = match kind {
            FileType::RegularFile | FileType::BlockDevice | FileType::Directory => (fd, Manner::Positioned),
            FileType::Socket => (fd, Manner::Socket),
            _ => match open_again(fd.as_fd(), flags) {
                Ok(own) => (own, Manner::NonBlocking),
                Err(_) => (fd, Manner::Polled),
            },
        };
        let (fd, queue) = (Arc::new(fd), Arc::new(WaitQueue::default()));
        let watch = match manner {
            Manner::Positioned => None,
            // EPERM is the host's answer for devices that are always ready, such as /dev/null.
            _ => match ipc.reactor.watch(&fd, &queue) {
                Ok(watch) => Some(watch),
                Err(Errno::PERM) => None,
                Err(errno) => return Err(errno),
            },
        };
        Ok(Self { fd, manner, queue, watch, description })
    }

    fn host_position(&self) -> Result<u64, Errno> {
        match seek(&self.fd, SeekFrom::Current(0)) {
            Err(Errno::SPIPE) => Ok(0),
            position => position,
        }
    }

    /// Keeps the position that the caller shares where the guest's is.
    fn follow_position(&self, position: u64) {
        // A device without a position has none to follow.
        let _ = seek(&self.fd, SeekFrom::Start(position));
    }

    fn polled(&self, wanted: PollFlags) -> Result<(), Errno> {
        let mut fds = [PollFd::new(&*self.fd, wanted)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        if poll(&mut fds, Some(&now))? == 0 { Err(Errno::AGAIN) } else { Ok(()) }
    }

    fn receive(&self, into: &mut Destination<'_>) -> Result<usize, Errno> {
        let mut buffer = vec![0; into.remaining().min(SOCKET_PIECE)];
        let (count, _) = rustix::net::recv(&*self.fd, &mut buffer[..], RecvFlags::DONTWAIT)?;
        into.put(buffer.get(..count).unwrap_or_default())
    }

    fn send(&self, from: &mut Origin<'_>) -> Result<usize, Errno> {
        self.polled(PollFlags::OUT)?;
        let bytes = from.take(SAFE_WRITE)?;
        rustix::net::send(&*self.fd, &bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
    }

    fn is_terminal(&self) -> bool {
        rustix::termios::isatty(&*self.fd)
    }
}

/// Opens the same pipe or device with a description of our own that doesn't block.
fn open_again(fd: BorrowedFd<'_>, flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let flags = (flags & OFlags::RWMODE) | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

impl Object for HostStream {
    fn kind(&self) -> &'static str {
        Self::KIND
    }

    fn save(&self, _: &mut Saver) -> Result<Vec<u8>, SaveError> {
        Err(SaveError::NotSnapshotable {
            object: self.description.clone(),
            reason: "it was inherited from the caller; run the program without inherited descriptors",
        })
    }

    fn as_file(self: Arc<Self>) -> Option<Arc<dyn FileObject>> {
        Some(self)
    }
}

impl FileObject for HostStream {
    fn stat(&self) -> Result<Stat, Errno> {
        let host = fstat(&*self.fd)?;
        Ok(Stat {
            dev: host.st_dev,
            ino: host.st_ino,
            mode: host.st_mode,
            nlink: host.st_nlink,
            uid: host.st_uid,
            gid: host.st_gid,
            rdev: host.st_rdev,
            size: host.st_size as u64,
            blksize: host.st_blksize as u32,
            blocks: host.st_blocks as u64,
            atime: (host.st_atime, host.st_atime_nsec as u32),
            mtime: (host.st_mtime, host.st_mtime_nsec as u32),
            ctime: (host.st_ctime, host.st_ctime_nsec as u32),
        })
    }

    fn read(&self, position: Option<u64>, into: &mut Destination<'_>) -> Result<usize, Errno> {
        if into.remaining() == 0 {
            return Ok(0);
        }
        match (self.manner, position) {
            (Manner::Positioned, Some(position)) => {
                let count = into.with_iovecs(|vector| host::preadv(self.fd.as_fd(), vector, position))?;
                self.follow_position(position + count as u64);
                Ok(count)
            }
            (Manner::Socket, _) => self.receive(into),
            (manner, _) => {
                if manner == Manner::Polled && self.watch.is_some() {
                    self.polled(PollFlags::IN)?;
                }
                into.with_iovecs(|vector| host::readv(self.fd.as_fd(), vector))
            }
        }
    }

    fn write(&self, position: Option<u64>, from: &mut Origin<'_>) -> Result<usize, Errno> {
        if from.remaining() == 0 {
            return Ok(0);
        }
        match (self.manner, position) {
            (Manner::Positioned, Some(position)) => {
                let count = from.with_iovecs(|vector| host::pwritev(self.fd.as_fd(), vector, position))?;
                self.follow_position(position + count as u64);
                Ok(count)
            }
            (Manner::Socket, _) => self.send(from),
            (Manner::Polled, _) if self.watch.is_some() => {
                self.polled(PollFlags::OUT)?;
                let bytes = from.take(SAFE_WRITE)?;
                rustix::io::write(&*self.fd, &bytes)
            }
            _ => from.with_iovecs(|vector| host::writev(self.fd.as_fd(), vector)),
        }
    }

    fn writes_fully(&self) -> bool {
        self.manner != Manner::Positioned
    }

    fn seekable(&self) -> bool {
        self.manner == Manner::Positioned
    }

    fn readiness(&self) -> Readiness {
        if self.watch.is_none() {
            return Readiness::IN | Readiness::OUT | Readiness::RDNORM | Readiness::WRNORM;
        }
        let mut fds = [PollFd::new(&*self.fd, PollFlags::all())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        match poll(&mut fds, Some(&now)) {
            Ok(_) => Readiness::from_bits_truncate(u32::from(fds[0].revents().bits())),
            Err(_) => Readiness::ERR,
        }
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        self.watch.as_ref().map(|_| &*self.queue)
    }

    fn truncate(&self, size: u64) -> Result<(), Errno> {
        if !self.seekable() {
            return Err(Errno::INVAL);
        }
        rustix::fs::ftruncate(&*self.fd, size)
    }

    fn sync(&self) -> Result<(), Errno> {
        rustix::fs::fsync(&*self.fd)
    }

    fn ioctl(&self, cx: &mut Cx<'_>, request: u32, argument: u64) -> Result<u64, Errno> {
        if u64::from(request) == libc::FIONREAD {
            let count = rustix::io::ioctl_fionread(&*self.fd)?;
            cx.mm().write_value(argument, &(count.min(i32::MAX as u64) as i32))?;
            return Ok(0);
        }
        if !self.is_terminal() {
            return Err(Errno::NOTTY);
        }
        match u64::from(request) {
            // The guest's one process is always in the foreground, and leads its session.
            libc::TIOCGPGRP | libc::TIOCGSID => {
                cx.mm().write_value(argument, &cx.process.identity.pid)?;
                Ok(0)
            }
            libc::TIOCSPGRP | libc::TIOCSCTTY | libc::TIOCNOTTY => Ok(0),
            _ => {
                let request = TerminalRequest::from_number(request).ok_or(Errno::NOTTY)?;
                let mut bytes = [0; host::TERMINAL_ARGUMENT];
                let (length, sets) = request.argument();
                let bytes = &mut bytes[..length];
                if sets {
                    cx.mm().read(argument, bytes)?;
                }
                host::terminal_ioctl(self.fd.as_fd(), request, bytes)?;
                if !sets {
                    cx.mm().write(argument, bytes)?;
                }
                Ok(0)
            }
        }
    }

    fn describe(&self) -> String {
        self.description.clone()
    }
}

#[cfg(test)]
mod tests;
