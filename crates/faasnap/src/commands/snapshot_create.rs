//! `faasnap snapshot create`.

use std::time::Duration;

use anyhow::{Context, Result};
use function_worker::{SNAPSHOT_INIT_LIMIT, SpareWorker, WorkerError, machine_kind};
use restore::Timeline;
use serde::Serialize;
use store::Store;
use worker_protocol::{Failure, SnapshotPoint};

use super::Outcome;
use super::invoke::{function_error, role};
use crate::args::CreateSnapshot;
use crate::output::{bytes, log_sink, note, print, print_json};

/// What `--json` prints.
#[derive(Serialize)]
struct Created {
    function: String,
    id: String,
    /// Where the runtime waited: `restore/next` or `invocation/next`.
    point: &'static str,
    init_ms: f64,
    /// How long the instance stood still.
    snapshot_ms: f64,
    memory_bytes: u64,
    bytes_on_disk: u64,
}

/// What is said of a function that does not come to wait for an invocation: its own error, as `faasnap invoke` shows it.
fn not_initialised(failure: Failure, limit: Duration, arguments: &CreateSnapshot) -> Result<Outcome> {
    let function = &arguments.function;
    let error = function_error(failure, limit, "").with_context(|| format!("booting {function}"))?;
    let more = if arguments.log { "" } else { " (--log shows what it wrote)" };
    note(&format!("{function} failed in its initialisation, there is nothing to keep{more}"));
    print(&String::from_utf8_lossy(&error))?;
    Ok(Outcome::Negative)
}

pub(super) fn run(store: &Store, arguments: &CreateSnapshot) -> Result<Outcome> {
    let function = store.open_function(&arguments.function)?;
    let timeline = Timeline::start();
    let worker = SpareWorker::start(machine_kind(&function.function.config))?;
    let role = role(true, arguments.network.apply()?)?.with_init_limit(SNAPSHOT_INIT_LIMIT, &function);
    let mut worker = worker.configure(&function, &role, log_sink(arguments.log), timeline)?;
    let booted = match worker.boot(role.init_limit) {
        Ok(booted) => booted,
        Err(WorkerError::Failed(failure)) => return not_initialised(failure, role.init_limit, arguments),
        Err(other) => return Err(other.into()),
    };
    let staging = store.stage_snapshot()?;
    let place = staging.path();
    let parent = place.parent().context("a staged snapshot has no parent folder")?;
    let snapshotted = worker.snapshot(parent)?;
    worker.stop()?;
    let entry = staging.publish(&arguments.function, function.revision())?;
    let created = Created {
        function: arguments.function.to_string(),
        id: entry.id.to_string(),
        point: match booted.point {
            Some(SnapshotPoint::RestoreNext) => "restore/next",
            _ => "invocation/next",
        },
        init_ms: booted.duration.as_secs_f64() * 1e3,
        snapshot_ms: snapshotted.duration.as_secs_f64() * 1e3,
        memory_bytes: snapshotted.memory,
        bytes_on_disk: entry.bytes_on_disk,
    };
    if arguments.output.json {
        print_json(&created)?;
    } else {
        print(&format!(
            "{}@{}: {} of memory, taken in {:.0} ms at {} after {:.0} ms of init",
            created.function,
            created.id,
            bytes(created.memory_bytes),
            created.snapshot_ms,
            created.point,
            created.init_ms
        ))?;
    }
    Ok(Outcome::Good)
}
