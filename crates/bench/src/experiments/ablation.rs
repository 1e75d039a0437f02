//! The FaaSnap strategy without each of its techniques.

use restore::{RestoreStrategy, Technique};
use store::Store;

use super::modes::QUICK;
use crate::error::BenchError;
use crate::mode::{How, Mode};
use crate::progress::Progress;
use crate::run::{BenchOptions, Run, Turn, Way};

/// How a run without a technique is called.
pub(crate) fn name(technique: Technique) -> String {
    format!("without {technique}")
}

/// Measures what is missing.
pub(crate) fn measure(store: &Store, options: &BenchOptions) -> Result<Run, BenchError> {
    let mut run = Run::open(store, "ablation", options, &[], &QUICK, String::new())?;
    if run.is_over() {
        return Ok(run);
    }
    let subjects = std::mem::take(&mut run.subjects);
    let turns = turns();
    let (total, done) = run.count(&turns, &subjects);
    let progress = Progress::new(total, done);
    run.compare(&subjects, &turns, &progress, |_| Ok(()))?;
    run.subjects = subjects;
    run.end(&progress)?;
    Ok(run)
}

fn turns() -> Vec<Turn<'static>> {
    let turn = |mode: String, way| Turn { mode, input: "b", at_most: u32::MAX, way };
    let whole = [Mode::Warm, Mode::FaaSnap]
        .map(|mode| turn(mode.name().to_owned(), mode.how().map_or(Way::Warm, Way::Restored)));
    let without = Technique::ALL.map(|technique| {
        let mut how = How::cold(&name(technique), RestoreStrategy::FaaSnap);
        how.options.without = vec![technique];
        turn(how.name.clone(), Way::Restored(how))
    });
    whole.into_iter().chain(without).collect()
}
