use super::*;
use crate::ipc::testing as objects;
use crate::net::testing::{network, receive, receive_all, send, send_to, socket};
use crate::wait::{Parker, Wake};

const OWN: Credentials = Credentials { pid: 1, uid: 2, gid: 3 };

fn named(network: &Arc<Network>, name: &str) -> Arc<UnixDatagram> {
    let socket = UnixDatagram::new(network, OWN);
    socket.bind(&address(name)).unwrap();
    socket
}

fn address(name: &str) -> SocketAddress {
    SocketAddress::Unix(UnixAddress::Abstract(name.into()))
}

#[test]
fn messages_go_by_name_or_to_the_peer() {
    let network = network();
    let (first, second) = (named(&network, "first"), named(&network, "second"));
    send_to(&*first, &address("second"), b"hello").unwrap();
    let (bytes, incoming) = receive_all(&*second, 3, false).unwrap();
    assert_eq!((&bytes[..], incoming.message, incoming.from), (&b"hel"[..], 5, Some(address("first"))));
    assert_eq!(send(&*first, b"x"), Err(Errno::NOTCONN));
    first.connect(&address("second")).unwrap();
    send(&*first, b"again").unwrap();
    assert_eq!(receive(&*second, 100).unwrap(), b"again");
    drop(second);
    assert_eq!(send(&*first, b"x"), Err(Errno::CONNREFUSED));
}

#[test]
fn a_sender_waits_for_room_and_is_woken_for_it() {
    let network = network();
    let [first, second] = UnixDatagram::pair(&network, OWN);
    let sent = (0..1000).take_while(|_| send(&*first, &[0; 1000]).is_ok()).count();
    assert!(sent < 300);
    assert!(!first.readiness().contains(Readiness::OUT));
    let parker = Arc::new(Parker::default());
    let as_wake: Arc<dyn Wake> = parker.clone();
    let _registration = first.queue.register(Arc::downgrade(&as_wake));
    parker.reset();
    for _ in 0..10 {
        receive(&*second, 1000).unwrap();
    }
    assert!(parker.park(Some(std::time::Duration::from_secs(60))), "lost wake-up");
    assert!(first.readiness().contains(Readiness::OUT));
}

#[test]
fn a_restored_pair_has_its_messages_and_peers() {
    let network = network();
    let [first, second] = UnixDatagram::pair(&network, OWN);
    send(&*first, b"one").unwrap();
    send(&*first, b"two").unwrap();
    let (_, files) = objects::round_trip_all(&[first, second]);
    assert_eq!(receive(socket(&files[1]), 100).unwrap(), b"one");
    assert_eq!(receive(socket(&files[1]), 100).unwrap(), b"two");
    send(socket(&files[1]), b"back").unwrap();
    assert_eq!(receive(socket(&files[0]), 100).unwrap(), b"back");
}
