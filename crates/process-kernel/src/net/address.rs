//! Socket addresses and their encoding as `struct sockaddr_*`.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// Address family of a socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Family {
    /// AF_UNIX
    Unix,
    /// AF_INET
    Inet,
    /// AF_INET6
    Inet6,
}

impl Family {
    /// The AF_* value.
    pub const fn number(self) -> i32 {
        match self {
            Self::Unix => libc::AF_UNIX,
            Self::Inet => libc::AF_INET,
            Self::Inet6 => libc::AF_INET6,
        }
    }
}

/// Where a Unix socket is bound.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub enum UnixAddress {
    /// Not bound.
    #[default]
    Unnamed,
    /// In the abstract namespace, without the leading NUL.
    Abstract(Vec<u8>),
    /// In the file tree, as the program wrote it.
    Path(Vec<u8>),
    /// A path that the system-call layer has followed to a socket's inode.
    File {
        /// As the program wrote it.
        path: Vec<u8>,
        /// Device and inode number.
        inode: (u64, u64),
    },
}

/// A socket's address.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum SocketAddress {
    /// AF_UNSPEC: ends a datagram socket's connection.
    Unspecified,
    /// AF_INET or AF_INET6.
    Inet(SocketAddr),
    /// AF_UNIX.
    Unix(UnixAddress),
}

/// Longest encoded address taken from a guest (struct sockaddr_storage).
pub const MAX_LENGTH: usize = 128;

/// Bytes of `sun_path`.
const UNIX_PATH: usize = 108;

fn two(bytes: &[u8], at: usize) -> Option<[u8; 2]> {
    bytes.get(at..at + 2)?.try_into().ok()
}

fn four(bytes: &[u8], at: usize) -> Option<[u8; 4]> {
    bytes.get(at..at + 4)?.try_into().ok()
}

impl SocketAddress {
    /// Decodes a `struct sockaddr` of `bytes.len()` bytes.
    ///
    /// # Errors
    /// EINVAL when it is too short or too long for its family, EAFNOSUPPORT for other families.
    pub fn decode(bytes: &[u8]) -> Result<Self, Errno> {
        let family = two(bytes, 0).map(u16::from_ne_bytes).ok_or(Errno::INVAL)?;
        match i32::from(family) {
            libc::AF_UNSPEC => Ok(Self::Unspecified),
            libc::AF_INET => Self::decode_v4(bytes).ok_or(Errno::INVAL),
            libc::AF_INET6 => Self::decode_v6(bytes).ok_or(Errno::INVAL),
            libc::AF_UNIX => Self::decode_unix(&bytes[2..]),
            _ => Err(Errno::AFNOSUPPORT),
        }
    }

    fn decode_v4(bytes: &[u8]) -> Option<Self> {
        let port = u16::from_be_bytes(two(bytes, 2)?);
        let address = Ipv4Addr::from(four(bytes, 4)?);
        // struct sockaddr_in is 16 bytes; Linux insists on all of them.
        (bytes.len() >= 16).then(|| Self::Inet(SocketAddr::V4(SocketAddrV4::new(address, port))))
    }

    fn decode_v6(bytes: &[u8]) -> Option<Self> {
        let port = u16::from_be_bytes(two(bytes, 2)?);
        let flow = u32::from_be_bytes(four(bytes, 4)?);
        let octets: [u8; 16] = bytes.get(8..24)?.try_into().ok()?;
        // The scope may be left out (SIN6_LEN_RFC2133).
        let scope = four(bytes, 24).map_or(0, u32::from_ne_bytes);
        Some(Self::Inet(SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::from(octets), port, flow, scope))))
    }

    fn decode_unix(path: &[u8]) -> Result<Self, Errno> {
        if path.len() > UNIX_PATH {
            return Err(Errno::INVAL);
        }
        Ok(Self::Unix(match path {
            [] => UnixAddress::Unnamed,
            [0, name @ ..] => UnixAddress::Abstract(name.to_vec()),
            path => {
                let end = path.iter().position(|byte| *byte == 0).unwrap_or(path.len());
                UnixAddress::Path(path[..end].to_vec())
            }
        }))
    }

    /// Encodes it as a `struct sockaddr_*`.
    pub fn encode(&self) -> Vec<u8> {
        let family = |number: i32| (number as u16).to_ne_bytes().to_vec();
        match self {
            Self::Unspecified => family(libc::AF_UNSPEC),
            Self::Inet(SocketAddr::V4(address)) => {
                let mut bytes = family(libc::AF_INET);
                bytes.extend(address.port().to_be_bytes());
                bytes.extend(address.ip().octets());
                bytes.extend([0; 8]);
                bytes
            }
            Self::Inet(SocketAddr::V6(address)) => {
                let mut bytes = family(libc::AF_INET6);
                bytes.extend(address.port().to_be_bytes());
                bytes.extend(address.flowinfo().to_be_bytes());
                bytes.extend(address.ip().octets());
                bytes.extend(address.scope_id().to_ne_bytes());
                bytes
            }
            Self::Unix(address) => {
                let mut bytes = family(libc::AF_UNIX);
                match address {
                    UnixAddress::Unnamed => {}
                    UnixAddress::Abstract(name) => {
                        bytes.push(0);
                        bytes.extend(name);
                    }
                    UnixAddress::Path(path) | UnixAddress::File { path, .. } => {
                        bytes.extend(path);
                        bytes.push(0);
                    }
                }
                bytes
            }
        }
    }

    /// The Internet address, if it is one.
    pub fn inet(&self) -> Option<SocketAddr> {
        match self {
            Self::Inet(address) => Some(*address),
            _ => None,
        }
    }
}

/// `address` as a socket of `family` reports it: IPv4 appears mapped in an IPv6 socket.
pub(crate) fn presented(address: SocketAddr, family: Family) -> SocketAddr {
    match (family, address) {
        (Family::Inet6, SocketAddr::V4(v4)) => {
            SocketAddr::V6(SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0))
        }
        _ => address,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_of_the_usual_kinds() {
        let loopback = SocketAddress::Inet("127.0.0.1:80".parse().unwrap());
        assert_eq!(loopback.encode(), [2, 0, 0, 80, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(SocketAddress::decode(&loopback.encode()), Ok(loopback.clone()));
        assert_eq!(SocketAddress::decode(&loopback.encode()[..15]), Err(Errno::INVAL));
        assert_eq!(SocketAddress::decode(&[16, 0, 0, 0]), Err(Errno::AFNOSUPPORT));
        assert_eq!(SocketAddress::decode(&[0, 0]), Ok(SocketAddress::Unspecified));
        assert_eq!(SocketAddress::decode(&[1]), Err(Errno::INVAL));
        let named = SocketAddress::decode(b"\x01\0/tmp/s\0junk").unwrap();
        assert_eq!(named, SocketAddress::Unix(UnixAddress::Path(b"/tmp/s".to_vec())));
        let hidden = SocketAddress::decode(b"\x01\0\0a\0b").unwrap();
        assert_eq!(hidden, SocketAddress::Unix(UnixAddress::Abstract(b"a\0b".to_vec())));
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_fail_and_decoded_ones_encode_back(bytes: Vec<u8>) {
            if let Ok(address) = SocketAddress::decode(&bytes) {
                let again = SocketAddress::decode(&address.encode());
                prop_assert_eq!(again, Ok(address));
            }
        }

        #[test]
        fn encoded_addresses_decode(ip: [u8; 16], port: u16, flow: u32, scope: u32) {
            let v6 = SocketAddrV6::new(ip.into(), port, flow, scope);
            let address = SocketAddress::Inet(SocketAddr::V6(v6));
            prop_assert_eq!(SocketAddress::decode(&address.encode()), Ok(address));
        }
    }
}
