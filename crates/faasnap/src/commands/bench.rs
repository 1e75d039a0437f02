//! `faasnap bench`.

use std::io::Write;
use std::process::Command;

use anyhow::{Context, Result, bail};
use bench::in_rig::{InRig, RUNTIMES};
use bench::{BenchOptions, Experiment, KeepAliveOptions, Report, ThrottleBy};
use rig::Shown;
use store::Store;

use super::Outcome;
use crate::args::{BenchArguments, BenchCommand, KeepAliveArguments, SlowDiskArguments, ThrottleArgument};
use crate::output::print;

pub(super) fn run(store: &Store, command: BenchCommand) -> Result<Outcome> {
    let mut throttle_by = None;
    let (experiment, arguments) = match command {
        BenchCommand::Modes(arguments) if arguments.rig => return in_rig(store, &arguments.bench),
        BenchCommand::Modes(arguments) => (Experiment::Modes, arguments.bench),
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

/// How often each way to an answer is measured in the rig, and with `--quick`.
const ROUNDS_IN_RIG: [u32; 2] = [2, 1];

fn in_rig(store: &Store, arguments: &BenchArguments) -> Result<Outcome> {
    let missing = rig::missing();
    if !missing.is_empty() {
        bail!("the rig needs {0}: apt-get install {0}", missing.join(" "));
    }
    let (folder, faasnap) =
        (store.cache().join("rig"), std::env::current_exe().context("finding this program")?);
    // In a home of its own: a user's runtimes are the user's.
    let home = folder.join("home");
    for runtime in RUNTIMES {
        let mut build = Command::new(&faasnap);
        build.args(["runtime", "build"]).args(runtime).env("FAASNAP_HOME", &home);
        let status = build.status().context("starting this program")?;
        if !status.success() {
            bail!("faasnap runtime build {} ended with {status}", runtime.join(" "));
        }
    }
    let [rounds, quick] = ROUNDS_IN_RIG;
    let run = InRig {
        folder: &folder,
        faasnap: &faasnap,
        runtimes: &home.join("runtimes"),
        rounds: arguments.repeats.unwrap_or(if arguments.quick { quick } else { rounds }),
        quick: arguments.quick,
    };
    let mut shown = Ok(());
    run.run(&mut |what| match what {
        Shown::Line(line) if shown.is_ok() => shown = print(line),
        // How long it took says nothing of what was measured; a failure is told as such.
        Shown::Line(_) | Shown::Ended(_) => {}
        Shown::Rig(text) => drop(writeln!(std::io::stderr(), "{text}")),
    })?;
    shown?;
    Ok(Outcome::Good)
}
