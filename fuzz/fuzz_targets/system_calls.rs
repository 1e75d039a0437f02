//! The system-call dispatcher under a hostile program; the threat model and the grammar are at the head of `hostile`.
#![no_main]

#[path = "../../crates/process-kernel/tests/hostile/mod.rs"]
// Each target uses a part of it.
#[allow(dead_code)]
mod hostile;

use std::sync::LazyLock;

static WORLD: LazyLock<hostile::World> = LazyLock::new(hostile::World::new);

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    WORLD.live(bytes);
});
