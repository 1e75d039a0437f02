//! `faasnap invoke`.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{ArgAction, Args, ValueEnum};
use restore::{RestoreStrategy, Technique};
use store::FunctionName;

use super::NetworkArguments;

/// Where an instance comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum From {
    /// Boot and run the function's initialisation
    Cold,
    /// Restore its latest snapshot
    Snapshot,
}

/// The way to an answer: from a boot, from an instance that has answered before, or by a restore strategy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    /// Boot and initialise.
    Cold,
    /// An instance that was invoked before; that first call is not shown.
    Warm,
    /// Restore.
    Restored(RestoreStrategy),
}

impl FromStr for Way {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "cold" => Ok(Self::Cold),
            "warm" => Ok(Self::Warm),
            other => other.parse().map(Self::Restored).map_err(|_| {
                format!(
                    "\"{other}\" is not a strategy: use warm, cold, on-demand, cached, reap, faasnap or eager"
                )
            }),
        }
    }
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
The function's answer goes to standard output, its log to standard error. Exit status 0, or 1 with the function's \
error as JSON on standard output.

A node that serves this home (`faasnap serve`) answers, from a warm instance if it has one; with an option that says how \
the answer is to come about or what is to be measured, the function runs in an instance of this command's own.

Examples:
  faasnap invoke hello
  faasnap invoke hello --payload '{\"name\": \"world\"}'
  faasnap invoke hello --payload @event.json --from cold --log
  faasnap invoke hello --timeline                              what the time went into
  faasnap invoke hello --strategy warm --timeline              a second call of the same instance
  faasnap invoke hello --strategy reap --timeline              by another restore strategy
  faasnap invoke hello --without concurrent-paging,populate    without some techniques
  faasnap invoke hello --restores 20 --drop-cache              medians of 20 cold starts from disk
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
    /// How the answer comes about: warm, cold, or by restoring with on-demand, cached, reap, faasnap or eager [default:
    /// faasnap when there is a snapshot, else cold]
    #[arg(long, value_name = "STRATEGY")]
    pub(crate) strategy: Option<Way>,
    /// Leave techniques of the faasnap strategy out: per-region-mapping, loading-set-file, weighing, concurrent-paging,
    /// populate, private-ahead, neighbours-ahead, fresh-ahead, private-reads, ready-memory, growth-ahead,
    /// late-blocks, huge-blocks, compressed
    #[arg(long, value_name = "TECHNIQUES", value_delimiter = ',')]
    pub(crate) without: Vec<Technique>,
    /// Whether a fault on the memory file reads one page (true) or the device's readahead window (false) [default: true for
    /// faasnap, else false]
    #[arg(long, value_name = "BOOL", action = ArgAction::Set)]
    pub(crate) random_access: Option<bool>,
    /// Record the pages that this invocation touches even when there is a recording, and add them to it
    #[arg(long, conflicts_with = "no_record")]
    pub(crate) record: bool,
    /// Record nothing, even when the strategy has no recording to go by
    #[arg(long)]
    pub(crate) no_record: bool,
    /// Compare all of memory with the snapshot, before the guest runs and after its invocation; fail on a wrong page
    #[arg(long, conflicts_with = "record")]
    pub(crate) verify_memory: bool,
    /// Invoke it so many times in the same instance: all but the first find it warm, and what is shown is the last
    #[arg(long, value_name = "TIMES", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) repeat: u32,
    /// Restore it so many times, each time in a worker of its own that was ready before, and show what the time went into
    #[arg(long, value_name = "TIMES", value_parser = clap::value_parser!(u32).range(1..), conflicts_with_all = ["repeat", "timeline", "record"])]
    pub(crate) restores: Option<u32>,
    /// With --restores: drop the snapshot's files from the page cache before each
    // Named again, since clap asks for nothing that another argument rules out.
    #[arg(long, requires = "restores", conflicts_with_all = ["repeat", "timeline", "record"])]
    pub(crate) drop_cache: bool,
    /// With --restores: start each worker with the request
    // Named again, since clap asks for nothing that another argument rules out.
    #[arg(long, requires = "restores", conflicts_with_all = ["repeat", "timeline", "record"])]
    pub(crate) no_spare: bool,
    /// Show on standard error what the time from request to answer went into
    #[arg(long)]
    pub(crate) timeline: bool,
    /// Print answer, figures and timeline as JSON on standard output
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) network: NetworkArguments,
}

impl InvokeArguments {
    /// Whether nothing was said about how the answer is to come about or what is to be measured: a node that serves the
    /// home may answer then.
    pub(crate) fn leaves_the_way_open(&self) -> bool {
        self.from.is_none()
            && self.strategy.is_none()
            && self.without.is_empty()
            && self.random_access.is_none()
            && self.repeat == 1
            && self.restores.is_none()
            && self.network.says_nothing()
            && !(self.record || self.no_record || self.verify_memory || self.timeline)
    }
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
    fn help_names_every_technique() {
        let help = <Line as clap::CommandFactory>::command().render_long_help().to_string();
        assert!(Technique::ALL.iter().all(|technique| help.contains(technique.name())), "{help}");
    }

    #[test]
    fn an_instance_is_cold_or_restored() {
        let cold = parse("f --from cold --log").unwrap();
        assert_eq!((cold.from, cold.log), (Some(From::Cold), true));
        assert_eq!(parse("f --from snapshot").unwrap().from, Some(From::Snapshot));
        assert!(parse("f --from warm").is_err());
        assert_eq!(parse("f --strategy warm").unwrap().strategy, Some(Way::Warm));
        let reap = parse("f --strategy reap --without populate,weighing").unwrap();
        assert_eq!(reap.strategy, Some(Way::Restored(RestoreStrategy::Reap)));
        assert_eq!(reap.without, [Technique::Populate, Technique::Weighing]);
        assert!(parse("f --strategy hot").unwrap_err().to_string().contains("use warm, cold, on-demand"));
        assert!(parse("f --drop-cache").is_err());
        assert_eq!(parse("hello").unwrap().name.as_str(), "hello");
        assert!(parse("a/b").is_err());
    }
}
