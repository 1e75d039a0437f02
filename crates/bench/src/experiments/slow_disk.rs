//! The snapshot on a disk with the bandwidth and the reads a second of a network volume.

use store::Store;

use crate::error::BenchError;
use crate::mode::Mode;
use crate::progress::Progress;
use crate::run::{BenchOptions, Run, Turn, Way};
use crate::throttle::{ReadLimits, Throttle};

/// What a general-purpose network volume gives by default: 125 MiB/s and 3,000 reads a second (AWS EBS gp3).
const LIMITS: ReadLimits = ReadLimits { bytes_per_second: 125 << 20, reads_per_second: 3000 };
const FUNCTIONS: [&str; 6] = ["hello-world", "json", "image", "chameleon", "matmul", "recognition"];
const QUICK: [&str; 2] = ["hello-world", "json"];
pub(crate) const MODES: [Mode; 7] = [
    Mode::Warm,
    Mode::Cached,
    Mode::FaaSnap,
    Mode::Reap,
    Mode::OnDemandRandom,
    Mode::OnDemand128K,
    Mode::OnDemand,
];

/// Measures what is missing.
pub(crate) fn measure(store: &Store, options: &BenchOptions) -> Result<Run, BenchError> {
    let more = format!("{LIMITS:?}, {:?}", options.throttle_by);
    let mut run = Run::open(store, "slow-disk", options, &FUNCTIONS, &QUICK, more)?;
    if run.is_over() {
        return Ok(run);
    }
    let throttle = Throttle::new(&run.snapshots, LIMITS, options.throttle_by)?;
    // Snapshots and recordings are made on the slow disk too: that decides where the loading set is read from.
    run.snapshots = throttle.path(&run.snapshots).to_owned();
    let subjects = std::mem::take(&mut run.subjects);
    let turns = turns();
    let (total, done) = run.count(&turns, &subjects);
    let progress = Progress::new(total, done);
    progress.note(&format!(
        "workers read at most {} MiB and {} times a second, by {}",
        LIMITS.bytes_per_second >> 20,
        LIMITS.reads_per_second,
        throttle.means()
    ));
    run.compare(&subjects, &turns, &progress, |process| throttle.add(process))?;
    run.subjects = subjects;
    run.end(&progress)?;
    Ok(run)
}

fn turns() -> Vec<Turn<'static>> {
    let turn = |mode: &Mode| Turn {
        mode: mode.name().to_owned(),
        input: "b",
        at_most: u32::MAX,
        way: mode.how().map_or(Way::Warm, Way::Restored),
    };
    MODES.iter().map(turn).collect()
}
