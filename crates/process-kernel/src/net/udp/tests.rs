use super::*;
use crate::ipc::testing as objects;
use crate::net::testing::{at, network, receive, receive_all, send, send_to, socket};

fn bound(network: &Arc<Network>, address: &str) -> Arc<UdpSocket> {
    let socket = UdpSocket::new(network, Family::Inet);
    socket.bind(&at(address)).unwrap();
    socket
}

#[test]
fn datagrams_arrive_whole_with_their_sender() {
    let network = network();
    let server = bound(&network, "0.0.0.0:53");
    let client = UdpSocket::new(&network, Family::Inet);
    assert_eq!(send(&*client, b"x"), Err(Errno::DESTADDRREQ));
    send_to(&*client, &at("127.0.0.1:53"), b"question").unwrap();
    send_to(&*client, &at("127.0.0.1:53"), b"").unwrap();
    let (bytes, incoming) = receive_all(&*server, 4, true).unwrap();
    assert_eq!((&bytes[..], incoming.message), (&b"ques"[..], 8));
    let (bytes, incoming) = receive_all(&*server, 100, false).unwrap();
    assert_eq!(bytes, b"question");
    let from = incoming.from.unwrap();
    let SocketAddress::Inet(sender) = &from else { panic!("{from:?}") };
    assert_eq!(sender.ip().to_string(), "127.0.0.1");
    assert_eq!(receive(&*server, 100).unwrap(), b"");
    send_to(&*server, &from, b"answer").unwrap();
    assert_eq!(receive(&*client, 100).unwrap(), b"answer");
    assert_eq!(receive(&*client, 100), Err(Errno::AGAIN));
}

#[test]
fn a_connected_socket_hears_only_its_peer_and_of_its_absence() {
    let network = network();
    let client = bound(&network, "127.0.0.1:1000");
    client.connect(&at("127.0.0.1:2000")).unwrap();
    let stranger = bound(&network, "127.0.0.1:3000");
    send_to(&*stranger, &at("127.0.0.1:1000"), b"spam").unwrap();
    assert_eq!(receive(&*client, 100), Err(Errno::AGAIN));
    send(&*client, b"anybody?").unwrap();
    assert!(client.readiness().contains(Readiness::ERR));
    assert_eq!(receive(&*client, 100), Err(Errno::CONNREFUSED));
    let peer = bound(&network, "127.0.0.1:2000");
    send(&*client, b"hello").unwrap();
    assert_eq!(receive(&*peer, 100).unwrap(), b"hello");
}

#[test]
fn the_outside_is_unreachable_and_full_mailboxes_lose_datagrams() {
    let network = network();
    let client = UdpSocket::new(&network, Family::Inet);
    assert_eq!(client.connect(&at("8.8.8.8:53")), Err(Errno::NETUNREACH));
    assert_eq!(send_to(&*client, &at("8.8.8.8:53"), b"x"), Err(Errno::NETUNREACH));
    assert_eq!(send_to(&*client, &at("127.0.0.1:53"), &[0; 65_508]), Err(Errno::MSGSIZE));
    let server = bound(&network, "127.0.0.1:53");
    for _ in 0..10_000 {
        assert_eq!(send_to(&*client, &at("127.0.0.1:53"), &[0; 1000]), Ok(1000));
    }
    let kept = std::iter::from_fn(|| receive(&*server, 2000).ok()).count();
    assert!((1..300).contains(&kept), "{kept}");
}

#[test]
fn a_restored_socket_has_its_address_and_datagrams() {
    let network = network();
    let server = bound(&network, "127.0.0.1:53");
    let client = bound(&network, "127.0.0.1:54");
    client.connect(&at("127.0.0.1:53")).unwrap();
    send(&*client, b"before").unwrap();
    let (_, files) = objects::round_trip_all(&[server, client]);
    let [server, client] = [socket(&files[0]), socket(&files[1])];
    let (bytes, incoming) = receive_all(server, 100, false).unwrap();
    assert_eq!((bytes, incoming.from), (b"before".to_vec(), Some(at("127.0.0.1:54"))));
    send(client, b"after").unwrap();
    assert_eq!(receive(server, 100).unwrap(), b"after");
}
