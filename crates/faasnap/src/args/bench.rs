//! `faasnap bench`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use store::FunctionName;

#[derive(Debug, Subcommand)]
#[command(after_help = "\
The functions are those whose code has a benchmark.json with inputs and expected answers; `cargo xtask functions` \
makes the twelve of examples/functions. Each result is appended to the run's folder as it comes: what was \
interrupted goes on when the same command is given again, what is complete is reported again.

Examples:
  faasnap bench modes --quick                       four functions, under two minutes
  faasnap bench modes                               all functions; with the table of targets
  faasnap bench modes --function json --repeats 20 --into /tmp/json
  faasnap bench modes --rig                         linux guests, where no hardware KVM is
  faasnap bench burst --again                       anew, in place of an earlier run")]
pub(crate) enum BenchCommand {
    /// Every function by every way to an answer: warm, cached, faasnap, reap, on demand, eager, cold
    Modes(ModesArguments),
    /// Inputs from a quarter to four times the size of the recorded one
    Inputs(BenchArguments),
    /// 1 to 64 requests at once, for the same snapshot and for different ones
    Burst(BenchArguments),
    /// The snapshot on a disk as slow as a network volume (125 MiB and 3,000 reads a second)
    SlowDisk(SlowDiskArguments),
    /// FaaSnap without each of its techniques
    Ablation(BenchArguments),
    /// Memory held against cold starts over a generated day of calls: a simulation on costs that `modes` measured
    KeepAlive(KeepAliveArguments),
}

/// What the comparison of all ways takes.
#[derive(Debug, Args)]
pub(crate) struct ModesArguments {
    #[command(flatten)]
    pub(crate) bench: BenchArguments,
    /// Measure linux guests in an emulated machine with hardware KVM and a throttled disk, and report ratios only: hello, json
    /// and pagerank, or with --quick the first two; takes about ten minutes
    #[arg(long, conflicts_with_all = ["functions", "into", "again", "report"])]
    pub(crate) rig: bool,
}

/// What slows the disk down.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum ThrottleArgument {
    /// The kernel, by its I/O limits for a control group of the workers
    Cgroup,
    /// A file system in user space (FUSE) that takes its time; the device itself is not slowed
    Reader,
}

/// What the experiment with a slow disk takes.
#[derive(Debug, Args)]
pub(crate) struct SlowDiskArguments {
    #[command(flatten)]
    pub(crate) bench: BenchArguments,
    /// What slows the disk down [default: cgroup where that can be had, else reader]
    #[arg(long, value_name = "BY", conflicts_with = "report")]
    pub(crate) throttle: Option<ThrottleArgument>,
}

/// What the simulation takes.
#[derive(Debug, Args)]
pub(crate) struct KeepAliveArguments {
    /// The folder of a run of `faasnap bench modes`
    #[arg(long, value_name = "DIR", default_value = "bench-results/modes")]
    pub(crate) costs: PathBuf,
    /// Where tables and plots go
    #[arg(long, value_name = "DIR", default_value = "bench-results/keep-alive")]
    pub(crate) into: PathBuf,
    /// Functions of the generated day
    #[arg(long, value_name = "COUNT", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) functions: u32,
}

/// What every experiment takes.
#[derive(Debug, Args)]
pub(crate) struct BenchArguments {
    /// A function to measure; may be repeated [default: those of the experiment]
    #[arg(long = "function", value_name = "NAME")]
    pub(crate) functions: Vec<FunctionName>,
    /// How often each request is measured, after one that is not counted [default: 10; quick: 3]
    #[arg(long, value_name = "TIMES", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) repeats: Option<u32>,
    /// Few functions and few repeats
    #[arg(long)]
    pub(crate) quick: bool,
    /// The run's folder, on the disk that is to be measured [default: bench-results/EXPERIMENT]
    #[arg(long, value_name = "DIR")]
    pub(crate) into: Option<PathBuf>,
    /// Begin anew although the folder holds a run
    #[arg(long)]
    pub(crate) again: bool,
    /// Measure nothing: report what the folder holds, also of a run that is not complete
    #[arg(long, conflicts_with_all = ["again", "functions", "repeats"])]
    pub(crate) report: bool,
}
