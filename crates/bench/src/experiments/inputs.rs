//! Inputs from a quarter to four times the size of the recorded one.

use store::Store;

use crate::error::BenchError;
use crate::mode::Mode;
use crate::progress::Progress;
use crate::run::{BenchOptions, Run, Turn, Way};

/// Sizes relative to the recorded input; `1x` has other content.
pub(crate) const LABELS: [&str; 5] = ["0.25x", "0.5x", "1x", "2x", "4x"];
pub(crate) const MODES: [Mode; 5] =
    [Mode::Warm, Mode::Cached, Mode::FaaSnap, Mode::Reap, Mode::OnDemandRandom];
const QUICK: [&str; 2] = ["json", "image"];

/// Measures what is missing.
pub(crate) fn measure(store: &Store, options: &BenchOptions) -> Result<Run, BenchError> {
    let mut run = Run::open(store, "inputs", options, &[], &QUICK, String::new())?;
    if run.is_over() {
        return Ok(run);
    }
    let (subjects, others): (Vec<_>, Vec<_>) = std::mem::take(&mut run.subjects)
        .into_iter()
        .partition(|subject| LABELS.iter().all(|label| subject.input(label).is_some()));
    let turns = turns();
    let (total, done) = run.count(&turns, &subjects);
    let progress = Progress::new(total, done);
    for subject in &others {
        run.leave_out(subject.name.as_str(), "its input has no size".to_owned(), &progress)?;
    }
    run.compare(&subjects, &turns, &progress, |_| Ok(()))?;
    run.subjects = subjects;
    run.end(&progress)?;
    Ok(run)
}

fn turns() -> Vec<Turn<'static>> {
    let each = MODES.iter().flat_map(|mode| LABELS.iter().map(move |label| (*mode, *label)));
    each.map(|(mode, input)| Turn {
        mode: mode.name().to_owned(),
        input,
        at_most: u32::MAX,
        way: mode.how().map_or(Way::Warm, Way::Restored),
    })
    .collect()
}
