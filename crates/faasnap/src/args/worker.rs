//! `faasnap worker`: this executable run again, one process per instance. Not for people.

use std::os::fd::RawFd;

use clap::Args;

#[derive(Debug, Args)]
#[command(hide = true)]
pub(crate) struct WorkerArguments {
    /// The descriptor of the socket that the worker protocol is spoken on
    #[arg(long, value_name = "FD", value_parser = clap::value_parser!(i32).range(3..))]
    pub(crate) socket: RawFd,
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        worker: WorkerArguments,
    }

    #[test]
    fn the_socket_is_a_descriptor_beyond_the_standard_ones() {
        let parse = |fd| Line::try_parse_from(["worker", "--socket", fd]).map(|line| line.worker.socket);
        assert_eq!(parse("3").unwrap(), 3);
        assert!(parse("2").is_err() && parse("x").is_err());
    }
}
