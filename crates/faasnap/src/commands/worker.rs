//! `faasnap worker`: this executable run again, one process per instance. Not for people.

use anyhow::{Context, Result};
use jail::Inherited;

use super::Outcome;
use crate::args::WorkerArguments;

/// Shuts this process in, then serves the node whose socket is standard input.
pub(crate) fn run(arguments: &WorkerArguments) -> Result<Outcome> {
    let mut inherited = Inherited::take(&arguments.passed)?;
    let socket = inherited.socket().context("taking the node's socket")?;
    instance::take_along(inherited.passed("kvm"), inherited.passed("userfaultfd"))
        .context("learning about this machine")?;
    jail::enter(arguments.jail)?;
    instance::serve(socket, arguments.machine)?;
    Ok(Outcome::Good)
}
