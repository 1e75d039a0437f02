//! Hostile frames, for tests and fuzzing: a string of bytes is a program of frames, many of them nearly right, that a network
//! without a relay has to survive.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};

use outbound::Client;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use smoltcp::wire::{EthernetFrame, IpProtocol, Ipv4Packet, TcpPacket, UdpPacket};

use crate::stack::Stack;
use crate::{GUEST, frames};

/// Where the good frames go.
const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(93, 184, 216, 34), 80);

/// Runs a program to its end.
///
/// # Errors
/// When this process has no descriptors left.
pub fn run(mut program: &[u8]) -> io::Result<()> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (card, _guest) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    let (relay, _) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    let mut stack = Stack::new(card, Client::new(relay))?;
    while let Some(([what, length, at], rest)) = program.split_first_chunk() {
        let (bytes, behind) = rest.split_at(rest.len().min(usize::from(*length)));
        program = behind;
        stack.frame(&frame(*what, usize::from(*at), bytes));
        stack.work();
    }
    Ok(())
}

/// The bytes as they are, or written over a good frame from `at` on; with `what`'s highest bit its sums are right again.
fn frame(what: u8, at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut frame = match what % 4 {
        0 => return bytes.to_vec(),
        1 => from_guest(1, SERVER, &[0; 40], IpProtocol::Udp),
        2 => from_guest(2, SERVER, &segment(), IpProtocol::Tcp),
        _ => frames::introduction(),
    };
    frame.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = *from);
    if what & 0x80 != 0 {
        // Not right when it is no packet any more.
        let _ = sums(&mut frame);
    }
    frame
}

/// What follows the ports of a segment that begins a connection.
fn segment() -> [u8; 16] {
    let mut rest = [0; 16];
    // Twenty bytes of header, SYN, a window.
    rest[8..12].copy_from_slice(&[5 << 4, 2, 0x20, 0]);
    rest
}

/// A frame of the guest with a datagram or, from its ports on, a segment.
pub(crate) fn from_guest(from: u16, to: SocketAddrV4, payload: &[u8], kind: IpProtocol) -> Vec<u8> {
    // As one to it, with the addresses the other way round.
    let mut bytes = frames::datagram(SocketAddrV4::new(*to.ip(), from), to.port(), payload);
    if let Ok(mut ethernet) = EthernetFrame::new_checked(&mut bytes[..])
        && let Ok(mut packet) = Ipv4Packet::new_checked(ethernet.payload_mut())
    {
        packet.set_src_addr(GUEST);
        packet.set_dst_addr(*to.ip());
        packet.set_next_header(kind);
    }
    if kind == IpProtocol::Tcp {
        // Behind the ports a segment has no length and no sum.
        bytes.splice(38.., payload.iter().copied());
        if let Ok(mut ethernet) = EthernetFrame::new_checked(&mut bytes[..]) {
            let length = ethernet.payload_mut().len() as u16;
            Ipv4Packet::new_unchecked(ethernet.payload_mut()).set_total_len(length);
        }
    }
    let _ = sums(&mut bytes);
    bytes
}

fn sums(frame: &mut [u8]) -> smoltcp::wire::Result<()> {
    let mut ethernet = EthernetFrame::new_checked(frame)?;
    let mut packet = Ipv4Packet::new_checked(ethernet.payload_mut())?;
    packet.fill_checksum();
    let (source, to) = (packet.src_addr().into(), packet.dst_addr().into());
    match packet.next_header() {
        IpProtocol::Tcp => TcpPacket::new_checked(packet.payload_mut())?.fill_checksum(&source, &to),
        IpProtocol::Udp => UdpPacket::new_checked(packet.payload_mut())?.fill_checksum(&source, &to),
        _ => {}
    }
    Ok(())
}
