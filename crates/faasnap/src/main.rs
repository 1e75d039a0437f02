//! `faasnap`: functions in KVM virtual machines, restored from snapshots.
//!
//! `args` is what was typed, `commands` is what is done about it, `output` is how it is shown. This file only joins them
//! and turns the result into an exit status.
#![forbid(unsafe_code)]

mod args;
mod commands;
mod doctor;
mod output;
mod progress;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Arguments, WorkerArguments};
use crate::commands::Outcome;

/// The thing asked about failed: a function's error, a damaged file, a machine that can't run functions.
const NEGATIVE: u8 = 1;
/// faasnap could not do what was asked. (2 is a mistake in the command line; clap says so itself.)
const FAILED: u8 = 3;

fn main() -> ExitCode {
    let result = match WorkerArguments::typed(std::env::args_os()) {
        Some(worker) => worker.and_then(|arguments| commands::worker::run(&arguments)),
        None => commands::run(Arguments::parse()),
    };
    match result {
        Ok(Outcome::Good) => ExitCode::SUCCESS,
        Ok(Outcome::Negative) => ExitCode::from(NEGATIVE),
        Ok(Outcome::Status(status)) => ExitCode::from(status),
        // Whoever read our output has seen enough, as `head` does.
        Err(error) if output::is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output::report(&error);
            ExitCode::from(FAILED)
        }
    }
}
