//! The way out of the guest, when it is switched on: TCP and UDP through the relay that the worker was given ([`outbound`]). Which
//! addresses may be reached is the relay's business; the guest's own are never asked of it.
//!
//! What is open when a snapshot is taken can't be part of it: a TCP connection comes back reset, as SnapStart documents.

use std::io::{IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use outbound::{ADDRESS, Client, Greeting, decode_address, encode_address};
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendFlags, recvmsg, sendmsg};

use super::address::{Family, SocketAddress, presented};
use super::ports;
use super::socket::{Incoming, Outgoing, ReceiveFlags, Shutdown};
use super::transport::{SavedTransport, Transport};
use crate::file::{Destination, Origin, Readiness};
use crate::host;
use crate::ipc::{Reactor, Watch};
use crate::object::{SaveError, Saver};
use crate::wait::WaitQueue;

fn ready(fd: &OwnedFd) -> Readiness {
    let mut fds = [PollFd::new(fd, PollFlags::all())];
    match poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
        Ok(_) => Readiness::from_bits_truncate(u32::from(fds[0].revents().bits())),
        Err(_) => Readiness::ERR,
    }
}

/// Receives without waiting; `peek` leaves the bytes where they are. Gives their number.
fn receive(fd: &OwnedFd, buffers: &mut [IoSliceMut<'_>], peek: bool) -> Result<usize, Errno> {
    let peek = if peek { RecvFlags::PEEK } else { RecvFlags::empty() };
    let flags = peek | RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    recvmsg(fd, buffers, &mut RecvAncillaryBuffer::default(), flags).map(|received| received.bytes)
}

/// What is known of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// The relay's greeting has not come.
    Connecting,
    Connected,
    /// Why it failed, until somebody has asked.
    Failed(Option<Errno>),
}

/// A TCP connection to the outside.
pub(super) struct OutsideStream {
    fd: Arc<OwnedFd>,
    phase: Mutex<Phase>,
    _watch: Watch,
}

/// Bytes received in one call.
const PIECE: usize = 64 << 10;

impl OutsideStream {
    /// Starts connecting to `to`; `queue` is notified of all that happens. Gives the connection and its local address.
    ///
    /// # Errors
    /// As [`Client::stream`].
    pub fn connect(
        reactor: &Reactor,
        relay: &Client,
        to: SocketAddr,
        queue: &Arc<WaitQueue>,
    ) -> Result<(Arc<dyn Transport>, SocketAddr), Errno> {
        let (fd, local) = relay.stream(to)?;
        let fd = Arc::new(fd);
        let stream = Self { _watch: reactor.watch(&fd, queue)?, fd, phase: Mutex::new(Phase::Connecting) };
        Ok((Arc::new(stream), local))
    }

    /// The phase, with the greeting taken if it is there.
    fn phase(&self) -> Phase {
        let mut phase = self.phase.lock();
        if *phase == Phase::Connecting {
            let mut greeting = [0; 4];
            // It is sent in one piece.
            match receive(&self.fd, &mut [IoSliceMut::new(&mut greeting)], false) {
                Err(Errno::AGAIN) => {}
                Ok(4) => {
                    *phase = match Greeting::decode(greeting) {
                        Ok(Greeting(Ok(()))) => Phase::Connected,
                        Ok(Greeting(Err(errno))) => Phase::Failed(Some(errno)),
                        Err(_) => Phase::Failed(Some(Errno::NETDOWN)),
                    };
                }
                Ok(_) | Err(_) => *phase = Phase::Failed(Some(Errno::NETDOWN)),
            }
        }
        *phase
    }

    /// EAGAIN until the connection is there; how it failed, once.
    fn usable(&self, afterwards: Errno) -> Result<(), Errno> {
        match self.phase() {
            Phase::Connected => Ok(()),
            Phase::Connecting => Err(Errno::AGAIN),
            Phase::Failed(_) => Err(self.take_error().unwrap_or(afterwards)),
        }
    }
}

impl Transport for OutsideStream {
    fn send(&self, from: &mut Origin<'_>, _: &mut Outgoing) -> Result<usize, Errno> {
        self.usable(Errno::PIPE)?;
        if from.remaining() == 0 {
            return Ok(0);
        }
        // The worker ignores SIGPIPE, so a broken connection is EPIPE here as well.
        from.with_iovecs(|vector| host::writev(self.fd.as_fd(), vector))
    }

    fn receive(&self, into: &mut Destination<'_>, flags: ReceiveFlags) -> Result<Incoming, Errno> {
        self.usable(Errno::NOTCONN)?;
        if into.remaining() == 0 {
            return Ok(Incoming::default());
        }
        let count = if flags.peek {
            let mut buffer = vec![0; into.remaining().min(PIECE)];
            let count = receive(&self.fd, &mut [IoSliceMut::new(&mut buffer)], true)?;
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
        match self.phase() {
            Phase::Connecting => Readiness::empty(),
            Phase::Connected => ready(&self.fd),
            Phase::Failed(unreported) => {
                let ended = Readiness::IN | Readiness::RDNORM | Readiness::RDHUP | Readiness::HUP;
                let ended = ended | Readiness::OUT | Readiness::WRNORM;
                if unreported.is_some() { ended | Readiness::ERR } else { ended }
            }
        }
    }

    fn readable_bytes(&self) -> usize {
        if self.phase() != Phase::Connected {
            return 0;
        }
        // By looking, since the worker's filter has no such ioctl.
        receive(&self.fd, &mut [IoSliceMut::new(&mut vec![0; PIECE])], true).unwrap_or(0)
    }

    fn finish_connect(&self) -> Result<(), Errno> {
        match self.phase() {
            Phase::Connected => Ok(()),
            Phase::Connecting => Err(Errno::ALREADY),
            Phase::Failed(_) => Err(self.take_error().unwrap_or(Errno::CONNABORTED)),
        }
    }

    fn save(&self, _: &mut Saver) -> Result<SavedTransport, SaveError> {
        Ok(SavedTransport::Reset)
    }

    fn take_error(&self) -> Option<Errno> {
        match self.phase() {
            Phase::Failed(unreported) => {
                *self.phase.lock() = Phase::Failed(None);
                unreported
            }
            Phase::Connecting | Phase::Connected => None,
        }
    }
}

/// A UDP socket's way out.
pub(super) struct OutsideDatagrams {
    fd: Arc<OwnedFd>,
    _watch: Watch,
    relay: Arc<Client>,
    /// Where datagrams went last: it need not be asked about again.
    allowed: Mutex<Option<SocketAddr>>,
}

impl OutsideDatagrams {
    /// A socket for datagrams of `family`.
    ///
    /// # Errors
    /// As [`Client::datagrams`].
    pub fn open(
        reactor: &Reactor,
        relay: &Arc<Client>,
        family: Family,
        queue: &Arc<WaitQueue>,
    ) -> Result<Arc<Self>, Errno> {
        let fd = Arc::new(relay.datagrams(ports::wildcard(family))?);
        let watch = reactor.watch(&fd, queue)?;
        Ok(Arc::new(Self { _watch: watch, fd, relay: relay.clone(), allowed: Mutex::new(None) }))
    }

    /// Sends one datagram.
    ///
    /// # Errors
    /// As [`Client::route`].
    pub fn send(&self, to: SocketAddr, from: &mut Origin<'_>) -> Result<usize, Errno> {
        if *self.allowed.lock() != Some(to) {
            self.relay.route(to)?;
            *self.allowed.lock() = Some(to);
        }
        let bytes = from.take(from.remaining())?;
        let address = encode_address(to);
        let parts = [IoSlice::new(&address), IoSlice::new(&bytes)];
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match sendmsg(&*self.fd, &parts, &mut SendAncillaryBuffer::default(), flags) {
            // A full buffer loses the datagram, as any hop may.
            Ok(_) | Err(Errno::AGAIN) => Ok(bytes.len()),
            Err(_) => Err(Errno::NETDOWN),
        }
    }

    /// Receives one datagram, from `peer` only if there is one.
    ///
    /// # Errors
    /// EAGAIN; ENETDOWN when the relay is gone.
    pub fn receive(
        &self,
        into: &mut Destination<'_>,
        flags: ReceiveFlags,
        peer: Option<SocketAddr>,
        family: Family,
    ) -> Result<Incoming, Errno> {
        let mut frame = vec![0; ADDRESS + PIECE];
        loop {
            let length = receive(&self.fd, &mut [IoSliceMut::new(&mut frame)], flags.peek)?;
            let (from, payload) =
                decode_address(frame.get(..length).unwrap_or_default()).map_err(|_| Errno::NETDOWN)?;
            if peer.is_some_and(|peer| peer != from) {
                // Not for this socket. A peeked one is taken now, so that the loop goes on.
                if flags.peek {
                    receive(&self.fd, &mut [IoSliceMut::new(&mut frame)], false)?;
                }
                continue;
            }
            let message = payload.len();
            let count = into.put(payload)?;
            let from = Some(SocketAddress::Inet(presented(from, family)));
            return Ok(Incoming { count, message, from, ..Incoming::default() });
        }
    }

    /// Bytes of the first datagram that can be received; 0 when there is none. glibc's resolver makes room by it.
    pub fn first_len(&self) -> usize {
        let mut frame = vec![0; ADDRESS + PIECE];
        let length = receive(&self.fd, &mut [IoSliceMut::new(&mut frame)], true).unwrap_or(0);
        length.saturating_sub(ADDRESS)
    }

    /// Whether something can be received.
    pub fn has_message(&self) -> bool {
        ready(&self.fd).intersects(Readiness::IN | Readiness::ERR)
    }
}
