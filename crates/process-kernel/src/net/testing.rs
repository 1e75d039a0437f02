//! Helpers for the tests of sockets.

use std::sync::Arc;

use rustix::io::Errno;

use super::{Incoming, Network, Outgoing, ReceiveFlags, Socket, SocketAddress};
use crate::file::{Destination, FileObject, Origin};
use crate::ipc::testing;

pub(super) fn network() -> Arc<Network> {
    Network::new(&testing::ipc())
}

/// An Internet address.
pub(super) fn at(text: &str) -> SocketAddress {
    SocketAddress::Inet(text.parse().unwrap())
}

pub(super) fn socket(file: &Arc<dyn FileObject>) -> &dyn Socket {
    file.as_socket().unwrap()
}

/// Connects as a blocking socket does: the first connect never says that it is done.
pub(super) fn connect(socket: &dyn Socket, to: &SocketAddress) -> Result<(), Errno> {
    match socket.connect(to) {
        Err(Errno::INPROGRESS) => socket.connect(to),
        outcome => outcome,
    }
}

pub(super) fn send(socket: &dyn Socket, bytes: &[u8]) -> Result<usize, Errno> {
    socket.send(&mut Origin::Own(bytes), &mut Outgoing::default())
}

pub(super) fn send_to(socket: &dyn Socket, to: &SocketAddress, bytes: &[u8]) -> Result<usize, Errno> {
    let mut outgoing = Outgoing { to: Some(to.clone()), ..Outgoing::default() };
    socket.send(&mut Origin::Own(bytes), &mut outgoing)
}

pub(super) fn receive(socket: &dyn Socket, count: usize) -> Result<Vec<u8>, Errno> {
    receive_all(socket, count, false).map(|(bytes, _)| bytes)
}

pub(super) fn receive_all(
    socket: &dyn Socket,
    count: usize,
    peek: bool,
) -> Result<(Vec<u8>, Incoming), Errno> {
    let mut bytes = vec![0; count];
    let incoming = socket.receive(&mut Destination::Own(&mut bytes), ReceiveFlags { peek })?;
    bytes.truncate(incoming.count);
    Ok((bytes, incoming))
}
