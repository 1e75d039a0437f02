//! `faasnap snapshot`.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Subcommand};
use store::{FunctionName, NameProblem, SnapshotId};

use super::{NetworkArguments, OutputArguments};

/// `FUNCTION` for its latest snapshot, `FUNCTION@ID` for a certain one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SnapshotReference {
    /// The function.
    pub(crate) function: FunctionName,
    /// The snapshot; `None` for the latest one that fits the function as it is.
    pub(crate) id: Option<SnapshotId>,
}

impl FromStr for SnapshotReference {
    type Err = NameProblem;

    fn from_str(text: &str) -> Result<Self, NameProblem> {
        let (function, id) = match text.split_once('@') {
            Some((function, id)) => (function, Some(id.parse()?)),
            None => (text, None),
        };
        Ok(Self { function: function.parse()?, id })
    }
}

#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  faasnap snapshot create hello
  faasnap snapshot list hello
  faasnap snapshot show hello --svg memory.svg
  faasnap snapshot verify hello
  faasnap snapshot rm hello@3f9a1c20-1")]
pub(crate) enum SnapshotCommand {
    /// Boot a function, run its initialisation, and keep the result
    Create(CreateSnapshot),
    /// List the snapshots of one function, or of all
    #[command(visible_alias = "ls")]
    List {
        /// The function [default: all]
        function: Option<FunctionName>,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Show what a snapshot holds, and draw its memory by page class
    Show {
        /// FUNCTION for its latest snapshot, or FUNCTION@ID
        snapshot: SnapshotReference,
        /// Write the picture of memory as an SVG document to this file
        #[arg(long, value_name = "FILE")]
        svg: Option<PathBuf>,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Read a whole snapshot and compare every checksum; exit status 1 when it is damaged
    Verify {
        /// FUNCTION for its latest snapshot, or FUNCTION@ID
        snapshot: SnapshotReference,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Remove snapshots; instances restored from them are not disturbed
    Rm {
        /// FUNCTION@ID, or FUNCTION for its latest snapshot
        #[arg(required = true)]
        snapshots: Vec<SnapshotReference>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct CreateSnapshot {
    /// The function
    pub(crate) function: FunctionName,
    /// Show the function's log on standard error
    #[arg(long)]
    pub(crate) log: bool,
    #[command(flatten)]
    pub(crate) network: NetworkArguments,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        command: SnapshotCommand,
    }

    fn parse(line: &str) -> Result<SnapshotCommand, clap::Error> {
        let words = std::iter::once("snapshot").chain(line.split(' '));
        Line::try_parse_from(words).map(|line| line.command)
    }

    #[test]
    fn snapshots_are_named_by_function_and_identifier() {
        let SnapshotCommand::Show { snapshot, .. } = parse("show f@0123abcd-7").unwrap() else { panic!() };
        assert_eq!((snapshot.function.as_str(), snapshot.id.unwrap().number()), ("f", 7));
        let SnapshotCommand::Rm { snapshots } = parse("rm f g@0123abcd-1").unwrap() else { panic!() };
        assert_eq!(snapshots.len(), 2);
        for wrong in ["show f@7", "show f@", "show @0123abcd-7", "rm"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
