//! The host's name servers.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The port of name servers.
pub(crate) const DNS: u16 = 53;
/// As many as resolvers use (MAXNS of resolv.h).
const MOST: usize = 3;

/// Who answers guests' questions for names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NameServers(Vec<SocketAddr>);

impl Default for NameServers {
    /// The host's own.
    fn default() -> Self {
        Self::from_text(&fs::read_to_string("/etc/resolv.conf").unwrap_or_default())
    }
}

impl NameServers {
    /// These, in this order.
    pub fn new(servers: Vec<SocketAddr>) -> Self {
        Self(servers)
    }

    /// From the text of a resolv.conf. Without a name server there, it is this machine (resolv.conf(5)).
    fn from_text(text: &str) -> Self {
        let servers = text.lines().filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some("nameserver")).then(|| words.next()?.parse::<IpAddr>().ok()).flatten()
        });
        let mut servers: Vec<_> = servers.take(MOST).map(|ip| SocketAddr::new(ip, DNS)).collect();
        if servers.is_empty() {
            servers.push(SocketAddr::from((Ipv4Addr::LOCALHOST, DNS)));
        }
        Self(servers)
    }

    /// All of them.
    pub fn all(&self) -> &[SocketAddr] {
        &self.0
    }

    /// The one behind a guest's resolver `number`.
    pub(crate) fn behind(&self, number: usize) -> Option<SocketAddr> {
        self.0.get(number % self.0.len().max(1)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_those_of_the_file() {
        let text =
            "# by hand\nsearch example.org\nnameserver 127.0.0.53\nnameserver fd00::1\nnameserver nonsense\n";
        let servers = NameServers::from_text(text);
        assert_eq!(servers.behind(0).unwrap().to_string(), "127.0.0.53:53");
        assert_eq!(servers.behind(1).unwrap().to_string(), "[fd00::1]:53");
        assert_eq!(servers.behind(2), servers.behind(0));
        assert_eq!(NameServers::from_text("").behind(1).unwrap().to_string(), "127.0.0.1:53");
    }
}
