//! The way of a guest's connections out of its worker.
//!
//! A worker opens no socket: its namespace has no network and its filter no `socket`. It asks a relay, which lives with whoever
//! drives the worker, and gets one end of a pair of Unix sockets; the relay opens the connection, if its rules allow the address,
//! and carries bytes between the two.
//!
//! ```text
//!   guest ── system calls ──► worker ── [`Request`] over a control socket ──► relay: is the address allowed?
//!                               │ ◄── [`Reply`], and one end of a pair ─────── │
//!                               └══ bytes (streams) or frames (datagrams) ════ relay ══ host's socket ══► the address
//! ```
//!
//! What a hostile guest that took its worker over holds is a socket that leads to the relay and nowhere else: it can be used for
//! nothing that the relay's rules forbid. Nothing needs root, a firewall or an interface, and nothing is made per worker but a pair
//! of sockets.
//!
//! Streams begin with a [`Greeting`] from the relay: what became of connecting. Datagrams are frames: the other side's address
//! ([`encode_address`]), then the payload.
//!
//! Architecture invariants: no thread, no clock, nothing else of the workspace; the relay is in `outbound-relay`.
#![forbid(unsafe_code)]

mod client;
mod message;

pub use client::Client;
pub use message::{
    ADDRESS, Greeting, Malformed, REPLY, REQUEST, Reply, Request, decode_address, decode_reply,
    encode_address, encode_reply,
};

use std::net::{IpAddr, Ipv4Addr};

/// Where a guest's resolver sends its questions: addresses of the relay, which passes them to the host's own name servers, on
/// whatever address those are. Link-local ones, which no network has a use for.
pub const RESOLVERS: [Ipv4Addr; 2] = [Ipv4Addr::new(169, 254, 78, 1), Ipv4Addr::new(169, 254, 78, 2)];

/// The guest's /etc/resolv.conf. It is the same whether the network is on or not, so that a snapshot fits both.
pub fn resolver_configuration() -> String {
    let servers: String = RESOLVERS.iter().map(|address| format!("nameserver {address}\n")).collect();
    format!("{servers}options timeout:2 attempts:2\n")
}

/// Which of [`RESOLVERS`] an address is.
pub fn resolver_number(ip: IpAddr) -> Option<usize> {
    RESOLVERS.iter().position(|resolver| IpAddr::V4(*resolver) == ip)
}
