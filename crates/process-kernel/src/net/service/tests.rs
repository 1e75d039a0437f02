use super::*;
use crate::ipc::testing as objects;
use crate::net::testing::{self, at, network, receive, send, socket};
use crate::net::{Family, Socket, TcpSocket};
use crate::object::Restorer;

/// Answers every piece with its upper-case form, and notes what happens.
struct Echo {
    handle: ServiceHandle,
    events: Mutex<Vec<String>>,
}

impl Echo {
    fn serve(network: &Arc<Network>) -> Arc<Self> {
        let echo = Arc::new(Self { handle: network.service_handle(), events: Mutex::default() });
        network.add_service(9001, echo.clone());
        echo
    }

    fn events(&self) -> Vec<String> {
        std::mem::take(&mut self.events.lock())
    }
}

impl LoopbackService for Echo {
    fn opened(&self, connection: ConnectionId) {
        self.events.lock().push(format!("opened {}", connection.0));
    }

    fn received(&self, connection: ConnectionId, bytes: &[u8]) {
        self.events.lock().push(format!("received {} {}", connection.0, bytes.len()));
        self.handle.push(connection, &bytes.to_ascii_uppercase());
    }

    fn guest_closed(&self, connection: ConnectionId) {
        self.events.lock().push(format!("closed {}", connection.0));
    }
}

fn connect(network: &Arc<Network>) -> Arc<TcpSocket> {
    let client = TcpSocket::new(network, Family::Inet);
    testing::connect(&*client, &at("127.0.0.1:9001")).unwrap();
    client
}

#[test]
fn a_service_sees_a_connection_from_its_start_to_its_end() {
    let network = network();
    let echo = Echo::serve(&network);
    let client = connect(&network);
    assert_eq!(send(&*client, b"hello"), Ok(5));
    assert_eq!(receive(&*client, 100).unwrap(), b"HELLO");
    assert_eq!(receive(&*client, 100), Err(Errno::AGAIN));
    client.shutdown(Shutdown::Write).unwrap();
    drop(client);
    assert_eq!(echo.events(), ["opened 1", "received 1 5", "closed 1"]);
    assert!(!echo.handle.push(ConnectionId(1), b"late"));
    assert!(!echo.handle.is_open(ConnectionId(1)));
}

#[test]
fn a_service_can_close_and_the_guest_reads_the_rest() {
    let network = network();
    let echo = Echo::serve(&network);
    let client = connect(&network);
    echo.handle.push(ConnectionId(1), b"bye");
    echo.handle.close(ConnectionId(1));
    assert!(!echo.handle.push(ConnectionId(1), b"more"));
    assert_eq!(receive(&*client, 100).unwrap(), b"bye");
    assert_eq!(receive(&*client, 100).unwrap(), b"");
    assert_eq!(send(&*client, b"x"), Err(Errno::PIPE));
}

#[test]
fn only_its_own_address_reaches_the_service() {
    let network = network();
    let _echo = Echo::serve(&network);
    for address in ["127.0.0.2:9001", "127.0.0.1:9002"] {
        let client = TcpSocket::new(&network, Family::Inet);
        assert_eq!(client.connect(&at(address)), Err(Errno::CONNREFUSED), "{address}");
    }
}

#[test]
fn a_restored_connection_has_its_id_and_unread_bytes() {
    let network = network();
    let echo = Echo::serve(&network);
    drop(connect(&network));
    let client = connect(&network);
    echo.handle.push(ConnectionId(2), b"unread");
    let (saved, ids) = objects::save(&[client]);
    let (context, registry) = (objects::context(), objects::registry());
    let mut restorer = Restorer::new(&saved, &context, &registry);
    let file = restorer.file(ids[0]).unwrap();
    drop(restorer);
    let echo = Echo::serve(&context.network);
    assert_eq!(echo.handle.unread(ConnectionId(2)), 6);
    assert!(echo.handle.push(ConnectionId(2), b" and new"));
    assert_eq!(receive(socket(&file), 100).unwrap(), b"unread and new");
    send(socket(&file), b"x").unwrap();
    drop(connect(&context.network));
    drop(file);
    assert_eq!(echo.events(), ["received 2 1", "opened 3", "closed 3", "closed 2"]);
}
