//! What is done about what was typed: one file per command.

mod bench;
mod doctor;
mod exec;
mod exec_linux;
mod function;
mod invoke;
mod kernel;
mod logs;
mod restores;
mod runtime;
mod serve;
mod snapshot;
mod snapshot_create;
mod through_node;
pub(crate) mod worker;

use std::path::PathBuf;

use anyhow::Result;
use store::{Listing, Store};

use crate::args::{Arguments, Command, GlobalArguments, GuestKind};
use crate::output::{note, report};

/// How a command that could be carried out ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// As wished.
    Good,
    /// The thing asked about failed: what was verified is damaged, what was examined does not work.
    Negative,
    /// A program ran to its end; its own status.
    Status(u8),
}

/// What a listing can show. Each entry that is damaged is reported, and makes the outcome negative.
fn sound<Name, T>(listing: Listing<Name, T>) -> (Vec<T>, Outcome) {
    let mut sound = Vec::new();
    let mut outcome = Outcome::Good;
    for (_, entry) in listing {
        match entry {
            Ok(entry) => sound.push(entry),
            Err(damaged) => {
                report(&damaged.into());
                outcome = Outcome::Negative;
            }
        }
    }
    (sound, outcome)
}

/// Carries out a command.
pub(crate) fn run(arguments: Arguments) -> Result<Outcome> {
    let Arguments { global, command } = arguments;
    match command {
        Command::Runtime(command) => runtime::run(&open(&global)?, command),
        Command::Function(command) => function::run(&open(&global)?, command),
        Command::Snapshot(command) => snapshot::run(&prepared(&global)?, command),
        Command::Invoke(arguments) => invoke::run(&prepared(&global)?, &arguments),
        Command::Logs(arguments) => logs::run(&open(&global)?, &arguments),
        Command::Serve(arguments) => serve::run(&prepared(&global)?, &arguments),
        Command::Bench(command) => bench::run(&prepared(&global)?, command),
        Command::Kernel(command) => kernel::run(&open(&global)?, command),
        Command::Exec(arguments) if arguments.guest == GuestKind::Linux => {
            exec_linux::run(&open(&global)?, arguments)
        }
        // A program needs no home; where there is one, it is hidden from the program.
        Command::Exec(arguments) => exec::run(home(&global).ok().as_deref(), arguments),
        Command::Doctor(arguments) => doctor::run(&home(&global)?, &arguments),
    }
}

fn home(global: &GlobalArguments) -> Result<PathBuf> {
    match &global.home {
        Some(home) => Ok(home.clone()),
        None => Ok(store::default_home()?),
    }
}

fn open(global: &GlobalArguments) -> Result<Store> {
    Ok(Store::open(&home(global)?)?)
}

/// The home, for a command that starts workers; says what of their jail is weaker here than it could be.
fn prepared(global: &GlobalArguments) -> Result<Store> {
    let home = home(global)?;
    let authority = jail::prepare(&home);
    if let jail::Authority::Weak { reason } = authority {
        note(&format!("workers are confined less than they could be ({reason}); see `faasnap doctor`"));
    }
    Ok(Store::open(&home)?)
}

/// Prints a thing that was verified or not, and says how that went.
fn verified(result: std::result::Result<(), store::StoreError>) -> Result<Outcome> {
    match result {
        Ok(()) => Ok(Outcome::Good),
        Err(changed @ store::StoreError::Changed { .. }) => {
            report(&changed.into());
            Ok(Outcome::Negative)
        }
        Err(other) => Err(other.into()),
    }
}
