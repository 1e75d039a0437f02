//! What the targets for a linux guest's devices share.
//!
//! Threat model: the guest's kernel is hostile: it writes what it likes into registers, rings and buffers, at any time; the device
//! may break until it is reset, the monitor may not.

pub use libfuzzer_sys;
pub use linux_guest::hostile::Kind;
use linux_guest::hostile::Rig;

/// A target that lets bytes drive a device of a kind.
#[macro_export]
macro_rules! device_target {
    ($kind:expr) => {
        use $crate::libfuzzer_sys;
        libfuzzer_sys::fuzz_target!(init: $crate::ignore_broken_pipes(), |program: &[u8]| {
            $crate::drive($kind, program);
        });
    };
}

/// Runs a program against a new device.
///
/// # Panics
/// When the device does not keep what it promises.
pub fn drive(kind: Kind, program: &[u8]) {
    let ran = Rig::new(kind).map_err(|lacking| lacking.to_string()).and_then(|mut rig| rig.run(program));
    assert_eq!(ran, Ok(()));
}

/// As a Rust program's own start does, which a fuzzer's doesn't: a closed stream is an error, not a signal.
pub fn ignore_broken_pipes() {
    // SAFETY: no handler is installed.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}
