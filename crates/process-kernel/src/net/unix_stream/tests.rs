use super::*;
use crate::ipc::{EventFd, PipeEnd, testing as objects};
use crate::net::testing::{network, receive, receive_all, send, socket};

const OWN: Credentials = Credentials { pid: 1, uid: 2, gid: 3 };

fn abstract_name(name: &str) -> SocketAddress {
    SocketAddress::Unix(UnixAddress::Abstract(name.into()))
}

fn listener(network: &Arc<Network>, socket_type: SocketType, backlog: usize) -> Arc<UnixStream> {
    let listener = UnixStream::new(network, socket_type, OWN);
    listener.bind(&abstract_name("server")).unwrap();
    listener.listen(backlog).unwrap();
    listener
}

#[test]
fn named_sockets_connect_and_know_each_other() {
    let network = network();
    let server = listener(&network, SocketType::Stream, 5);
    let client = UnixStream::new(&network, SocketType::Stream, OWN);
    assert_eq!(client.connect(&abstract_name("nobody")), Err(Errno::CONNREFUSED));
    client.connect(&abstract_name("server")).unwrap();
    assert_eq!(client.peer_address().unwrap(), abstract_name("server"));
    assert_eq!(client.peer_credentials(), Some(OWN));
    let (accepted, peer) = server.accept().unwrap();
    assert_eq!(peer, SocketAddress::Unix(UnixAddress::Unnamed));
    send(&*client, b"to the server").unwrap();
    assert_eq!(receive(socket(&accepted), 100).unwrap(), b"to the server");
    assert_eq!(socket(&accepted).local_address().unwrap(), abstract_name("server"));
    let packets = UnixStream::new(&network, SocketType::SequencedPacket, OWN);
    assert_eq!(packets.connect(&abstract_name("server")), Err(Errno::PROTOTYPE));
    drop(server);
    assert_eq!(packets.connect(&abstract_name("server")), Err(Errno::CONNREFUSED));
}

#[test]
fn names_are_unique_and_found_for_those_who_want_any() {
    let network = network();
    let first = listener(&network, SocketType::Stream, 0);
    let second = UnixStream::new(&network, SocketType::Stream, OWN);
    assert_eq!(second.bind(&abstract_name("server")), Err(Errno::ADDRINUSE));
    drop(first);
    second.bind(&abstract_name("server")).unwrap();
    let third = UnixStream::new(&network, SocketType::Stream, OWN);
    third.bind(&SocketAddress::Unix(UnixAddress::Unnamed)).unwrap();
    assert_eq!(third.local_address().unwrap(), abstract_name("00000"));
}

#[test]
fn a_full_backlog_makes_connectors_wait_until_accept() {
    let network = network();
    let server = listener(&network, SocketType::Stream, 0);
    let clients: Vec<_> = (0..2).map(|_| UnixStream::new(&network, SocketType::Stream, OWN)).collect();
    clients[0].connect(&abstract_name("server")).unwrap();
    assert_eq!(clients[1].connect(&abstract_name("server")), Err(Errno::AGAIN));
    let parker = Arc::new(crate::wait::Parker::default());
    let as_wake: Arc<dyn crate::wait::Wake> = parker.clone();
    let _registration = clients[1].queue.register(Arc::downgrade(&as_wake));
    parker.reset();
    server.accept().unwrap();
    assert!(parker.park(Some(std::time::Duration::from_secs(60))), "lost wake-up");
    clients[1].connect(&abstract_name("server")).unwrap();
}

#[test]
fn a_restored_pair_has_its_bytes_and_the_files_on_their_way() {
    let network = network();
    let [first, second] = UnixStream::pair(&network, SocketType::Stream, OWN);
    let (reader, writer) = PipeEnd::pair(&network.ipc, false);
    objects::write(&*writer, b"in the pipe").unwrap();
    let rights = vec![objects::open(reader), objects::open(EventFd::new(5, false))];
    let mut outgoing = Outgoing { rights, credentials: OWN, ..Outgoing::default() };
    first.send(&mut Origin::Own(b"with files"), &mut outgoing).unwrap();
    drop(writer);
    let (_, files) = objects::round_trip_all(&[first, second]);
    let (bytes, incoming) = receive_all(socket(&files[1]), 100, false).unwrap();
    assert_eq!(bytes, b"with files");
    assert_eq!(incoming.credentials, Some(OWN));
    assert_eq!(objects::read(&*incoming.rights[0].object, 100).unwrap(), b"in the pipe");
    assert_eq!(objects::read(&*incoming.rights[0].object, 100).unwrap(), b"");
    assert_eq!(objects::read(&*incoming.rights[1].object, 8).unwrap(), 5_u64.to_ne_bytes());
    send(socket(&files[1]), b"back").unwrap();
    assert_eq!(receive(socket(&files[0]), 100).unwrap(), b"back");
}

#[test]
fn a_restored_listener_has_its_name_and_backlog() {
    let network = network();
    let server = listener(&network, SocketType::SequencedPacket, 3);
    let client = UnixStream::new(&network, SocketType::SequencedPacket, OWN);
    client.connect(&abstract_name("server")).unwrap();
    send(&*client, b"one").unwrap();
    send(&*client, b"two").unwrap();
    let (context, files) = objects::round_trip_all(&[client, server]);
    let (accepted, _) = socket(&files[1]).accept().unwrap();
    assert_eq!(receive(socket(&accepted), 100).unwrap(), b"one");
    assert_eq!(receive(socket(&accepted), 100).unwrap(), b"two");
    let late = UnixStream::new(&context.network, SocketType::SequencedPacket, OWN);
    assert_eq!(late.connect(&abstract_name("server")), Ok(()));
}

#[test]
fn a_socket_in_itself_is_refused_by_the_saver() {
    let network = network();
    let [first, second] = UnixStream::pair(&network, SocketType::Stream, OWN);
    let mut outgoing = Outgoing { rights: vec![objects::open(second.clone())], ..Outgoing::default() };
    first.send(&mut Origin::Own(b"x"), &mut outgoing).unwrap();
    let error = Saver::default().save(second).unwrap_err();
    assert!(matches!(error, SaveError::NotSnapshotable { .. }), "{error}");
}
