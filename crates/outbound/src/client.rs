//! The worker's side of the control socket.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, recvmsg,
    sendmsg, shutdown,
};

use crate::message::{REPLY, Reply, Request, decode_reply};

/// How long the relay may take to answer. It answers at once unless its process is stopped.
const PATIENCE: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// Asks a relay. One request at a time: each is answered at once, connecting is not waited for.
#[derive(Debug)]
pub struct Client(Mutex<OwnedFd>);

impl Client {
    /// By the control socket `socket`.
    pub fn new(socket: OwnedFd) -> Self {
        Self(Mutex::new(socket))
    }

    /// Starts a connection to `to`: a stream socket, not blocking, that begins with a [`Greeting`](crate::Greeting), and the
    /// connection's local address.
    ///
    /// # Errors
    /// Those of connect(2); EACCES for an address that is out of bounds. ENETDOWN when the relay is gone.
    pub fn stream(&self, to: SocketAddr) -> Result<(OwnedFd, SocketAddr), Errno> {
        let (local, socket) = self.ask(Request::Stream(to))?;
        Ok((socket.ok_or(Errno::NETDOWN)?, local))
    }

    /// A packet socket, not blocking, whose frames are datagrams of the family of `any`.
    ///
    /// # Errors
    /// As [`Self::stream`].
    pub fn datagrams(&self, any: SocketAddr) -> Result<OwnedFd, Errno> {
        self.ask(Request::Datagrams(any))?.1.ok_or(Errno::NETDOWN)
    }

    /// The address from which datagrams go to `to`.
    ///
    /// # Errors
    /// As [`Self::stream`].
    pub fn route(&self, to: SocketAddr) -> Result<SocketAddr, Errno> {
        Ok(self.ask(Request::Route(to))?.0)
    }

    fn ask(&self, request: Request) -> Result<(SocketAddr, Option<OwnedFd>), Errno> {
        let socket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (reply, handed) = exchange(&socket, request).map_err(|_| {
            // A reply that comes late would be taken for the next one's.
            let _ = shutdown(&*socket, Shutdown::Both);
            Errno::NETDOWN
        })?;
        Ok((reply?, handed))
    }
}

/// Sends a request and waits for its reply.
fn exchange(socket: &OwnedFd, request: Request) -> Result<(Reply, Option<OwnedFd>), Errno> {
    let mut nothing = SendAncillaryBuffer::default();
    sendmsg(socket, &[IoSlice::new(&request.encode())], &mut nothing, SendFlags::NOSIGNAL)?;
    let mut fds = [PollFd::new(socket, PollFlags::IN)];
    loop {
        match poll(&mut fds, Some(&PATIENCE)) {
            Ok(0) => return Err(Errno::TIMEDOUT),
            Ok(_) => break,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    // A byte more than a reply has, so that a longer one is noticed.
    let mut bytes = [0; REPLY + 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags)?;
    let handed = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    let reply = decode_reply(bytes.get(..received.bytes).unwrap_or_default());
    Ok((reply.map_err(|_| Errno::BADMSG)?, handed))
}
