//! The thread: frames in and out, the stack between them, connections to and from the relay.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant as Clock;

use outbound::Client;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, read, write};
use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{EthernetAddress, IpCidr, IpListenEndpoint};

use crate::datagrams::Datagrams;
use crate::frames::{self, Flow, Frames, LONGEST, Seen};
use crate::stream::{Connecting, Open};
use crate::{GATEWAY, GATEWAY_MAC, GUEST, PREFIX};

/// Connections that a guest may have at once.
const MOST_STREAMS: usize = 128;
/// Bytes of a connection that wait, each way.
const BUFFER: usize = 64 << 10;
/// Frames taken before something else is done.
const AT_ONCE: usize = 64;
/// After this long a guest that acknowledges nothing is gone. It may rest for its snapshot meanwhile.
const PATIENCE: Duration = Duration::from_secs(120);

enum Stream {
    Connecting(Connecting),
    Open(Open),
}

/// The network of one guest.
pub(crate) struct Stack {
    card: OwnedFd,
    relay: Client,
    frames: Frames,
    interface: Interface,
    sockets: SocketSet<'static>,
    streams: BTreeMap<Flow, Stream>,
    datagrams: Datagrams,
    began: Clock,
}

impl Stack {
    pub fn new(card: OwnedFd, relay: Client) -> io::Result<Self> {
        let mut seed = [0; 8];
        rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())?;
        let mut config = Config::new(EthernetAddress(GATEWAY_MAC).into());
        config.random_seed = u64::from_ne_bytes(seed);
        let mut frames = Frames::default();
        let mut interface = Interface::new(config, &mut frames, Instant::ZERO);
        let full = || io::Error::from(io::ErrorKind::OutOfMemory);
        let mut added = Ok(());
        interface.update_ip_addrs(|addresses| {
            added = addresses.push(IpCidr::new(GATEWAY.into(), PREFIX)).map_err(|_| full());
        });
        added?;
        // Every address is served here.
        interface.set_any_ip(true);
        interface.routes_mut().add_default_ipv4_route(GATEWAY).map_err(|_| full())?;
        frames.incoming.push_back(frames::introduction());
        let sockets = SocketSet::new(Vec::new());
        let (streams, datagrams) = (BTreeMap::new(), Datagrams::default());
        Ok(Self { card, relay, frames, interface, sockets, streams, datagrams, began: Clock::now() })
    }

    /// Serves the guest until its card is gone.
    pub fn run(mut self) {
        while self.take_frames() {
            self.greet();
            self.carry();
            self.datagrams.receive(&mut self.frames);
            self.work();
            self.give_frames();
            self.wait();
        }
    }

    fn now(&self) -> Instant {
        Instant::from_micros(i64::try_from(self.began.elapsed().as_micros()).unwrap_or(i64::MAX))
    }

    /// Lets the stack take its frames and make others.
    pub fn work(&mut self) {
        let now = self.now();
        self.interface.poll(now, &mut self.frames, &mut self.sockets);
    }

    /// Takes frames from the guest; false when there is no card any more.
    fn take_frames(&mut self) -> bool {
        // A byte more than there is room for, so that a longer one is noticed.
        let mut buffer = [0; LONGEST + 1];
        for _ in 0..AT_ONCE {
            // What the stack has not taken keeps its place: it waits for the guest to take frames.
            if self.frames.incoming.len() >= AT_ONCE {
                break;
            }
            match read(&self.card, &mut buffer) {
                Ok(0) => return false,
                Ok(count) if count <= LONGEST => self.frame(buffer.get(..count).unwrap_or_default()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => return false,
            }
        }
        true
    }

    pub fn frame(&mut self, frame: &[u8]) {
        match frames::look(frame) {
            Seen::Datagram { from, to, payload } => self.datagrams.send(&self.relay, from, to, payload),
            Seen::Begins(flow) if !self.streams.contains_key(&flow) => self.begin(flow, frame),
            // Said again: it is being connected, and the stack has not heard of it.
            Seen::Begins(flow) if matches!(self.streams.get(&flow), Some(Stream::Connecting(_))) => {}
            Seen::Begins(_) | Seen::Other => self.frames.incoming.push_back(frame.to_vec()),
        }
    }

    /// Asks the relay for a connection. Of one that can't be had the stack gets the first frame, knows nothing and says so.
    fn begin(&mut self, flow: Flow, frame: &[u8]) {
        let room = self.streams.len() < MOST_STREAMS;
        let connection = if room { self.relay.stream(flow.1.into()) } else { Err(Errno::NOBUFS) };
        match connection {
            Ok((relay, _)) => {
                let connecting = Connecting::new(relay, frame.to_vec());
                self.streams.insert(flow, Stream::Connecting(connecting));
            }
            Err(errno) => {
                tracing::debug!(to = %flow.1, %errno, "a guest's connection was refused");
                self.frames.incoming.push_back(frame.to_vec());
            }
        }
    }

    /// Hears what became of the connections that are being made.
    fn greet(&mut self) {
        let heard = |(flow, stream): (&Flow, &mut Stream)| match stream {
            Stream::Connecting(connecting) => Some((*flow, connecting.outcome()?)),
            Stream::Open(_) => None,
        };
        // The stack takes no frame while the guest takes none.
        while !self.frames.is_full() {
            let Some((flow, outcome)) = self.streams.iter_mut().find_map(heard) else { return };
            let Some(Stream::Connecting(Connecting { relay, first, .. })) = self.streams.remove(&flow) else {
                continue;
            };
            match outcome {
                Ok(()) => self.open(flow, relay, first),
                Err(_) => self.frames.incoming.push_back(first),
            }
        }
    }

    /// Lets the stack accept a connection of the guest.
    fn open(&mut self, flow: Flow, relay: OwnedFd, first: Vec<u8>) {
        let buffer = || SocketBuffer::new(vec![0; BUFFER]);
        let mut socket = Socket::new(buffer(), buffer());
        // The guest's program and the other side decide what is sent at once.
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        socket.set_timeout(Some(PATIENCE));
        let place = IpListenEndpoint { addr: Some((*flow.1.ip()).into()), port: flow.1.port() };
        if socket.listen(place).is_err() {
            return;
        }
        let handle = self.sockets.add(socket);
        self.frames.incoming.push_front(first);
        // At once: no other connection to the same place may find this socket.
        self.work();
        let met = self.sockets.get::<Socket<'_>>(handle).remote_endpoint();
        if met == Some(frames::endpoint(GUEST, flow.0)) {
            self.streams.insert(flow, Stream::Open(Open::new(relay, handle)));
        } else {
            // It was no frame that begins a connection after all.
            self.sockets.remove(handle);
        }
    }

    fn carry(&mut self) {
        let sockets = &mut self.sockets;
        self.streams.retain(|_, stream| {
            let Stream::Open(open) = stream else { return true };
            let goes_on = open.carry(sockets.get_mut(open.handle));
            if !goes_on {
                sockets.remove(open.handle);
            }
            goes_on
        });
    }

    /// Gives the guest frames, as long as it takes them.
    fn give_frames(&mut self) {
        while let Some(frame) = self.frames.outgoing.front() {
            match write(&self.card, frame) {
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return,
                // A card that is gone is noticed when it is read from.
                Ok(_) | Err(_) => drop(self.frames.outgoing.pop_front()),
            }
        }
    }

    /// Waits until there is something to do.
    fn wait(&mut self) {
        let now = self.now();
        let delay = self.interface.poll_delay(now, &self.sockets);
        // What the stack has to say waits for the guest to take what was said.
        let delay = delay.filter(|_| !self.frames.is_full()).map(|delay| Timespec {
            tv_sec: i64::try_from(delay.secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(delay.micros() as u32 % 1_000_000) * 1000,
        });
        let mut of_card = PollFlags::IN;
        of_card.set(PollFlags::OUT, !self.frames.outgoing.is_empty());
        let mut waited = vec![PollFd::new(&self.card, of_card)];
        for stream in self.streams.values() {
            let (relay, wants) = match stream {
                Stream::Connecting(connecting) => (&connecting.relay, PollFlags::IN),
                Stream::Open(open) => (&open.relay, open.wants(self.sockets.get(open.handle))),
            };
            // One that nothing is wanted of would wake for having ended.
            if !wants.is_empty() {
                waited.push(PollFd::new(relay, wants));
            }
        }
        if !self.frames.is_full() {
            waited.extend(self.datagrams.sockets().map(|socket| PollFd::new(socket, PollFlags::IN)));
        }
        // Interrupted or not: what there is is looked for.
        let _ = poll(&mut waited, delay.as_ref());
    }
}
