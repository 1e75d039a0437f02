//! The way out of the guest, when it is switched on: TCP and UDP through sockets of the host.
//!
//! What is open when a snapshot is taken can't be part of it: a TCP connection comes back reset, as SnapStart documents.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, getsockname, recv, recvfrom,
    sendto, socket_with, sockopt,
};

use super::address::{Family, SocketAddress, presented};
use super::options::SocketOptions;
use super::socket::{Incoming, Outgoing, ReceiveFlags, Shutdown};
use super::transport::{SavedTransport, Transport};
use crate::file::{Destination, Origin, Readiness};
use crate::host;
use crate::ipc::{Reactor, Watch};
use crate::object::{SaveError, Saver};
use crate::wait::WaitQueue;

/// What a guest may reach outside. Never: the cloud's metadata service, and anything that is no plain unicast address.
#[derive(Clone, Debug, Default)]
pub struct OutsidePolicy {
    /// Ports that are refused whatever the address: the node's own.
    pub denied_ports: BTreeSet<u16>,
}

/// The metadata service of the large clouds, which hands out the machine's credentials.
const METADATA: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];

impl OutsidePolicy {
    /// Whether a guest may send to `to`.
    ///
    /// # Errors
    /// EACCES for refused ports and addresses, ENETUNREACH for what is no unicast address.
    pub fn check(&self, to: SocketAddr) -> Result<(), Errno> {
        let ip = to.ip().to_canonical();
        let link_local = matches!(ip, IpAddr::V4(ip) if ip.is_link_local());
        if METADATA.contains(&ip) || link_local || self.denied_ports.contains(&to.port()) {
            return Err(Errno::ACCESS);
        }
        let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
        if ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || broadcast {
            return Err(Errno::NETUNREACH);
        }
        Ok(())
    }
}

fn open(family: AddressFamily, socket_type: SocketType) -> Result<Arc<OwnedFd>, Errno> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    socket_with(family, socket_type, flags, None).map(Arc::new)
}

fn family_of(address: SocketAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}

fn ready(fd: &OwnedFd) -> Readiness {
    let mut fds = [PollFd::new(fd, PollFlags::all())];
    match poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
        Ok(_) => Readiness::from_bits_truncate(u32::from(fds[0].revents().bits())),
        Err(_) => Readiness::ERR,
    }
}

/// A TCP connection to the outside.
pub(super) struct OutsideStream {
    fd: Arc<OwnedFd>,
    _watch: Watch,
}

/// Bytes received in one call.
const PIECE: usize = 64 << 10;

impl OutsideStream {
    /// Starts connecting to `to`; `queue` is notified of all that happens. Gives the connection and its local address.
    ///
    /// # Errors
    /// The host's errno.
    pub fn connect(
        reactor: &Reactor,
        to: SocketAddr,
        options: &SocketOptions,
        queue: &Arc<WaitQueue>,
    ) -> Result<(Arc<dyn Transport>, SocketAddr), Errno> {
        let fd = open(family_of(to), SocketType::STREAM)?;
        let stream = Self { _watch: reactor.watch(&fd, queue)?, fd };
        for (level, name) in PASSED_ON {
            if let Ok(value) = options.integer(*level, *name) {
                stream.set_option(*level, *name, value);
            }
        }
        match connect(&*stream.fd, &to) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(errno) => return Err(errno),
        }
        let local = getsockname(&*stream.fd)?;
        let local = SocketAddr::try_from(local).unwrap_or(super::ports::wildcard(Family::Inet));
        Ok((Arc::new(stream), local))
    }
}

/// Options that mean something outside the guest.
const PASSED_ON: &[(i32, i32)] =
    &[(libc::IPPROTO_TCP, libc::TCP_NODELAY), (libc::SOL_SOCKET, libc::SO_KEEPALIVE)];

impl Transport for OutsideStream {
    fn send(&self, from: &mut Origin<'_>, _: &mut Outgoing) -> Result<usize, Errno> {
        if from.remaining() == 0 {
            return Ok(0);
        }
        // The worker ignores SIGPIPE, so a broken connection is EPIPE here as well.
        from.with_iovecs(|vector| host::writev(self.fd.as_fd(), vector))
    }

    fn receive(&self, into: &mut Destination<'_>, flags: ReceiveFlags) -> Result<Incoming, Errno> {
        if into.remaining() == 0 {
            return Ok(Incoming::default());
        }
        let count = if flags.peek {
            let mut buffer = vec![0; into.remaining().min(PIECE)];
            let (count, _) = recv(&*self.fd, &mut buffer[..], RecvFlags::PEEK)?;
            into.put(buffer.get(..count).unwrap_or_default())?
        } else {
            into.with_iovecs(|vector| host::readv(self.fd.as_fd(), vector))?
        };
        Ok(Incoming { count, message: count, ..Incoming::default() })
    }

    fn shutdown(&self, how: Shutdown) {
        let how = match how {
            Shutdown::Read => rustix::net::Shutdown::Read,
            Shutdown::Write => rustix::net::Shutdown::Write,
            Shutdown::Both => rustix::net::Shutdown::Both,
        };
        // A connection that is down already needs no more.
        let _ = rustix::net::shutdown(&*self.fd, how);
    }

    fn readiness(&self) -> Readiness {
        ready(&self.fd)
    }

    fn readable_bytes(&self) -> usize {
        rustix::io::ioctl_fionread(&*self.fd).map_or(0, |count| usize::try_from(count).unwrap_or(usize::MAX))
    }

    fn finish_connect(&self) -> Result<(), Errno> {
        if !ready(&self.fd).intersects(Readiness::OUT | Readiness::ERR | Readiness::HUP) {
            return Err(Errno::ALREADY);
        }
        self.take_error().map_or(Ok(()), Err)
    }

    fn save(&self, _: &mut Saver) -> Result<SavedTransport, SaveError> {
        Ok(SavedTransport::Reset)
    }

    fn set_option(&self, level: i32, name: i32, value: i32) {
        // An option that the host refuses stays remembered in the guest; it changes no byte.
        let _ = match (level, name) {
            (libc::IPPROTO_TCP, libc::TCP_NODELAY) => sockopt::set_tcp_nodelay(&*self.fd, value != 0),
            (libc::SOL_SOCKET, libc::SO_KEEPALIVE) => sockopt::set_socket_keepalive(&*self.fd, value != 0),
            _ => Ok(()),
        };
    }

    fn take_error(&self) -> Option<Errno> {
        match sockopt::socket_error(&*self.fd) {
            Ok(outcome) => outcome.err(),
            Err(errno) => Some(errno),
        }
    }
}

/// A UDP socket's way out.
pub(super) struct OutsideDatagrams {
    fd: Arc<OwnedFd>,
    _watch: Watch,
    policy: Arc<OutsidePolicy>,
    family: AddressFamily,
}

impl OutsideDatagrams {
    /// A host socket for datagrams of `family`.
    ///
    /// # Errors
    /// The host's errno.
    pub fn open(
        reactor: &Reactor,
        policy: &Arc<OutsidePolicy>,
        family: Family,
        queue: &Arc<WaitQueue>,
    ) -> Result<Arc<Self>, Errno> {
        let family = if family == Family::Inet6 { AddressFamily::INET6 } else { AddressFamily::INET };
        let fd = open(family, SocketType::DGRAM)?;
        Ok(Arc::new(Self { _watch: reactor.watch(&fd, queue)?, fd, policy: policy.clone(), family }))
    }

    /// Whether datagrams may go to `to`.
    ///
    /// # Errors
    /// As [`OutsidePolicy::check`].
    pub fn check(&self, to: SocketAddr) -> Result<(), Errno> {
        self.policy.check(to)
    }

    /// Sends one datagram.
    ///
    /// # Errors
    /// The host's errno, and as [`OutsidePolicy::check`].
    pub fn send(&self, to: SocketAddr, from: &mut Origin<'_>) -> Result<usize, Errno> {
        self.check(to)?;
        let to = if self.family == AddressFamily::INET6 { presented(to, Family::Inet6) } else { to };
        // A full buffer of the host loses the datagram, as any hop may.
        let bytes = from.take(from.remaining())?;
        match sendto(&*self.fd, &bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL, &to) {
            Err(Errno::AGAIN) => Ok(bytes.len()),
            outcome => outcome,
        }
    }

    /// Receives one datagram, from `peer` only if there is one.
    ///
    /// # Errors
    /// EAGAIN and the host's errno.
    pub fn receive(
        &self,
        into: &mut Destination<'_>,
        flags: ReceiveFlags,
        peer: Option<SocketAddr>,
        family: Family,
    ) -> Result<Incoming, Errno> {
        let mut buffer = vec![0; PIECE];
        let peek = if flags.peek { RecvFlags::PEEK } else { RecvFlags::empty() };
        loop {
            let (message, _, from) = recvfrom(&*self.fd, &mut buffer[..], peek | RecvFlags::DONTWAIT)?;
            let from = from.and_then(|from| SocketAddr::try_from(from).ok());
            let canonical =
                |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
            if peer.is_some() && from.map(canonical) != peer.map(canonical) {
                // Not for this socket. A peeked one is taken now, so that the loop goes on.
                if flags.peek {
                    recvfrom(&*self.fd, &mut buffer[..], RecvFlags::DONTWAIT)?;
                }
                continue;
            }
            let count = into.put(buffer.get(..message).unwrap_or_default())?;
            let from = from.map(|from| SocketAddress::Inet(presented(from, family)));
            return Ok(Incoming { count, message, from, ..Incoming::default() });
        }
    }

    /// Whether something can be received.
    pub fn has_message(&self) -> bool {
        ready(&self.fd).intersects(Readiness::IN | Readiness::ERR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metadata_service_the_nodes_ports_and_the_host_itself_are_out_of_reach() {
        let policy = OutsidePolicy { denied_ports: [9000].into() };
        let check = |text: &str| policy.check(text.parse().unwrap());
        assert_eq!(check("93.184.216.34:443"), Ok(()));
        assert_eq!(check("[2606:2800::1]:443"), Ok(()));
        assert_eq!(check("93.184.216.34:9000"), Err(Errno::ACCESS));
        assert_eq!(check("169.254.169.254:80"), Err(Errno::ACCESS));
        assert_eq!(check("[::ffff:169.254.169.254]:80"), Err(Errno::ACCESS));
        assert_eq!(check("[fd00:ec2::254]:80"), Err(Errno::ACCESS));
        assert_eq!(check("169.254.1.1:80"), Err(Errno::ACCESS));
        assert_eq!(check("127.0.0.1:80"), Err(Errno::NETUNREACH));
        assert_eq!(check("[::ffff:127.0.0.1]:80"), Err(Errno::NETUNREACH));
        assert_eq!(check("0.0.0.0:80"), Err(Errno::NETUNREACH));
        assert_eq!(check("255.255.255.255:80"), Err(Errno::NETUNREACH));
        assert_eq!(check("224.0.0.1:80"), Err(Errno::NETUNREACH));
    }
}
