//! `faasnap invoke`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use restore::RestoreStrategy;
use store::FunctionName;

/// Where an instance comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum From {
    /// Boot and run the function's initialisation
    Cold,
    /// Restore its latest snapshot
    Snapshot,
}

/// The event that the function is given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Payload {
    /// As typed.
    Text(String),
    /// The content of a file.
    File(PathBuf),
    /// Everything on standard input.
    StandardInput,
}

fn payload(text: &str) -> Result<Payload, String> {
    Ok(match text.strip_prefix('@') {
        Some("") => return Err("'@' needs a file's name after it".to_owned()),
        Some(path) => Payload::File(PathBuf::from(path)),
        None if text == "-" => Payload::StandardInput,
        None => Payload::Text(text.to_owned()),
    })
}

#[derive(Debug, Args)]
#[command(after_help = "\
The function's answer goes to standard output, its log to standard error. Exit status 0, or 1 with the function's
error as JSON on standard output.

Examples:
  faasnap invoke hello
  faasnap invoke hello --payload '{\"name\": \"world\"}'
  faasnap invoke hello --payload @event.json --from cold --log
  faasnap invoke hello --from snapshot --strategy faasnap --record --timeline
  faasnap invoke hello --repeat 2 --timeline          a warm call
  generate-event | faasnap invoke hello --payload -")]
pub(crate) struct InvokeArguments {
    /// The function
    pub(crate) name: FunctionName,
    /// The event: JSON, @FILE, or - for standard input
    #[arg(long, value_name = "JSON|@FILE|-", value_parser = payload, default_value = "{}")]
    pub(crate) payload: Payload,
    /// Where the instance comes from [default: the latest snapshot when there is one, else cold]
    #[arg(long)]
    pub(crate) from: Option<From>,
    /// Show the function's log, with Lambda's START, END and REPORT lines, on standard error
    #[arg(long)]
    pub(crate) log: bool,
    /// How memory comes back from the snapshot: on-demand, cached, reap, faasnap or eager [default: on-demand]
    #[arg(long, value_name = "STRATEGY")]
    pub(crate) strategy: Option<RestoreStrategy>,
    /// Record the pages that this invocation touches, when the strategy (reap or faasnap) has no recording to go by
    #[arg(long, requires = "strategy")]
    pub(crate) record: bool,
    /// Invoke it so many times in the same instance: all but the first find it warm, and what is shown is the last
    #[arg(long, value_name = "TIMES", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) repeat: u32,
    /// Show on standard error what the time from request to answer went into
    #[arg(long)]
    pub(crate) timeline: bool,
    /// Print answer, figures and timeline as JSON on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        invoke: InvokeArguments,
    }

    fn parse(line: &str) -> Result<InvokeArguments, clap::Error> {
        let words = std::iter::once("invoke").chain(line.split(' '));
        Line::try_parse_from(words).map(|line| line.invoke)
    }

    #[test]
    fn payloads_come_from_three_places() {
        assert_eq!(parse("f").unwrap().payload, Payload::Text("{}".to_owned()));
        assert_eq!(parse("f --payload [1]").unwrap().payload, Payload::Text("[1]".to_owned()));
        assert_eq!(parse("f --payload @a/b").unwrap().payload, Payload::File(PathBuf::from("a/b")));
        assert_eq!(parse("f --payload -").unwrap().payload, Payload::StandardInput);
        assert!(parse("f --payload @").is_err());
    }

    #[test]
    fn an_instance_is_cold_or_restored() {
        let cold = parse("f --from cold --log").unwrap();
        assert_eq!((cold.from, cold.log), (Some(From::Cold), true));
        assert_eq!(parse("f --from snapshot").unwrap().from, Some(From::Snapshot));
        assert!(parse("f --from warm").is_err());
        assert_eq!(parse("hello").unwrap().name.as_str(), "hello");
        assert!(parse("a/b").is_err());
    }
}
