//! The guest's network: loopback inside the guest, Unix sockets, and the way out when it is switched on.
//!
//! Everything inside the guest is an object of our own with bounded buffers, so it can be part of a snapshot and reaches
//! nothing of the host. The [`Network`] knows which socket has which address, and which loopback ports the worker serves
//! itself ([`LoopbackService`]).

mod address;
mod attached;
mod connection;
mod files;
mod options;
mod ports;
mod service;
mod socket;
mod tcp;
#[cfg(test)]
mod testing;
mod transport;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};
use rustix::io::Errno;

pub use address::{Family, MAX_LENGTH as MAX_ADDRESS_LENGTH, SocketAddress, UnixAddress};
pub use options::SocketOptions;
pub use service::{ConnectionId, LoopbackService, ServiceHandle};
pub use socket::{Credentials, Incoming, Outgoing, ReceiveFlags, Shutdown, Socket, SocketType};
pub use tcp::TcpSocket;

use crate::file::FileObject;
use crate::ipc::Ipc;
use crate::object::RestoreFn;
use crate::wait::WaitQueue;
use connection::Connection;
use ports::Ports;
use service::ServiceConnection;
use transport::Transport;

/// The guest's network.
pub struct Network {
    /// Buffers, timers and inode numbers.
    pub(crate) ipc: Arc<Ipc>,
    tcp: Arc<Ports<TcpSocket>>,
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

    /// Starts a connection to the outside.
    ///
    /// # Errors
    /// ENETUNREACH while the network is switched off.
    fn connect_outside(
        &self,
        _remote: SocketAddr,
        _options: &SocketOptions,
        _queue: &Arc<WaitQueue>,
    ) -> Result<(Arc<dyn Transport>, SocketAddr), Errno> {
        Err(Errno::NETUNREACH)
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
    _credentials: Credentials,
) -> Result<Arc<dyn FileObject>, Errno> {
    match (family, socket_type, protocol) {
        (Family::Inet | Family::Inet6, SocketType::Stream, 0 | libc::IPPROTO_TCP) => {
            Ok(TcpSocket::new(network, family))
        }
        (Family::Inet | Family::Inet6, SocketType::SequencedPacket, _) => Err(Errno::SOCKTNOSUPPORT),
        _ => Err(Errno::PROTONOSUPPORT),
    }
}

/// Makes two Unix sockets that are connected to each other.
///
/// # Errors
/// EPROTONOSUPPORT.
pub fn create_pair(
    _network: &Arc<Network>,
    _socket_type: SocketType,
    _protocol: i32,
    _credentials: Credentials,
) -> Result<[Arc<dyn FileObject>; 2], Errno> {
    Err(Errno::PROTONOSUPPORT)
}

/// How the object kinds of this module are restored.
pub fn registry() -> Vec<(&'static str, RestoreFn)> {
    vec![(Connection::KIND, Connection::restore as RestoreFn), (TcpSocket::KIND, TcpSocket::restore)]
}
