//! UDP: a socket of the relay for each port of the guest that has sent something lately.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;

use outbound::{ADDRESS, Client, decode_address, encode_address};
use rustix::io::{Errno, read, write};

use crate::frames::{Frames, LONGEST_DATAGRAM, datagram};

/// Ports that there are sockets for: those that sent last.
const MOST: usize = 64;

/// The sockets, that of the port that sent last in front.
#[derive(Default)]
pub(crate) struct Datagrams(VecDeque<(u16, OwnedFd)>);

impl Datagrams {
    /// Sends what the guest sends. What is not allowed or finds no room is lost, as datagrams may be.
    pub fn send(&mut self, relay: &Client, from: u16, to: SocketAddrV4, payload: &[u8]) {
        match self.0.iter().position(|(port, _)| *port == from) {
            Some(0) => {}
            Some(at) => {
                let found = self.0.remove(at);
                self.0.extend(found);
                self.0.rotate_right(1);
            }
            None => {
                let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
                let Ok(socket) = relay.datagrams(any) else { return };
                self.0.push_front((from, socket));
                self.0.truncate(MOST);
            }
        }
        if let Some((_, socket)) = self.0.front() {
            let _ = write(socket, &[&encode_address(to.into())[..], payload].concat());
        }
    }

    /// Takes what has come for the guest, as long as it takes it.
    pub fn receive(&mut self, frames: &mut Frames) {
        // A byte more than there is room for, so that a longer one is noticed.
        let mut buffer = [0; ADDRESS + LONGEST_DATAGRAM + 1];
        self.0.retain(|(port, socket)| {
            while !frames.is_full() {
                match read(socket, &mut buffer) {
                    Ok(0) => return false,
                    Ok(count) => {
                        let received = decode_address(buffer.get(..count).unwrap_or_default());
                        if let Ok((SocketAddr::V4(from), payload)) = received
                            && payload.len() <= LONGEST_DATAGRAM
                        {
                            frames.outgoing.push_back(datagram(from, *port, payload));
                        }
                    }
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => return true,
                    Err(_) => return false,
                }
            }
            true
        });
    }

    /// The sockets.
    pub fn sockets(&self) -> impl Iterator<Item = &OwnedFd> {
        self.0.iter().map(|(_, socket)| socket)
    }
}
