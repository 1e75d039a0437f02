//! Loading a program file. Threat model: the function's code brings the file, so every byte is hostile; loading it may fail,
//! and may map what it likes into the guest, but never reads or maps anything else, and never takes the worker down.
#![no_main]

#[path = "../../crates/process-kernel/tests/hostile/mod.rs"]
// Each target uses a part of it.
#[allow(dead_code)]
mod hostile;

use std::sync::LazyLock;

static WORLD: LazyLock<hostile::World> = LazyLock::new(hostile::World::new);

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    WORLD.load(bytes);
});
