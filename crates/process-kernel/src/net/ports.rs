//! Which sockets have which local ports.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rustix::io::Errno;

use super::address::Family;

/// Ports that bind(0) and connect choose from (net.ipv4.ip_local_port_range).
const EPHEMERAL: std::ops::RangeInclusive<u16> = 32_768..=60_999;

/// How a socket wants to share its address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Sharing {
    /// SO_REUSEADDR: not in the way of others that have it, too, unless one of them listens.
    pub reuse_address: bool,
    /// SO_REUSEPORT: not in the way of others that have it, too.
    pub reuse_port: bool,
    /// IPV6_V6ONLY: `::` does not mean IPv4 as well.
    pub v6_only: bool,
}

struct Registration<T> {
    serial: u64,
    address: IpAddr,
    sharing: Sharing,
    listening: bool,
    socket: Weak<T>,
}

impl<T> Registration<T> {
    /// Whether it receives what is sent to `address`; the more exact, the higher.
    fn matches(&self, address: IpAddr) -> Option<u8> {
        match self.address {
            own if own == address => Some(3),
            IpAddr::V4(own) if own.is_unspecified() && address.is_ipv4() => Some(2),
            IpAddr::V6(own) if own.is_unspecified() && address.is_ipv6() => Some(2),
            IpAddr::V6(own) if own.is_unspecified() && !self.sharing.v6_only => Some(1),
            _ => None,
        }
    }

    fn overlaps(&self, address: IpAddr, sharing: Sharing) -> bool {
        let other = Self { serial: 0, address, sharing, listening: false, socket: Weak::new() };
        // One of the two is a wildcard that covers the other, or they are the same.
        let covers = |wide: &Self, narrow: &Self| {
            wide.matches(narrow.address).is_some()
                || (narrow.address.is_unspecified() && narrow.address.is_ipv4() && wide.dual())
        };
        covers(self, &other) || covers(&other, self)
    }

    fn dual(&self) -> bool {
        self.address.is_ipv6() && self.address.is_unspecified() && !self.sharing.v6_only
    }
}

struct Table<T> {
    by_port: BTreeMap<u16, Vec<Registration<T>>>,
    serial: u64,
    next_ephemeral: u16,
}

/// The ports of one protocol.
pub(super) struct Ports<T> {
    table: Mutex<Table<T>>,
}

/// A port that a socket has; given up when dropped.
pub(super) struct Lease<T> {
    ports: Arc<Ports<T>>,
    address: SocketAddr,
    serial: u64,
}

impl<T> Ports<T> {
    pub fn new() -> Arc<Self> {
        let table = Table { by_port: BTreeMap::new(), serial: 0, next_ephemeral: *EPHEMERAL.start() };
        Arc::new(Self { table: Mutex::new(table) })
    }

    /// Gives `socket` the address, or a free port of it for port 0. The address must be canonical.
    ///
    /// # Errors
    /// EADDRINUSE; EADDRNOTAVAIL when no port is free.
    pub fn bind(
        self: &Arc<Self>,
        address: SocketAddr,
        sharing: Sharing,
        socket: &Weak<T>,
    ) -> Result<Lease<T>, Errno> {
        let mut table = self.table.lock();
        let free = |table: &Table<T>, port: u16| {
            let there = table.by_port.get(&port).map_or(&[][..], Vec::as_slice);
            there.iter().all(|other| {
                let shared = (other.sharing.reuse_port && sharing.reuse_port)
                    || (other.sharing.reuse_address && sharing.reuse_address && !other.listening);
                shared || !other.overlaps(address.ip(), sharing)
            })
        };
        let port = if address.port() != 0 {
            Some(address.port()).filter(|port| free(&table, *port)).ok_or(Errno::ADDRINUSE)?
        } else {
            let start = table.next_ephemeral;
            // Ports that nobody has at all: sharing is for those who ask for a port by number.
            let found = (start..=*EPHEMERAL.end())
                .chain(*EPHEMERAL.start()..start)
                .find(|port| table.by_port.get(port).is_none_or(Vec::is_empty));
            found.ok_or(Errno::ADDRNOTAVAIL)?
        };
        if address.port() == 0 {
            table.next_ephemeral = if port == *EPHEMERAL.end() { *EPHEMERAL.start() } else { port + 1 };
        }
        Ok(self.register(&mut table, SocketAddr::new(address.ip(), port), sharing, socket))
    }

    /// Gives `socket` the address that it had when it was saved.
    pub fn rebind(self: &Arc<Self>, address: SocketAddr, sharing: Sharing, socket: &Weak<T>) -> Lease<T> {
        let mut table = self.table.lock();
        self.register(&mut table, address, sharing, socket)
    }

    fn register(
        self: &Arc<Self>,
        table: &mut Table<T>,
        address: SocketAddr,
        sharing: Sharing,
        socket: &Weak<T>,
    ) -> Lease<T> {
        table.serial += 1;
        let serial = table.serial;
        table.by_port.entry(address.port()).or_default().push(Registration {
            serial,
            address: address.ip(),
            sharing,
            listening: false,
            socket: socket.clone(),
        });
        Lease { ports: self.clone(), address, serial }
    }

    /// The sockets that what is sent to `address` reaches, the most exactly bound first. The caller takes the first that
    /// fits it.
    pub fn at(&self, address: SocketAddr) -> Vec<Arc<T>> {
        let table = self.table.lock();
        let there = table.by_port.get(&address.port()).map_or(&[][..], Vec::as_slice);
        let mut matching: Vec<_> = there
            .iter()
            .filter_map(|one| Some((one.matches(address.ip())?, one.socket.upgrade()?)))
            .collect();
        matching.sort_by_key(|(exactness, _)| std::cmp::Reverse(*exactness));
        matching.into_iter().map(|(_, socket)| socket).collect()
    }
}

impl<T> Lease<T> {
    /// The address, canonical.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Notes that the socket listens: its address can't be shared by SO_REUSEADDR any more.
    ///
    /// # Errors
    /// EADDRINUSE when another socket listens on an overlapping address without both sharing the port.
    pub fn listen(&self) -> Result<(), Errno> {
        let mut table = self.ports.table.lock();
        let there = table.by_port.get_mut(&self.address.port()).ok_or(Errno::INVAL)?;
        let own = there.iter().find(|one| one.serial == self.serial).ok_or(Errno::INVAL)?;
        let sharing = own.sharing;
        let taken = there.iter().any(|other| {
            other.serial != self.serial
                && other.listening
                && !(other.sharing.reuse_port && sharing.reuse_port)
                && other.overlaps(self.address.ip(), sharing)
        });
        if taken {
            return Err(Errno::ADDRINUSE);
        }
        there.iter_mut().filter(|one| one.serial == self.serial).for_each(|own| own.listening = true);
        Ok(())
    }
}

impl<T> Drop for Lease<T> {
    fn drop(&mut self) {
        let mut table = self.ports.table.lock();
        if let Some(there) = table.by_port.get_mut(&self.address.port()) {
            there.retain(|one| one.serial != self.serial);
            if there.is_empty() {
                table.by_port.remove(&self.address.port());
            }
        }
    }
}

/// The canonical form of an address that a socket of `family` wants to bind to, if the guest has it: loopback addresses
/// and the wildcard.
///
/// # Errors
/// EAFNOSUPPORT for the other family, EADDRNOTAVAIL for addresses that the guest doesn't have.
pub(super) fn bindable(address: SocketAddr, family: Family) -> Result<SocketAddr, Errno> {
    let fits = match family {
        Family::Inet => address.is_ipv4(),
        Family::Inet6 => address.is_ipv6(),
        Family::Unix => false,
    };
    if !fits {
        return Err(Errno::AFNOSUPPORT);
    }
    let ip = address.ip().to_canonical();
    if ip.is_loopback() || ip.is_unspecified() {
        Ok(SocketAddr::new(ip, address.port()))
    } else {
        Err(Errno::ADDRNOTAVAIL)
    }
}

/// The address that `to` really means: the wildcard stands for the loopback address.
pub(super) fn destination(to: SocketAddr) -> SocketAddr {
    let ip = match to.ip().to_canonical() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, to.port())
}

/// The wildcard address of a socket's family.
pub(super) fn wildcard(family: Family) -> SocketAddr {
    match family {
        Family::Inet6 => SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0),
        _ => SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
    }
}

/// The loopback address that a packet to `to` comes from.
pub(super) fn source_ip(to: IpAddr) -> IpAddr {
    match to {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    const PLAIN: Sharing = Sharing { reuse_address: false, reuse_port: false, v6_only: false };

    #[test]
    fn addresses_conflict_as_in_linux() {
        let reuse = Sharing { reuse_address: true, ..PLAIN };
        let port = Sharing { reuse_port: true, ..PLAIN };
        let only = Sharing { v6_only: true, ..PLAIN };
        let cases = [
            ("127.0.0.1:5", PLAIN, "127.0.0.1:5", PLAIN, true),
            ("127.0.0.1:5", PLAIN, "127.0.0.2:5", PLAIN, false),
            ("0.0.0.0:5", PLAIN, "127.0.0.2:5", PLAIN, true),
            ("127.0.0.2:5", PLAIN, "0.0.0.0:5", PLAIN, true),
            ("0.0.0.0:5", PLAIN, "[::1]:5", PLAIN, false),
            ("[::]:5", PLAIN, "127.0.0.1:5", PLAIN, true),
            ("[::]:5", PLAIN, "0.0.0.0:5", PLAIN, true),
            ("0.0.0.0:5", PLAIN, "[::]:5", PLAIN, true),
            ("[::]:5", only, "0.0.0.0:5", PLAIN, false),
            ("[::]:5", only, "[::1]:5", PLAIN, true),
            ("127.0.0.1:5", reuse, "127.0.0.1:5", reuse, false),
            ("127.0.0.1:5", reuse, "127.0.0.1:5", PLAIN, true),
            ("127.0.0.1:5", port, "127.0.0.1:5", port, false),
        ];
        for (first, first_sharing, second, second_sharing, conflict) in cases {
            let (ports, socket) = (Ports::new(), Arc::new(()));
            let weak = Arc::downgrade(&socket);
            let _lease = ports.bind(at(first), first_sharing, &weak).unwrap();
            let outcome = ports.bind(at(second), second_sharing, &weak).map(|lease| lease.address());
            assert_eq!(outcome.is_err(), conflict, "{first} then {second}: {outcome:?}");
        }
    }

    #[test]
    fn two_sockets_may_share_an_address_but_not_both_listen() {
        let (ports, socket) = (Ports::new(), Arc::new(()));
        let weak = Arc::downgrade(&socket);
        let reuse = Sharing { reuse_address: true, ..PLAIN };
        let first = ports.bind(at("127.0.0.1:5"), reuse, &weak).unwrap();
        let second = ports.bind(at("127.0.0.1:5"), reuse, &weak).unwrap();
        first.listen().unwrap();
        assert_eq!(second.listen(), Err(Errno::ADDRINUSE));
        assert!(ports.bind(at("127.0.0.1:5"), reuse, &weak).is_err());
        drop(first);
        second.listen().unwrap();
    }

    #[test]
    fn the_most_exact_socket_comes_first() {
        let ports = Ports::new();
        let sockets: Vec<_> = (0..3).map(Arc::new).collect();
        let share = Sharing { reuse_port: true, ..PLAIN };
        let _leases: Vec<_> = ["[::]:5", "0.0.0.0:5", "127.0.0.1:5"]
            .iter()
            .zip(&sockets)
            .map(|(address, socket)| ports.bind(at(address), share, &Arc::downgrade(socket)).unwrap())
            .collect();
        let found = |address| ports.at(at(address)).iter().map(|socket| **socket).collect::<Vec<i32>>();
        assert_eq!(found("127.0.0.1:5"), [2, 1, 0]);
        assert_eq!(found("127.0.0.9:5"), [1, 0]);
        assert_eq!(found("[::1]:5"), [0]);
        assert_eq!(found("[::1]:6"), []);
    }

    #[test]
    fn ephemeral_ports_run_out_and_come_back() {
        let (ports, socket) = (Ports::new(), Arc::new(()));
        let weak = Arc::downgrade(&socket);
        let bind = || ports.bind(at("127.0.0.1:0"), PLAIN, &weak);
        let mut leases: Vec<_> = EPHEMERAL.map(|_| bind().unwrap()).collect();
        assert_eq!(bind().map(|lease| lease.address()).err(), Some(Errno::ADDRNOTAVAIL));
        let freed = leases.swap_remove(100).address();
        assert_eq!(bind().unwrap().address(), freed);
    }

    #[test]
    fn only_the_guests_own_addresses_can_be_bound() {
        assert_eq!(bindable(at("127.3.2.1:9"), Family::Inet), Ok(at("127.3.2.1:9")));
        assert_eq!(bindable(at("[::ffff:127.0.0.1]:9"), Family::Inet6), Ok(at("127.0.0.1:9")));
        assert_eq!(bindable(at("10.0.0.1:9"), Family::Inet), Err(Errno::ADDRNOTAVAIL));
        assert_eq!(bindable(at("[::1]:9"), Family::Inet), Err(Errno::AFNOSUPPORT));
    }
}
