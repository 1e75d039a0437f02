//! What all sockets have in common.

use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::address::SocketAddress;
use super::options::SocketOptions;
use crate::file::{Destination, FileObject, OpenFile, Origin, Readiness};
use crate::object::Object;
use crate::wait::WaitQueue;

/// How a socket's bytes are delivered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum SocketType {
    /// SOCK_STREAM
    Stream,
    /// SOCK_DGRAM
    Datagram,
    /// SOCK_SEQPACKET
    SequencedPacket,
}

impl SocketType {
    /// The SOCK_* value.
    pub const fn number(self) -> i32 {
        match self {
            Self::Stream => libc::SOCK_STREAM,
            Self::Datagram => libc::SOCK_DGRAM,
            Self::SequencedPacket => libc::SOCK_SEQPACKET,
        }
    }
}

/// Who sent a message or made a connection (struct ucred).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Credentials {
    /// Process id.
    pub pid: i32,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// What goes along with the bytes of a send.
#[derive(Default)]
pub struct Outgoing {
    /// The destination, where one is given.
    pub to: Option<SocketAddress>,
    /// Open files to pass (SCM_RIGHTS).
    pub rights: Vec<Arc<OpenFile>>,
    /// The sender (SCM_CREDENTIALS).
    pub credentials: Credentials,
}

/// How to receive.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ReceiveFlags {
    /// MSG_PEEK: leave the bytes where they are.
    pub peek: bool,
}

/// What was received, besides the bytes.
#[derive(Default)]
pub struct Incoming {
    /// Bytes put into the destination.
    pub count: usize,
    /// Bytes the message had; more than `count` when it was cut off (MSG_TRUNC).
    pub message: usize,
    /// Who sent it, where that is known.
    pub from: Option<SocketAddress>,
    /// Open files that came along.
    pub rights: Vec<Arc<OpenFile>>,
    /// The sender's credentials, on Unix sockets.
    pub credentials: Option<Credentials>,
}

/// Which direction shutdown(2) ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shutdown {
    /// SHUT_RD
    Read,
    /// SHUT_WR
    Write,
    /// SHUT_RDWR
    Both,
}

impl Shutdown {
    /// Whether receiving ends.
    pub const fn reads(self) -> bool {
        matches!(self, Self::Read | Self::Both)
    }

    /// Whether sending ends.
    pub const fn writes(self) -> bool {
        matches!(self, Self::Write | Self::Both)
    }
}

/// A socket, which makes it a [`FileObject`]. As with every one of these, no method blocks: EAGAIN asks the caller to wait on
/// the socket's queue.
pub trait Socket: Object {
    /// Its options, family, type and protocol.
    fn options(&self) -> &SocketOptions;

    /// Its number among all sockets, pipes and the like.
    fn inode_number(&self) -> u64;

    /// The queue that is notified when what is [`Socket::ready`] may have changed.
    fn queue(&self) -> &WaitQueue;

    /// What is possible now without waiting.
    fn ready(&self) -> Readiness;

    /// Who sends what is written to it, on Unix sockets.
    fn credentials(&self) -> Credentials {
        Credentials::default()
    }

    /// Gives it a local address. Names in the file tree are made by the system-call layer.
    ///
    /// # Errors
    /// EADDRINUSE, EADDRNOTAVAIL, EINVAL (already bound), EAFNOSUPPORT.
    fn bind(&self, address: &SocketAddress) -> Result<(), Errno>;

    /// Takes connections from now on; at most `backlog` wait to be accepted.
    ///
    /// # Errors
    /// EOPNOTSUPP, EINVAL (connected), EADDRINUSE.
    fn listen(&self, backlog: usize) -> Result<(), Errno>;

    /// Takes the first waiting connection: a socket and the address of its peer.
    ///
    /// # Errors
    /// EAGAIN when none waits; EINVAL when it does not listen; EOPNOTSUPP.
    fn accept(&self) -> Result<(Arc<dyn FileObject>, SocketAddress), Errno>;

    /// Starts a connection, or asks what became of one that was started. AF_UNSPEC ends a connection.
    ///
    /// # Errors
    /// EINPROGRESS when it is under way from now on, EALREADY when it was before (a blocking call waits on the queue and
    /// asks again after both); EISCONN, ECONNREFUSED, ENETUNREACH, ...
    fn connect(&self, address: &SocketAddress) -> Result<(), Errno>;

    /// Sends as much as can be sent at once (streams) or one message.
    ///
    /// # Errors
    /// EAGAIN; EPIPE (the caller raises SIGPIPE), ENOTCONN, EDESTADDRREQ, EMSGSIZE, ...
    fn send(&self, from: &mut Origin<'_>, outgoing: &mut Outgoing) -> Result<usize, Errno>;

    /// Receives what is there (streams) or one message.
    ///
    /// # Errors
    /// EAGAIN, ENOTCONN, ECONNRESET, ...
    fn receive(&self, into: &mut Destination<'_>, flags: ReceiveFlags) -> Result<Incoming, Errno>;

    /// Ends one or both directions.
    ///
    /// # Errors
    /// ENOTCONN.
    fn shutdown(&self, how: Shutdown) -> Result<(), Errno>;

    /// Its own address.
    ///
    /// # Errors
    /// The host's, for sockets of the host.
    fn local_address(&self) -> Result<SocketAddress, Errno>;

    /// Its peer's address.
    ///
    /// # Errors
    /// ENOTCONN.
    fn peer_address(&self) -> Result<SocketAddress, Errno>;

    /// The peer's credentials (SO_PEERCRED), of connected Unix sockets.
    fn peer_credentials(&self) -> Option<Credentials> {
        None
    }

    /// Takes the error that waits to be reported (SO_ERROR).
    fn take_error(&self) -> Option<Errno> {
        None
    }

    /// Whether it accepts connections (SO_ACCEPTCONN).
    fn listening(&self) -> bool {
        false
    }

    /// Bytes that can be received at once (FIONREAD): of the first message, where there are messages.
    fn readable_bytes(&self) -> usize;

    /// Called after an option was set, for sockets that pass options on.
    fn option_changed(&self, _level: i32, _name: i32, _value: i32) {}

    /// How long a blocking receive waits (SO_RCVTIMEO); `None`: for ever.
    fn receive_timeout(&self) -> Option<Duration> {
        self.options().timeouts().0
    }

    /// How long a blocking send waits (SO_SNDTIMEO); `None`: for ever.
    fn send_timeout(&self) -> Option<Duration> {
        self.options().timeouts().1
    }
}
