//! `faasnap logs`.

use clap::Args;
use store::FunctionName;

/// Print what a function wrote to its log
///
/// The log is what a node (`faasnap serve`) keeps of the function: its standard output and error, and the platform's START,
/// END and REPORT lines, each with its time and the first letters of the instance's name.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  faasnap logs hello
  faasnap logs hello --lines 500
  faasnap logs -f hello          go on with what is added, until interrupted")]
pub(crate) struct LogsArguments {
    /// The function
    pub(crate) name: FunctionName,
    /// Go on with what is added, until interrupted
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// How many of the latest lines are printed first
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100)]
    pub(crate) lines: usize,
}
