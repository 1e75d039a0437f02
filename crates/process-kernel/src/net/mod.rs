//! The guest's network: loopback inside the guest, Unix sockets, and the way out when it is switched on.
//!
//! Everything inside the guest is an object of our own with bounded buffers, so it can be part of a snapshot and reaches
//! nothing of the host. The [`Network`] knows which socket has which address, and which loopback ports the worker serves
//! itself ([`LoopbackService`]).

mod address;
mod attached;
mod connection;
mod files;
mod mailbox;
mod names;
mod options;
mod outside;
#[cfg(test)]
mod outside_tests;
mod ports;
mod service;
mod socket;
mod tcp;
#[cfg(test)]
mod testing;
mod transport;
mod udp;
mod unix_datagram;
mod unix_stream;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use outbound::Client;
use parking_lot::{Mutex, RwLock};
use rustix::io::Errno;

pub use address::{Family, MAX_LENGTH as MAX_ADDRESS_LENGTH, SocketAddress, UnixAddress};
pub use options::SocketOptions;
pub use service::{ConnectionId, LoopbackService, ServiceHandle};
pub use socket::{Credentials, Incoming, Outgoing, ReceiveFlags, Shutdown, Socket, SocketType};
pub use tcp::TcpSocket;
pub use udp::UdpSocket;
pub use unix_datagram::UnixDatagram;
pub use unix_stream::UnixStream;

use crate::file::FileObject;
use crate::ipc::Ipc;
use crate::object::RestoreFn;
use crate::wait::WaitQueue;
use connection::Connection;
use mailbox::Mailbox;
use names::Names;
use outside::{OutsideDatagrams, OutsideStream};
use ports::Ports;
use service::ServiceConnection;
use transport::Transport;

/// The guest's network.
pub struct Network {
    /// Buffers, timers and inode numbers.
    pub(crate) ipc: Arc<Ipc>,
    tcp: Arc<Ports<TcpSocket>>,
    udp: Arc<Ports<UdpSocket>>,
    names: Arc<Names>,
    /// The way out; `None` while the network is switched off.
    outside: RwLock<Option<Arc<Client>>>,
    /// Sockets that wait for room in a listener's backlog.
    connecting: Mutex<Vec<Weak<TcpSocket>>>,
    services: RwLock<BTreeMap<u16, Arc<dyn LoopbackService>>>,
    service_connections: Mutex<HashMap<ConnectionId, Weak<ServiceConnection>>>,
    last_connection: AtomicU64,
}

impl Network {
    /// The network of a new process: loopback only.
    pub fn new(ipc: &Arc<Ipc>) -> Arc<Self> {
        Arc::new(Self {
            ipc: ipc.clone(),
            tcp: Ports::new(),
            udp: Ports::new(),
            names: Arc::default(),
            outside: RwLock::default(),
            connecting: Mutex::default(),
            services: RwLock::default(),
            service_connections: Mutex::default(),
            last_connection: AtomicU64::new(0),
        })
    }

    /// Lets `service` serve 127.0.0.1:`port`. In a restored process this must be done before the guest runs; its
    /// connections are there already. The guest can't bind the port to any purpose: connections go to the service.
    pub fn add_service(self: &Arc<Self>, port: u16, service: Arc<dyn LoopbackService>) {
        self.services.write().insert(port, service);
    }

    /// The services' way to their connections.
    pub fn service_handle(self: &Arc<Self>) -> ServiceHandle {
        ServiceHandle::new(self)
    }

    fn service(&self, port: u16) -> Option<Arc<dyn LoopbackService>> {
        self.services.read().get(&port).cloned()
    }

    /// Whether a service of the worker answers at `address`.
    fn serves(&self, address: SocketAddr) -> bool {
        address.ip() == IpAddr::V4(Ipv4Addr::LOCALHOST) && self.services.read().contains_key(&address.port())
    }

    fn new_connection_id(&self) -> ConnectionId {
        ConnectionId(self.last_connection.fetch_add(1, Ordering::Relaxed) + 1)
    }

    fn add_service_connection(&self, connection: &Arc<ServiceConnection>) {
        self.last_connection.fetch_max(connection.id.0, Ordering::Relaxed);
        self.service_connections.lock().insert(connection.id, Arc::downgrade(connection));
    }

    fn remove_service_connection(&self, id: ConnectionId) {
        self.service_connections.lock().remove(&id);
    }

    fn service_connection(&self, id: ConnectionId) -> Option<Arc<ServiceConnection>> {
        self.service_connections.lock().get(&id).and_then(Weak::upgrade)
    }

    /// Puts a socket on the list of those that [`Network::retry_connecting`] asks to try again.
    fn wait_for_listener(&self, socket: &Weak<TcpSocket>) {
        let mut connecting = self.connecting.lock();
        connecting.retain(|other| other.strong_count() > 0 && !other.ptr_eq(socket));
        connecting.push(socket.clone());
    }

    /// To be called, without locks, when a listener may have got room or is gone.
    fn retry_connecting(&self) {
        let waiting = std::mem::take(&mut *self.connecting.lock());
        for socket in waiting.iter().filter_map(Weak::upgrade) {
            socket.retry();
        }
    }

    /// Switches the network on: what the relay permits can be reached through it.
    pub fn allow_outside(&self, relay: Client) {
        *self.outside.write() = Some(Arc::new(relay));
    }

    fn outside(&self) -> Result<Arc<Client>, Errno> {
        self.outside.read().clone().ok_or(Errno::NETUNREACH)
    }

    /// Starts a connection to the outside.
    ///
    /// # Errors
    /// ENETUNREACH while the network is switched off, else as [`Client::stream`].
    fn connect_outside(
        &self,
        remote: SocketAddr,
        queue: &Arc<WaitQueue>,
    ) -> Result<(Arc<dyn Transport>, SocketAddr), Errno> {
        OutsideStream::connect(&self.ipc.reactor, &*self.outside()?, remote, queue)
    }

    /// The address from which datagrams go to `remote`.
    ///
    /// # Errors
    /// ENETUNREACH while the network is switched off, else as [`Client::route`].
    fn route_outside(&self, remote: SocketAddr) -> Result<IpAddr, Errno> {
        Ok(self.outside()?.route(remote)?.ip())
    }

    /// The way out for a UDP socket.
    ///
    /// # Errors
    /// ENETUNREACH while the network is switched off, else as [`Client::datagrams`].
    fn open_datagrams(&self, family: Family, queue: &Arc<WaitQueue>) -> Result<Arc<OutsideDatagrams>, Errno> {
        OutsideDatagrams::open(&self.ipc.reactor, &self.outside()?, family, queue)
    }
}

/// Makes an unconnected socket for a program with `credentials`.
///
/// # Errors
/// EPROTONOSUPPORT, ESOCKTNOSUPPORT.
pub fn create(
    network: &Arc<Network>,
    family: Family,
    socket_type: SocketType,
    protocol: i32,
    credentials: Credentials,
) -> Result<Arc<dyn FileObject>, Errno> {
    match (family, socket_type, protocol) {
        (Family::Inet | Family::Inet6, SocketType::Stream, 0 | libc::IPPROTO_TCP) => {
            Ok(TcpSocket::new(network, family))
        }
        (Family::Inet | Family::Inet6, SocketType::Datagram, 0 | libc::IPPROTO_UDP) => {
            Ok(UdpSocket::new(network, family))
        }
        (Family::Unix, SocketType::Datagram, 0 | libc::PF_UNIX) => {
            Ok(UnixDatagram::new(network, credentials))
        }
        (Family::Unix, _, 0 | libc::PF_UNIX) => Ok(UnixStream::new(network, socket_type, credentials)),
        (Family::Inet | Family::Inet6, SocketType::SequencedPacket, _) => Err(Errno::SOCKTNOSUPPORT),
        _ => Err(Errno::PROTONOSUPPORT),
    }
}

/// Makes two Unix sockets that are connected to each other.
///
/// # Errors
/// EPROTONOSUPPORT.
pub fn create_pair(
    network: &Arc<Network>,
    socket_type: SocketType,
    protocol: i32,
    credentials: Credentials,
) -> Result<[Arc<dyn FileObject>; 2], Errno> {
    match (socket_type, protocol) {
        (SocketType::Datagram, 0 | libc::PF_UNIX) => {
            Ok(UnixDatagram::pair(network, credentials).map(|socket| socket as Arc<dyn FileObject>))
        }
        (_, 0 | libc::PF_UNIX) => {
            let pair = UnixStream::pair(network, socket_type, credentials);
            Ok(pair.map(|socket| socket as Arc<dyn FileObject>))
        }
        _ => Err(Errno::PROTONOSUPPORT),
    }
}

/// How the object kinds of this module are restored.
pub fn registry() -> Vec<(&'static str, RestoreFn)> {
    vec![
        (Connection::KIND, Connection::restore as RestoreFn),
        (Mailbox::KIND, Mailbox::restore),
        (TcpSocket::KIND, TcpSocket::restore),
        (UdpSocket::KIND, UdpSocket::restore),
        (UnixDatagram::KIND, UnixDatagram::restore),
        (UnixStream::KIND, UnixStream::restore),
    ]
}
