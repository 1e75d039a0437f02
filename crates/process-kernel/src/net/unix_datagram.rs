//! Unix datagram sockets.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::Network;
use super::address::{Family, SocketAddress, UnixAddress};
use super::mailbox::Mailbox;
use super::names::{Bound, NameLease};
use super::options::SocketOptions;
use super::socket::{Credentials, Incoming, Outgoing, ReceiveFlags, Shutdown, Socket, SocketType};
use crate::file::{Destination, FileObject, Origin, Readiness};
use crate::object::{Object, ObjectId, RestoreError, Restorer, SaveError, Saver};
use crate::wait::WaitQueue;

#[derive(Default)]
struct State {
    name: Option<NameLease>,
    peer: Option<(Arc<Mailbox>, UnixAddress)>,
    read_shut: bool,
    write_shut: bool,
}

/// A Unix datagram socket. Snapshot rule: saved with its name, its peer and the messages that wait.
pub struct UnixDatagram {
    options: SocketOptions,
    network: Arc<Network>,
    state: Mutex<State>,
    mailbox: Arc<Mailbox>,
    queue: Arc<WaitQueue>,
    credentials: Credentials,
    inode: u64,
    this: Weak<Self>,
}

#[derive(Serialize, Deserialize)]
struct SavedState {
    name: Option<UnixAddress>,
    peer: Option<(ObjectId, UnixAddress)>,
    mailbox: ObjectId,
    credentials: Credentials,
    inode: u64,
    read_shut: bool,
    write_shut: bool,
}

impl UnixDatagram {
    /// Registry key.
    pub const KIND: &'static str = "unix-datagram";

    /// An unbound socket of a program with `credentials`.
    pub fn new(network: &Arc<Network>, credentials: Credentials) -> Arc<Self> {
        let options = SocketOptions::new(Family::Unix, SocketType::Datagram, 0);
        let mailbox = Mailbox::new(&network.ipc.account, options.receive_buffer());
        Self::with(network, options, mailbox, credentials, network.ipc.inode())
    }

    /// Two sockets that are connected to each other.
    pub fn pair(network: &Arc<Network>, credentials: Credentials) -> [Arc<Self>; 2] {
        let sockets = [(); 2].map(|()| Self::new(network, credentials));
        let [first, second] = &sockets;
        first.state.lock().peer = Some((second.mailbox.clone(), UnixAddress::Unnamed));
        second.state.lock().peer = Some((first.mailbox.clone(), UnixAddress::Unnamed));
        sockets
    }

    fn with(
        network: &Arc<Network>,
        options: SocketOptions,
        mailbox: Arc<Mailbox>,
        credentials: Credentials,
        inode: u64,
    ) -> Arc<Self> {
        let queue = Arc::default();
        mailbox.attach(&queue);
        Arc::new_cyclic(|this| Self {
            options,
            network: network.clone(),
            state: Mutex::default(),
            mailbox,
            queue,
            credentials,
            inode,
            this: this.clone(),
        })
    }

    fn find(&self, address: &UnixAddress) -> Result<Arc<Mailbox>, Errno> {
        match self.network.names.find(address)? {
            Bound::Datagram(socket) => Ok(socket.upgrade().ok_or(Errno::CONNREFUSED)?.mailbox.clone()),
            Bound::Stream(_) => Err(Errno::PROTOTYPE),
        }
    }

    fn peer(&self) -> Option<Arc<Mailbox>> {
        self.state.lock().peer.as_ref().map(|(mailbox, _)| mailbox.clone())
    }

    fn name(&self) -> UnixAddress {
        self.state.lock().name.as_ref().map(|name| name.address().clone()).unwrap_or_default()
    }

    /// See [`crate::object::RestoreFn`].
    ///
    /// # Errors
    /// [`RestoreError`] when the payload is damaged.
    pub fn restore(payload: &[u8], restorer: &mut Restorer<'_>) -> Result<Arc<dyn Object>, RestoreError> {
        let (options, saved): (SocketOptions, SavedState) = Restorer::decode(Self::KIND, payload)?;
        let mut mailbox = |id| restorer.concrete::<Mailbox>(id, Mailbox::KIND);
        let own = mailbox(saved.mailbox)?;
        let peer = saved.peer.map(|(id, name)| Ok::<_, RestoreError>((mailbox(id)?, name))).transpose()?;
        let network = restorer.context.network.clone();
        network.ipc.reserve_inode(saved.inode);
        let socket = Self::with(&network, options, own, saved.credentials, saved.inode);
        let bind = |name| network.names.bind(name, Bound::Datagram(socket.this.clone()));
        let name = saved
            .name
            .map(bind)
            .transpose()
            .map_err(|errno| RestoreError::Host { what: "a Unix socket's name", source: errno.into() })?;
        let SavedState { read_shut, write_shut, .. } = saved;
        *socket.state.lock() = State { name, peer, read_shut, write_shut };
        Ok(socket)
    }
}

impl Drop for UnixDatagram {
    fn drop(&mut self) {
        self.mailbox.close(true);
    }
}

impl Object for UnixDatagram {
    fn kind(&self) -> &'static str {
        Self::KIND
    }

    fn save(&self, saver: &mut Saver) -> Result<Vec<u8>, SaveError> {
        let mailbox = saver.save(self.mailbox.clone())?;
        let state = self.state.lock();
        let peer = match &state.peer {
            Some((mailbox, name)) => Some((saver.save(mailbox.clone())?, name.clone())),
            None => None,
        };
        let saved = SavedState {
            name: state.name.as_ref().map(|name| name.address().clone()),
            peer,
            mailbox,
            credentials: self.credentials,
            inode: self.inode,
            read_shut: state.read_shut,
            write_shut: state.write_shut,
        };
        saver.encode(Self::KIND, &(&self.options, saved))
    }

    fn as_file(self: Arc<Self>) -> Option<Arc<dyn FileObject>> {
        Some(self)
    }
}

impl Socket for UnixDatagram {
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
        let (read_shut, write_shut) = {
            let state = self.state.lock();
            (state.read_shut, state.write_shut)
        };
        let mut ready = Readiness::empty();
        if self.mailbox.has_message() || read_shut {
            ready |= Readiness::IN | Readiness::RDNORM;
        }
        if read_shut {
            ready |= Readiness::RDHUP;
        }
        if read_shut && write_shut {
            ready |= Readiness::HUP;
        }
        // Without a peer nothing tells where a send would go.
        if self.peer().is_none_or(|peer| peer.is_writable(&self.queue)) {
            ready |= Readiness::OUT | Readiness::WRNORM;
        }
        ready
    }

    fn credentials(&self) -> Credentials {
        self.credentials
    }

    fn bind(&self, address: &SocketAddress) -> Result<(), Errno> {
        let SocketAddress::Unix(address) = address else { return Err(Errno::INVAL) };
        let mut state = self.state.lock();
        if state.name.is_some() {
            return Err(Errno::INVAL);
        }
        state.name = Some(self.network.names.bind(address.clone(), Bound::Datagram(self.this.clone()))?);
        Ok(())
    }

    fn listen(&self, _: usize) -> Result<(), Errno> {
        Err(Errno::OPNOTSUPP)
    }

    fn accept(&self) -> Result<(Arc<dyn FileObject>, SocketAddress), Errno> {
        Err(Errno::OPNOTSUPP)
    }

    fn connect(&self, address: &SocketAddress) -> Result<(), Errno> {
        let peer = match address {
            SocketAddress::Unspecified => None,
            SocketAddress::Unix(address) => Some((self.find(address)?, address.clone())),
            SocketAddress::Inet(_) => return Err(Errno::INVAL),
        };
        self.state.lock().peer = peer;
        self.queue.notify();
        Ok(())
    }

    fn send(&self, from: &mut Origin<'_>, outgoing: &mut Outgoing) -> Result<usize, Errno> {
        if self.state.lock().write_shut {
            return Err(Errno::PIPE);
        }
        let to = match &outgoing.to {
            Some(SocketAddress::Unix(address)) => self.find(address)?,
            Some(_) => return Err(Errno::INVAL),
            None => self.peer().ok_or(Errno::NOTCONN)?,
        };
        let name = self.name();
        let sender = (name != UnixAddress::Unnamed).then_some(SocketAddress::Unix(name));
        to.deliver(from, sender, outgoing, Some(&self.queue))
    }

    fn receive(&self, into: &mut Destination<'_>, flags: ReceiveFlags) -> Result<Incoming, Errno> {
        match self.mailbox.receive(into, flags) {
            Err(Errno::AGAIN) if self.state.lock().read_shut => Ok(Incoming::default()),
            outcome => outcome,
        }
    }

    fn shutdown(&self, how: Shutdown) -> Result<(), Errno> {
        let mut state = self.state.lock();
        if state.peer.is_none() {
            return Err(Errno::NOTCONN);
        }
        state.read_shut |= how.reads();
        state.write_shut |= how.writes();
        drop(state);
        if how.reads() {
            self.mailbox.close(false);
        }
        self.queue.notify();
        Ok(())
    }

    fn local_address(&self) -> Result<SocketAddress, Errno> {
        Ok(SocketAddress::Unix(self.name()))
    }

    fn peer_address(&self) -> Result<SocketAddress, Errno> {
        let state = self.state.lock();
        let (_, name) = state.peer.as_ref().ok_or(Errno::NOTCONN)?;
        Ok(SocketAddress::Unix(name.clone()))
    }

    fn peer_credentials(&self) -> Option<Credentials> {
        // The guest is one process: whoever the peer is, it is the same program.
        self.peer().map(|_| self.credentials)
    }

    fn readable_bytes(&self) -> usize {
        self.mailbox.first_len()
    }

    fn option_changed(&self, level: i32, name: i32, _: i32) {
        if (level, name) == (libc::SOL_SOCKET, libc::SO_RCVBUF) {
            self.mailbox.set_capacity(self.options.receive_buffer());
        }
    }
}

#[cfg(test)]
mod tests;
