//! Every function by every way to an answer, recorded on input A, tested on A and on B.

use store::Store;

use super::burst::{self, Snapshots};
use crate::bandwidth;
use crate::error::BenchError;
use crate::mode::Mode;
use crate::progress::Progress;
use crate::run::{BenchOptions, Run, Turn, Way};
use crate::snapshots::BenchSnapshot;
use crate::yardstick;

/// The functions of a quick run: one that is nearly nothing, one for text, one for pictures, one for arithmetic.
pub(crate) const QUICK: [&str; 4] = ["hello-world", "json", "image", "matmul"];
/// What is also tested on the recorded input; the other modes differ in where files are, not in what is touched.
const ON_A: [Mode; 5] = [Mode::Warm, Mode::Cached, Mode::FaaSnap, Mode::Reap, Mode::OnDemand128K];
/// Functions of which 64 are asked for at once, for the table of targets, and how.
const BURSTS: [&str; 2] = ["hello-world", "json"];
const BURST_MODES: [Mode; 2] = [Mode::Cached, Mode::FaaSnap];
/// Boots and plain starts take long and vary little.
const BOOTS: u32 = 5;

/// Measures what is missing.
pub(crate) fn measure(store: &Store, options: &BenchOptions) -> Result<Run, BenchError> {
    let mut run = Run::open(store, "modes", options, &[], &QUICK, String::new())?;
    if run.is_over() {
        return Ok(run);
    }
    let subjects = std::mem::take(&mut run.subjects);
    let mut modes = Mode::ALL.to_vec();
    let mut left_out = Vec::new();
    let no_window = match &run.readahead {
        None => Some("the kernel shows no readahead setting of the disk".to_owned()),
        Some(readahead) => readahead.obstacle(),
    };
    if let Some(reason) = no_window {
        modes.retain(|mode| *mode != Mode::OnDemand128K);
        left_out.push((Mode::OnDemand128K, reason));
    }
    if let Some(reason) = subjects.iter().find_map(yardstick::obstacle) {
        modes.retain(|mode| !matches!(mode, Mode::Process | Mode::ForkServer));
        left_out.push((Mode::Process, reason.clone()));
        left_out.push((Mode::ForkServer, reason));
    }
    let turns = turns(&modes, run.quick);
    let (total, done) = run.count(&turns, &subjects);
    let progress = Progress::new(total, done);
    for (mode, reason) in left_out {
        run.leave_out(mode.name(), reason, &progress)?;
    }
    if let Some(reason) = bandwidth::obstacle() {
        run.leave_out("bandwidth", reason, &progress)?;
    }
    for subject in &subjects {
        progress.begin(&format!("{}: snapshot and recordings", subject.name));
        let snapshot = BenchSnapshot::make(&run.snapshots, subject, |_| Ok(()))?;
        run.describe(subject, &snapshot)?;
        run.count_touched(subject, &snapshot, "b")?;
        run.keep_picture(subject, &snapshot)?;
        progress.begin(&format!("{}: {} ways", subject.name, modes.len()));
        run.rounds(subject, &snapshot, &turns, &progress, |_| Ok(()))?;
        if !run.quick && BURSTS.contains(&subject.name.as_str()) {
            let same = [BenchSnapshot { folder: snapshot.folder.clone() }];
            burst::bursts(&mut run, subject, &same, &BURST_MODES, Snapshots::Same, 64, &progress)?;
        }
    }
    run.subjects = subjects;
    run.end(&progress)?;
    Ok(run)
}

fn turns(modes: &[Mode], quick: bool) -> Vec<Turn<'static>> {
    let turn = |mode: Mode, input| Turn {
        mode: mode.name().to_owned(),
        input,
        at_most: if matches!(mode, Mode::Cold | Mode::Process) { BOOTS } else { u32::MAX },
        way: match (mode, mode.how()) {
            (Mode::Recorded, Some(how)) => Way::Recorded(how),
            (_, Some(how)) => Way::Restored(how),
            (Mode::Cold, None) => Way::Booted,
            (Mode::Process, None) => Way::Process,
            (Mode::ForkServer, None) => Way::ForkServer,
            (_, None) => Way::Warm,
        },
    };
    let on_a = ON_A.iter().filter(|_| !quick).map(|mode| turn(*mode, "a"));
    let can = |turn: &Turn<'_>| modes.iter().any(|mode| mode.name() == turn.mode);
    modes.iter().map(|mode| turn(*mode, "b")).chain(on_a.filter(can)).collect()
}
