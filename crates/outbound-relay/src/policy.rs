//! Which addresses guests may reach.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use rustix::io::Errno;
use thiserror::Error;

/// An address and how many of its first bits count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Network {
    address: IpAddr,
    prefix: u32,
}

/// Text that is no network.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("'{0}' is no network: write an address, or an address and a prefix as in 10.1.0.0/16")]
pub struct InvalidNetwork(String);

impl FromStr for Network {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        let invalid = || InvalidNetwork(text.to_owned());
        let (address, prefix) =
            text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address: IpAddr = address.parse().map_err(|_| invalid())?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(width), str::parse).map_err(|_| invalid())?;
        if prefix > width { Err(invalid()) } else { Ok(Self { address, prefix }) }
    }
}

impl Network {
    /// An IPv4 network.
    const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u32) -> Self {
        Self { address: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), prefix }
    }

    /// An IPv6 network by the first of its groups.
    const fn v6(a: u16, b: u16, prefix: u32) -> Self {
        Self { address: IpAddr::V6(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0)), prefix }
    }

    /// Whether `ip` is in it.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.address, ip) {
            (IpAddr::V4(own), IpAddr::V4(ip)) => {
                let differing = (own.to_bits() ^ ip.to_bits()).leading_zeros();
                differing >= self.prefix
            }
            (IpAddr::V6(own), IpAddr::V6(ip)) => {
                (own.to_bits() ^ ip.to_bits()).leading_zeros() >= self.prefix
            }
            _ => false,
        }
    }
}

/// Never, whatever a user allows: link-local addresses, among them the clouds' metadata services, and what is no unicast address.
const NEVER: &[Network] = &[
    Network::v4(0, 0, 0, 0, 8),
    Network::v4(169, 254, 0, 0, 16),
    Network::v4(224, 0, 0, 0, 3),
    Network::v6(0xfe80, 0, 10),
    Network::v6(0xff00, 0, 8),
    Network { address: IpAddr::V6(Ipv6Addr::UNSPECIFIED), prefix: 128 },
    // Amazon's metadata service.
    Network { address: IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)), prefix: 128 },
    // Translated and tunnelled addresses (RFC 6052, 8215, 3056, 4380), behind which an IPv4 address of any kind may be.
    Network::v6(0x64, 0xff9b, 32),
    Network::v6(0x2002, 0, 16),
    Network::v6(0x2001, 0, 32),
];

/// Not unless a user allows them: this machine, and networks that are not everybody's (RFC 6890).
const PRIVATE: &[Network] = &[
    Network::v4(10, 0, 0, 0, 8),
    Network::v4(100, 64, 0, 0, 10),
    Network::v4(127, 0, 0, 0, 8),
    Network::v4(172, 16, 0, 0, 12),
    Network::v4(192, 0, 0, 0, 24),
    Network::v4(192, 168, 0, 0, 16),
    Network::v4(198, 18, 0, 0, 15),
    Network { address: IpAddr::V6(Ipv6Addr::LOCALHOST), prefix: 128 },
    Network::v6(0xfc00, 0, 7),
    Network::v6(0xfec0, 0, 10),
];

/// Which addresses guests may reach: all that are public and not this machine's own, and those that are allowed by name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Policy {
    /// Networks beyond the public ones.
    pub allowed: Vec<Network>,
}

impl Policy {
    /// Whether guests may reach `to`; `is_local` tells this machine's own addresses.
    ///
    /// # Errors
    /// EACCES.
    pub fn check(&self, to: SocketAddr, is_local: impl FnOnce(IpAddr) -> bool) -> Result<(), Errno> {
        let ip = to.ip().to_canonical();
        let in_any = |networks: &[Network]| networks.iter().any(|network| network.contains(ip));
        // Addresses with an IPv4 one in their last bits (deprecated, RFC 4291) are nobody's.
        let compatible = matches!(ip, IpAddr::V6(v6) if v6.to_bits() >> 32 == 0 && !v6.is_loopback());
        if in_any(NEVER) || compatible {
            return Err(Errno::ACCESS);
        }
        if in_any(&self.allowed) || !(in_any(PRIVATE) || is_local(ip)) { Ok(()) } else { Err(Errno::ACCESS) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(policy: &Policy, ip: &str) -> bool {
        let to = SocketAddr::new(ip.parse().unwrap(), 443);
        policy.check(to, |ip| ip == IpAddr::from([203, 0, 113, 9])).is_ok()
    }

    #[test]
    fn public_addresses_are_allowed_and_others_by_name_only() {
        let policy = Policy::default();
        for open in ["93.184.216.34", "8.8.8.8", "2606:2800::1", "::ffff:93.184.216.34"] {
            assert!(check(&policy, open), "{open}");
        }
        let private = [
            "127.0.0.1",
            "127.9.9.9",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "203.0.113.9",
            "::1",
            "fd00::1",
            "fec0::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
        ];
        for closed in private {
            assert!(!check(&policy, closed), "{closed}");
        }
        let all = Policy { allowed: vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()] };
        for open in private {
            assert!(check(&all, open), "{open}");
        }
        let never = [
            "169.254.169.254",
            "169.254.1.1",
            "0.0.0.0",
            "0.1.2.3",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "fe80::1",
            "ff02::1",
            "::",
            "::7f00:1",
            "fd00:ec2::254",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::7f00:1",
            "2002:7f00:1::",
            "2001::1",
        ];
        for closed in never {
            assert!(!check(&all, closed) && !check(&policy, closed), "{closed}");
        }
        let some = Policy { allowed: vec!["10.1.0.0/16".parse().unwrap(), "203.0.113.9".parse().unwrap()] };
        assert!(check(&some, "10.1.255.1") && check(&some, "203.0.113.9") && !check(&some, "10.2.0.1"));
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for wrong in ["", "10.0.0.0/33", "10.0.0/8", "::/129", "10.0.0.0/x", "example.org", "10.0.0.0/-1"] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
    }
}
