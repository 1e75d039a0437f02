//! UDP sockets. Datagrams to the guest's own loopback addresses stay inside the guest; others go out through the host if
//! the network is switched on.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::Network;
use super::address::{Family, SocketAddress, presented};
use super::mailbox::Mailbox;
use super::options::SocketOptions;
use super::outside::OutsideDatagrams;
use super::ports::{self, Lease, Sharing};
use super::socket::{Incoming, Outgoing, ReceiveFlags, Shutdown, Socket, SocketType};
use crate::file::{Destination, FileObject, Origin, Readiness};
use crate::object::{Object, ObjectId, RestoreError, Restorer, SaveError, Saver};
use crate::wait::WaitQueue;

/// Largest payload of a datagram.
const MAX_DATAGRAM: usize = 65_507;

#[derive(Default)]
struct State {
    lease: Option<Lease<UdpSocket>>,
    peer: Option<SocketAddr>,
    /// From which address datagrams go to the peer, when that is outside.
    source: Option<IpAddr>,
    /// Why an earlier send failed (ECONNREFUSED, as ICMP would tell).
    error: Option<Errno>,
    /// The way out, once something was sent there.
    outside: Option<Arc<OutsideDatagrams>>,
    read_shut: bool,
    write_shut: bool,
}

/// A UDP socket. Snapshot rule: saved with its address and the datagrams that wait; what is on its way from the outside is
/// lost, as datagrams may be.
pub struct UdpSocket {
    options: SocketOptions,
    network: Arc<Network>,
    state: Mutex<State>,
    mailbox: Arc<Mailbox>,
    queue: Arc<WaitQueue>,
    inode: u64,
    this: Weak<Self>,
}

#[derive(Serialize, Deserialize)]
struct SavedState {
    bound: Option<SocketAddr>,
    peer: Option<SocketAddr>,
    mailbox: ObjectId,
    inode: u64,
    read_shut: bool,
    write_shut: bool,
}

impl UdpSocket {
    /// Registry key.
    pub const KIND: &'static str = "udp-socket";

    /// An unbound socket.
    pub fn new(network: &Arc<Network>, family: Family) -> Arc<Self> {
        let options = SocketOptions::new(family, SocketType::Datagram, libc::IPPROTO_UDP);
        let mailbox = Mailbox::new(&network.ipc.account, options.receive_buffer());
        Self::with(network, options, mailbox, network.ipc.inode())
    }

    fn with(network: &Arc<Network>, options: SocketOptions, mailbox: Arc<Mailbox>, inode: u64) -> Arc<Self> {
        let queue = Arc::default();
        mailbox.attach(&queue);
        Arc::new_cyclic(|this| Self {
            options,
            network: network.clone(),
            state: Mutex::default(),
            mailbox,
            queue,
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

    /// The address that datagrams come from, bound now if it wasn't.
    fn bound(&self, state: &mut State) -> Result<SocketAddr, Errno> {
        if let Some(lease) = &state.lease {
            return Ok(lease.address());
        }
        let any = ports::wildcard(self.options.family);
        let lease = self.network.udp.bind(any, self.sharing(), &self.this)?;
        Ok(state.lease.insert(lease).address())
    }

    fn destination(&self, address: &SocketAddress) -> Result<SocketAddr, Errno> {
        let to = address.inet().ok_or(Errno::AFNOSUPPORT)?;
        if to.is_ipv6() != (self.options.family == Family::Inet6) {
            return Err(Errno::AFNOSUPPORT);
        }
        Ok(ports::destination(to))
    }

    /// Whether a datagram from `sender` is for this socket: a connected one hears only its peer.
    fn hears(&self, sender: SocketAddr) -> bool {
        let state = self.state.lock();
        !state.read_shut && state.peer.is_none_or(|peer| peer == sender)
    }

    fn send_inside(
        &self,
        to: SocketAddr,
        source: SocketAddr,
        from: &mut Origin<'_>,
        outgoing: &mut Outgoing,
    ) -> Result<usize, Errno> {
        let found = self.network.udp.at(to);
        match found.iter().find(|socket| socket.hears(source)) {
            Some(socket) => {
                let sender = SocketAddress::Inet(presented(source, socket.options.family));
                socket.mailbox.deliver(from, Some(sender), outgoing, None)
            }
            None => {
                let length = from.remaining();
                // A port that nobody has answers by ICMP; only a connected socket is told, with its next call.
                let mut state = self.state.lock();
                if found.is_empty() && state.peer.is_some() {
                    state.error = Some(Errno::CONNREFUSED);
                    drop(state);
                    self.queue.notify();
                }
                Ok(length)
            }
        }
    }

    /// The way out, opened if it wasn't.
    fn outside(&self) -> Result<Arc<OutsideDatagrams>, Errno> {
        let mut state = self.state.lock();
        if let Some(outside) = &state.outside {
            return Ok(outside.clone());
        }
        let outside = self.network.open_datagrams(self.options.family, &self.queue)?;
        Ok(state.outside.insert(outside).clone())
    }

    fn opened_outside(&self) -> Option<Arc<OutsideDatagrams>> {
        self.state.lock().outside.clone()
    }

    fn take_pending(&self) -> Result<(), Errno> {
        self.state.lock().error.take().map_or(Ok(()), Err)
    }

    /// See [`crate::object::RestoreFn`].
    ///
    /// # Errors
    /// [`RestoreError`] when the payload is damaged.
    pub fn restore(payload: &[u8], restorer: &mut Restorer<'_>) -> Result<Arc<dyn Object>, RestoreError> {
        let (options, saved): (SocketOptions, SavedState) = Restorer::decode(Self::KIND, payload)?;
        let mailbox = restorer.concrete::<Mailbox>(saved.mailbox, Mailbox::KIND)?;
        let network = restorer.context.network.clone();
        network.ipc.reserve_inode(saved.inode);
        let socket = Self::with(&network, options, mailbox, saved.inode);
        let lease = saved.bound.map(|bound| network.udp.rebind(bound, socket.sharing(), &socket.this));
        let SavedState { peer, read_shut, write_shut, .. } = saved;
        *socket.state.lock() = State { lease, peer, read_shut, write_shut, ..State::default() };
        Ok(socket)
    }
}

impl Object for UdpSocket {
    fn kind(&self) -> &'static str {
        Self::KIND
    }

    fn save(&self, saver: &mut Saver) -> Result<Vec<u8>, SaveError> {
        let mailbox = saver.save(self.mailbox.clone())?;
        let state = self.state.lock();
        let saved = SavedState {
            bound: state.lease.as_ref().map(Lease::address),
            peer: state.peer,
            mailbox,
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

impl Socket for UdpSocket {
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
        let mut ready = Readiness::OUT | Readiness::WRNORM;
        let (error, read_shut, write_shut, outside) = {
            let state = self.state.lock();
            (state.error.is_some(), state.read_shut, state.write_shut, state.outside.clone())
        };
        let input = Readiness::IN | Readiness::RDNORM;
        if error {
            ready |= Readiness::ERR | input;
        }
        if read_shut {
            ready |= input | Readiness::RDHUP;
        }
        if read_shut && write_shut {
            ready |= Readiness::HUP;
        }
        if self.mailbox.has_message() || outside.is_some_and(|outside| outside.has_message()) {
            ready |= input;
        }
        ready
    }

    fn bind(&self, address: &SocketAddress) -> Result<(), Errno> {
        let address = address.inet().ok_or(Errno::AFNOSUPPORT)?;
        let address = ports::bindable(address, self.options.family)?;
        let mut state = self.state.lock();
        if state.lease.is_some() {
            return Err(Errno::INVAL);
        }
        state.lease = Some(self.network.udp.bind(address, self.sharing(), &self.this)?);
        Ok(())
    }

    fn listen(&self, _: usize) -> Result<(), Errno> {
        Err(Errno::OPNOTSUPP)
    }

    fn accept(&self) -> Result<(Arc<dyn FileObject>, SocketAddress), Errno> {
        Err(Errno::OPNOTSUPP)
    }

    fn connect(&self, address: &SocketAddress) -> Result<(), Errno> {
        if *address == SocketAddress::Unspecified {
            let mut state = self.state.lock();
            (state.peer, state.source) = (None, None);
            return Ok(());
        }
        let peer = self.destination(address)?;
        let mut source = None;
        if !peer.ip().is_loopback() {
            // Whether there is a way is known at once, as with a routing table; and from where it leads, which resolvers ask so.
            source = Some(self.network.route_outside(peer)?);
        }
        let mut state = self.state.lock();
        self.bound(&mut state)?;
        state.source = source;
        state.peer = Some(peer);
        state.error = None;
        Ok(())
    }

    fn send(&self, from: &mut Origin<'_>, outgoing: &mut Outgoing) -> Result<usize, Errno> {
        self.take_pending()?;
        let to = match &outgoing.to {
            Some(address) => Some(self.destination(address)?),
            None => None,
        };
        let mut state = self.state.lock();
        if state.write_shut {
            return Err(Errno::PIPE);
        }
        let to = to.or(state.peer).ok_or(Errno::DESTADDRREQ)?;
        if from.remaining() > MAX_DATAGRAM {
            return Err(Errno::MSGSIZE);
        }
        let own = self.bound(&mut state)?;
        drop(state);
        if !to.ip().is_loopback() {
            return self.outside()?.send(to, from);
        }
        let ip = if own.ip().is_unspecified() { ports::source_ip(to.ip()) } else { own.ip() };
        self.send_inside(to, SocketAddr::new(ip, own.port()), from, outgoing)
    }

    fn receive(&self, into: &mut Destination<'_>, flags: ReceiveFlags) -> Result<Incoming, Errno> {
        self.take_pending()?;
        match self.mailbox.receive(into, flags) {
            Err(Errno::AGAIN) => {}
            outcome => return outcome,
        }
        let (read_shut, peer) = {
            let state = self.state.lock();
            (state.read_shut, state.peer)
        };
        if read_shut {
            return Ok(Incoming::default());
        }
        self.opened_outside().ok_or(Errno::AGAIN)?.receive(into, flags, peer, self.options.family)
    }

    fn shutdown(&self, how: Shutdown) -> Result<(), Errno> {
        let mut state = self.state.lock();
        if state.peer.is_none() {
            return Err(Errno::NOTCONN);
        }
        state.read_shut |= how.reads();
        state.write_shut |= how.writes();
        drop(state);
        self.queue.notify();
        Ok(())
    }

    fn local_address(&self) -> Result<SocketAddress, Errno> {
        let state = self.state.lock();
        let mut own =
            state.lease.as_ref().map_or_else(|| ports::wildcard(self.options.family), Lease::address);
        // A connected socket knows which of its addresses it sends from.
        if let (Some(peer), true) = (state.peer, own.ip().is_unspecified()) {
            own.set_ip(state.source.unwrap_or(ports::source_ip(peer.ip())));
        }
        Ok(SocketAddress::Inet(presented(own, self.options.family)))
    }

    fn peer_address(&self) -> Result<SocketAddress, Errno> {
        let peer = self.state.lock().peer.ok_or(Errno::NOTCONN)?;
        Ok(SocketAddress::Inet(presented(peer, self.options.family)))
    }

    fn take_error(&self) -> Option<Errno> {
        self.state.lock().error.take()
    }

    fn readable_bytes(&self) -> usize {
        match self.mailbox.first_len() {
            0 => self.opened_outside().map_or(0, |outside| outside.first_len()),
            length => length,
        }
    }

    fn option_changed(&self, level: i32, name: i32, _: i32) {
        if (level, name) == (libc::SOL_SOCKET, libc::SO_RCVBUF) {
            self.mailbox.set_capacity(self.options.receive_buffer());
        }
    }
}

#[cfg(test)]
mod tests;
