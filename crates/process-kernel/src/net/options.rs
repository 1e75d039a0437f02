//! Socket options that are remembered: most change nothing for a socket inside the guest, but programs read back what
//! they set.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::address::Family;
use super::socket::SocketType;

/// Default size of each of a socket's buffers, bytes (net.core.wmem_default).
pub const DEFAULT_BUFFER: usize = 212_992;

/// Largest buffer that a program can ask for, bytes (net.core.wmem_max is the default size; programs get more on many
/// systems).
const MAX_BUFFER: i32 = 4 << 20;

/// Smallest buffer, bytes (SOCK_MIN_SNDBUF is a little more).
const MIN_BUFFER: i32 = 4096;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Values {
    integers: BTreeMap<(i32, i32), i32>,
    receive_timeout: Option<Duration>,
    send_timeout: Option<Duration>,
    linger: (i32, i32),
}

/// What kind of socket it is, and its options.
#[derive(Debug, Serialize, Deserialize)]
pub struct SocketOptions {
    /// Address family.
    pub family: Family,
    /// Type.
    pub socket_type: SocketType,
    /// IPPROTO_* number.
    pub protocol: i32,
    #[serde(with = "locked")]
    values: Mutex<Values>,
}

/// Serde for a value behind a lock.
mod locked {
    use parking_lot::Mutex;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<T: Serialize, S: Serializer>(value: &Mutex<T>, to: S) -> Result<S::Ok, S::Error> {
        value.lock().serialize(to)
    }

    pub fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Mutex<T>, D::Error> {
        T::deserialize(from).map(Mutex::new)
    }
}

/// IPv6 options that libc does not name.
const IPV6_ADDR_PREFERENCES: i32 = 72;
const IP_BIND_ADDRESS_NO_PORT: i32 = 24;

/// Integer options: level, name, value before anything was set. What is not here is ENOPROTOOPT.
const INTEGERS: &[(i32, i32, i32)] = &[
    (libc::SOL_SOCKET, libc::SO_DEBUG, 0),
    (libc::SOL_SOCKET, libc::SO_REUSEADDR, 0),
    (libc::SOL_SOCKET, libc::SO_DONTROUTE, 0),
    (libc::SOL_SOCKET, libc::SO_BROADCAST, 0),
    (libc::SOL_SOCKET, libc::SO_SNDBUF, DEFAULT_BUFFER as i32),
    (libc::SOL_SOCKET, libc::SO_RCVBUF, DEFAULT_BUFFER as i32),
    (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 0),
    (libc::SOL_SOCKET, libc::SO_OOBINLINE, 0),
    (libc::SOL_SOCKET, libc::SO_PRIORITY, 0),
    (libc::SOL_SOCKET, libc::SO_REUSEPORT, 0),
    (libc::SOL_SOCKET, libc::SO_PASSCRED, 0),
    (libc::SOL_SOCKET, libc::SO_RCVLOWAT, 1),
    (libc::SOL_SOCKET, libc::SO_SNDLOWAT, 1),
    (libc::SOL_SOCKET, libc::SO_TIMESTAMP, 0),
    (libc::SOL_SOCKET, libc::SO_INCOMING_CPU, 0),
    (libc::SOL_SOCKET, libc::SO_ZEROCOPY, 0),
    (libc::SOL_SOCKET, libc::SO_BUSY_POLL, 0),
    (libc::IPPROTO_TCP, libc::TCP_NODELAY, 0),
    (libc::IPPROTO_TCP, libc::TCP_MAXSEG, 65_483),
    (libc::IPPROTO_TCP, libc::TCP_CORK, 0),
    (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, 7200),
    (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, 75),
    (libc::IPPROTO_TCP, libc::TCP_KEEPCNT, 9),
    (libc::IPPROTO_TCP, libc::TCP_SYNCNT, 6),
    (libc::IPPROTO_TCP, libc::TCP_LINGER2, 60),
    (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, 0),
    (libc::IPPROTO_TCP, libc::TCP_WINDOW_CLAMP, 0),
    (libc::IPPROTO_TCP, libc::TCP_QUICKACK, 1),
    (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, 0),
    (libc::IPPROTO_TCP, libc::TCP_FASTOPEN, 0),
    (libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, 0),
    (libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, 0),
    (libc::IPPROTO_IP, libc::IP_TOS, 0),
    (libc::IPPROTO_IP, libc::IP_TTL, 64),
    (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, 1),
    (libc::IPPROTO_IP, libc::IP_RECVERR, 0),
    (libc::IPPROTO_IP, libc::IP_PKTINFO, 0),
    (libc::IPPROTO_IP, libc::IP_RECVTOS, 0),
    (libc::IPPROTO_IP, libc::IP_RECVTTL, 0),
    (libc::IPPROTO_IP, libc::IP_FREEBIND, 0),
    (libc::IPPROTO_IP, libc::IP_MULTICAST_TTL, 1),
    (libc::IPPROTO_IP, libc::IP_MULTICAST_LOOP, 1),
    (libc::IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 0),
    (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 0),
    (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, 64),
    (libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_HOPS, 1),
    (libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_LOOP, 1),
    (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, 1),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 0),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 0),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 0),
    (libc::IPPROTO_IPV6, libc::IPV6_TCLASS, 0),
    (libc::IPPROTO_IPV6, IPV6_ADDR_PREFERENCES, 0),
];

impl SocketOptions {
    /// The options of a new socket.
    pub fn new(family: Family, socket_type: SocketType, protocol: i32) -> Self {
        Self { family, socket_type, protocol, values: Mutex::default() }
    }

    /// Options for a connection that was accepted on a socket with these.
    pub fn inherited(&self) -> Self {
        let values = Mutex::new(self.values.lock().clone());
        Self { values, ..*self }
    }

    fn default_of(&self, level: i32, name: i32) -> Result<i32, Errno> {
        let level_fits = match level {
            libc::IPPROTO_TCP => self.is_tcp(),
            libc::IPPROTO_IP => self.family != Family::Unix,
            libc::IPPROTO_IPV6 => self.family == Family::Inet6,
            _ => true,
        };
        let found = INTEGERS.iter().find(|(l, n, _)| (*l, *n) == (level, name)).filter(|_| level_fits);
        match found {
            Some((_, _, value)) => Ok(*value),
            // Linux answers so for the levels of protocols that this socket does not speak.
            None if !level_fits => Err(Errno::OPNOTSUPP),
            None => Err(Errno::NOPROTOOPT),
        }
    }

    fn is_tcp(&self) -> bool {
        self.family != Family::Unix && self.socket_type == SocketType::Stream
    }

    /// The value of an integer option.
    ///
    /// # Errors
    /// ENOPROTOOPT or EOPNOTSUPP for options that this socket doesn't have.
    pub fn integer(&self, level: i32, name: i32) -> Result<i32, Errno> {
        let default = self.default_of(level, name)?;
        Ok(self.values.lock().integers.get(&(level, name)).copied().unwrap_or(default))
    }

    /// Whether a flag of SOL_SOCKET or another level is set.
    pub fn flag(&self, level: i32, name: i32) -> bool {
        self.integer(level, name).is_ok_and(|value| value != 0)
    }

    /// Sets an integer option. Buffer sizes are doubled, as Linux does for its own bookkeeping.
    ///
    /// # Errors
    /// As [`SocketOptions::integer`].
    pub fn set_integer(&self, level: i32, name: i32, value: i32) -> Result<(), Errno> {
        self.default_of(level, name)?;
        let stored = match (level, name) {
            (libc::SOL_SOCKET, libc::SO_SNDBUF | libc::SO_RCVBUF) => {
                value.clamp(MIN_BUFFER / 2, MAX_BUFFER / 2) * 2
            }
            (libc::SOL_SOCKET, libc::SO_RCVLOWAT) if value == 0 => 1,
            (
                libc::SOL_SOCKET,
                libc::SO_REUSEADDR
                | libc::SO_REUSEPORT
                | libc::SO_KEEPALIVE
                | libc::SO_BROADCAST
                | libc::SO_OOBINLINE
                | libc::SO_PASSCRED,
            )
            | (libc::IPPROTO_TCP, libc::TCP_NODELAY | libc::TCP_CORK)
            | (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY) => i32::from(value != 0),
            _ => value,
        };
        self.values.lock().integers.insert((level, name), stored);
        Ok(())
    }

    /// Capacity of the buffer that this socket sends through, bytes.
    pub fn send_buffer(&self) -> usize {
        self.integer(libc::SOL_SOCKET, libc::SO_SNDBUF).map_or(DEFAULT_BUFFER, |size| size as usize)
    }

    /// Capacity of the buffer that this socket receives from, bytes.
    pub fn receive_buffer(&self) -> usize {
        self.integer(libc::SOL_SOCKET, libc::SO_RCVBUF).map_or(DEFAULT_BUFFER, |size| size as usize)
    }

    /// Receive and send timeout; `None`: for ever.
    pub fn timeouts(&self) -> (Option<Duration>, Option<Duration>) {
        let values = self.values.lock();
        (values.receive_timeout, values.send_timeout)
    }

    /// Sets SO_RCVTIMEO.
    pub fn set_receive_timeout(&self, timeout: Option<Duration>) {
        self.values.lock().receive_timeout = timeout;
    }

    /// Sets SO_SNDTIMEO.
    pub fn set_send_timeout(&self, timeout: Option<Duration>) {
        self.values.lock().send_timeout = timeout;
    }

    /// SO_LINGER: on or off, seconds.
    pub fn linger(&self) -> (i32, i32) {
        self.values.lock().linger
    }

    /// Sets SO_LINGER.
    pub fn set_linger(&self, on: i32, seconds: i32) {
        self.values.lock().linger = (i32::from(on != 0), seconds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_remembered_and_unknown_ones_refused() {
        let options = SocketOptions::new(Family::Inet, SocketType::Stream, libc::IPPROTO_TCP);
        assert_eq!(options.integer(libc::IPPROTO_TCP, libc::TCP_NODELAY), Ok(0));
        options.set_integer(libc::IPPROTO_TCP, libc::TCP_NODELAY, 7).unwrap();
        assert_eq!(options.integer(libc::IPPROTO_TCP, libc::TCP_NODELAY), Ok(1));
        options.set_integer(libc::SOL_SOCKET, libc::SO_SNDBUF, 10_000).unwrap();
        assert_eq!(options.send_buffer(), 20_000);
        options.set_integer(libc::SOL_SOCKET, libc::SO_SNDBUF, i32::MAX).unwrap();
        assert_eq!(options.send_buffer(), MAX_BUFFER as usize);
        options.set_integer(libc::SOL_SOCKET, libc::SO_SNDBUF, -1).unwrap();
        assert_eq!(options.send_buffer(), MIN_BUFFER as usize);
        assert_eq!(options.set_integer(libc::SOL_SOCKET, 9999, 1), Err(Errno::NOPROTOOPT));
        assert_eq!(options.integer(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY), Err(Errno::OPNOTSUPP));
    }

    #[test]
    fn options_survive_encoding() {
        let options = SocketOptions::new(Family::Unix, SocketType::Datagram, 0);
        options.set_integer(libc::SOL_SOCKET, libc::SO_PASSCRED, 1).unwrap();
        options.set_receive_timeout(Some(Duration::from_millis(5)));
        let bytes = postcard::to_stdvec(&options).unwrap();
        let again: SocketOptions = postcard::from_bytes(&bytes).unwrap();
        assert!(again.flag(libc::SOL_SOCKET, libc::SO_PASSCRED));
        assert_eq!(again.timeouts(), (Some(Duration::from_millis(5)), None));
        assert_eq!(again.socket_type, SocketType::Datagram);
    }
}
