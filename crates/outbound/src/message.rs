//! Requests and replies: of fixed size, so that a packet is one or is refused.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use rustix::io::Errno;
use thiserror::Error;

/// Bytes of an address: 4 or 6, the address (an IPv4 one in its first four bytes), the port in network order.
pub const ADDRESS: usize = 19;
/// Bytes of a [`Request`].
pub const REQUEST: usize = 1 + ADDRESS;
/// Bytes of a [`Reply`].
pub const REPLY: usize = 4 + ADDRESS;

/// Bytes that are no message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("the other side of a relay sent what is no message")]
pub struct Malformed;

/// What a worker asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// A TCP connection to this address. The reply has a stream socket with it.
    Stream(SocketAddr),
    /// A UDP socket of the address's family, which may send anywhere that is allowed. The reply has a packet socket with it.
    Datagrams(SocketAddr),
    /// Whether datagrams may go to this address, and from where they would: what connect(2) of a UDP socket finds out.
    Route(SocketAddr),
}

/// What the relay answers: the local address, or why not.
pub type Reply = Result<SocketAddr, Errno>;

/// What became of connecting: the first four bytes of a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Greeting(pub Result<(), Errno>);

/// An address as bytes.
pub fn encode_address(address: SocketAddr) -> [u8; ADDRESS] {
    let mut bytes = [0; ADDRESS];
    let [kind, rest @ ..] = &mut bytes;
    let (ip, port) = rest.split_at_mut(16);
    match address.ip() {
        IpAddr::V4(v4) => {
            *kind = 4;
            ip.iter_mut().zip(v4.octets()).for_each(|(to, from)| *to = from);
        }
        IpAddr::V6(v6) => {
            *kind = 6;
            ip.copy_from_slice(&v6.octets());
        }
    }
    port.copy_from_slice(&address.port().to_be_bytes());
    bytes
}

/// The address at the start of `bytes`, and what follows it.
///
/// # Errors
/// [`Malformed`].
pub fn decode_address(bytes: &[u8]) -> Result<(SocketAddr, &[u8]), Malformed> {
    let (address, rest) = bytes.split_first_chunk::<ADDRESS>().ok_or(Malformed)?;
    let [kind, a, b, c, d, ..] = *address;
    let ip = match kind {
        4 => IpAddr::from([a, b, c, d]),
        6 => {
            let (_, octets) = address.split_first_chunk::<1>().ok_or(Malformed)?;
            let (octets, _) = octets.split_first_chunk::<16>().ok_or(Malformed)?;
            IpAddr::V6(Ipv6Addr::from(*octets))
        }
        _ => return Err(Malformed),
    };
    let (_, port) = address.split_last_chunk::<2>().ok_or(Malformed)?;
    Ok((SocketAddr::new(ip, u16::from_be_bytes(*port)), rest))
}

fn whole(bytes: &[u8]) -> Result<SocketAddr, Malformed> {
    match decode_address(bytes)? {
        (address, []) => Ok(address),
        _ => Err(Malformed),
    }
}

fn errno_bytes(errno: Option<Errno>) -> [u8; 4] {
    errno.map_or(0, Errno::raw_os_error).to_le_bytes()
}

/// 0 is none; what no kernel gives is malformed.
fn errno_of(bytes: [u8; 4]) -> Result<Option<Errno>, Malformed> {
    match i32::from_le_bytes(bytes) {
        0 => Ok(None),
        number @ 1..4096 => Ok(Some(Errno::from_raw_os_error(number))),
        _ => Err(Malformed),
    }
}

impl Request {
    /// As bytes.
    pub fn encode(self) -> [u8; REQUEST] {
        let (kind, address) = match self {
            Self::Stream(to) => (1, to),
            Self::Datagrams(family) => (2, family),
            Self::Route(to) => (3, to),
        };
        let mut bytes = [kind; REQUEST];
        let [_, rest @ ..] = &mut bytes;
        *rest = encode_address(address);
        bytes
    }

    /// From bytes.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let (kind, address) = bytes.split_first().ok_or(Malformed)?;
        let address = whole(address)?;
        match kind {
            1 => Ok(Self::Stream(address)),
            2 => Ok(Self::Datagrams(address)),
            3 => Ok(Self::Route(address)),
            _ => Err(Malformed),
        }
    }
}

/// A [`Reply`] as bytes; a refusal has an unspecified address.
pub fn encode_reply(reply: Reply) -> [u8; REPLY] {
    let mut bytes = [0; REPLY];
    let (errno, address) = bytes.split_at_mut(4);
    errno.copy_from_slice(&errno_bytes(reply.err()));
    address.copy_from_slice(&encode_address(reply.unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)))));
    bytes
}

/// A [`Reply`] from bytes.
///
/// # Errors
/// [`Malformed`].
pub fn decode_reply(bytes: &[u8]) -> Result<Reply, Malformed> {
    let (errno, address) = bytes.split_first_chunk::<4>().ok_or(Malformed)?;
    let address = whole(address)?;
    Ok(errno_of(*errno)?.map_or(Ok(address), Err))
}

impl Greeting {
    /// As bytes.
    pub fn encode(self) -> [u8; 4] {
        errno_bytes(self.0.err())
    }

    /// From bytes.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(bytes: [u8; 4]) -> Result<Self, Malformed> {
        Ok(Self(errno_of(bytes)?.map_or(Ok(()), Err)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn messages_come_back_and_nothing_else_is_one(ip: IpAddr, port: u16, kind in 0..3, extra in 0usize..3, errno in 1i32..4096) {
            let address = SocketAddr::new(ip, port);
            let request = match kind {
                0 => Request::Stream(address),
                1 => Request::Datagrams(address),
                _ => Request::Route(address),
            };
            let mut bytes = request.encode().to_vec();
            prop_assert_eq!(Request::decode(&bytes), Ok(request));
            prop_assert_eq!(decode_reply(&encode_reply(Ok(address))), Ok(Ok(address)));
            let errno = Errno::from_raw_os_error(errno);
            prop_assert_eq!(decode_reply(&encode_reply(Err(errno))), Ok(Err(errno)));
            prop_assert_eq!(Greeting::decode(Greeting(Err(errno)).encode()), Ok(Greeting(Err(errno))));
            bytes.resize(bytes.len() + extra + 1, 0);
            prop_assert_eq!(Request::decode(&bytes), Err(Malformed));
        }

        #[test]
        fn any_bytes_are_taken_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = (Request::decode(&bytes), decode_reply(&bytes), decode_address(&bytes));
        }
    }
}
