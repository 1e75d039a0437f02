//! TCP sockets. Connections to the guest's own loopback addresses stay inside the guest (to another socket or to a service
//! of the worker); others go out through the host if the network is switched on.
//!
//! Locks: a socket's `state` is never held while another socket is asked for anything, nor while a service is called.
//! While a socket connects it is [`State::Opening`], which keeps others out.

mod state;

use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rustix::io::Errno;

use self::state::{Connected, Pending, State};
use super::Network;
use super::address::{Family, SocketAddress, presented};
use super::connection::{Carries, Connection};
use super::options::SocketOptions;
use super::ports::{self, Sharing};
use super::service::ServiceEnd;
use super::socket::{Credentials, Incoming, Outgoing, ReceiveFlags, Shutdown, Socket, SocketType};
use super::transport::Transport;
use crate::file::{Destination, FileObject, Origin, Readiness};
use crate::object::{Object, RestoreError, Restorer, SaveError, Saver};
use crate::wait::WaitQueue;

/// Connections that wait to be accepted at most (net.core.somaxconn).
const MAX_BACKLOG: usize = 4096;

/// A TCP socket. Snapshot rule: saved with its address, its waiting connections and the bytes on their way; a connection
/// to the outside comes back reset.
pub struct TcpSocket {
    options: SocketOptions,
    network: Arc<Network>,
    state: Mutex<State>,
    /// Why connecting failed, for SO_ERROR.
    error: Mutex<Option<Errno>>,
    queue: Arc<WaitQueue>,
    inode: u64,
    this: Weak<Self>,
}

/// What came of offering a connection to a socket.
enum Offer {
    /// It waits to be accepted; this is the connector's end.
    Taken(Arc<dyn Transport>),
    /// No room now.
    Full,
    /// It does not listen.
    Refused,
}

impl TcpSocket {
    /// Registry key.
    pub const KIND: &'static str = "tcp-socket";

    /// An unconnected socket.
    pub fn new(network: &Arc<Network>, family: Family) -> Arc<Self> {
        let options = SocketOptions::new(family, SocketType::Stream, libc::IPPROTO_TCP);
        Self::with(network, options, State::Idle(None), network.ipc.inode())
    }

    fn with(network: &Arc<Network>, options: SocketOptions, state: State, inode: u64) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            options,
            network: network.clone(),
            state: Mutex::new(state),
            error: Mutex::new(None),
            queue: Arc::default(),
            inode,
            this: this.clone(),
        })
    }

    fn sharing(&self) -> Sharing {
        Sharing {
            reuse_address: self.options.flag(libc::SOL_SOCKET, libc::SO_REUSEADDR),
            reuse_port: self.options.flag(libc::SOL_SOCKET, libc::SO_REUSEPORT),
            v6_only: self.options.flag(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY),
        }
    }

    fn presented(&self, address: SocketAddr) -> SocketAddress {
        SocketAddress::Inet(presented(address, self.options.family))
    }

    fn transport(&self) -> Option<Arc<dyn Transport>> {
        match &*self.state.lock() {
            State::Connected(connected) => Some(connected.transport.clone()),
            _ => None,
        }
    }

    /// Takes a connection from `peer` to `local` into the backlog, if this socket listens.
    fn offer(&self, local: SocketAddr, peer: SocketAddr, connector: &Self) -> Offer {
        let mut state = self.state.lock();
        let State::Listening { backlog, pending, .. } = &mut *state else { return Offer::Refused };
        // Linux lets one more wait than was asked for.
        if pending.len() > *backlog {
            return Offer::Full;
        }
        let capacities = [connector.options.receive_buffer(), self.options.receive_buffer()];
        let nobody = [Credentials::default(); 2];
        let (first, second) = Connection::pair(&self.network.ipc.account, Carries::Bytes, capacities, nobody);
        first.attach(&connector.queue);
        pending.push_back(Pending { end: second, local, peer });
        drop(state);
        self.queue.notify();
        Offer::Taken(Arc::new(first))
    }

    /// Connects to a socket of the guest. The state is Opening; it becomes Connected, Connecting or Idle.
    fn establish(&self, lease: state::TcpLease, remote: SocketAddr) -> Result<(), Errno> {
        let local = lease.address();
        let ip = if local.ip().is_unspecified() { ports::source_ip(remote.ip()) } else { local.ip() };
        let local = SocketAddr::new(ip, local.port());
        let mut outcome = Offer::Refused;
        for listener in self.network.tcp.at(remote) {
            if !std::ptr::eq(&*listener, self) {
                outcome = listener.offer(remote, local, self);
            }
            if !matches!(outcome, Offer::Refused) {
                break;
            }
        }
        let (next, result) = match outcome {
            Offer::Taken(transport) => {
                let lease = Some(lease);
                let connected = Connected { lease, local, remote, transport, reported: false };
                (State::Connected(connected), Ok(()))
            }
            Offer::Full => (State::Connecting { lease, remote }, Err(Errno::INPROGRESS)),
            Offer::Refused => (State::Idle(Some(lease)), Err(Errno::CONNREFUSED)),
        };
        *self.state.lock() = next;
        result
    }

    /// Tries again to connect after a listener may have got room.
    pub(super) fn retry(&self) {
        let (lease, remote) = {
            let mut state = self.state.lock();
            match std::mem::replace(&mut *state, State::Opening) {
                State::Connecting { lease, remote } => (lease, remote),
                other => {
                    *state = other;
                    return;
                }
            }
        };
        match self.establish(lease, remote) {
            Ok(()) => {}
            Err(Errno::INPROGRESS) => {
                self.network.wait_for_listener(&self.this);
                return;
            }
            Err(errno) => *self.error.lock() = Some(errno),
        }
        self.queue.notify();
    }

    fn connect_inside(&self, lease: state::TcpLease, remote: SocketAddr) -> Result<(), Errno> {
        if self.network.serves(remote) {
            let ip = ports::source_ip(remote.ip());
            let local = SocketAddr::new(ip, lease.address().port());
            let end = ServiceEnd::open(&self.network, remote.port(), &self.queue);
            end.announce();
            let connected = Connected { lease: Some(lease), local, remote, transport: end, reported: false };
            *self.state.lock() = State::Connected(connected);
            self.queue.notify();
            return Err(Errno::INPROGRESS);
        }
        match self.establish(lease, remote) {
            // Connected already; but in Linux, too, the first connect of a non-blocking socket never says so.
            Ok(()) => {
                self.queue.notify();
                Err(Errno::INPROGRESS)
            }
            Err(Errno::INPROGRESS) => {
                self.network.wait_for_listener(&self.this);
                // Room may have come before this socket was on the list.
                self.retry();
                Err(Errno::INPROGRESS)
            }
            Err(errno) => Err(errno),
        }
    }

    fn connect_outside(&self, lease: Option<state::TcpLease>, remote: SocketAddr) -> Result<(), Errno> {
        let outcome = self.network.connect_outside(remote, &self.queue);
        let mut state = self.state.lock();
        match outcome {
            Ok((transport, local)) => {
                *state = State::Connected(Connected { lease, local, remote, transport, reported: false });
                Err(Errno::INPROGRESS)
            }
            Err(errno) => {
                *state = State::Idle(lease);
                Err(errno)
            }
        }
    }

    fn mark_reported(&self) {
        if let State::Connected(connected) = &mut *self.state.lock() {
            connected.reported = true;
        }
    }

    /// What connect answers when it isn't the first one.
    fn connect_again(&self) -> Result<(), Errno> {
        if let Some(errno) = self.error.lock().take() {
            return Err(errno);
        }
        let transport = {
            let state = self.state.lock();
            match &*state {
                State::Connected(connected) if !connected.reported => connected.transport.clone(),
                State::Connecting { .. } | State::Opening => return Err(Errno::ALREADY),
                _ => return Err(Errno::ISCONN),
            }
        };
        match transport.finish_connect() {
            Ok(()) => {
                self.mark_reported();
                Ok(())
            }
            Err(Errno::ALREADY) => Err(Errno::ALREADY),
            Err(errno) => {
                let old = std::mem::replace(&mut *self.state.lock(), State::Idle(None));
                drop(old);
                Err(errno)
            }
        }
    }

    fn disconnect(&self) -> Result<(), Errno> {
        let mut state = self.state.lock();
        if matches!(*state, State::Opening) {
            return Err(Errno::ALREADY);
        }
        let old = std::mem::replace(&mut *state, State::Idle(None));
        drop(state);
        drop(old);
        Ok(())
    }

    /// See [`crate::object::RestoreFn`].
    ///
    /// # Errors
    /// [`RestoreError`] when the payload is damaged.
    pub fn restore(payload: &[u8], restorer: &mut Restorer<'_>) -> Result<Arc<dyn Object>, RestoreError> {
        let (options, saved, error, inode): (SocketOptions, state::SavedState, Option<i32>, u64) =
            Restorer::decode(Self::KIND, payload)?;
        let network = restorer.context.network.clone();
        network.ipc.reserve_inode(inode);
        let socket = Self::with(&network, options, State::Idle(None), inode);
        *socket.error.lock() = error.map(Errno::from_raw_os_error);
        let state = saved.restore(&socket, restorer)?;
        let connecting = matches!(state, State::Connecting { .. });
        *socket.state.lock() = state;
        if connecting {
            network.wait_for_listener(&socket.this);
        }
        Ok(socket)
    }
}

impl Drop for TcpSocket {
    fn drop(&mut self) {
        let state = std::mem::replace(self.state.get_mut(), State::Idle(None));
        let listened = matches!(state, State::Listening { .. });
        // SO_LINGER with no seconds: the connection is reset (tcp(7)). With some, close would wait for data that the network
        // still holds; inside a guest it holds none.
        if let State::Connected(connected) = &state
            && self.options.linger() == (1, 0)
        {
            connected.transport.abort();
        }
        drop(state);
        if listened {
            // Who still waits for this listener is refused.
            self.network.retry_connecting();
        }
    }
}

impl Object for TcpSocket {
    fn kind(&self) -> &'static str {
        Self::KIND
    }

    fn save(&self, saver: &mut Saver) -> Result<Vec<u8>, SaveError> {
        let state = self.state.lock().save(saver)?;
        let error = self.error.lock().map(Errno::raw_os_error);
        saver.encode(Self::KIND, &(&self.options, state, error, self.inode))
    }

    fn as_file(self: Arc<Self>) -> Option<Arc<dyn FileObject>> {
        Some(self)
    }
}

impl Socket for TcpSocket {
    fn options(&self) -> &SocketOptions {
        &self.options
    }

    fn inode_number(&self) -> u64 {
        self.inode
    }

    fn queue(&self) -> &WaitQueue {
        &self.queue
    }

    fn ready(&self) -> Readiness {
        let ready = match &*self.state.lock() {
            State::Idle(_) => Ok(Readiness::OUT | Readiness::WRNORM | Readiness::HUP),
            State::Listening { pending, .. } if pending.is_empty() => Ok(Readiness::empty()),
            State::Listening { .. } => Ok(Readiness::IN | Readiness::RDNORM),
            State::Connecting { .. } | State::Opening => Ok(Readiness::empty()),
            State::Connected(connected) => Err(connected.transport.clone()),
        };
        let ready = ready.unwrap_or_else(|transport| transport.readiness());
        if self.error.lock().is_some() { ready | Readiness::ERR | Readiness::IN } else { ready }
    }

    fn bind(&self, address: &SocketAddress) -> Result<(), Errno> {
        let address = address.inet().ok_or(Errno::AFNOSUPPORT)?;
        let address = ports::bindable(address, self.options.family)?;
        let mut state = self.state.lock();
        let State::Idle(lease @ None) = &mut *state else { return Err(Errno::INVAL) };
        *lease = Some(self.network.tcp.bind(address, self.sharing(), &self.this)?);
        Ok(())
    }

    fn listen(&self, backlog: usize) -> Result<(), Errno> {
        let backlog_limit = backlog.min(MAX_BACKLOG);
        let mut state = self.state.lock();
        match &mut *state {
            State::Listening { backlog, .. } => {
                *backlog = backlog_limit;
                drop(state);
                self.network.retry_connecting();
                Ok(())
            }
            State::Idle(lease) => {
                let lease = match lease.take() {
                    Some(lease) => lease,
                    None => {
                        let any = ports::wildcard(self.options.family);
                        self.network.tcp.bind(any, self.sharing(), &self.this)?
                    }
                };
                if let Err(errno) = lease.listen() {
                    *state = State::Idle(Some(lease));
                    return Err(errno);
                }
                *state = State::Listening { lease, backlog: backlog_limit, pending: Default::default() };
                Ok(())
            }
            _ => Err(Errno::INVAL),
        }
    }

    fn accept(&self) -> Result<(Arc<dyn FileObject>, SocketAddress), Errno> {
        let Pending { end, local, peer } = {
            let mut state = self.state.lock();
            let State::Listening { pending, .. } = &mut *state else { return Err(Errno::INVAL) };
            pending.pop_front().ok_or(Errno::AGAIN)?
        };
        let inode = self.network.ipc.inode();
        let socket = Self::with(&self.network, self.options.inherited(), State::Opening, inode);
        end.attach(&socket.queue);
        let transport = Arc::new(end);
        let connected = Connected { lease: None, local, remote: peer, transport, reported: true };
        *socket.state.lock() = State::Connected(connected);
        self.network.retry_connecting();
        Ok((socket, self.presented(peer)))
    }

    fn connect(&self, address: &SocketAddress) -> Result<(), Errno> {
        let remote = match address {
            SocketAddress::Unspecified => return self.disconnect(),
            SocketAddress::Inet(remote) => *remote,
            SocketAddress::Unix(_) => return Err(Errno::AFNOSUPPORT),
        };
        if remote.is_ipv6() != (self.options.family == Family::Inet6) {
            return Err(Errno::AFNOSUPPORT);
        }
        let remote = ports::destination(remote);
        let mut state = self.state.lock();
        if !matches!(*state, State::Idle(_)) {
            drop(state);
            return self.connect_again();
        }
        if remote.is_ipv4() && self.options.family == Family::Inet6 && self.sharing().v6_only {
            return Err(Errno::NETUNREACH);
        }
        let State::Idle(lease) = std::mem::replace(&mut *state, State::Opening) else {
            return Err(Errno::INVAL);
        };
        drop(state);
        *self.error.lock() = None;
        if !remote.ip().is_loopback() {
            return self.connect_outside(lease, remote);
        }
        let bound = match lease {
            Some(lease) => Ok(lease),
            None => {
                let any = SocketAddr::new(ports::source_ip(remote.ip()), 0);
                self.network.tcp.bind(any, self.sharing(), &self.this)
            }
        };
        match bound {
            Ok(lease) => self.connect_inside(lease, remote),
            Err(errno) => {
                *self.state.lock() = State::Idle(None);
                Err(errno)
            }
        }
    }

    fn send(&self, from: &mut Origin<'_>, outgoing: &mut Outgoing) -> Result<usize, Errno> {
        let transport = match &*self.state.lock() {
            State::Connected(connected) => connected.transport.clone(),
            State::Connecting { .. } | State::Opening => return Err(Errno::AGAIN),
            State::Idle(_) | State::Listening { .. } => {
                return Err(self.error.lock().take().unwrap_or(Errno::PIPE));
            }
        };
        transport.send(from, outgoing)
    }

    fn receive(&self, into: &mut Destination<'_>, flags: ReceiveFlags) -> Result<Incoming, Errno> {
        let transport = match &*self.state.lock() {
            State::Connected(connected) => connected.transport.clone(),
            State::Connecting { .. } | State::Opening => return Err(Errno::AGAIN),
            State::Idle(_) | State::Listening { .. } => {
                return Err(self.error.lock().take().unwrap_or(Errno::NOTCONN));
            }
        };
        transport.receive(into, flags)
    }

    fn shutdown(&self, how: Shutdown) -> Result<(), Errno> {
        if let Some(transport) = self.transport() {
            let over = transport.is_over();
            transport.shutdown(how);
            return if over { Err(Errno::NOTCONN) } else { Ok(()) };
        }
        let mut state = self.state.lock();
        if !matches!(*state, State::Listening { .. }) {
            return Err(Errno::NOTCONN);
        }
        if how.reads() {
            // The socket stops listening; whoever waits in accept gets EINVAL.
            let old = std::mem::replace(&mut *state, State::Idle(None));
            drop(state);
            drop(old);
            self.network.retry_connecting();
            self.queue.notify();
        }
        Ok(())
    }

    fn local_address(&self) -> Result<SocketAddress, Errno> {
        let address = match &*self.state.lock() {
            State::Connected(connected) => Some(connected.local),
            State::Idle(lease) => lease.as_ref().map(state::TcpLease::address),
            State::Listening { lease, .. } | State::Connecting { lease, .. } => Some(lease.address()),
            State::Opening => None,
        };
        Ok(self.presented(address.unwrap_or(ports::wildcard(self.options.family))))
    }

    fn peer_address(&self) -> Result<SocketAddress, Errno> {
        match &*self.state.lock() {
            State::Connected(connected) if !connected.transport.is_over() => {
                Ok(self.presented(connected.remote))
            }
            _ => Err(Errno::NOTCONN),
        }
    }

    fn take_error(&self) -> Option<Errno> {
        let own = self.error.lock().take();
        own.or_else(|| self.transport()?.take_error())
    }

    fn listening(&self) -> bool {
        matches!(*self.state.lock(), State::Listening { .. })
    }

    fn readable_bytes(&self) -> usize {
        self.transport().map_or(0, |transport| transport.readable_bytes())
    }
}

#[cfg(test)]
mod tests;
