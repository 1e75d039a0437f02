//! Making, naming and connecting sockets. Messages are in [`super::message`], options in [`super::socket_option`].

use std::os::raw::c_long;
use std::sync::Arc;

use rustix::io::Errno;

use super::event::nonblocking;
use super::{Arguments, Cx, Stop, SysResult};
use crate::clock::Deadline;
use crate::file::{AccessMode, Fd, FileObject, OpenFile};
use crate::fs::{FileType, NewKind, Permission};
use crate::net::{
    self, Credentials, Family, MAX_ADDRESS_LENGTH, Shutdown, Socket, SocketAddress, SocketType, UnixAddress,
};

pub(super) fn dispatch(cx: &mut Cx<'_>, number: c_long, a: Arguments) -> Option<SysResult> {
    Some(match number {
        libc::SYS_socket => socket(cx, a[0] as i32, a[1] as i32, a[2] as i32),
        libc::SYS_socketpair => socketpair(cx, a[0] as i32, a[1] as i32, a[2] as i32, a[3]),
        libc::SYS_bind => bind(cx, a[0] as Fd, a[1], a[2]),
        libc::SYS_listen => listen(cx, a[0] as Fd, a[1] as i32),
        libc::SYS_accept => accept(cx, a[0] as Fd, a[1], a[2], 0),
        libc::SYS_accept4 => accept(cx, a[0] as Fd, a[1], a[2], a[3] as i32),
        libc::SYS_connect => connect(cx, a[0] as Fd, a[1], a[2]),
        libc::SYS_shutdown => shutdown(cx, a[0] as Fd, a[1] as i32),
        libc::SYS_getsockname => name(cx, a[0] as Fd, a[1], a[2], |socket| socket.local_address()),
        libc::SYS_getpeername => name(cx, a[0] as Fd, a[1], a[2], |socket| socket.peer_address()),
        _ => return None,
    })
}

/// The socket behind an open file.
///
/// # Errors
/// ENOTSOCK.
pub(super) fn socket_of(file: &OpenFile) -> Result<&dyn Socket, Errno> {
    file.object.as_socket().ok_or(Errno::NOTSOCK)
}

/// Who the calling process is.
pub(super) fn credentials(cx: &Cx<'_>) -> Credentials {
    let own = &cx.process.identity;
    Credentials { pid: own.pid, uid: own.uid, gid: own.gid }
}

/// Reads a socket address argument; the path of a Unix socket is followed to its inode.
///
/// # Errors
/// EFAULT, EINVAL, EAFNOSUPPORT; for paths as path_resolution(7) lists, and ECONNREFUSED for what is no socket.
pub(super) fn read_address(cx: &Cx<'_>, address: u64, length: u64) -> Result<SocketAddress, Errno> {
    match decode_address(cx, address, length)? {
        SocketAddress::Unix(UnixAddress::Path(path)) => follow(cx, path),
        address => Ok(address),
    }
}

fn decode_address(cx: &Cx<'_>, address: u64, length: u64) -> Result<SocketAddress, Errno> {
    let length = usize::try_from(length as i32).ok().filter(|length| *length <= MAX_ADDRESS_LENGTH);
    let mut bytes = vec![0; length.ok_or(Errno::INVAL)?];
    cx.mm().read(address, &mut bytes)?;
    SocketAddress::decode(&bytes)
}

/// Writes an address and its length as accept(2) and its like do: cut off at the length that was given, with the length
/// it would have had. Nothing happens for a null pointer.
///
/// # Errors
/// EFAULT, EINVAL for a negative length.
pub(super) fn write_address(
    cx: &Cx<'_>,
    to: u64,
    length_at: u64,
    address: &SocketAddress,
) -> Result<(), Errno> {
    if to == 0 {
        return Ok(());
    }
    let given: i32 = cx.mm().read_value(length_at)?;
    let bytes = address.encode();
    let kept = usize::try_from(given).map_err(|_| Errno::INVAL)?.min(bytes.len());
    cx.mm().write(to, &bytes[..kept])?;
    cx.mm().write_value(length_at, &(bytes.len() as i32))
}

fn decode_kind(family: i32, kind: i32) -> Result<(Family, SocketType, i32), Errno> {
    let flags = kind & !0xf;
    if flags & !(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) != 0 {
        return Err(Errno::INVAL);
    }
    let family = match family {
        libc::AF_UNIX => Family::Unix,
        libc::AF_INET => Family::Inet,
        libc::AF_INET6 => Family::Inet6,
        // Netlink among them: what asks it for interfaces (getifaddrs) fails, what only prefers to know goes on.
        _ => return Err(Errno::AFNOSUPPORT),
    };
    let socket_type = match kind & 0xf {
        libc::SOCK_STREAM => SocketType::Stream,
        libc::SOCK_DGRAM => SocketType::Datagram,
        libc::SOCK_SEQPACKET => SocketType::SequencedPacket,
        libc::SOCK_RAW => return Err(Errno::PERM),
        _ => return Err(Errno::SOCKTNOSUPPORT),
    };
    Ok((family, socket_type, flags))
}

fn open(object: Arc<dyn FileObject>, flags: i32) -> Arc<OpenFile> {
    OpenFile::new(object, AccessMode::ReadWrite, nonblocking(flags))
}

fn socket(cx: &Cx<'_>, family: i32, kind: i32, protocol: i32) -> SysResult {
    let (family, socket_type, flags) = decode_kind(family, kind)?;
    let object = net::create(&cx.process.network, family, socket_type, protocol, credentials(cx))?;
    Ok(cx.install(open(object, flags), flags & libc::SOCK_CLOEXEC != 0)?)
}

fn socketpair(cx: &Cx<'_>, family: i32, kind: i32, protocol: i32, to: u64) -> SysResult {
    let (family, socket_type, flags) = decode_kind(family, kind)?;
    if family != Family::Unix {
        return Err(Errno::OPNOTSUPP.into());
    }
    let pair = net::create_pair(&cx.process.network, socket_type, protocol, credentials(cx))?;
    cx.install_pair(pair.map(|object| open(object, flags)), flags & libc::SOCK_CLOEXEC != 0, to)?;
    Ok(0)
}

fn bind(cx: &Cx<'_>, fd: Fd, address: u64, length: u64) -> SysResult {
    let file = cx.file(fd)?;
    let socket = socket_of(&file)?;
    let address = decode_address(cx, address, length)?;
    let SocketAddress::Unix(UnixAddress::Path(path)) = address else {
        socket.bind(&address)?;
        return Ok(0);
    };
    if socket.local_address()? != SocketAddress::Unix(UnixAddress::Unnamed) {
        return Err(Errno::INVAL.into());
    }
    let (vfs, caller, start) = (&cx.process.vfs, cx.caller(), cx.start(libc::AT_FDCWD, &path)?);
    let mode = 0o777 & !cx.process.fs.umask();
    vfs.make(&caller, &start, &path, NewKind::Socket, mode).map_err(|errno| match errno {
        Errno::EXIST => Errno::ADDRINUSE,
        errno => errno,
    })?;
    let bound = follow(cx, path.clone()).and_then(|address| socket.bind(&address));
    if bound.is_err() {
        // Another thread bound the socket, or took the name away already.
        let _ = vfs.unlink(&caller, &start, &path);
    }
    bound?;
    Ok(0)
}

/// The socket's inode that a path leads to.
fn follow(cx: &Cx<'_>, path: Vec<u8>) -> Result<SocketAddress, Errno> {
    let place = cx.find(libc::AT_FDCWD, &path, true)?;
    let stat = place.inode.metadata()?;
    cx.caller().may(&stat, Permission::WRITE)?;
    if FileType::of_mode(stat.mode) != Some(FileType::Socket) {
        return Err(Errno::CONNREFUSED);
    }
    Ok(SocketAddress::Unix(UnixAddress::File { path, inode: (stat.dev, stat.ino) }))
}

fn listen(cx: &Cx<'_>, fd: Fd, backlog: i32) -> SysResult {
    let file = cx.file(fd)?;
    // A negative backlog means as many as can be.
    let backlog = usize::try_from(backlog).unwrap_or(usize::MAX);
    socket_of(&file)?.listen(backlog)?;
    Ok(0)
}

impl Cx<'_> {
    /// When a blocking receive on `file` gives up (SO_RCVTIMEO); `None` for files that are no sockets.
    pub(super) fn receive_deadline(&self, file: &OpenFile) -> Option<Deadline> {
        self.deadline(file.object.as_socket()?.receive_timeout())
    }

    /// When a blocking send on `file` gives up (SO_SNDTIMEO); `None` for files that are no sockets.
    pub(super) fn send_deadline(&self, file: &OpenFile) -> Option<Deadline> {
        self.deadline(file.object.as_socket()?.send_timeout())
    }
}

fn accept(cx: &Cx<'_>, fd: Fd, to: u64, length_at: u64, flags: i32) -> SysResult {
    if flags & !(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) != 0 {
        return Err(Errno::INVAL.into());
    }
    let file = cx.file(fd)?;
    let socket = socket_of(&file)?;
    let (object, peer) = cx.wait_file(&file, cx.receive_deadline(&file), || socket.accept())?;
    let accepted = cx.install(open(object, flags), flags & libc::SOCK_CLOEXEC != 0)?;
    if let Err(errno) = write_address(cx, to, length_at, &peer) {
        // The connection is lost, as it is in Linux.
        let _ = cx.process.files.close(accepted as Fd);
        return Err(errno.into());
    }
    Ok(accepted)
}

fn connect(cx: &Cx<'_>, fd: Fd, address: u64, length: u64) -> SysResult {
    let file = cx.file(fd)?;
    let socket = socket_of(&file)?;
    let address = read_address(cx, address, length)?;
    if file.nonblocking() {
        socket.connect(&address)?;
        return Ok(0);
    }
    let attempt = || match socket.connect(&address) {
        Err(Errno::INPROGRESS | Errno::ALREADY) => Err(Errno::AGAIN),
        outcome => outcome,
    };
    match cx.wait_file(&file, cx.send_deadline(&file), attempt) {
        Ok(()) => Ok(0),
        // The send timeout is over; connecting goes on.
        Err(Stop::Errno(Errno::AGAIN)) => Err(Errno::INPROGRESS.into()),
        Err(stop) => Err(stop),
    }
}

fn shutdown(cx: &Cx<'_>, fd: Fd, how: i32) -> SysResult {
    let how = match how {
        libc::SHUT_RD => Shutdown::Read,
        libc::SHUT_WR => Shutdown::Write,
        libc::SHUT_RDWR => Shutdown::Both,
        _ => return Err(Errno::INVAL.into()),
    };
    let file = cx.file(fd)?;
    socket_of(&file)?.shutdown(how)?;
    Ok(0)
}

fn name(
    cx: &Cx<'_>,
    fd: Fd,
    to: u64,
    length_at: u64,
    of: impl FnOnce(&dyn Socket) -> Result<SocketAddress, Errno>,
) -> SysResult {
    let file = cx.file(fd)?;
    let address = of(socket_of(&file)?)?;
    if to == 0 {
        return Err(Errno::FAULT.into());
    }
    write_address(cx, to, length_at, &address)?;
    Ok(0)
}
