//! `faasnap worker`: this executable run again, one process per instance. Not for people.

use std::io::stdin;
use std::os::fd::AsFd;

use anyhow::{Context, Result};

use super::Outcome;

/// Serves the node whose socket is standard input.
pub(super) fn run() -> Result<Outcome> {
    let socket = stdin().as_fd().try_clone_to_owned().context("taking the node's socket")?;
    instance::serve(socket)?;
    Ok(Outcome::Good)
}
