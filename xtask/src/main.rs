//! The project's own commands: `cargo xtask COMMAND`.
//!
//! Each first makes sure that what it needs is there: as root it installs Debian packages with apt-get, otherwise it
//! prints the exact line to run and stops.
#![forbid(unsafe_code)]

mod api;
mod bench;
mod check;
mod demo;
mod examples;
mod functions;
mod kvm;
mod needs;
mod process;
mod rig;
mod test;
mod tidy;
mod workspace;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The project's own commands.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install what is missing, build, make a runtime and a function, and show what was made
    ///
    /// Where /dev/kvm can't be used it runs in the rig: QEMU's emulated host.
    Demo {
        /// Run it in the rig although this machine has /dev/kvm
        #[arg(long)]
        rig: bool,
    },
    /// The demo's measurements, in the rig, where nothing can be built
    #[command(hide = true)]
    MeasureDemo {
        /// The executable
        faasnap: PathBuf,
        /// A home with the demo's function
        home: PathBuf,
    },
    /// Install what is missing, check everything, and run every test
    Test {
        /// Run only what runs on hardware KVM: in QEMU's emulated AMD host, with Debian's kernel
        #[arg(long)]
        hardware_kvm: bool,
        /// Steps to run there [default: all but `linux-soak`, `linux-clones`, `figures`, `linux-costs` and `linux-figures`]
        #[arg(requires = "hardware_kvm")]
        steps: Vec<String>,
    },
    /// Formatting and lints
    Check,
    /// Rules about the source that no compiler knows
    Tidy,
    /// Compare programs in a guest with the same programs run natively
    Bench,
    /// Build the example functions with their packages into target/examples
    Examples,
    /// Set up the benchmark's functions (examples/functions) for `faasnap bench`
    Functions {
        /// Where runtimes and functions are kept [default: as for faasnap itself]
        #[arg(long, value_name = "DIR")]
        home: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Demo { rig } => demo::run(rig),
        Command::MeasureDemo { faasnap, home } => demo::measure(faasnap, home),
        Command::Test { hardware_kvm: false, .. } => test::run(),
        Command::Test { hardware_kvm: true, steps } => test::on_hardware_kvm(&steps),
        Command::Check => check::run(),
        Command::Tidy => tidy::run(),
        Command::Bench => bench::run(),
        Command::Examples => examples::run(),
        Command::Functions { home } => functions::run(home.as_deref()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
