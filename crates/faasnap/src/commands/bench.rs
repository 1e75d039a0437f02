//! `faasnap bench`.

use anyhow::Result;
use bench::{BenchOptions, Experiment, KeepAliveOptions, Report};
use store::Store;

use super::Outcome;
use crate::args::{BenchCommand, KeepAliveArguments};
use crate::output::print;

pub(super) fn run(store: &Store, command: BenchCommand) -> Result<Outcome> {
    let (experiment, arguments) = match command {
        BenchCommand::Modes(arguments) => (Experiment::Modes, arguments),
        BenchCommand::Inputs(arguments) => (Experiment::Inputs, arguments),
        BenchCommand::Burst(arguments) => (Experiment::Burst, arguments),
        BenchCommand::SlowDisk(arguments) => (Experiment::SlowDisk, arguments),
        BenchCommand::Ablation(arguments) => (Experiment::Ablation, arguments),
        BenchCommand::KeepAlive(KeepAliveArguments { costs, into, functions }) => {
            return show(&bench::keep_alive(&KeepAliveOptions { costs, into, functions })?);
        }
    };
    let options = BenchOptions {
        functions: arguments.functions,
        repeats: arguments.repeats,
        quick: arguments.quick,
        into: arguments.into,
        again: arguments.again,
        report_only: arguments.report,
    };
    show(&bench::run(store, experiment, &options)?)
}

fn show(report: &Report) -> Result<Outcome> {
    print(report.text.trim_end())?;
    let files: Vec<String> = report.files.iter().map(|file| file.display().to_string()).collect();
    print(&format!("\nwritten: {}", files.join(" ")))?;
    Ok(Outcome::Good)
}
