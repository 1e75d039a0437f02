//! UDP.

use std::collections::VecDeque;
use std::net::{SocketAddr, UdpSocket as StdUdpSocket};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use outbound::{ADDRESS, decode_address, encode_address};
use tokio::net::UdpSocket;

use crate::control::Rules;
use crate::packet::PacketSocket;

/// The largest datagram, and the address before it.
const FRAME: usize = ADDRESS + 65_535;
/// As many addresses may answer: those that were sent to last.
const PEERS: usize = 256;

/// A socket of the host and the guest's end.
pub(crate) struct Carrier {
    pub guest: OwnedFd,
    pub host: OwnedFd,
    pub is_ipv6: bool,
}

/// Carries datagrams until the guest closes its socket. What is not allowed or finds no room is lost, as datagrams may be.
pub(crate) async fn carry(rules: Rc<Rules>, carrier: Carrier) {
    let Carrier { guest, host, is_ipv6 } = carrier;
    let Ok(guest) = PacketSocket::new(guest) else { return };
    let Ok(host) = UdpSocket::from_std(StdUdpSocket::from(host)) else { return };
    // Whom the guest has sent to: where that went, and what the guest calls it.
    let mut peers: VecDeque<(SocketAddr, SocketAddr)> = VecDeque::new();
    let (mut frame, mut datagram) = (vec![0; FRAME], vec![0; FRAME]);
    loop {
        tokio::select! {
            received = guest.receive(&mut frame) => {
                let Some(length) = received else { return };
                let Ok((named, payload)) = decode_address(frame.get(..length).unwrap_or_default()) else { return };
                let Ok(to) = rules.destination(named) else { continue };
                // A socket of IPv6 sends to IPv4 addresses in their mapped form.
                let to = match to {
                    SocketAddr::V4(v4) if is_ipv6 => SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port())),
                    to => to,
                };
                if !peers.contains(&(to, named)) {
                    peers.push_front((to, named));
                    peers.truncate(PEERS);
                }
                let _ = host.send_to(payload, to).await;
            }
            received = host.recv_from(&mut datagram) => {
                // An error that an earlier datagram has led to.
                let Ok((length, from)) = received else { continue };
                let Some((_, named)) = peers.iter().find(|(to, _)| *to == from) else { continue };
                let payload = datagram.get(..length).unwrap_or_default();
                let frame = [encode_address(*named).as_slice(), payload].concat();
                let _ = guest.send(&frame, None);
            }
        }
    }
}
