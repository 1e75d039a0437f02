//! The relay, asked as workers ask it.

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use outbound::{ADDRESS, Client, Greeting, RESOLVERS, decode_address, encode_address};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendFlags, recvmsg, sendmsg};

use crate::{MAX_SOCKETS, NameServers, Network, Policy, Relay, Settings};

fn relay(allowed: &[&str], name_servers: Vec<SocketAddr>) -> Relay {
    let allowed = allowed.iter().map(|text| text.parse::<Network>().unwrap()).collect();
    Relay::start(Settings { policy: Policy { allowed }, name_servers: NameServers::new(name_servers) })
        .unwrap()
}

fn client(relay: &Relay) -> Client {
    Client::new(relay.connect().unwrap())
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// A stream that waits, behind its greeting.
fn connect(client: &Client, to: SocketAddr) -> Result<UnixStream, Errno> {
    let mut stream = UnixStream::from(client.stream(to)?.0);
    stream.set_nonblocking(false).unwrap();
    let mut greeting = [0; 4];
    stream.read_exact(&mut greeting).unwrap();
    Greeting::decode(greeting).unwrap().0.map(|()| stream)
}

fn echo(listener: &TcpListener) -> TcpStream {
    let (mut peer, _) = listener.accept().unwrap();
    let mut received = Vec::new();
    peer.read_to_end(&mut received).unwrap();
    peer.write_all(&received).unwrap();
    peer
}

#[test]
fn bytes_go_both_ways_and_each_way_ends_by_itself() {
    let (listener, address) = listener();
    let relay = relay(&["127.0.0.0/8"], Vec::new());
    let worker = client(&relay);
    let mut stream = connect(&worker, address).unwrap();
    let sent: Vec<u8> = (0..3_000_000u32).map(|index| (index % 251) as u8).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| drop(echo(&listener)));
        stream.write_all(&sent).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut back = Vec::new();
        stream.read_to_end(&mut back).unwrap();
        assert!(back == sent);
    });
}

#[test]
fn what_connecting_comes_to_is_told() {
    let relay = relay(&["127.0.0.0/8"], Vec::new());
    let client = client(&relay);
    let (listener, address) = listener();
    drop(listener);
    assert_eq!(connect(&client, address).unwrap_err(), Errno::CONNREFUSED);
    let reachable = client.route("127.0.0.1:9".parse().unwrap()).unwrap();
    assert_eq!(reachable.ip(), Ipv4Addr::LOCALHOST);
}

#[test]
fn nothing_is_opened_to_an_address_out_of_bounds() {
    let (listener, address) = listener();
    listener.set_nonblocking(true).unwrap();
    let relay = relay(&[], vec![address]);
    let client = client(&relay);
    let own: SocketAddr = (Ipv4Addr::LOCALHOST, address.port()).into();
    for text in [
        "169.254.169.254:80",
        "10.0.0.1:80",
        "[::1]:80",
        "0.0.0.0:80",
        "[::ffff:127.0.0.1]:80",
        "169.254.78.1:80",
    ] {
        assert_eq!(client.stream(text.parse().unwrap()).unwrap_err(), Errno::ACCESS, "{text}");
    }
    assert_eq!(client.stream(own).unwrap_err(), Errno::ACCESS);
    assert_eq!(client.route(own).unwrap_err(), Errno::ACCESS);
    assert!(listener.accept().is_err(), "nobody has knocked");
    // The name server alone is reached, whatever its address is, by the name that guests know.
    assert!(connect(&client, (RESOLVERS[0], 53).into()).is_ok());
}

fn send_frame(socket: &OwnedFd, to: SocketAddr, payload: &[u8]) {
    let address = encode_address(to);
    let parts = [IoSlice::new(&address), IoSlice::new(payload)];
    sendmsg(socket, &parts, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL).unwrap();
}

fn receive_frame(socket: &OwnedFd) -> (SocketAddr, Vec<u8>) {
    rustix::io::ioctl_fionbio(socket, false).unwrap();
    let mut frame = vec![0; ADDRESS + 65_535];
    let mut parts = [IoSliceMut::new(&mut frame)];
    let received =
        recvmsg(socket, &mut parts, &mut RecvAncillaryBuffer::default(), RecvFlags::empty()).unwrap();
    let (from, payload) = decode_address(&frame[..received.bytes]).unwrap();
    (from, payload.to_vec())
}

#[test]
fn datagrams_come_from_where_they_were_sent_to_and_from_nowhere_else() {
    let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let stranger = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let relay = relay(&[], vec![server.local_addr().unwrap()]);
    let any = SocketAddr::from(([0, 0, 0, 0], 0));
    let worker = client(&relay);
    let socket = worker.datagrams(any).unwrap();
    let resolver = SocketAddr::from((RESOLVERS[1], 53));
    // Out of bounds: lost.
    send_frame(&socket, stranger.local_addr().unwrap(), b"lost");
    send_frame(&socket, resolver, b"question");
    let mut buffer = [0; 100];
    let (length, from) = server.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"question");
    stranger.send_to(b"unasked", (Ipv4Addr::LOCALHOST, from.port())).unwrap();
    server.send_to(b"answer", from).unwrap();
    assert_eq!(receive_frame(&socket), (resolver, b"answer".to_vec()));
    stranger.set_nonblocking(true).unwrap();
    assert!(stranger.recv_from(&mut buffer).is_err());
}

#[test]
fn a_worker_has_a_share_and_what_it_holds_ends_with_it() {
    let (listener, address) = listener();
    let relay = relay(&["127.0.0.0/8"], Vec::new());
    let greedy = client(&relay);
    let any = SocketAddr::from(([0, 0, 0, 0], 0));
    let held: Vec<OwnedFd> =
        std::iter::from_fn(|| greedy.datagrams(any).ok()).take(MAX_SOCKETS + 1).collect();
    assert_eq!(held.len(), MAX_SOCKETS);
    assert_eq!(greedy.stream(address).unwrap_err(), Errno::NOBUFS);
    let other = client(&relay);
    let stream = connect(&other, address).unwrap();
    let (mut peer, _) = listener.accept().unwrap();
    drop(other);
    assert_eq!(peer.read(&mut [0; 1]).unwrap_or(0), 0, "its connections are gone");
    drop(stream);
}

#[test]
fn a_worker_that_talks_nonsense_is_dropped_and_others_are_not() {
    let relay = relay(&["127.0.0.0/8"], Vec::new());
    let socket = relay.connect().unwrap();
    rustix::io::write(&socket, b"nonsense").unwrap();
    assert_eq!(rustix::io::read(&socket, &mut [0; 8]), Ok(0));
    assert!(client(&relay).route("127.0.0.1:1".parse().unwrap()).is_ok());
}
