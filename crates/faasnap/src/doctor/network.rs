//! What functions with a network can reach.

use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};

use outbound_relay::NameServers;

use super::Finding;

const GROUP: &str = "outbound network of functions";

pub(super) fn examine() -> Vec<Finding> {
    let servers = NameServers::default();
    let servers: Vec<String> = servers.all().iter().map(|server| server.ip().to_string()).collect();
    vec![
        way_out(leads_out_v4(), leads_out_v6()),
        Finding::good(GROUP, "names", format!("asked of {}", servers.join(", "))),
    ]
}

fn way_out(v4: bool, v6: bool) -> Finding {
    let name = "relay";
    match (v4, v6) {
        (true, true) => Finding::good(GROUP, name, "IPv4 and IPv6; no root and no firewall needed"),
        (true, false) => Finding::good(GROUP, name, "IPv4; this machine has no way out by IPv6"),
        (false, true) => Finding::good(GROUP, name, "IPv6; this machine has no way out by IPv4"),
        (false, false) => Finding::limited(
            GROUP,
            name,
            "this machine has no route to public addresses",
            "functions created with --network reach only what --allow-network names",
        )
        .mend("set a default route, if functions are to reach public addresses"),
    }
}

/// Whether there is a route to an address that everybody has one to (a.root-servers.net). No packet is sent.
fn leads_out_v4() -> bool {
    UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).is_ok_and(|socket| socket.connect("198.41.0.4:53").is_ok())
}

/// The same by IPv6.
fn leads_out_v6() -> bool {
    UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))
        .is_ok_and(|socket| socket.connect("[2001:503:ba3e::2:30]:53").is_ok())
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn a_machine_without_a_way_out_is_told_what_follows() {
        assert_eq!(way_out(true, false).state, State::Good);
        let none = way_out(false, false);
        assert_eq!(none.state, State::Limited);
        assert!(none.meaning.unwrap().contains("--allow-network") && none.mend.is_some());
    }
}
