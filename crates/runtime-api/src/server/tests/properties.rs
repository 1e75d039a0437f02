//! Whatever comes in whatever pieces.

use proptest::prelude::*;

use super::*;

/// A conversation that uses most of the server, as one connection's bytes.
fn conversation() -> Vec<u8> {
    let mut bytes = b"\r\n".to_vec();
    bytes.extend(get(NEXT));
    bytes.extend(post("/runtime/invocation/wrong/response", "", "abc"));
    bytes.extend(STREAMED.as_bytes());
    bytes.extend(get(NEXT));
    bytes.extend(get("/nowhere"));
    bytes.extend(post(
        "/runtime/invocation/s/error",
        "Content-Type: application/json\r\n",
        "{\"errorType\":\"E\"}",
    ));
    bytes
}

/// Sends `bytes` in pieces of the given sizes, cyclically, and delivers an invocation whenever the runtime waits. Gives all
/// events, joined chunks, and all output.
fn converse(bytes: &[u8], sizes: &[usize], save_between: bool) -> (Vec<Event>, Vec<u8>) {
    let mut api = on_demand();
    let mut invocations = ["r", "s", "t"].into_iter();
    let mut sizes = sizes.iter().copied().cycle();
    let (mut events, mut output): (Vec<Event>, Vec<u8>) = (Vec::new(), Vec::new());
    let mut rest = bytes;
    loop {
        if save_between {
            let saved = postcard::to_allocvec(&api.save()).unwrap();
            api = RuntimeApi::resume(postcard::from_bytes(&saved).unwrap()).unwrap();
        }
        let (piece, later) = rest.split_at(sizes.next().unwrap_or(1).min(rest.len()));
        assert_eq!(api.received(A, piece), piece.len());
        rest = later;
        let mut waits = true;
        while std::mem::take(&mut waits) {
            while let Some(event) = api.next_event() {
                match (event, events.last_mut()) {
                    (Event::ResponseChunk { bytes: more, .. }, Some(Event::ResponseChunk { bytes, .. })) => {
                        bytes.extend(more)
                    }
                    (event, _) => events.push(event),
                }
            }
            if api.runtime_state() == RuntimeState::Ready {
                let request_id = invocations.next().unwrap();
                api.deliver(Invocation { response_mode: ResponseMode::Streaming, ..invocation(request_id) })
                    .unwrap();
                waits = true;
            }
            output.extend(api.take_output(A).0);
        }
        if rest.is_empty() {
            return (events, output);
        }
    }
}

proptest! {
    #[test]
    fn any_split_gives_the_same(sizes in prop::collection::vec(1usize..200, 1..20), save_between: bool) {
        let bytes = conversation();
        prop_assert_eq!(converse(&bytes, &sizes, save_between), converse(&bytes, &[usize::MAX], false));
    }

    #[test]
    fn hostile_bytes_neither_panic_nor_pile_up(pieces in prop::collection::vec((0u64..4, hostile()), 0..60)) {
        let mut api = snap_start();
        for (id, piece) in pieces {
            let id = ConnectionId(id);
            let _ = api.connection_opened(id);
            api.received(id, &piece);
            match piece.len() % 7 {
                0 => api.peer_finished(id),
                1 => api.peer_closed(id),
                2 => drop(api.take_output(id)),
                3 => { let _ = api.deliver(invocation("r")); }
                4 => { api.release_restore(); }
                5 => drop(events(&mut api)),
                _ => {}
            }
            prop_assert!(api.held() < 1024 * 1024);
            prop_assert!(RuntimeApi::resume(api.save()).is_ok());
        }
    }

    #[test]
    fn damaged_states_neither_panic_nor_hang(at: prop::sample::Index, bit in 0u8..8) {
        let mut api = snap_start();
        api.received(A, &get(RESTORE_NEXT));
        api.received(B, &get(NEXT)[..30]);
        let mut saved = postcard::to_allocvec(&api.save()).unwrap();
        let at = at.index(saved.len());
        saved[at] ^= 1 << bit;
        if let Ok(Ok(mut api)) = postcard::from_bytes(&saved).map(RuntimeApi::resume) {
            api.release_restore();
            let _ = api.deliver(invocation("r"));
            for id in [A, B] {
                api.received(id, &get(NEXT));
                // Not take_output: a damaged state may hold any number of requests.
                let count = api.output(id).len();
                api.output_sent(id, count);
            }
        }
    }
}

/// Bytes near enough to HTTP and the API to get somewhere.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let words: &'static [&'static [u8]] = &[
        b"GET ",
        b"POST ",
        b"PUT ",
        b"/2018-06-01/runtime/invocation/next",
        b"/2018-06-01/runtime/restore/next",
        b"/2018-06-01/runtime/invocation/r/response",
        b"/2018-06-01/runtime/invocation/r/error",
        b"/2018-06-01/runtime/init/error",
        b"/2021-04-23/credentials",
        b" HTTP/1.1\r\n",
        b" HTTP/1.0\r\n",
        b"Host: h\r\n",
        b"Content-Length: 5\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Expect: 100-continue\r\n",
        b"Connection: close\r\n",
        b"Lambda-Runtime-Function-Response-Mode: streaming\r\n",
        b"\r\n",
        b"\n",
        b"\r",
        b"5\r\nhello\r\n",
        b"0\r\n",
        b"ffffffff\r\n",
        b"hello",
        b"\0",
        b":",
        b" ",
    ];
    let word = prop_oneof![
        4 => prop::sample::select(words).prop_map(<[u8]>::to_vec),
        1 => prop::collection::vec(any::<u8>(), 0..20),
        2 => Just(get(NEXT)),
        2 => Just(get(RESTORE_NEXT)),
        2 => Just(post("/runtime/invocation/r/response", "", "hello")),
        1 => Just(STREAMED.as_bytes().to_vec()),
    ];
    prop::collection::vec(word, 0..12).prop_map(|words| words.concat())
}
