//! The Runtime API's server. Threat model: the function speaks to it over any number of connections with any bytes, and sees to
//! it that a snapshot is taken at the worst moment. The server answers or closes; it never panics, keeps no more input than
//! it says, and its state can be saved and taken up again at any point.
//!
//! Each step: a byte that says what happens (which of four connections, open, bytes, end, an event from outside, save and
//! resume), and for bytes one that says how many.
#![no_main]

use runtime_api::{Config, ConnectionId, RuntimeApi};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let config = Config { snap_start: true, max_connections: 3, ..Config::default() };
    let mut server = RuntimeApi::new(config);
    let mut rest = bytes;
    while let Some((step, later)) = rest.split_first() {
        rest = later;
        let id = ConnectionId(u64::from(step & 3));
        match step >> 2 & 7 {
            0 => drop(server.connection_opened(id)),
            1..=3 => {
                let Some((count, later)) = rest.split_first() else { break };
                let (piece, later) = later.split_at(usize::from(*count).min(later.len()));
                let taken = server.received(id, piece);
                assert!(taken <= piece.len());
                rest = later;
            }
            4 => server.peer_finished(id),
            5 => server.peer_closed(id),
            6 => drop(server.release_restore()),
            _ => {
                let state = postcard::to_stdvec(&server.save()).unwrap();
                server = RuntimeApi::resume(postcard::from_bytes(&state).unwrap()).expect("its own state");
            }
        }
        while server.next_event().is_some() {}
        let sent = server.output(id).len();
        server.output_sent(id, sent);
    }
});
