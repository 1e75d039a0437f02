//! The worker protocol's frames. Threat model: a worker that a guest has taken over says what it likes to the node, in pieces of
//! any size. The node gets messages or an error; it never panics, loops, or holds more than one message of the largest size.
#![no_main]

use worker_protocol::{Decoder, FromWorker, ToWorker};

fn drain<M: serde::de::DeserializeOwned>(bytes: &[u8]) {
    let mut decoder = Decoder::default();
    let (sizes, stream) = bytes.split_at(bytes.len().min(8));
    let mut rest = stream;
    for size in sizes.iter().cycle() {
        let (piece, later) = rest.split_at(usize::from(*size).saturating_add(1).min(rest.len()));
        decoder.push(piece);
        loop {
            match decoder.next_message::<M>() {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
        rest = later;
        if rest.is_empty() {
            return;
        }
    }
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    drain::<ToWorker>(bytes);
    drain::<FromWorker>(bytes);
});
