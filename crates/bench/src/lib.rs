//! The benchmark: the paper's functions by the paper's ways to an answer, measured on real workers.
//!
//! ```text
//!   experiments/*  what is compared      ──►  run: rounds of turns, interleaved
//!                                              │   attempt: one request to one instance, answer checked
//!                                              ▼
//!   journal: every result as it comes    ──►  results ──► report: tables, CSV, JSON, plots; targets
//! ```
//!
//! Before a run from cold files they are synced, dropped from the page cache, and proven to be gone; an answer with another
//! checksum than the one computed outside of any guest ends the benchmark; what can't be run here is left out with its
//! reason, never replaced by something else.
//!
//! Architecture invariant: links no KVM and no guest; everything is measured on worker processes, from where a request
//! comes from.
#![forbid(unsafe_code)]

mod at_end;
mod attempt;
mod bandwidth;
mod catalogue;
mod environment;
mod error;
mod experiments;
pub mod in_rig;
mod journal;
mod memory_use;
mod mode;
mod page_cache;
mod picture;
mod plot;
mod progress;
mod readahead;
mod report;
mod results;
mod run;
mod slow_folder;
mod snapshots;
mod statistics;
mod targets;
mod throttle;
mod trace;
mod yardstick;

use store::Store;

pub use error::BenchError;
pub use experiments::keep_alive::KeepAliveOptions;
pub use report::Report;
pub use run::BenchOptions;
pub use throttle::ThrottleBy;

use experiments::{ablation, burst, inputs, modes, slow_disk};
use report::Kind;

/// What can be measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Experiment {
    /// Every function, every way to an answer.
    Modes,
    /// Inputs of other sizes than the recorded one.
    Inputs,
    /// Many requests at once.
    Burst,
    /// A disk as slow as a network volume.
    SlowDisk,
    /// Each technique left out.
    Ablation,
}

/// Measures what is missing of an experiment, then reports all of it.
///
/// # Errors
/// [`BenchError`] at the first thing that goes wrong; what was measured until then is kept, and the next call goes on there.
pub fn run(store: &Store, experiment: Experiment, options: &BenchOptions) -> Result<Report, BenchError> {
    let (run, kind) = match experiment {
        Experiment::Modes => (modes::measure(store, options)?, Kind::Modes),
        Experiment::Inputs => (inputs::measure(store, options)?, Kind::Inputs),
        Experiment::Burst => (burst::measure(store, options)?, Kind::Burst),
        Experiment::SlowDisk => (slow_disk::measure(store, options)?, Kind::SlowDisk),
        Experiment::Ablation => (ablation::measure(store, options)?, Kind::Ablation),
    };
    report::write(&run, kind)
}

/// Plays a generated day of calls through keep-alive policies, on costs that [`Experiment::Modes`] measured.
///
/// # Errors
/// [`BenchError`] when there are no such costs or the results can't be written.
pub fn keep_alive(options: &KeepAliveOptions) -> Result<Report, BenchError> {
    let rows = experiments::keep_alive::rows(options)?;
    report::keep_alive::write(options, &rows)
}
