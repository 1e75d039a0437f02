//! `faasnap logs`.

use std::io::{Write as _, stdout};
use std::time::Duration;

use anyhow::{Context, Result};
use function_log::LogReader;
use store::Store;

use super::Outcome;
use crate::args::LogsArguments;

/// Time between two looks at a log that is followed.
const LOOK: Duration = Duration::from_millis(200);

pub(super) fn run(store: &Store, arguments: &LogsArguments) -> Result<Outcome> {
    let mut reader = LogReader::open(store.path(), &arguments.name, arguments.lines)?;
    let first = reader.read()?;
    if first.is_empty() {
        // A mistyped name has no log either.
        store.function(&arguments.name)?;
    }
    print(&first)?;
    if !arguments.follow {
        return Ok(Outcome::Good);
    }
    loop {
        std::thread::sleep(LOOK);
        print(&reader.read()?)?;
    }
}

fn print(bytes: &[u8]) -> Result<()> {
    let mut out = stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).context("writing the output")
}
