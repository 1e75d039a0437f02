//! What a user gets of a run: tables on the terminal, CSV, JSON and plots in the run's folder.

mod figures;
mod files;
pub(crate) mod keep_alive;
mod table;
mod tables;

use std::fs;
use std::path::PathBuf;

use crate::error::BenchError;
use crate::plot;
use crate::run::Run;

/// A finished run, as text and files.
#[derive(Debug)]
pub struct Report {
    /// Tables for the terminal.
    pub text: String,
    /// What was written.
    pub files: Vec<PathBuf>,
}

/// Which experiment's tables and plots.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Modes,
    Inputs,
    Burst,
    SlowDisk,
    Ablation,
}

/// Writes everything about a run that is complete.
pub(crate) fn write(run: &Run, kind: Kind) -> Result<Report, BenchError> {
    let entries = run.journal.entries();
    let results = crate::results::Results(entries);
    let text = tables::text(results, kind, run.journal.environment());
    let mut written = files::write(&run.folder, results, kind, run.journal.environment())?;
    let path = run.folder.join("report.txt");
    fs::write(&path, &text).map_err(BenchError::io("writing", &path))?;
    written.push(path);
    for (name, svg) in figures::all(results, kind) {
        written.extend(plot::save(&run.folder, &name, &svg)?);
    }
    Ok(Report { text, files: written })
}
