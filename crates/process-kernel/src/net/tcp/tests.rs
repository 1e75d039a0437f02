use std::time::Duration;

use super::*;
use crate::ipc::testing as objects;
use crate::net::testing::{self, at, network, receive, receive_all, send, socket};
use crate::wait::{Parker, Wake};

fn listener(network: &Arc<Network>, address: &str, backlog: usize) -> Arc<TcpSocket> {
    let family = if address.starts_with('[') { Family::Inet6 } else { Family::Inet };
    let listener = TcpSocket::new(network, family);
    listener.bind(&at(address)).unwrap();
    listener.listen(backlog).unwrap();
    listener
}

fn pair(network: &Arc<Network>) -> (Arc<TcpSocket>, Arc<dyn FileObject>) {
    let server = listener(network, "127.0.0.1:0", 5);
    let client = TcpSocket::new(network, Family::Inet);
    testing::connect(&*client, &server.local_address().unwrap()).unwrap();
    let (accepted, _) = server.accept().unwrap();
    (client, accepted)
}

#[test]
fn a_connection_carries_bytes_both_ways_until_it_is_closed() {
    let network = network();
    let server = listener(&network, "127.0.0.1:8080", 5);
    assert_eq!(server.accept().err(), Some(Errno::AGAIN));
    let client = TcpSocket::new(&network, Family::Inet);
    testing::connect(&*client, &at("127.0.0.1:8080")).unwrap();
    assert!(server.readiness().contains(Readiness::IN));
    let (accepted, peer) = server.accept().unwrap();
    let accepted = socket(&accepted);
    assert_eq!(peer, client.local_address().unwrap());
    assert_eq!(accepted.peer_address().unwrap(), peer);
    assert_eq!(accepted.local_address().unwrap(), at("127.0.0.1:8080"));
    send(&*client, b"ping").unwrap();
    assert_eq!(receive_all(accepted, 9, true).unwrap().0, b"ping");
    assert_eq!(accepted.readable_bytes(), 4);
    assert_eq!(receive(accepted, 9).unwrap(), b"ping");
    assert_eq!(receive(accepted, 9), Err(Errno::AGAIN));
    send(accepted, b"pong").unwrap();
    accepted.shutdown(Shutdown::Write).unwrap();
    assert_eq!(send(accepted, b"!"), Err(Errno::PIPE));
    assert_eq!(receive(&*client, 9).unwrap(), b"pong");
    assert_eq!(receive(&*client, 9).unwrap(), b"");
    assert_eq!(send(&*client, b"more"), Ok(4));
    assert!(client.readiness().contains(Readiness::IN | Readiness::RDHUP | Readiness::OUT));
}

#[test]
fn nobody_there_is_refused_and_the_outside_is_unreachable() {
    let network = network();
    let client = TcpSocket::new(&network, Family::Inet);
    assert_eq!(client.connect(&at("127.0.0.1:9")), Err(Errno::CONNREFUSED));
    assert_eq!(client.connect(&at("10.0.0.1:80")), Err(Errno::NETUNREACH));
    assert_eq!(client.connect(&at("[::1]:80")), Err(Errno::AFNOSUPPORT));
    assert_eq!(send(&*client, b"x"), Err(Errno::PIPE));
    assert_eq!(receive(&*client, 1), Err(Errno::NOTCONN));
    // It can still be used.
    let _server = listener(&network, "127.0.0.1:9", 1);
    assert_eq!(client.connect(&at("0.0.0.0:9")), Err(Errno::INPROGRESS));
    assert_eq!(client.connect(&at("0.0.0.0:9")), Ok(()));
    assert_eq!(client.connect(&at("127.0.0.1:9")), Err(Errno::ISCONN));
}

#[test]
fn a_dual_stack_listener_shows_ipv4_peers_as_mapped() {
    let network = network();
    let server = listener(&network, "[::]:7000", 5);
    let v4 = TcpSocket::new(&network, Family::Inet);
    testing::connect(&*v4, &at("127.0.0.1:7000")).unwrap();
    let (_, peer) = server.accept().unwrap();
    let SocketAddress::Inet(SocketAddr::V6(peer)) = peer else { panic!("{peer:?}") };
    assert_eq!(peer.ip().to_ipv4_mapped(), Some(std::net::Ipv4Addr::LOCALHOST));
    let v6 = TcpSocket::new(&network, Family::Inet6);
    testing::connect(&*v6, &at("[::1]:7000")).unwrap();
    assert_eq!(v6.peer_address().unwrap(), at("[::1]:7000"));
    let only = TcpSocket::new(&network, Family::Inet6);
    only.options().set_integer(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1).unwrap();
    assert_eq!(only.connect(&at("[::ffff:127.0.0.1]:7000")), Err(Errno::NETUNREACH));
}

#[test]
fn a_full_backlog_makes_connectors_wait_for_accept() {
    let network = network();
    let server = listener(&network, "127.0.0.1:80", 0);
    let connect = || {
        let client = TcpSocket::new(&network, Family::Inet);
        let outcome = client.connect(&at("127.0.0.1:80"));
        (client, outcome)
    };
    let (first, outcome) = connect();
    // It is connected, and says so when it is asked again.
    assert_eq!(outcome, Err(Errno::INPROGRESS));
    assert!(first.readiness().contains(Readiness::OUT));
    assert_eq!(first.connect(&at("127.0.0.1:80")), Ok(()));
    let (second, outcome) = connect();
    assert_eq!(outcome, Err(Errno::INPROGRESS));
    assert_eq!(second.connect(&at("127.0.0.1:80")), Err(Errno::ALREADY));
    assert_eq!(second.readiness(), Readiness::empty());
    let (third, _) = connect();
    server.accept().unwrap();
    assert!(second.readiness().contains(Readiness::OUT));
    assert_eq!(second.connect(&at("127.0.0.1:80")), Ok(()));
    assert_eq!(second.connect(&at("127.0.0.1:80")), Err(Errno::ISCONN));
    drop(server);
    assert_eq!(third.take_error(), Some(Errno::CONNREFUSED));
}

#[test]
fn two_sockets_that_connect_to_each_other_do_not_deadlock() {
    let network = network();
    let threads: Vec<_> = [("127.0.0.1:1000", "127.0.0.1:2000"), ("127.0.0.1:2000", "127.0.0.1:1000")]
        .into_iter()
        .map(|(own, other)| {
            let network = network.clone();
            std::thread::spawn(move || {
                for _ in 0..500 {
                    let socket = TcpSocket::new(&network, Family::Inet);
                    socket.bind(&at(own)).unwrap();
                    assert_eq!(socket.connect(&at(other)), Err(Errno::CONNREFUSED));
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn closing_with_unread_bytes_resets_the_peer() {
    let (client, accepted) = pair(&network());
    send(&*client, b"never read").unwrap();
    drop(accepted);
    assert!(client.readiness().contains(Readiness::ERR | Readiness::HUP));
    assert_eq!(receive(&*client, 5), Err(Errno::CONNRESET));
    assert_eq!(receive(&*client, 5).unwrap(), b"");
    assert_eq!(send(&*client, b"x"), Err(Errno::PIPE));
}

#[test]
fn a_connection_that_has_ended_both_ways_has_no_peer() {
    let (client, accepted) = pair(&network());
    let server = socket(&accepted);
    send(server, b"last words").unwrap();
    server.shutdown(Shutdown::Write).unwrap();
    assert!(client.peer_address().is_ok(), "one way is still open");
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.peer_address(), Err(Errno::NOTCONN));
    assert_eq!(client.shutdown(Shutdown::Both), Err(Errno::NOTCONN));
    assert_eq!(receive(&*client, 20).unwrap(), b"last words");
}

#[test]
fn a_full_buffer_makes_the_sender_wait() {
    let (client, accepted) = pair(&network());
    let mut sent = 0;
    while let Ok(count) = send(&*client, &[0; 100_000]) {
        sent += count;
    }
    assert_eq!(sent, super::super::options::DEFAULT_BUFFER);
    assert!(!client.readiness().contains(Readiness::OUT));
    let parker = Arc::new(Parker::default());
    let as_wake: Arc<dyn Wake> = parker.clone();
    let _registration = client.queue.register(Arc::downgrade(&as_wake));
    parker.reset();
    receive(socket(&accepted), 50_000).unwrap();
    assert!(parker.park(Some(Duration::from_secs(60))), "lost wake-up");
    assert!(client.readiness().contains(Readiness::OUT));
}

#[test]
fn a_stopped_listener_refuses_what_waited() {
    let network = network();
    let server = listener(&network, "127.0.0.1:80", 5);
    let client = TcpSocket::new(&network, Family::Inet);
    testing::connect(&*client, &at("127.0.0.1:80")).unwrap();
    server.shutdown(Shutdown::Both).unwrap();
    assert_eq!(server.accept().err(), Some(Errno::INVAL));
    assert_eq!(receive(&*client, 1).unwrap(), b"");
}

#[test]
fn restored_sockets_go_on_where_they_were() {
    let network = network();
    let server = listener(&network, "127.0.0.1:80", 0);
    let clients: Vec<_> = (0..3).map(|_| TcpSocket::new(&network, Family::Inet)).collect();
    clients[0].options().set_integer(libc::IPPROTO_TCP, libc::TCP_NODELAY, 1).unwrap();
    testing::connect(&*clients[0], &at("127.0.0.1:80")).unwrap();
    send(&*clients[0], b"before").unwrap();
    let (accepted, _) = server.accept().unwrap();
    // One waits in the backlog, one for room in it.
    testing::connect(&*clients[1], &at("127.0.0.1:80")).unwrap();
    assert_eq!(clients[2].connect(&at("127.0.0.1:80")), Err(Errno::INPROGRESS));

    let roots: Vec<Arc<dyn Object>> =
        vec![clients[2].clone(), clients[0].clone(), accepted, clients[1].clone(), server];
    let (context, files) = objects::round_trip_all(&roots);
    let [third, first, accepted, second, server] = &files[..] else { panic!("five sockets") };
    let [third, first, accepted, second, server] = [third, first, accepted, second, server].map(socket);
    assert_eq!(first.options().integer(libc::IPPROTO_TCP, libc::TCP_NODELAY), Ok(1));
    assert_eq!(receive(accepted, 100).unwrap(), b"before");
    send(accepted, b"after").unwrap();
    assert_eq!(receive(first, 100).unwrap(), b"after");
    assert_eq!(third.connect(&at("127.0.0.1:80")), Err(Errno::ALREADY));
    send(second, b"queued").unwrap();
    let (from_backlog, _) = server.accept().unwrap();
    assert_eq!(receive(socket(&from_backlog), 100).unwrap(), b"queued");
    assert_eq!(third.connect(&at("127.0.0.1:80")), Ok(()));
    let taken = TcpSocket::new(&context.network, Family::Inet);
    assert_eq!(taken.bind(&at("127.0.0.1:80")), Err(Errno::ADDRINUSE));
}
