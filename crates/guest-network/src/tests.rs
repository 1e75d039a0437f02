//! The network, used as a guest's kernel uses it: by another stack at the other end of the frames.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Instant as Clock;

use outbound::Client;
use outbound_relay::{NameServers, Policy, Relay, Settings};
use proptest::prelude::*;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{read, write};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, EthernetFrame, IpCidr, IpProtocol, Ipv4Packet, UdpPacket};

use crate::frames::{self, Frames, Seen, endpoint};
use crate::hostile::{self, from_guest};
use crate::{GATEWAY, GUEST, GUEST_MAC, PREFIX};

fn relay(allowed: &[&str]) -> Relay {
    let allowed = allowed.iter().map(|text| text.parse().unwrap()).collect();
    Relay::start(Settings { policy: Policy { allowed }, name_servers: NameServers::new(Vec::new()) }).unwrap()
}

fn card(relay: &Relay) -> OwnedFd {
    crate::start(Client::new(relay.connect().unwrap())).unwrap()
}

/// A guest's kernel.
struct Guest {
    card: OwnedFd,
    frames: Frames,
    interface: Interface,
    sockets: SocketSet<'static>,
    began: Clock,
    port: u16,
}

impl Guest {
    fn new(card: OwnedFd) -> Self {
        let mut frames = Frames::default();
        let config = Config::new(EthernetAddress(GUEST_MAC).into());
        let mut interface = Interface::new(config, &mut frames, Instant::ZERO);
        interface.update_ip_addrs(|addresses| addresses.push(IpCidr::new(GUEST.into(), PREFIX)).unwrap());
        interface.routes_mut().add_default_ipv4_route(GATEWAY).unwrap();
        let sockets = SocketSet::new(Vec::new());
        Self { card, frames, interface, sockets, began: Clock::now(), port: 40_000 }
    }

    fn connect(&mut self, to: SocketAddrV4) -> SocketHandle {
        let buffer = || SocketBuffer::new(vec![0; 32 << 10]);
        let mut socket = Socket::new(buffer(), buffer());
        self.port += 1;
        socket.connect(self.interface.context(), endpoint(*to.ip(), to.port()), self.port).unwrap();
        self.sockets.add(socket)
    }

    /// Passes frames on until `done` has something to say of the socket.
    fn until<T>(&mut self, handle: SocketHandle, mut done: impl FnMut(&mut Socket<'_>) -> Option<T>) -> T {
        loop {
            let mut buffer = [0; 2000];
            while let Ok(count) = read(&self.card, &mut buffer) {
                self.frames.incoming.push_back(buffer[..count].to_vec());
            }
            let now = Instant::from_micros(self.began.elapsed().as_micros() as i64);
            self.interface.poll(now, &mut self.frames, &mut self.sockets);
            if let Some(value) = done(self.sockets.get_mut(handle)) {
                return value;
            }
            self.interface.poll(now, &mut self.frames, &mut self.sockets);
            while let Some(frame) = self.frames.outgoing.front() {
                if write(&self.card, frame).is_err() {
                    break;
                }
                self.frames.outgoing.pop_front();
            }
            let mut waited = [PollFd::new(&self.card, PollFlags::IN)];
            poll(&mut waited, Some(&Timespec { tv_sec: 0, tv_nsec: 2_000_000 })).unwrap();
        }
    }

    /// Whether a connection is made, once that is known.
    fn connects(&mut self, to: SocketAddrV4) -> bool {
        let handle = self.connect(to);
        self.until(handle, |socket| match socket.state() {
            State::Established => Some(true),
            State::Closed => Some(false),
            _ => None,
        })
    }
}

fn local(address: SocketAddr) -> SocketAddrV4 {
    let SocketAddr::V4(address) = address else { panic!() };
    address
}

#[test]
fn many_bytes_go_both_ways_and_each_way_ends_by_itself() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = local(listener.local_addr().unwrap());
    let relay = relay(&["127.0.0.0/8"]);
    let mut guest = Guest::new(card(&relay));
    let sent: Vec<u8> = (0..1_000_000_u32).map(|index| (index % 251) as u8).collect();
    let server = thread::spawn(move || {
        let mut peer = listener.accept().unwrap().0;
        let mut received = Vec::new();
        peer.read_to_end(&mut received).unwrap();
        peer.write_all(&received).unwrap();
    });
    let handle = guest.connect(address);
    let (mut at, mut back) = (0, Vec::new());
    guest.until(handle, |socket| {
        if socket.may_send() && at < sent.len() {
            at += socket.send_slice(&sent[at..]).unwrap();
            if at == sent.len() {
                socket.close();
            }
        }
        while socket.can_recv() {
            socket.recv(|bytes| (bytes.len(), back.extend_from_slice(bytes))).unwrap();
        }
        (back.len() == sent.len() && !socket.may_recv()).then_some(())
    });
    assert!(back == sent);
    server.join().unwrap();
}

#[test]
fn what_is_refused_or_not_allowed_is_reset() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let open = local(listener.local_addr().unwrap());
    let closed = local(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap());
    let allowing = relay(&["127.0.0.0/8"]);
    let mut guest = Guest::new(card(&allowing));
    assert!(guest.connects(open) && guest.connects(open));
    assert!(!guest.connects(closed));
    assert!(!guest.connects("169.254.169.254:80".parse().unwrap()));
    // Nobody is behind the gateway's own address.
    assert!(!guest.connects(SocketAddrV4::new(GATEWAY, 80)));
    let strict = relay(&[]);
    let mut guest = Guest::new(card(&strict));
    assert!(!guest.connects(open));
    // A relay that is gone.
    let (ours, _) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut guest = Guest::new(crate::start(Client::new(ours.into())).unwrap());
    assert!(!guest.connects(open));
}

#[test]
fn another_network_knows_nothing_of_a_connection_and_resets_it() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let relay = relay(&["127.0.0.0/8"]);
    let mut guest = Guest::new(card(&relay));
    let handle = guest.connect(local(listener.local_addr().unwrap()));
    guest.until(handle, |socket| (socket.state() == State::Established).then_some(()));
    let mut peer = listener.accept().unwrap().0;
    // As after a restore. With the card the old network ends, and its connections.
    guest.card = card(&relay);
    assert_eq!(peer.read(&mut [0]).unwrap_or(0), 0);
    guest.sockets.get_mut::<Socket<'_>>(handle).send_slice(b"more").unwrap();
    guest.until(handle, |socket| (socket.state() == State::Closed).then_some(()));
}

#[test]
fn datagrams_go_out_and_answers_come_back_to_the_port_that_asked() {
    let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = local(server.local_addr().unwrap());
    let relay = relay(&["127.0.0.0/8"]);
    let card = card(&relay);
    for port in [5001, 5002, 5001] {
        let payload = vec![port as u8; frames::LONGEST_DATAGRAM];
        write(&card, &from_guest(port, address, &payload, IpProtocol::Udp)).unwrap();
        let mut buffer = [0; 2000];
        let (count, from) = server.recv_from(&mut buffer).unwrap();
        assert!(buffer[..count] == payload);
        server.send_to(b"answer", from).unwrap();
        loop {
            poll(&mut [PollFd::new(&card, PollFlags::IN)], None).unwrap();
            let count = read(&card, &mut buffer).unwrap();
            let frame = EthernetFrame::new_checked(&buffer[..count]).unwrap();
            // The answer to the first question of the stack itself comes before.
            let Ok(packet) = Ipv4Packet::new_checked(frame.payload()) else { continue };
            let answer = UdpPacket::new_checked(packet.payload()).unwrap();
            assert!(answer.verify_checksum(&packet.src_addr().into(), &packet.dst_addr().into()));
            assert_eq!((packet.src_addr(), packet.dst_addr()), (*address.ip(), GUEST));
            assert_eq!((answer.dst_port(), answer.payload()), (port, &b"answer"[..]));
            break;
        }
    }
}

#[test]
fn only_whole_datagrams_of_the_guest_itself_are_seen() {
    let to = "93.184.216.34:53".parse().unwrap();
    let frame = from_guest(9, to, b"question", IpProtocol::Udp);
    assert_eq!(frames::look(&frame), Seen::Datagram { from: 9, to, payload: b"question" });
    // A wrong sum, another sender, a fragment, a frame that is cut short.
    for (at, value) in [(49, 0xff), (29, 11), (20, 0x20)] {
        let mut wrong = frame.clone();
        wrong[at] = value;
        assert_eq!(frames::look(&wrong), Seen::Other, "{at}");
    }
    assert_eq!(frames::look(&frame[..40]), Seen::Other);
    let mut rest = [0; 16];
    rest[8..12].copy_from_slice(&[5 << 4, 2, 0x20, 0]);
    assert_eq!(frames::look(&from_guest(9, to, &rest, IpProtocol::Tcp)), Seen::Begins((9, to)));
}

proptest! {
    #[test]
    fn no_frames_harm(program in prop::collection::vec(any::<u8>(), 0..600)) {
        hostile::run(&program).unwrap();
    }

    /// Frames that are nearly right reach deeper than any bytes do.
    #[test]
    fn no_changed_frames_harm(
        changes in prop::collection::vec((1..4_u8, any::<bool>(), 0..70_u8, prop::collection::vec(any::<u8>(), 1..4)), 1..40),
    ) {
        let frame = |(what, right, at, bytes): (u8, bool, u8, Vec<u8>)| {
            [&[what | u8::from(right) << 7, bytes.len() as u8, at][..], &bytes].concat()
        };
        hostile::run(&changes.into_iter().flat_map(frame).collect::<Vec<_>>()).unwrap();
    }
}
