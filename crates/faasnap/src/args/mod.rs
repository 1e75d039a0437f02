//! What was typed: one file per command.

mod bench;
mod doctor;
mod exec;
mod function;
mod invoke;
mod kernel;
mod logs;
mod network;
mod runtime;
mod serve;
mod snapshot;
mod values;
mod worker;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub(crate) use bench::{
    BenchArguments, BenchCommand, KeepAliveArguments, SlowDiskArguments, ThrottleArgument,
};
pub(crate) use doctor::DoctorArguments;
pub(crate) use exec::{ExecArguments, GuestKind, Tap};
pub(crate) use function::{CreateFunction, FunctionCommand};
pub(crate) use invoke::{From, InvokeArguments, Payload, Way};
pub(crate) use kernel::{BuildKernel, ImportKernel, KernelCommand, StoredKernel};
pub(crate) use logs::LogsArguments;
pub(crate) use network::{NetworkArguments, ReachArguments};
pub(crate) use runtime::{BuildRuntime, ImportRuntime, RuntimeCommand};
pub(crate) use serve::{Auth, ServeArguments};
pub(crate) use snapshot::{CreateSnapshot, SnapshotCommand, SnapshotReference};
pub(crate) use values::environment;
pub(crate) use worker::WorkerArguments;

/// Functions in KVM virtual machines, restored from snapshots.
///
/// A function is code for AWS Lambda: a handler that runs in a runtime, unchanged. The runtime is a root file system with
/// an interpreter and AWS's own runtime client.
#[derive(Debug, Parser)]
#[command(name = "faasnap", version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = "\
A first session:
  faasnap doctor                                  what works on this machine
  faasnap runtime build python3.11                a root file system with CPython
  faasnap function create hello --runtime python3.11 --handler app.handler --code ./hello
  faasnap invoke hello --from cold                boot it and call it
  faasnap snapshot create hello                   boot it, keep it as it is then
  faasnap invoke hello --from snapshot --timeline restore it and call it
  faasnap serve                                   all this over AWS Lambda's API
  faasnap exec -- /bin/echo hello                 any program in a guest of its own

Exit status:
  0  done
  1  the thing asked about failed: a function's error, a damaged file,
     a machine that can't run functions
  2  a mistake in the command line
  3  faasnap could not do what was asked; standard error says why

`faasnap COMMAND --help` says more and has examples.")]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: GlobalArguments,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
pub(crate) struct GlobalArguments {
    /// Where runtimes, functions and snapshots are kept [default: $FAASNAP_HOME, else faasnap in the XDG data directory,
    /// that is $XDG_DATA_HOME/faasnap or ~/.local/share/faasnap]
    // Not clap's own `env`: with it a set variable would count as an argument, and `faasnap` alone would show no help.
    #[arg(long, global = true, value_name = "DIR", display_order = 900)]
    pub(crate) home: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make, import, list and remove runtimes: the root file systems that functions run in
    #[command(subcommand)]
    Runtime(RuntimeCommand),
    /// Create, list and remove functions
    #[command(subcommand)]
    Function(FunctionCommand),
    /// Call a function: in a new instance, or in one restored from its snapshot
    Invoke(InvokeArguments),
    /// Print what a function wrote to its log
    Logs(LogsArguments),
    /// Take, list, show, verify and remove snapshots
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// Serve AWS Lambda's API to boto3, the AWS CLI, Terraform, curl
    Serve(ServeArguments),
    /// Run a Linux program in a guest of its own
    Exec(ExecArguments),
    /// Make, import, list and remove kernels for linux guests
    #[command(subcommand)]
    Kernel(KernelCommand),
    /// Measure restore strategies with the paper's functions and experiments
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Say what this machine has, what will work, and how to mend what won't
    Doctor(DoctorArguments),
}

/// For commands that print something a script may want.
#[derive(Debug, Args)]
pub(crate) struct OutputArguments {
    /// Print JSON on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
