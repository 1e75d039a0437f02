//! Every function by every way to an answer, recorded on input A, tested on A and on B.

use store::Store;

use crate::bandwidth;
use crate::catalogue::Subject;
use crate::error::BenchError;
use crate::mode::Mode;
use crate::progress::Progress;
use crate::run::{BenchOptions, Run, Turn, Way};
use crate::snapshots::BenchSnapshot;

/// The functions of a quick run: one that is nearly nothing, one for text, one for pictures, one for arithmetic.
pub(crate) const QUICK: [&str; 4] = ["hello-world", "json", "image", "matmul"];
/// What is also tested on the recorded input; the other modes differ in where files are, not in what is touched.
const ON_A: [Mode; 5] = [Mode::Warm, Mode::Cached, Mode::FaaSnap, Mode::Reap, Mode::OnDemandRandom];
/// Boots take long and vary little.
const BOOTS: u32 = 5;

/// Measures what is missing.
pub(crate) fn measure(store: &Store, options: &BenchOptions) -> Result<Run, BenchError> {
    let mut run = Run::open(store, "modes", options, &[], &QUICK, String::new())?;
    if run.journal.is_complete() {
        return Ok(run);
    }
    let subjects = std::mem::take(&mut run.subjects);
    let mut modes = Mode::ALL.to_vec();
    let without = |run: &Run| match &run.readahead {
        None => Some("the kernel shows no readahead setting of the disk".to_owned()),
        Some(readahead) => readahead.obstacle(),
    };
    let no_window = without(&run);
    if no_window.is_some() {
        modes.retain(|mode| *mode != Mode::OnDemand128K);
    }
    let quick = run.quick;
    let turns = |_: &Subject| turns(&modes, quick);
    let (total, done) = run.count(turns, &subjects);
    let progress = Progress::new(total, done);
    if let Some(reason) = no_window {
        run.leave_out(Mode::OnDemand128K.name(), reason, &progress)?;
    }
    if let Some(reason) = bandwidth::obstacle() {
        run.leave_out("bandwidth", reason, &progress)?;
    }
    for subject in &subjects {
        progress.begin(&format!("{}: snapshot and recordings", subject.name));
        let snapshot = BenchSnapshot::make(&run.snapshots(), subject, |_| Ok(()))?;
        run.describe(subject, &snapshot)?;
        run.count_touched(subject, &snapshot, "b")?;
        run.keep_picture(subject, &snapshot)?;
        progress.begin(&format!("{}: {} ways", subject.name, modes.len()));
        run.rounds(subject, &snapshot, &turns(subject), &progress, |_| Ok(()))?;
    }
    run.subjects = subjects;
    run.end(&progress)?;
    Ok(run)
}

fn turns(modes: &[Mode], quick: bool) -> Vec<Turn<'static>> {
    let turn = |mode: Mode, input| Turn {
        mode: mode.name().to_owned(),
        input,
        at_most: if mode == Mode::Cold { BOOTS } else { u32::MAX },
        way: match (mode, mode.how()) {
            (_, Some(how)) => Way::Restored(how),
            (Mode::Cold, None) => Way::Booted,
            (_, None) => Way::Warm,
        },
    };
    let on_a = ON_A.iter().filter(|_| !quick).map(|mode| turn(*mode, "a"));
    modes.iter().map(|mode| turn(*mode, "b")).chain(on_a).collect()
}
