//! Frames against the other end of a linux guest's network card. Threat model: the guest's kernel is hostile and sends any frames in
//! any order; connections and datagrams may get lost, the worker may not.
#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::ignore_broken_pipes(), |program: &[u8]| {
    assert_eq!(guest_network::hostile::run(program).map_err(|lacking| lacking.to_string()), Ok(()));
});
