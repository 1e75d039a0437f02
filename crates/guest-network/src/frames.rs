//! Frames: those that concern us before the stack sees them, and those that we make.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddrV4};

use smoltcp::phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr,
    IpProtocol, Ipv4Packet, Ipv4Repr, TcpPacket, UdpPacket, UdpRepr,
};

use crate::{GATEWAY, GATEWAY_MAC, GUEST, GUEST_MAC};

/// The longest frame: an Ethernet header and 1500 bytes.
pub(crate) const LONGEST: usize = 1514;
/// The longest datagram in one: without the headers of IP and UDP.
pub(crate) const LONGEST_DATAGRAM: usize = 1500 - 20 - 8;
/// Frames that wait for the guest to take them; beyond that TCP waits and datagrams are lost.
const MOST_OUTGOING: usize = 64;

/// A connection, by the guest's port and where it leads.
pub(crate) type Flow = (u16, SocketAddrV4);

/// What a frame is to us.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Seen<'a> {
    /// The first of a TCP connection.
    Begins(Flow),
    /// A datagram from a port of the guest.
    Datagram { from: u16, to: SocketAddrV4, payload: &'a [u8] },
    /// Something for the stack, if anything.
    Other,
}

/// Looks at a frame from the guest.
pub(crate) fn look(frame: &[u8]) -> Seen<'_> {
    seen(frame).unwrap_or(Seen::Other)
}

fn seen(frame: &[u8]) -> Option<Seen<'_>> {
    let frame = EthernetFrame::new_checked(frame).ok()?;
    if frame.ethertype() != EthernetProtocol::Ipv4 {
        return None;
    }
    let packet = Ipv4Packet::new_checked(frame.payload()).ok()?;
    let is_whole = !packet.more_frags() && packet.frag_offset() == 0;
    if packet.version() != 4 || !packet.verify_checksum() || packet.src_addr() != GUEST || !is_whole {
        return None;
    }
    let (source, to) = (packet.src_addr().into(), packet.dst_addr());
    match packet.next_header() {
        IpProtocol::Tcp => {
            let segment = TcpPacket::new_checked(packet.payload()).ok()?;
            let begins = segment.syn() && !segment.ack() && !segment.rst() && !segment.fin();
            let is_right = begins && segment.dst_port() != 0 && segment.verify_checksum(&source, &to.into());
            is_right.then(|| Seen::Begins((segment.src_port(), SocketAddrV4::new(to, segment.dst_port()))))
        }
        IpProtocol::Udp => {
            let datagram = UdpPacket::new_checked(packet.payload()).ok()?;
            let is_right = datagram.dst_port() != 0 && datagram.verify_checksum(&source, &to.into());
            is_right.then(|| Seen::Datagram {
                from: datagram.src_port(),
                to: SocketAddrV4::new(to, datagram.dst_port()),
                payload: datagram.payload(),
            })
        }
        _ => None,
    }
}

/// A datagram to a port of the guest, as a frame; it is no longer than [`LONGEST_DATAGRAM`].
pub(crate) fn datagram(from: SocketAddrV4, to: u16, payload: &[u8]) -> Vec<u8> {
    let udp = UdpRepr { src_port: from.port(), dst_port: to };
    let length = udp.header_len() + payload.len();
    let ip = Ipv4Repr {
        src_addr: *from.ip(),
        dst_addr: GUEST,
        next_header: IpProtocol::Udp,
        payload_len: length,
        hop_limit: 64,
    };
    let head = ethernet(GUEST_MAC, EthernetProtocol::Ipv4, GATEWAY_MAC);
    let mut bytes = vec![0; head.buffer_len() + ip.buffer_len() + length];
    let mut frame = EthernetFrame::new_unchecked(&mut bytes);
    head.emit(&mut frame);
    let sums = ChecksumCapabilities::default();
    let mut packet = Ipv4Packet::new_unchecked(frame.payload_mut());
    ip.emit(&mut packet, &sums);
    let mut inner = UdpPacket::new_unchecked(packet.payload_mut());
    let (source, to) = ((*from.ip()).into(), GUEST.into());
    udp.emit(&mut inner, &source, &to, payload.len(), |place| place.copy_from_slice(payload), &sums);
    bytes
}

fn ethernet(to: [u8; 6], ethertype: EthernetProtocol, from: [u8; 6]) -> EthernetRepr {
    EthernetRepr { src_addr: EthernetAddress(from), dst_addr: EthernetAddress(to), ethertype }
}

/// What a guest asks to learn the gateway's address. From it the stack knows the guest's, which it has no need to ask for then.
pub(crate) fn introduction() -> Vec<u8> {
    let question = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: EthernetAddress(GUEST_MAC),
        source_protocol_addr: GUEST,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: GATEWAY,
    };
    let head = ethernet([0xff; 6], EthernetProtocol::Arp, GUEST_MAC);
    let mut bytes = vec![0; head.buffer_len() + question.buffer_len()];
    let mut frame = EthernetFrame::new_unchecked(&mut bytes);
    head.emit(&mut frame);
    question.emit(&mut ArpPacket::new_unchecked(frame.payload_mut()));
    bytes
}

/// An address as the guest's connections have it.
pub(crate) fn endpoint(ip: Ipv4Addr, port: u16) -> smoltcp::wire::IpEndpoint {
    smoltcp::wire::IpEndpoint::new(ip.into(), port)
}

/// Frames between the stack and the card.
#[derive(Default)]
pub(crate) struct Frames {
    /// From the guest.
    pub incoming: VecDeque<Vec<u8>>,
    /// For the guest.
    pub outgoing: VecDeque<Vec<u8>>,
}

impl Frames {
    /// Whether the guest is to take some before there are more.
    pub fn is_full(&self) -> bool {
        self.outgoing.len() >= MOST_OUTGOING
    }
}

/// A frame for the stack.
pub(crate) struct Incoming(Vec<u8>);

/// Room for one of the stack's.
pub(crate) struct Outgoing<'a>(&'a mut VecDeque<Vec<u8>>);

impl RxToken for Incoming {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

impl TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut frame = vec![0; length];
        let result = fill(&mut frame);
        self.0.push_back(frame);
        result
    }
}

impl Device for Frames {
    type RxToken<'a> = Incoming;
    type TxToken<'a> = Outgoing<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Incoming, Outgoing<'_>)> {
        if self.is_full() {
            return None;
        }
        let frame = self.incoming.pop_front()?;
        Some((Incoming(frame), Outgoing(&mut self.outgoing)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Outgoing<'_>> {
        (!self.is_full()).then_some(Outgoing(&mut self.outgoing))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = LONGEST;
        capabilities
    }
}
