//! `faasnap bench`.

use anyhow::Result;
use bench::{BenchOptions, Experiment};
use store::Store;

use super::Outcome;
use crate::args::BenchCommand;
use crate::output::print;

pub(super) fn run(store: &Store, command: BenchCommand) -> Result<Outcome> {
    let (experiment, arguments) = match command {
        BenchCommand::Modes(arguments) => (Experiment::Modes, arguments),
        BenchCommand::Inputs(arguments) => (Experiment::Inputs, arguments),
        BenchCommand::Burst(arguments) => (Experiment::Burst, arguments),
        BenchCommand::SlowDisk(arguments) => (Experiment::SlowDisk, arguments),
        BenchCommand::Ablation(arguments) => (Experiment::Ablation, arguments),
    };
    let options = BenchOptions {
        functions: arguments.functions,
        repeats: arguments.repeats,
        quick: arguments.quick,
        into: arguments.into,
        again: arguments.again,
    };
    let report = bench::run(store, experiment, &options)?;
    print(report.text.trim_end())?;
    let files: Vec<String> = report.files.iter().map(|file| file.display().to_string()).collect();
    print(&format!("\nwritten: {}", files.join(" ")))?;
    Ok(Outcome::Good)
}
