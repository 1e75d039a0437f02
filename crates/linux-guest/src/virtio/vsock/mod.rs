//! The socket device (virtio 1.2, 5.10): streams between guest and host. Each is one end of a Unix socket, whose other end
//! somebody in this process has.
//!
//! Either side opens connections: the guest to a port that the [`HostSide`] takes, the host to a port at which the guest
//! listens. None may be open when a snapshot is taken: the restored guest is not told that its connections are gone. (There is
//! an event for that, but Linux handles it beside what is received, and so might end the first new connection by it.)

mod connection;
mod packet;

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use virtio_queue::{Queue, QueueT};

use super::{Broken, Device, Memory};
use connection::{Connection, Taken};
use packet::{HEAD, Head, NO_SEND, STREAM, operation};

/// The host's own address.
const HOST: u64 = 2;
/// The guest's address: each guest has a device of its own, so all may have the same.
const GUEST: u64 = 3;
/// Connections that a guest may have at once.
const MOST_CONNECTIONS: usize = 64;
/// Answers that wait for the guest to make room for them; until then nothing more is taken from it.
const MOST_ANSWERS: usize = 256;
/// Data in one packet at most, from either side.
const MOST_DATA: usize = 64 << 10;

const RECEIVE: usize = 0;
const SEND: usize = 1;
const EVENTS: usize = 2;

/// The host's ports from which it connects: above all that mean something.
const FIRST_OWN_PORT: u32 = 1 << 30;

/// Who is on the host's side.
pub struct HostSide {
    /// Says who takes a connection of the guest to a port of the host; `None` refuses it.
    pub accept: Box<dyn FnMut(u32) -> Option<File> + Send>,
    /// Connections that the host wants: a port of the guest, and this side's end of the stream.
    pub dialled: Receiver<(u32, File)>,
}

/// A stream: the device's end, which never waits, and the end for whoever talks to the guest.
pub fn stream() -> io::Result<(File, File)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (device, other) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    fcntl_setfl(&other, OFlags::empty())?;
    Ok((device.into(), other.into()))
}

/// The guest's port, then the host's.
type Ports = (u32, u32);

/// The device.
pub(crate) struct Vsock {
    host: HostSide,
    next_own_port: u32,
    /// Tells whoever waits that a connection has something.
    epoll: Arc<OwnedFd>,
    connections: BTreeMap<Ports, Connection>,
    answers: VecDeque<(Ports, u16)>,
}

impl Vsock {
    pub fn new(host: HostSide, epoll: Arc<OwnedFd>) -> Self {
        Self {
            host,
            next_own_port: FIRST_OWN_PORT,
            epoll,
            connections: BTreeMap::new(),
            answers: VecDeque::new(),
        }
    }

    /// Takes what the guest has sent, as long as there is room for the answers.
    fn take_packets(&mut self, memory: &Memory, queue: &mut Queue) -> Result<bool, Broken> {
        let mut used = false;
        while self.answers.len() < MOST_ANSWERS {
            let Some(chain) = queue.pop_descriptor_chain(memory) else { break };
            let index = chain.head_index();
            let mut reader = chain.reader(memory)?;
            let mut bytes = [0; HEAD];
            reader.read_exact(&mut bytes)?;
            let head = Head::parse(bytes);
            let length = head.length as usize;
            if length > reader.available_bytes() || length > MOST_DATA {
                return Err(Broken(format!("a packet of {length} bytes in a smaller buffer")));
            }
            let mut data = vec![0; length];
            reader.read_exact(&mut data)?;
            self.packet(&head, &data);
            queue.add_used(memory, index, 0)?;
            used = true;
        }
        Ok(used)
    }

    fn packet(&mut self, head: &Head, data: &[u8]) {
        let ports = (head.source_port, head.destination_port);
        if head.source_cid != GUEST || head.destination_cid != HOST || head.kind != STREAM {
            if head.operation != operation::RESET {
                self.answers.push_back((ports, operation::RESET));
            }
            return;
        }
        if head.operation == operation::REQUEST {
            return self.open(ports, head);
        }
        let Some(connection) = self.connections.get_mut(&ports) else {
            if head.operation != operation::RESET {
                self.answers.push_back((ports, operation::RESET));
            }
            return;
        };
        connection.note_credit(head);
        let goes_on = match head.operation {
            operation::DATA => connection.push(data),
            operation::SHUTDOWN => connection.shut_down(head.flags),
            // A response says by its credit that data may follow.
            operation::RESPONSE | operation::CREDIT_UPDATE => true,
            operation::CREDIT_REQUEST => {
                self.answers.push_back((ports, operation::CREDIT_UPDATE));
                true
            }
            operation::RESET => {
                self.connections.remove(&ports);
                return;
            }
            _ => false,
        };
        if !goes_on {
            self.end(ports);
        }
    }

    fn open(&mut self, ports: Ports, head: &Head) {
        let possible = !self.connections.contains_key(&ports) && self.connections.len() < MOST_CONNECTIONS;
        let stream = if possible { (self.host.accept)(ports.1) } else { None };
        match stream.filter(|stream| self.watch(stream)) {
            Some(stream) => {
                self.connections.insert(ports, Connection::new(stream, head));
                self.answers.push_back((ports, operation::RESPONSE));
            }
            None => self.end(ports),
        }
    }

    fn watch(&self, stream: &File) -> bool {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&*self.epoll, stream, EventData::new_u64(0), flags).is_ok()
    }

    /// Begins the connections that the host wants. One that can't be had is closed, which its other end sees.
    fn dial(&mut self) {
        while let Ok((port, stream)) = self.host.dialled.try_recv() {
            let ports = (port, self.next_own_port);
            self.next_own_port = self.next_own_port.wrapping_add(1).max(FIRST_OWN_PORT);
            if self.connections.len() < MOST_CONNECTIONS && self.watch(&stream) {
                // Without credit until the guest has answered.
                self.connections.insert(ports, Connection::new(stream, &Head::default()));
                self.answers.push_back((ports, operation::REQUEST));
            }
        }
    }

    fn end(&mut self, ports: Ports) {
        self.connections.remove(&ports);
        self.answers.push_back((ports, operation::RESET));
    }

    /// Gives the guest what there is for it, as long as it has buffers.
    fn deliver(&mut self, memory: &Memory, queue: &mut Queue) -> Result<bool, Broken> {
        let mut used = false;
        while let Some(chain) = queue.pop_descriptor_chain(memory) {
            let index = chain.head_index();
            let mut writer = chain.writer(memory)?;
            let Some(room) = writer.available_bytes().checked_sub(HEAD) else {
                return Err(Broken("a receive buffer without room for a packet's head".to_owned()));
            };
            let Some((head, data)) = self.next_packet(room.min(MOST_DATA)) else {
                queue.set_next_avail(queue.next_avail().wrapping_sub(1));
                break;
            };
            writer.write_all(&head.bytes())?;
            writer.write_all(&data)?;
            queue.add_used(memory, index, (HEAD + data.len()) as u32)?;
            used = true;
        }
        Ok(used)
    }

    fn next_packet(&mut self, room: usize) -> Option<(Head, Vec<u8>)> {
        if let Some((ports, operation)) = self.answers.pop_front() {
            return Some((self.head(ports, operation), Vec::new()));
        }
        let mut found = None;
        for (ports, connection) in &mut self.connections {
            if connection.has_news() {
                found = Some((*ports, operation::CREDIT_UPDATE, Vec::new()));
                break;
            }
            match connection.take(room) {
                Taken::Nothing => {}
                Taken::Data(data) => found = Some((*ports, operation::DATA, data)),
                Taken::Finished => found = Some((*ports, operation::SHUTDOWN, Vec::new())),
                Taken::Gone => found = Some((*ports, operation::RESET, Vec::new())),
            }
            if found.is_some() {
                break;
            }
        }
        let (ports, operation, data) = found?;
        let mut head = self.head(ports, operation);
        head.length = data.len() as u32;
        if operation == operation::SHUTDOWN {
            head.flags = NO_SEND;
        }
        if operation == operation::RESET {
            self.connections.remove(&ports);
        }
        Some((head, data))
    }

    fn head(&mut self, ports: Ports, operation: u16) -> Head {
        let mut head = Head {
            source_cid: HOST,
            destination_cid: GUEST,
            source_port: ports.1,
            destination_port: ports.0,
            kind: STREAM,
            operation,
            ..Head::default()
        };
        if let Some(connection) = self.connections.get_mut(&ports) {
            connection.fill_credit(&mut head);
        }
        head
    }

    /// Does everything that can be done now.
    fn progress(&mut self, memory: &Memory, queues: &mut [Queue]) -> Result<bool, Broken> {
        let [receive, send, _events] = queues else { return Ok(false) };
        self.dial();
        let gone: Vec<Ports> = self
            .connections
            .iter_mut()
            .filter_map(|(ports, connection)| (!connection.flush()).then_some(*ports))
            .collect();
        for ports in gone {
            self.end(ports);
        }
        let mut interrupt = false;
        loop {
            let sent = self.take_packets(memory, send)?;
            let received = self.deliver(memory, receive)?;
            interrupt |= sent && send.needs_notification(memory)?;
            interrupt |= received && receive.needs_notification(memory)?;
            if !sent {
                return Ok(interrupt);
            }
        }
    }
}

impl Device for Vsock {
    fn kind(&self) -> u32 {
        virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK
    }

    fn queue_sizes(&self) -> &'static [u16] {
        const SIZES: [u16; 3] = {
            let mut sizes = [0; 3];
            sizes[RECEIVE] = 128;
            sizes[SEND] = 128;
            sizes[EVENTS] = 16;
            sizes
        };
        &SIZES
    }

    fn configuration(&self) -> Vec<u8> {
        GUEST.to_le_bytes().to_vec()
    }

    fn serve(&mut self, memory: &Memory, queues: &mut [Queue], _index: usize) -> Result<bool, Broken> {
        self.poll(memory, queues)
    }

    fn poll(&mut self, memory: &Memory, queues: &mut [Queue]) -> Result<bool, Broken> {
        // The three queues are served together, so all must be there.
        if queues.iter().all(QueueT::ready) { self.progress(memory, queues) } else { Ok(false) }
    }

    fn reset(&mut self) {
        self.connections.clear();
        self.answers.clear();
    }
}
