//! `faasnap bench`.

use anyhow::Result;
use bench::{BenchOptions, Experiment, KeepAliveOptions, Report, ThrottleBy};
use store::Store;

use super::Outcome;
use crate::args::{BenchCommand, KeepAliveArguments, SlowDiskArguments, ThrottleArgument};
use crate::output::print;

pub(super) fn run(store: &Store, command: BenchCommand) -> Result<Outcome> {
    let mut throttle_by = None;
    let (experiment, arguments) = match command {
        BenchCommand::Modes(arguments) => (Experiment::Modes, arguments),
        BenchCommand::Inputs(arguments) => (Experiment::Inputs, arguments),
        BenchCommand::Burst(arguments) => (Experiment::Burst, arguments),
        BenchCommand::SlowDisk(SlowDiskArguments { bench, throttle }) => {
            throttle_by = throttle.map(|throttle| match throttle {
                ThrottleArgument::Cgroup => ThrottleBy::ControlGroup,
                ThrottleArgument::Reader => ThrottleBy::Reader,
            });
            (Experiment::SlowDisk, bench)
        }
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
        throttle_by,
    };
    show(&bench::run(store, experiment, &options)?)
}

fn show(report: &Report) -> Result<Outcome> {
    print(report.text.trim_end())?;
    let files: Vec<String> = report.files.iter().map(|file| file.display().to_string()).collect();
    print(&format!("\nwritten: {}", files.join(" ")))?;
    Ok(Outcome::Good)
}
