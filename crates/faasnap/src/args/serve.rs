//! `faasnap serve`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use instance_pool::policy::{HistogramSettings, Keep};

use super::NetworkArguments;

/// Whose requests are answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Auth {
    /// Those with a signature (SigV4) of a known access key
    Sigv4,
    /// All
    None,
}

#[derive(Debug, Args)]
#[command(after_help = "\
It prints one line to copy when it answers, and stops on SIGTERM or SIGINT: invocations under way end first. Requests \
must be signed with an access key of the credentials file, which is made on the first start; --auth none answers \
everybody and is for this machine alone.

The log goes to standard error; FAASNAP_LOG says how much of it (error, warn, info, debug, or module=level).

Snapshots: a version published with SnapStart has its own. Besides, a function is snapshotted after its first cold \
start, so that the next one is a restore; --no-automatic-snapshots leaves that out, and a function whose initialisation \
takes what must not be copied (an identity, a seed, a lease) should run with it or use SnapStart's hooks.

Examples:
  faasnap serve
  faasnap serve --listen 127.0.0.1:9100 --auth none
  faasnap serve --listen 0.0.0.0:9000 --credentials /etc/faasnap/credentials")]
pub(crate) struct ServeArguments {
    /// Where to listen
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9000")]
    pub(crate) listen: SocketAddr,
    /// Whose requests are answered
    #[arg(long, value_enum, default_value_t = Auth::Sigv4)]
    pub(crate) auth: Auth,
    /// Access keys, in the format of AWS's shared credentials file [default: `credentials` in the home, made when it is
    /// not there]
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    pub(crate) credentials: Option<PathBuf>,
    /// Let `--auth none` answer other machines too
    #[arg(long)]
    pub(crate) insecure: bool,
    /// The region that the node stands for
    #[arg(long, value_name = "NAME", default_value = "us-east-1", value_parser = region)]
    pub(crate) region: String,
    /// The account that the node stands for
    #[arg(long, value_name = "DIGITS", default_value = "000000000000", value_parser = account)]
    pub(crate) account: String,
    /// Invocations that may run at once
    #[arg(long, value_name = "NUMBER", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) concurrency: u32,
    /// Connections that there may be at once; beyond, the one that has been without a request for the longest makes room
    #[arg(long, value_name = "NUMBER", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) connections: u32,
    /// How many MiB the home may take on disk; snapshots go first, the longest unused one before the others [default: no
    /// limit]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub(crate) disk_quota: Option<u64>,
    /// How many seconds code stays on disk that no function has any more, and how recent a use keeps a snapshot despite the
    /// quota
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub(crate) grace: u64,
    /// Take snapshots only where SnapStart asks for them
    #[arg(long)]
    pub(crate) no_automatic_snapshots: bool,
    /// How long instances without work are kept: for a number of seconds, until their `memory` is needed, or by the
    /// `histogram` of each function's own idle times
    #[arg(long, value_name = "SECONDS|memory|histogram", default_value = "600", value_parser = keep)]
    pub(crate) keep_alive: Keep,
    /// MiB that all instances together may take: 128 or more, of which a new function is taken to need 80 [default: what the
    /// machine has]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(128..))]
    pub(crate) memory_budget: Option<u64>,
    #[command(flatten)]
    pub(crate) network: NetworkArguments,
}

fn keep(text: &str) -> Result<Keep, String> {
    match text {
        "memory" => Ok(Keep::Forever),
        "histogram" => Ok(Keep::Histogram(HistogramSettings::default())),
        seconds => match seconds.parse() {
            Ok(seconds) => Ok(Keep::Fixed(Duration::from_secs(seconds))),
            Err(_) => Err("use a number of seconds, memory, or histogram".to_owned()),
        },
    }
}

fn region(text: &str) -> Result<String, String> {
    let valid = (1..=32).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if valid { Ok(text.to_owned()) } else { Err("a region is written like us-east-1".to_owned()) }
}

fn account(text: &str) -> Result<String, String> {
    let valid = text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit());
    if valid { Ok(text.to_owned()) } else { Err("an account has 12 digits".to_owned()) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        serve: ServeArguments,
    }

    #[test]
    fn what_is_no_region_or_account_is_refused() {
        let parse =
            |line: &str| Line::try_parse_from(std::iter::once("serve").chain(line.split_whitespace()));
        let serve = parse("--auth none --region eu-central-1 --account 123456789012").unwrap().serve;
        assert_eq!((serve.auth, serve.region.as_str()), (Auth::None, "eu-central-1"));
        assert_eq!(serve.keep_alive, Keep::Fixed(Duration::from_secs(600)));
        assert_eq!(parse("--keep-alive memory").unwrap().serve.keep_alive, Keep::Forever);
        for wrong in [
            "--keep-alive soon",
            "--region US",
            "--account 1",
            "--listen here",
            "--concurrency 0",
            "--connections 0",
            "--auth some",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
