//! Which addresses are this machine's own: services on them are not the guests' business, the node's ports among them.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Addresses come and go seldom; what is known is used for so long.
const FRESH: Duration = Duration::from_secs(1);

/// The addresses of this network namespace, as the kernel's tables say.
#[derive(Debug, Default)]
pub(crate) struct LocalAddresses {
    known: BTreeSet<IpAddr>,
    read: Option<Instant>,
}

impl LocalAddresses {
    /// Whether `ip` is one. When the tables can't be read, every address is: nothing is opened by mistake.
    pub fn contains(&mut self, ip: IpAddr) -> bool {
        if self.read.is_none_or(|read| read.elapsed() > FRESH) {
            let Ok(v4) = fs::read_to_string("/proc/self/net/fib_trie") else { return true };
            // A machine without IPv6 has no such table, and no such address.
            let v6 = fs::read_to_string("/proc/self/net/if_inet6").unwrap_or_default();
            self.known = of_trie(&v4).chain(of_interfaces(&v6)).collect();
            self.read = Some(Instant::now());
        }
        self.known.contains(&ip)
    }
}

/// An address stands in a line of its own, `|-- 192.0.2.1`, and what it is in those below: `/32 host LOCAL`.
fn of_trie(text: &str) -> impl Iterator<Item = IpAddr> {
    let mut last: Option<Ipv4Addr> = None;
    text.lines().filter_map(move |line| {
        if let Some((_, address)) = line.split_once("|-- ") {
            last = address.trim().parse().ok();
            return None;
        }
        let is_local = line.trim_start().starts_with("/32 ") && line.trim_end().ends_with("LOCAL");
        last.filter(|_| is_local).map(IpAddr::V4)
    })
}

/// An interface's address is the first word of its line, 32 digits.
fn of_interfaces(text: &str) -> impl Iterator<Item = IpAddr> {
    let addresses = text.lines().filter_map(|line| line.split_whitespace().next());
    addresses
        .filter_map(|digits| Some(IpAddr::V6(Ipv6Addr::from_bits(u128::from_str_radix(digits, 16).ok()?))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_addresses_are_found_in_the_kernels_tables() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     |-- 192.0.2.0\n        \
                    /24 link UNICAST\nLocal:\n     |-- 192.0.2.2\n        /32 host LOCAL\n     |-- 192.0.2.255\n        \
                    /32 link BROADCAST\n";
        assert_eq!(of_trie(trie).collect::<Vec<_>>(), [IpAddr::from([192, 0, 2, 2])]);
        let interfaces = "fd000000000000000000000000000002 02 40 00 80     eth0\n";
        assert_eq!(of_interfaces(interfaces).collect::<Vec<_>>(), ["fd00::2".parse::<IpAddr>().unwrap()]);
        assert!(LocalAddresses::default().contains(IpAddr::from([127, 0, 0, 1])));
        assert!(!LocalAddresses::default().contains(IpAddr::from([93, 184, 216, 34])));
    }
}
