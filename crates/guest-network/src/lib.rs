//! The other end of a linux guest's network card.
//!
//! A guest with a network has a card whose frames come here, over a pair of Unix sockets, and go no further: TCP ends in a stack of
//! ours (smoltcp), and what a connection carries goes to the relay of outbound connections ([`outbound`]), as do datagrams. So a
//! linux guest reaches what a process guest does, by the same rules, which the relay alone enforces; nothing needs root, an
//! interface, a namespace or a firewall, and every clone has the same addresses.
//!
//! ```text
//!   guest's kernel ── frames ──► virtio-net ── pair of sockets ──► [ stack, datagrams ] ── Unix sockets ──► relay ══ the address
//! ```
//!
//! A connection is made before the guest hears that it is: one that is refused, or not allowed, is reset. Nothing comes in that was
//! not asked for. After a restore there is a new stack, which knows none of the guest's connections and resets them.
//! IPv4 only; no fragments, nothing but TCP and UDP.
//!
//! Architecture invariants: this crate knows no guest memory, no virtio and no policy. Frames are hostile.
#![forbid(unsafe_code)]

mod datagrams;
mod frames;
#[cfg(any(test, feature = "fuzzing"))]
pub mod hostile;
mod stack;
mod stream;
#[cfg(test)]
mod tests;

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::thread;

use outbound::Client;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

/// The guest's address. A link-local one, as in AWS Lambda, which no network has a use for; beside [`outbound::RESOLVERS`].
pub const GUEST: Ipv4Addr = Ipv4Addr::new(169, 254, 78, 10);
/// Bits of it that are the network's.
pub const PREFIX: u8 = 24;
/// Where the guest sends everything.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 78, 254);
/// The card's address.
pub const GUEST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// The gateway's.
pub(crate) const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// The stack of the thread: it calls nothing deep, and has its buffers elsewhere.
const STACK: usize = 256 << 10;

/// Starts a network, and gives the card's end of it: a packet socket that never waits, each packet of which is a frame. The network
/// ends when that is closed.
///
/// # Errors
/// When this process has no descriptors or threads left.
pub fn start(relay: Client) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (ours, card) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    let stack = stack::Stack::new(ours, relay)?;
    thread::Builder::new().name("network".to_owned()).stack_size(STACK).spawn(move || {
        jail::narrow(jail::Role::Network);
        stack.run();
    })?;
    Ok(card)
}
