//! Sending and receiving on sockets.

use std::os::raw::c_long;

use bytemuck::{Pod, Zeroable};
use rustix::io::Errno;

use super::control::{read_control, write_control};
use super::socket::{credentials, read_address, socket_of, write_address};
use super::time::read_timeout;
use super::{Arguments, Cx, Restart, Sending, Stop, SysResult};
use crate::clock::Deadline;
use crate::file::{Destination, Fd, OpenFile, Origin, Readiness};
use crate::net::{Incoming, Outgoing, ReceiveFlags, Socket, SocketAddress, SocketType};

pub(super) fn dispatch(cx: &mut Cx<'_>, number: c_long, a: Arguments) -> Option<SysResult> {
    Some(match number {
        libc::SYS_sendto => send_to(cx, a),
        libc::SYS_sendmsg => send_message(cx, a[0] as Fd, a[1], a[2] as i32),
        libc::SYS_sendmmsg => send_messages(cx, a[0] as Fd, a[1], a[2], a[3] as i32),
        libc::SYS_recvfrom => receive_from(cx, a),
        libc::SYS_recvmsg => receive_message(cx, a[0] as Fd, a[1], a[2] as i32, None),
        libc::SYS_recvmmsg => receive_messages(cx, a[0] as Fd, a[1], a[2], a[3] as i32, a[4]),
        _ => return None,
    })
}

/// `struct msghdr`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct MessageHeader {
    name: u64,
    name_length: u32,
    padding: u32,
    vector: u64,
    vector_length: u64,
    control: u64,
    control_length: u64,
    flags: i32,
    more_padding: u32,
}

/// Bytes from one `struct mmsghdr` to the next, and where its length field is.
const ARRAY_STEP: u64 = 64;
const ARRAY_LENGTH: u64 = 56;
/// Messages that one call moves at most (UIO_MAXIOV).
const MAX_MESSAGES: u64 = 1024;

/// Flags that change nothing inside a guest.
fn unsupported_in_send(flags: i32) -> bool {
    flags & libc::MSG_OOB != 0
}

fn send(
    cx: &Cx<'_>,
    file: &OpenFile,
    from: &mut Origin<'_>,
    mut outgoing: Outgoing,
    flags: i32,
) -> SysResult {
    let socket = socket_of(file)?;
    if unsupported_in_send(flags) {
        return Err(Errno::OPNOTSUPP.into());
    }
    let sending = Sending {
        deadline: cx.send_deadline(file),
        quiet: flags & libc::MSG_NOSIGNAL != 0,
        nonblocking: file.nonblocking() || flags & libc::MSG_DONTWAIT != 0,
    };
    cx.write_with(file, from, sending, |_, from| socket.send(from, &mut outgoing))
}

fn send_to(cx: &Cx<'_>, a: Arguments) -> SysResult {
    let [fd, buffer, length, flags, address, address_length] = a;
    let file = cx.file(fd as Fd)?;
    socket_of(&file)?;
    let to = if address == 0 { None } else { Some(read_address(cx, address, address_length)?) };
    let mut from = cx.mm().origin(buffer, usize::try_from(length).map_err(|_| Errno::INVAL)?)?;
    let outgoing = Outgoing { to, credentials: credentials(cx), ..Outgoing::default() };
    send(cx, &file, &mut from, outgoing, flags as i32)
}

fn send_message(cx: &Cx<'_>, fd: Fd, header: u64, flags: i32) -> SysResult {
    let file = cx.file(fd)?;
    socket_of(&file)?;
    let header: MessageHeader = cx.mm().read_value(header)?;
    let to = match header.name {
        0 => None,
        _ if header.name_length == 0 => None,
        name => Some(read_address(cx, name, u64::from(header.name_length))?),
    };
    let count = usize::try_from(header.vector_length).ok().filter(|count| *count <= 1024);
    let mut from = cx.mm().origin_vector(header.vector, count.ok_or(Errno::MSGSIZE)?)?;
    let rights = read_control(cx, header.control, header.control_length)?;
    let outgoing = Outgoing { to, rights, credentials: credentials(cx) };
    send(cx, &file, &mut from, outgoing, flags)
}

fn send_messages(cx: &Cx<'_>, fd: Fd, array: u64, count: u64, flags: i32) -> SysResult {
    let mut done = 0;
    for index in 0..count.min(MAX_MESSAGES) {
        let entry = array.checked_add(index * ARRAY_STEP).ok_or(Errno::FAULT)?;
        match send_message(cx, fd, entry, flags) {
            Ok(sent) => cx.mm().write_value(entry + ARRAY_LENGTH, &(sent as u32))?,
            Err(stop) if done == 0 => return Err(stop),
            Err(_) => break,
        }
        done += 1;
    }
    Ok(done)
}

/// As much as MSG_WAITALL leaves in the socket until it is complete: what the smallest receive buffer holds.
const ALL_AT_ONCE: usize = 4096;

/// Receives as recvmsg(2) does: waits unless told not to, and with MSG_WAITALL until a stream has filled the buffer.
fn receive(
    cx: &Cx<'_>,
    file: &OpenFile,
    into: &mut Destination<'_>,
    flags: i32,
    deadline: Option<Deadline>,
) -> Result<Incoming, Stop> {
    let socket = socket_of(file)?;
    if flags & libc::MSG_OOB != 0 {
        return Err(Errno::INVAL.into());
    }
    if flags & libc::MSG_ERRQUEUE != 0 {
        return Err(Errno::AGAIN.into());
    }
    let how = ReceiveFlags { peek: flags & libc::MSG_PEEK != 0 };
    let nonblocking = file.nonblocking() || flags & libc::MSG_DONTWAIT != 0;
    let fill = flags & libc::MSG_WAITALL != 0 && !how.peek && is_stream(socket);
    if fill && !nonblocking && into.remaining() <= ALL_AT_ONCE {
        wait_for_all(cx, file, socket, into.remaining(), deadline)?;
    }
    let mut all = Incoming::default();
    loop {
        match receive_once(cx, file, socket, into, how, deadline, nonblocking) {
            Ok(incoming) => {
                let ended = incoming.count == 0;
                all.count += incoming.count;
                all.message += incoming.message;
                all.rights.extend(incoming.rights);
                all.from = all.from.take().or(incoming.from);
                all.credentials = all.credentials.or(incoming.credentials);
                if !fill || ended || into.remaining() == 0 {
                    return Ok(all);
                }
            }
            Err(_) if all.count > 0 => return Ok(all),
            Err(stop) => return Err(stop),
        }
    }
}

/// Waits until a stream inside the guest has `wanted` bytes, or can't have them any more. Nothing is taken meanwhile, so that the call can be made
/// again when it is interrupted: a snapshot in between is not seen by the program.
fn wait_for_all(
    cx: &Cx<'_>,
    file: &OpenFile,
    socket: &dyn Socket,
    wanted: usize,
    deadline: Option<Deadline>,
) -> Result<(), Stop> {
    let inside = match socket.peer_address() {
        Ok(SocketAddress::Inet(peer)) => peer.ip().is_loopback(),
        Ok(_) => true,
        Err(_) => false,
    };
    let Some(queue) = file.object.wait_queue().filter(|_| inside) else { return Ok(()) };
    let restart = if deadline.is_some() { Restart::Never } else { Restart::WithFlag };
    let over = Readiness::RDHUP | Readiness::HUP | Readiness::ERR;
    cx.wait(&[queue], deadline, restart, || {
        let complete = socket.readable_bytes() >= wanted || file.object.readiness().intersects(over);
        if complete { Ok(()) } else { Err(Errno::AGAIN) }
    })?;
    Ok(())
}

fn receive_once(
    cx: &Cx<'_>,
    file: &OpenFile,
    socket: &dyn Socket,
    into: &mut Destination<'_>,
    how: ReceiveFlags,
    deadline: Option<Deadline>,
    nonblocking: bool,
) -> Result<Incoming, Stop> {
    let mut attempt = || socket.receive(into, how);
    let Some(queue) = file.object.wait_queue().filter(|_| !nonblocking) else {
        return Ok(attempt()?);
    };
    // With a receive timeout Linux does not restart the call after a handler.
    let restart = if deadline.is_some() { Restart::Never } else { Restart::WithFlag };
    cx.wait(&[queue], deadline, restart, attempt)?.ok_or(Stop::Errno(Errno::AGAIN))
}

fn is_stream(socket: &dyn Socket) -> bool {
    socket.options().socket_type == SocketType::Stream
}

/// What a receive returns: the bytes it put, or with MSG_TRUNC the bytes the message had.
fn received(socket: &dyn Socket, incoming: &Incoming, flags: i32) -> u64 {
    let whole = flags & libc::MSG_TRUNC != 0 && !is_stream(socket);
    (if whole { incoming.message } else { incoming.count }) as u64
}

fn receive_from(cx: &Cx<'_>, a: Arguments) -> SysResult {
    let [fd, buffer, length, flags, address, address_length] = a;
    let file = cx.file(fd as Fd)?;
    let socket = socket_of(&file)?;
    let mut into = cx.mm().destination(buffer, usize::try_from(length).map_err(|_| Errno::INVAL)?)?;
    let incoming = receive(cx, &file, &mut into, flags as i32, cx.receive_deadline(&file))?;
    if let Some(from) = &incoming.from {
        write_address(cx, address, address_length, from)?;
    } else if address != 0 && address_length != 0 {
        // Connected streams name no sender.
        cx.mm().write_value(address_length, &0_i32)?;
    }
    Ok(received(socket, &incoming, flags as i32))
}

fn receive_message(cx: &Cx<'_>, fd: Fd, at: u64, flags: i32, deadline: Option<Deadline>) -> SysResult {
    let file = cx.file(fd)?;
    let socket = socket_of(&file)?;
    let mut header: MessageHeader = cx.mm().read_value(at)?;
    let count = usize::try_from(header.vector_length).ok().filter(|count| *count <= 1024);
    let mut into = cx.mm().destination_vector(header.vector, count.ok_or(Errno::MSGSIZE)?)?;
    let deadline = deadline.or_else(|| cx.receive_deadline(&file));
    let incoming = receive(cx, &file, &mut into, flags, deadline)?;
    let result = received(socket, &incoming, flags);
    header.flags = flags & libc::MSG_CMSG_CLOEXEC;
    if incoming.message > incoming.count && !is_stream(socket) {
        header.flags |= libc::MSG_TRUNC;
    }
    if header.name != 0 {
        let bytes = incoming.from.as_ref().map(|from| from.encode()).unwrap_or_default();
        let kept = bytes.len().min(header.name_length as usize);
        cx.mm().write(header.name, &bytes[..kept])?;
        header.name_length = bytes.len() as u32;
    }
    let pass_credentials = socket.options().flag(libc::SOL_SOCKET, libc::SO_PASSCRED);
    let shown = incoming.credentials.filter(|_| pass_credentials);
    let space = (header.control, if header.control == 0 { 0 } else { header.control_length });
    let close_on_exec = flags & libc::MSG_CMSG_CLOEXEC != 0;
    let (length, cut) = write_control(cx, space, shown, incoming.rights, close_on_exec)?;
    header.control_length = length;
    if cut {
        header.flags |= libc::MSG_CTRUNC;
    }
    // The fields that a receive changes; the others may be changed by another thread meanwhile.
    cx.mm().write_value(at + 8, &header.name_length)?;
    cx.mm().write_value(at + 40, &header.control_length)?;
    cx.mm().write_value(at + 48, &header.flags)?;
    Ok(result)
}

fn receive_messages(cx: &Cx<'_>, fd: Fd, array: u64, count: u64, flags: i32, timeout: u64) -> SysResult {
    let deadline = cx.deadline(read_timeout(cx, timeout)?);
    let mut flags = flags;
    let mut done = 0;
    for index in 0..count.min(MAX_MESSAGES) {
        let entry = array.checked_add(index * ARRAY_STEP).ok_or(Errno::FAULT)?;
        match receive_message(cx, fd, entry, flags & !libc::MSG_WAITFORONE, deadline) {
            Ok(received) => cx.mm().write_value(entry + ARRAY_LENGTH, &(received as u32))?,
            Err(stop) if done == 0 => return Err(stop),
            Err(_) => break,
        }
        done += 1;
        if flags & libc::MSG_WAITFORONE != 0 {
            flags |= libc::MSG_DONTWAIT;
        }
        if deadline.is_some_and(|deadline| cx.process.clock.remaining(deadline).is_zero()) {
            break;
        }
    }
    Ok(done)
}
