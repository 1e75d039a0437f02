//! A port of the loopback interface that the host serves: connections to it are passed on, each by its number, over the one
//! connection to the host. They outlive that one: around a snapshot it is closed, they are not.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use guest_init::wire::{self, Kind};

use crate::Failure;
use crate::host::{PIECE, Writer, send};

/// The connections that are open.
#[derive(Clone, Default)]
pub(crate) struct Relay(Arc<Mutex<BTreeMap<u64, TcpStream>>>);

impl Relay {
    /// Takes connections from here on.
    pub fn listen(&self, port: u16, writer: &Writer) -> Result<(), Failure> {
        let listener = TcpListener::bind(("127.0.0.1", port))
            .map_err(|error| format!("listening at 127.0.0.1:{port}: {error}"))?;
        let (relay, writer) = (self.clone(), writer.clone());
        thread::spawn(move || {
            for (number, stream) in (1..).zip(listener.incoming().filter_map(Result::ok)) {
                relay.take(number, stream, &writer);
            }
        });
        Ok(())
    }

    fn take(&self, number: u64, stream: TcpStream, writer: &Writer) {
        // Small answers are not to wait for more.
        let _ = stream.set_nodelay(true);
        let Ok(reader) = stream.try_clone() else { return };
        if let Ok(mut open) = self.0.lock() {
            open.insert(number, stream);
        }
        send(writer, Kind::Opened, &wire::about(number, &[]));
        let writer = writer.clone();
        thread::spawn(move || pass_on(number, reader, &writer));
    }

    /// The host sends bytes on a connection.
    pub fn bytes(&self, body: &[u8]) {
        let Some((number, bytes)) = wire::connection(body) else { return };
        let stream = self.0.lock().ok().and_then(|open| open.get(&number)?.try_clone().ok());
        if let Some(mut stream) = stream {
            // Fails when the program's side is gone, which its reader notices.
            let _ = stream.write_all(bytes);
        }
    }

    /// The host closes a connection.
    pub fn closed(&self, body: &[u8]) {
        let number = wire::connection(body).map(|(number, _)| number);
        let stream = number.and_then(|number| self.0.lock().ok()?.remove(&number));
        if let Some(stream) = stream {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Passes on what the program sends.
fn pass_on(number: u64, mut reader: TcpStream, writer: &Writer) {
    let mut buffer = vec![0; PIECE];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return send(writer, Kind::Finished, &wire::about(number, &[])),
            Ok(count) => {
                let bytes = buffer.get(..count).unwrap_or_default();
                send(writer, Kind::Bytes, &wire::about(number, bytes));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return send(writer, Kind::Closed, &wire::about(number, &[])),
        }
    }
}
