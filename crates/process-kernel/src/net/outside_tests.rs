//! Sockets that lead out, through a real relay. What they reach stands where the guest's name server is, which may be on the
//! host's loopback.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket as HostUdp};
use std::sync::Arc;

use outbound::Client;
use outbound_relay::{NameServers, Policy, Relay, Settings};
use rustix::io::Errno;

use super::testing::{at, network, receive, receive_all, send, send_to};
use super::{Family, Network, Socket, TcpSocket, UdpSocket};
use crate::file::{FileObject, Readiness};
use crate::ipc::testing as objects;

const SERVER: &str = "169.254.78.1:53";

/// A network with a way out to `server`; the relay ends with the second value.
fn reaching(server: SocketAddr) -> (Arc<Network>, Relay) {
    let settings = Settings { policy: Policy::default(), name_servers: NameServers::new(vec![server]) };
    let relay = Relay::start(settings).unwrap();
    let network = network();
    network.allow_outside(Client::new(relay.connect().unwrap()));
    (network, relay)
}

/// Waits as a blocking call does, until `attempt` says something else than to wait.
fn wait<T>(socket: &dyn FileObject, mut attempt: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match attempt() {
            Err(Errno::AGAIN | Errno::ALREADY | Errno::INPROGRESS) => {
                std::thread::sleep(std::time::Duration::from_millis(1));
                let _ = socket.readiness();
            }
            outcome => return outcome,
        }
    }
}

#[test]
fn a_connection_is_made_without_blocking_and_carries_bytes() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (network, _relay) = reaching(listener.local_addr().unwrap());
    let socket = TcpSocket::new(&network, Family::Inet);
    assert_eq!(socket.connect(&at(SERVER)), Err(Errno::INPROGRESS));
    let (mut peer, _) = listener.accept().unwrap();
    wait(&*socket, || socket.connect(&at(SERVER))).unwrap();
    assert_eq!(socket.connect(&at(SERVER)), Err(Errno::ISCONN));
    assert!(socket.readiness().contains(Readiness::OUT) && socket.take_error().is_none());
    assert_eq!(socket.peer_address().unwrap(), at(SERVER));
    assert_eq!(send(&*socket, b"ping"), Ok(4));
    let mut bytes = [0; 4];
    peer.read_exact(&mut bytes).unwrap();
    peer.write_all(b"pong").unwrap();
    assert_eq!(wait(&*socket, || receive_all(&*socket, 10, true)).unwrap().0, b"pong");
    assert_eq!(socket.readable_bytes(), 4);
    assert_eq!(receive(&*socket, 10).unwrap(), b"pong");
    drop(peer);
    assert_eq!(wait(&*socket, || receive(&*socket, 10)).unwrap(), b"");
}

#[test]
fn a_connection_that_fails_says_why_once() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (network, _relay) = reaching(listener.local_addr().unwrap());
    drop(listener);
    let socket = TcpSocket::new(&network, Family::Inet);
    assert_eq!(socket.connect(&at(SERVER)), Err(Errno::INPROGRESS));
    assert_eq!(wait(&*socket, || socket.connect(&at(SERVER))), Err(Errno::CONNREFUSED));
    // As SO_ERROR tells it to who waits by poll.
    assert_eq!(socket.connect(&at(SERVER)), Err(Errno::INPROGRESS));
    while !socket.readiness().contains(Readiness::OUT) {
        std::thread::yield_now();
    }
    assert_eq!(socket.take_error(), Some(Errno::CONNREFUSED));
    assert_eq!(socket.take_error(), None);
}

#[test]
fn addresses_out_of_bounds_are_refused_and_the_guests_own_never_leave_it() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let (network, _relay) = reaching(listener.local_addr().unwrap());
    for outside in ["169.254.169.254:80", "10.0.0.1:80", "169.254.78.1:80"] {
        let socket = TcpSocket::new(&network, Family::Inet);
        assert_eq!(socket.connect(&at(outside)), Err(Errno::ACCESS), "{outside}");
        let socket = UdpSocket::new(&network, Family::Inet);
        assert_eq!(socket.connect(&at(outside)), Err(Errno::ACCESS), "{outside}");
        assert_eq!(send_to(&*socket, &at(outside), b"x"), Err(Errno::ACCESS), "{outside}");
    }
    let socket = TcpSocket::new(&network, Family::Inet);
    assert_eq!(socket.connect(&at(&format!("127.0.0.1:{port}"))), Err(Errno::CONNREFUSED));
}

#[test]
fn datagrams_are_asked_and_answered() {
    let server = HostUdp::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (network, _relay) = reaching(server.local_addr().unwrap());
    let socket = UdpSocket::new(&network, Family::Inet);
    socket.connect(&at(SERVER)).unwrap();
    assert_eq!(
        socket.local_address().unwrap().inet().unwrap().ip(),
        Ipv4Addr::LOCALHOST,
        "the host's way there"
    );
    assert_eq!(send(&*socket, b"question"), Ok(8));
    let mut bytes = [0; 100];
    let (length, from) = server.recv_from(&mut bytes).unwrap();
    assert_eq!(&bytes[..length], b"question");
    server.send_to(b"answer", from).unwrap();
    wait(&*socket, || receive_all(&*socket, 100, true)).unwrap();
    assert_eq!(socket.readable_bytes(), 6, "as FIONREAD tells");
    let (bytes, incoming) = receive_all(&*socket, 100, false).unwrap();
    assert_eq!((bytes, incoming.from), (b"answer".to_vec(), Some(at(SERVER))));
}

#[test]
fn a_restored_connection_is_reset_and_a_new_one_needs_a_way_of_its_own() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (network, _relay) = reaching(listener.local_addr().unwrap());
    let socket = TcpSocket::new(&network, Family::Inet);
    assert_eq!(socket.connect(&at(SERVER)), Err(Errno::INPROGRESS));
    wait(&*socket, || socket.connect(&at(SERVER))).unwrap();
    let (context, files) = objects::round_trip_all(&[socket]);
    let restored = files[0].as_socket().unwrap();
    assert_eq!(receive(restored, 10), Err(Errno::CONNRESET));
    assert_eq!(receive(restored, 10).unwrap(), b"");
    assert_eq!(send(restored, b"x"), Err(Errno::PIPE));
    let fresh = TcpSocket::new(&context.network, Family::Inet);
    assert_eq!(fresh.connect(&at(SERVER)), Err(Errno::NETUNREACH));
}
