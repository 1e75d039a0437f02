//! The fuzzer's hostile program (fuzz/fuzz_targets/system_calls.rs), with bytes from a seed: a short run of it in every
//! test run. One test, so that nothing else of this process opens descriptors meanwhile.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod hostile;

/// xorshift64*: the same bytes on every machine.
fn bytes(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(count + 8);
    while bytes.len() < count {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend(state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_be_bytes());
    }
    bytes
}

/// Program files with some bytes of their headers changed.
fn hostile_programs(world: &hostile::World) {
    let good = hostile::program();
    world.load(&good);
    for seed in 0..300 {
        let mut file = good.clone();
        for change in bytes(seed, 12).chunks_exact(3) {
            let at = usize::from(u16::from_be_bytes([change[0], change[1]])) % file.len();
            file[at] = change[2];
        }
        println!("program {seed}");
        world.load(&file);
    }
}

/// Lives of a program, each with a few kilobytes of decisions. HOSTILE_SEED=n runs n alone, HOSTILE_LIVES=n runs more.
#[test]
fn a_hostile_program_can_do_nothing_but_end() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("HOSTILE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("HOSTILE_LIVES").unwrap_or(400),
    };
    let world = hostile::World::new();
    let mut calls = 0;
    for seed in seeds.clone() {
        // Printed when the test fails.
        println!("HOSTILE_SEED={seed}");
        calls += world.live(&bytes(seed, 4096));
    }
    println!("{calls} calls");
    if seeds.end - seeds.start > 1 {
        hostile_programs(&world);
        assert!(calls > 5000, "the programs end too early to be of use: {calls} calls");
    }
}
