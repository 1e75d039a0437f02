//! getsockopt and setsockopt.

use std::os::raw::c_long;
use std::time::Duration;

use rustix::io::Errno;

use super::socket::socket_of;
use super::{Arguments, Cx, SysResult};
use crate::file::Fd;
use crate::net::{Socket, SocketType};

pub(super) fn dispatch(cx: &mut Cx<'_>, number: c_long, a: Arguments) -> Option<SysResult> {
    Some(match number {
        libc::SYS_getsockopt => get(cx, a[0] as Fd, a[1] as i32, a[2] as i32, a[3], a[4]),
        libc::SYS_setsockopt => set(cx, a[0] as Fd, a[1] as i32, a[2] as i32, a[3], a[4]),
        _ => return None,
    })
}

/// SO_RCVTIMEO and SO_SNDTIMEO with 64-bit times; on x86-64 both layouts agree.
const SO_RCVTIMEO_NEW: i32 = 66;
const SO_SNDTIMEO_NEW: i32 = 67;

fn timeval(duration: Option<Duration>) -> Vec<u8> {
    let duration = duration.unwrap_or_default();
    let mut bytes = duration.as_secs().to_ne_bytes().to_vec();
    bytes.extend(u64::from(duration.subsec_micros()).to_ne_bytes());
    bytes
}

/// An option's value as it lies in memory.
fn value(socket: &dyn Socket, level: i32, name: i32) -> Result<Vec<u8>, Errno> {
    let options = socket.options();
    let integer = |value: i32| Ok(value.to_ne_bytes().to_vec());
    match (level, name) {
        (libc::SOL_SOCKET, libc::SO_TYPE) => integer(options.socket_type.number()),
        (libc::SOL_SOCKET, libc::SO_DOMAIN) => integer(options.family.number()),
        (libc::SOL_SOCKET, libc::SO_PROTOCOL) => integer(options.protocol),
        (libc::SOL_SOCKET, libc::SO_ACCEPTCONN) => integer(i32::from(socket.listening())),
        (libc::SOL_SOCKET, libc::SO_ERROR) => integer(socket.take_error().map_or(0, Errno::raw_os_error)),
        (libc::SOL_SOCKET, libc::SO_LINGER) => {
            let (on, seconds) = options.linger();
            Ok([on.to_ne_bytes(), seconds.to_ne_bytes()].concat())
        }
        (libc::SOL_SOCKET, libc::SO_RCVTIMEO | SO_RCVTIMEO_NEW) => Ok(timeval(options.timeouts().0)),
        (libc::SOL_SOCKET, libc::SO_SNDTIMEO | SO_SNDTIMEO_NEW) => Ok(timeval(options.timeouts().1)),
        (libc::SOL_SOCKET, libc::SO_PEERCRED) => {
            // Without a peer Linux gives pid 0 and the ids -1.
            let peer = socket.peer_credentials();
            let (pid, uid, gid) = peer.map_or((0, u32::MAX, u32::MAX), |peer| (peer.pid, peer.uid, peer.gid));
            Ok([pid.to_ne_bytes(), uid.to_ne_bytes(), gid.to_ne_bytes()].concat())
        }
        (libc::IPPROTO_TCP, libc::TCP_CONGESTION) => Ok(b"cubic\0".to_vec()),
        (libc::IPPROTO_TCP, libc::TCP_INFO) if options.socket_type == SocketType::Stream => {
            Ok(tcp_info(socket))
        }
        _ => integer(options.integer(level, name)?),
    }
}

/// `struct tcp_info` as far as it says anything: the state.
fn tcp_info(socket: &dyn Socket) -> Vec<u8> {
    const ESTABLISHED: u8 = 1;
    const CLOSE: u8 = 7;
    const LISTEN: u8 = 10;
    let mut info = vec![0; 104];
    info[0] = match (socket.listening(), socket.peer_address()) {
        (true, _) => LISTEN,
        (false, Ok(_)) => ESTABLISHED,
        (false, Err(_)) => CLOSE,
    };
    info
}

fn get(cx: &Cx<'_>, fd: Fd, level: i32, name: i32, to: u64, length_at: u64) -> SysResult {
    let file = cx.file(fd)?;
    let given: i32 = cx.mm().read_value(length_at)?;
    let given = usize::try_from(given).map_err(|_| Errno::INVAL)?;
    let bytes = value(socket_of(&file)?, level, name)?;
    let kept = given.min(bytes.len());
    cx.mm().write(to, &bytes[..kept])?;
    cx.mm().write_value(length_at, &(kept as i32))?;
    Ok(0)
}

fn read_timeval(cx: &Cx<'_>, address: u64, length: u64) -> Result<Option<Duration>, Errno> {
    if length < 16 {
        return Err(Errno::INVAL);
    }
    let [seconds, micros]: [i64; 2] = cx.mm().read_value(address)?;
    if !(0..1_000_000).contains(&micros) {
        return Err(Errno::DOM);
    }
    // A negative time waits not at all, zero waits for ever.
    Ok(match u64::try_from(seconds) {
        Ok(0) if micros == 0 => None,
        Ok(seconds) => Some(Duration::new(seconds, micros as u32 * 1000)),
        Err(_) => Some(Duration::ZERO),
    })
}

fn set(cx: &Cx<'_>, fd: Fd, level: i32, name: i32, from: u64, length: u64) -> SysResult {
    let file = cx.file(fd)?;
    let socket = socket_of(&file)?;
    let options = socket.options();
    if (length as i32) < 0 {
        return Err(Errno::INVAL.into());
    }
    match (level, name) {
        (libc::SOL_SOCKET, libc::SO_RCVTIMEO | SO_RCVTIMEO_NEW) => {
            options.set_receive_timeout(read_timeval(cx, from, length)?);
        }
        (libc::SOL_SOCKET, libc::SO_SNDTIMEO | SO_SNDTIMEO_NEW) => {
            options.set_send_timeout(read_timeval(cx, from, length)?);
        }
        (libc::SOL_SOCKET, libc::SO_LINGER) => {
            if length < 8 {
                return Err(Errno::INVAL.into());
            }
            let [on, seconds]: [i32; 2] = cx.mm().read_value(from)?;
            options.set_linger(on, seconds);
        }
        (libc::SOL_SOCKET, libc::SO_SNDBUFFORCE | libc::SO_RCVBUFFORCE | libc::SO_MARK) => {
            return Err(Errno::PERM.into());
        }
        (libc::IPPROTO_TCP, libc::TCP_CONGESTION) => {
            let mut algorithm = vec![0; (length as usize).min(16)];
            cx.mm().read(from, &mut algorithm)?;
            let known = algorithm.starts_with(b"cubic") || algorithm.starts_with(b"reno");
            return if known { Ok(0) } else { Err(Errno::NOENT.into()) };
        }
        _ => {
            if length < 4 {
                return Err(Errno::INVAL.into());
            }
            let value: i32 = cx.mm().read_value(from)?;
            options.set_integer(level, name, value)?;
            socket.option_changed(level, name, value);
        }
    }
    Ok(0)
}
