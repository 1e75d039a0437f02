//! Unix sockets with connections: SOCK_STREAM and SOCK_SEQPACKET.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::Network;
use super::address::{Family, SocketAddress, UnixAddress};
use super::connection::{Carries, Connection, Endpoint, Side};
use super::names::{Bound, NameLease};
use super::options::SocketOptions;
use super::socket::{Credentials, Incoming, Outgoing, ReceiveFlags, Shutdown, Socket, SocketType};
use super::transport::Transport;
use crate::file::{Destination, FileObject, Origin, Readiness};
use crate::object::{Object, ObjectId, RestoreError, Restorer, SaveError, Saver};
use crate::wait::WaitQueue;

/// Connections that wait to be accepted at most (net.core.somaxconn).
const MAX_BACKLOG: usize = 4096;

enum State {
    Idle(Option<NameLease>),
    Listening {
        name: NameLease,
        backlog: usize,
        pending: VecDeque<(Endpoint, UnixAddress)>,
        /// Where connectors wait that found no room.
        starved: Vec<Weak<WaitQueue>>,
    },
    Connected {
        /// A name of its own; accepted sockets only share their listener's.
        name: Option<NameLease>,
        local: UnixAddress,
        peer: UnixAddress,
        end: Arc<Endpoint>,
    },
}

/// A Unix socket with connections. Snapshot rule: saved with its name, its waiting connections, and the bytes and files on
/// their way.
pub struct UnixStream {
    options: SocketOptions,
    network: Arc<Network>,
    state: Mutex<State>,
    queue: Arc<WaitQueue>,
    credentials: Credentials,
    inode: u64,
    this: Weak<Self>,
}

#[derive(Serialize, Deserialize)]
enum SavedState {
    Idle(Option<UnixAddress>),
    Listening { name: UnixAddress, backlog: usize, pending: Vec<((ObjectId, Side), UnixAddress)> },
    Connected { name: Option<UnixAddress>, local: UnixAddress, peer: UnixAddress, end: (ObjectId, Side) },
}

impl UnixStream {
    /// Registry key.
    pub const KIND: &'static str = "unix-stream";

    /// An unconnected socket of a program with `credentials`.
    pub fn new(network: &Arc<Network>, socket_type: SocketType, credentials: Credentials) -> Arc<Self> {
        let options = SocketOptions::new(Family::Unix, socket_type, 0);
        Self::with(network, options, credentials, State::Idle(None), network.ipc.inode())
    }

    /// Two sockets that are connected to each other.
    pub fn pair(network: &Arc<Network>, socket_type: SocketType, credentials: Credentials) -> [Arc<Self>; 2] {
        let sockets = [(); 2].map(|()| Self::new(network, socket_type, credentials));
        let ends = sockets[0].connection_to(&sockets[1]);
        for (socket, end) in sockets.iter().zip(<[Endpoint; 2]>::from(ends)) {
            socket.become_connected(None, UnixAddress::Unnamed, UnixAddress::Unnamed, end);
        }
        sockets
    }

    fn with(
        network: &Arc<Network>,
        options: SocketOptions,
        credentials: Credentials,
        state: State,
        inode: u64,
    ) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            options,
            network: network.clone(),
            state: Mutex::new(state),
            queue: Arc::default(),
            credentials,
            inode,
            this: this.clone(),
        })
    }

    fn connection_to(&self, other: &Self) -> (Endpoint, Endpoint) {
        let carries = match self.options.socket_type {
            SocketType::SequencedPacket => Carries::Packets,
            _ => Carries::BytesAndFiles,
        };
        // Linux bounds what is under way by the sender's buffer.
        let capacities = [other.options.send_buffer(), self.options.send_buffer()];
        Connection::pair(
            &self.network.ipc.account,
            carries,
            capacities,
            [self.credentials, other.credentials],
        )
    }

    fn become_connected(
        &self,
        name: Option<NameLease>,
        local: UnixAddress,
        peer: UnixAddress,
        end: Endpoint,
    ) {
        end.attach(&self.queue);
        *self.state.lock() = State::Connected { name, local, peer, end: Arc::new(end) };
    }

    fn bound(&self) -> Bound {
        Bound::Stream(self.this.clone())
    }

    /// Takes a connection from `connector`, called `peer`, into the backlog. Gives the connector's end and the name of
    /// this socket.
    fn offer(&self, connector: &Self, peer: UnixAddress) -> Result<(Endpoint, UnixAddress), Errno> {
        if connector.options.socket_type != self.options.socket_type {
            return Err(Errno::PROTOTYPE);
        }
        let mut state = self.state.lock();
        let State::Listening { name, backlog, pending, starved } = &mut *state else {
            return Err(Errno::CONNREFUSED);
        };
        if pending.len() > *backlog {
            let waiting = Arc::downgrade(&connector.queue);
            starved.retain(|other| other.strong_count() > 0 && !other.ptr_eq(&waiting));
            starved.push(waiting);
            return Err(Errno::AGAIN);
        }
        let (first, second) = connector.connection_to(self);
        pending.push_back((second, peer));
        let own = name.address().clone();
        drop(state);
        self.queue.notify();
        Ok((first, own))
    }

    fn end(&self) -> Option<Arc<Endpoint>> {
        match &*self.state.lock() {
            State::Connected { end, .. } => Some(end.clone()),
            _ => None,
        }
    }

    /// See [`crate::object::RestoreFn`].
    ///
    /// # Errors
    /// [`RestoreError`] when the payload is damaged.
    pub fn restore(payload: &[u8], restorer: &mut Restorer<'_>) -> Result<Arc<dyn Object>, RestoreError> {
        let (options, state, credentials, inode): (SocketOptions, SavedState, Credentials, u64) =
            Restorer::decode(Self::KIND, payload)?;
        let network = restorer.context.network.clone();
        network.ipc.reserve_inode(inode);
        let socket = Self::with(&network, options, credentials, State::Idle(None), inode);
        // A name that is taken can only come from a damaged snapshot.
        let bind = |name| {
            let bound = network.names.bind(name, socket.bound());
            bound.map_err(|errno| RestoreError::Host { what: "a Unix socket's name", source: errno.into() })
        };
        let state = match state {
            SavedState::Idle(name) => State::Idle(name.map(bind).transpose()?),
            SavedState::Listening { name, backlog, pending } => {
                let mut restored = VecDeque::new();
                for ((connection, side), peer) in pending {
                    restored
                        .push_back((Endpoint::restore(connection, side, restorer, &Arc::default())?, peer));
                }
                State::Listening { name: bind(name)?, backlog, pending: restored, starved: Vec::new() }
            }
            SavedState::Connected { name, local, peer, end: (connection, side) } => {
                let end = Arc::new(Endpoint::restore(connection, side, restorer, &socket.queue)?);
                State::Connected { name: name.map(bind).transpose()?, local, peer, end }
            }
        };
        *socket.state.lock() = state;
        Ok(socket)
    }
}

impl Drop for UnixStream {
    fn drop(&mut self) {
        if let State::Listening { starved, .. } = self.state.get_mut() {
            let starved = std::mem::take(starved);
            *self.state.get_mut() = State::Idle(None);
            // Who waits for this listener is refused with the next attempt.
            starved.iter().filter_map(Weak::upgrade).for_each(|queue| queue.notify());
        }
    }
}

impl Object for UnixStream {
    fn kind(&self) -> &'static str {
        Self::KIND
    }

    fn save(&self, saver: &mut Saver) -> Result<Vec<u8>, SaveError> {
        let address = |name: &NameLease| name.address().clone();
        let state = match &*self.state.lock() {
            State::Idle(name) => SavedState::Idle(name.as_ref().map(address)),
            State::Listening { name, backlog, pending, .. } => {
                let mut saved = Vec::new();
                for (end, peer) in pending {
                    saved.push((end.save_end(saver)?, peer.clone()));
                }
                SavedState::Listening { name: address(name), backlog: *backlog, pending: saved }
            }
            State::Connected { name, local, peer, end } => SavedState::Connected {
                name: name.as_ref().map(address),
                local: local.clone(),
                peer: peer.clone(),
                end: end.save_end(saver)?,
            },
        };
        saver.encode(Self::KIND, &(&self.options, state, self.credentials, self.inode))
    }

    fn as_file(self: Arc<Self>) -> Option<Arc<dyn FileObject>> {
        Some(self)
    }
}

impl Socket for UnixStream {
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
        let end = match &*self.state.lock() {
            State::Idle(_) => return Readiness::OUT | Readiness::WRNORM | Readiness::HUP,
            State::Listening { pending, .. } if pending.is_empty() => return Readiness::empty(),
            State::Listening { .. } => return Readiness::IN | Readiness::RDNORM,
            State::Connected { end, .. } => end.clone(),
        };
        end.readiness()
    }

    fn credentials(&self) -> Credentials {
        self.credentials
    }

    fn bind(&self, address: &SocketAddress) -> Result<(), Errno> {
        let SocketAddress::Unix(address) = address else { return Err(Errno::INVAL) };
        let mut state = self.state.lock();
        let State::Idle(name @ None) = &mut *state else { return Err(Errno::INVAL) };
        *name = Some(self.network.names.bind(address.clone(), self.bound())?);
        Ok(())
    }

    fn listen(&self, limit: usize) -> Result<(), Errno> {
        let limit = limit.min(MAX_BACKLOG);
        let mut state = self.state.lock();
        match &mut *state {
            State::Listening { backlog, starved, .. } => {
                *backlog = limit;
                let starved = std::mem::take(starved);
                drop(state);
                starved.iter().filter_map(Weak::upgrade).for_each(|queue| queue.notify());
                Ok(())
            }
            State::Idle(name) => {
                let name = name.take().ok_or(Errno::INVAL)?;
                let (pending, starved) = Default::default();
                *state = State::Listening { name, backlog: limit, pending, starved };
                Ok(())
            }
            State::Connected { .. } => Err(Errno::INVAL),
        }
    }

    fn accept(&self) -> Result<(Arc<dyn FileObject>, SocketAddress), Errno> {
        let mut state = self.state.lock();
        let State::Listening { name, pending, starved, .. } = &mut *state else { return Err(Errno::INVAL) };
        let (end, peer) = pending.pop_front().ok_or(Errno::AGAIN)?;
        let local = name.address().clone();
        let starved = std::mem::take(starved);
        drop(state);
        starved.iter().filter_map(Weak::upgrade).for_each(|queue| queue.notify());
        let (options, inode) = (self.options.inherited(), self.network.ipc.inode());
        let socket = Self::with(&self.network, options, self.credentials, State::Idle(None), inode);
        socket.become_connected(None, local, peer.clone(), end);
        Ok((socket, SocketAddress::Unix(peer)))
    }

    fn connect(&self, address: &SocketAddress) -> Result<(), Errno> {
        let SocketAddress::Unix(address) = address else { return Err(Errno::INVAL) };
        let own = match &*self.state.lock() {
            State::Idle(name) => name.as_ref().map(|name| name.address().clone()).unwrap_or_default(),
            State::Listening { .. } => return Err(Errno::INVAL),
            State::Connected { .. } => return Err(Errno::ISCONN),
        };
        let listener = match self.network.names.find(address)? {
            Bound::Stream(listener) => listener.upgrade().ok_or(Errno::CONNREFUSED)?,
            Bound::Datagram(_) => return Err(Errno::PROTOTYPE),
        };
        if std::ptr::eq(&*listener, self) {
            return Err(Errno::CONNREFUSED);
        }
        let (end, peer) = listener.offer(self, own.clone())?;
        // Another thread may have connected the socket meanwhile.
        let mut state = self.state.lock();
        let State::Idle(name) = &mut *state else { return Err(Errno::ISCONN) };
        let name = name.take();
        end.attach(&self.queue);
        *state = State::Connected { name, local: own, peer, end: Arc::new(end) };
        drop(state);
        self.queue.notify();
        Ok(())
    }

    fn send(&self, from: &mut Origin<'_>, outgoing: &mut Outgoing) -> Result<usize, Errno> {
        if outgoing.to.is_some() && self.options.socket_type == SocketType::Stream {
            return Err(if self.end().is_some() { Errno::ISCONN } else { Errno::OPNOTSUPP });
        }
        self.end().ok_or(Errno::NOTCONN)?.send(from, outgoing)
    }

    fn receive(&self, into: &mut Destination<'_>, flags: ReceiveFlags) -> Result<Incoming, Errno> {
        // Linux says EINVAL for a stream that is not connected.
        self.end().ok_or(Errno::INVAL)?.receive(into, flags)
    }

    fn shutdown(&self, how: Shutdown) -> Result<(), Errno> {
        self.end().ok_or(Errno::NOTCONN)?.shutdown(how);
        Ok(())
    }

    fn local_address(&self) -> Result<SocketAddress, Errno> {
        Ok(SocketAddress::Unix(match &*self.state.lock() {
            State::Idle(name) => name.as_ref().map(|name| name.address().clone()).unwrap_or_default(),
            State::Listening { name, .. } => name.address().clone(),
            State::Connected { local, .. } => local.clone(),
        }))
    }

    fn peer_address(&self) -> Result<SocketAddress, Errno> {
        match &*self.state.lock() {
            State::Connected { peer, .. } => Ok(SocketAddress::Unix(peer.clone())),
            _ => Err(Errno::NOTCONN),
        }
    }

    fn peer_credentials(&self) -> Option<Credentials> {
        self.end().map(|end| end.peer_credentials())
    }

    fn listening(&self) -> bool {
        matches!(*self.state.lock(), State::Listening { .. })
    }

    fn readable_bytes(&self) -> usize {
        self.end().map_or(0, |end| end.readable_bytes())
    }
}

#[cfg(test)]
mod tests;
