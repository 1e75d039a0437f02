//! A driver against the balloon, which takes free memory away. Threat model: the guest's kernel is hostile: it writes what it likes into
//! registers, rings and buffers, at any time; the device may break until it is reset, the monitor may not.
#![no_main]

use linux_guest::hostile::{Kind, Rig};

libfuzzer_sys::fuzz_target!(init: ignore_broken_pipes(), |program: &[u8]| {
    let ran = Rig::new(Kind::Balloon).map_err(|lacking| lacking.to_string()).and_then(|mut rig| rig.run(program));
    assert_eq!(ran, Ok(()));
});

/// As a Rust program's own start does, which a fuzzer's doesn't: a closed stream is an error, not a signal.
fn ignore_broken_pipes() {
    // SAFETY: no handler is installed.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}
