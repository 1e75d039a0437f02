//! `faasnap invoke`.

use std::fs;
use std::io::{Read, Write, stderr, stdin, stdout};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use function_worker::{INIT_LIMIT, REGION, RestoreOptions, Role, SpareWorker, WorkerError};
use restore::{Phase, RestoreStrategy, Timeline};
use runtime_api::{ExitReason, Outcome as Ending};
use serde::Serialize;
use serde_bytes::ByteBuf;
use serde_json::value::RawValue;
use store::{Function, Lease, OpenFunction, SnapshotEntry, Store};
use uuid::Uuid;
use worker_protocol::{Answer, Exit, Failure, FailureKind, Health, Invoke, Record};

use super::Outcome;
use crate::args::{From, InvokeArguments, Payload};
use crate::output::{log_sink, note, print_json};

/// What `--json` prints.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<'a> {
    request_id: &'a str,
    /// Whether the function failed.
    failed: bool,
    /// The answer: as JSON when it is JSON, else as text.
    payload: Answered<'a>,
    from: &'static str,
    duration_ms: f64,
    max_memory_bytes: u64,
    timeline: Option<Timeline>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Answered<'a> {
    Json(&'a RawValue),
    Text(String),
}

pub(super) fn run(store: &Store, arguments: &InvokeArguments) -> Result<Outcome> {
    let payload = payload(&arguments.payload)?;
    let timeline = Timeline::start();
    let function = store.open_function(&arguments.name)?;
    let snapshot = match arguments.from {
        Some(From::Cold) => None,
        Some(From::Snapshot) => match find(store, &function)? {
            Some(found) => Some(found),
            None => bail!(
                "function {0} has no snapshot that fits it as it is now: run `faasnap snapshot create {0}`",
                arguments.name
            ),
        },
        None => find(store, &function)?,
    };
    let request_id = Uuid::new_v4().to_string();
    let answered = invoke(arguments, &function, snapshot.as_ref(), timeline, &request_id, payload);
    let (payload, failed, details) = match answered {
        Ok((answer, timeline)) => {
            let failed = answer.ending.is_function_error();
            (answer.payload.to_vec(), failed, Some((answer, timeline)))
        }
        Err(error) => match error.downcast::<WorkerError>() {
            Ok(WorkerError::Failed(failure)) => (function_error(failure, &request_id)?, true, None),
            Ok(other) => return Err(other.into()),
            Err(error) => return Err(error),
        },
    };
    let from = if snapshot.is_some() { "snapshot" } else { "cold" };
    show(arguments, &request_id, &payload, failed, from, details)?;
    Ok(if failed { Outcome::Negative } else { Outcome::Good })
}

fn find(store: &Store, function: &OpenFunction) -> Result<Option<(SnapshotEntry, Lease)>> {
    let Some(entry) = store.current_snapshot(function)? else { return Ok(None) };
    Ok(Some(store.open_snapshot(&function.function.name, &entry.id)?))
}

fn payload(payload: &Payload) -> Result<Vec<u8>> {
    Ok(match payload {
        Payload::Text(text) => text.clone().into_bytes(),
        Payload::File(path) => fs::read(path).with_context(|| format!("reading {}", path.display()))?,
        Payload::StandardInput => {
            let mut bytes = Vec::new();
            stdin().lock().read_to_end(&mut bytes).context("reading standard input")?;
            bytes
        }
    })
}

fn invoke(
    arguments: &InvokeArguments,
    function: &OpenFunction,
    snapshot: Option<&(SnapshotEntry, Lease)>,
    timeline: Timeline,
    request_id: &str,
    payload: Vec<u8>,
) -> Result<(Answer, Timeline)> {
    let role = Role::latest(snapshot.is_some());
    let mut worker = SpareWorker::start()?.configure(function, &role, log_sink(arguments.log), timeline)?;
    match snapshot {
        Some((entry, _lease)) => {
            let record = if arguments.record { Record::IfNeeded } else { Record::No };
            let strategy = arguments.strategy.unwrap_or(RestoreStrategy::OnDemand);
            let options = RestoreOptions { record, ..RestoreOptions::by(strategy) };
            for warning in worker.restore(&entry.path, &options)?.warnings {
                note(&warning);
            }
        }
        None => drop(worker.boot(INIT_LIMIT)?),
    }
    let mut answer = worker.invoke(invocation(function, request_id, &payload))?;
    let mut timeline = worker.timeline(&answer.timeline)?;
    for _ in 1..arguments.repeat {
        if answer.health != Health::Ready {
            bail!("the instance can't be invoked again: it ended with {:?}", answer.ending);
        }
        // Of a warm call only the way there and back is known.
        timeline = Timeline::start();
        answer = worker.invoke(invocation(function, &Uuid::new_v4().to_string(), &payload))?;
        timeline.reached(Phase::Answered);
    }
    worker.stop()?;
    Ok((answer, timeline))
}

fn invocation(function: &OpenFunction, request_id: &str, payload: &[u8]) -> Invoke {
    let Function { name, config, .. } = &function.function;
    Invoke {
        request_id: request_id.to_owned(),
        payload: ByteBuf::from(payload),
        timeout: Duration::from_secs(config.timeout.get().into()),
        invoked_function_arn: format!("arn:aws:lambda:{REGION}:000000000000:function:{name}"),
        trace_id: None,
        client_context: None,
        cognito_identity: None,
        tenant_id: None,
        streaming: false,
    }
}

/// What the caller of a function that never came to run gets: AWS's texts. What is no fault of the function stays an error.
fn function_error(failure: Failure, request_id: &str) -> Result<Vec<u8>> {
    let ended = |outcome: Ending| Ok(outcome.payload(request_id));
    match failure.kind {
        FailureKind::Init { payload, .. } | FailureKind::Restore { payload, .. } => Ok(payload.into_vec()),
        FailureKind::InitTimeout | FailureKind::RestoreTimeout => {
            ended(Ending::TimedOut { limit: INIT_LIMIT })
        }
        FailureKind::Exited(Exit::Status(status)) => ended(Ending::Exited(ExitReason::Status(status))),
        FailureKind::Exited(Exit::Signal(signal)) => ended(Ending::Exited(ExitReason::Signal(signal))),
        FailureKind::Request
        | FailureKind::Machine
        | FailureKind::Program
        | FailureKind::Snapshot
        | FailureKind::Internal => Err(WorkerError::Failed(failure).into()),
    }
}

fn show(
    arguments: &InvokeArguments,
    request_id: &str,
    payload: &[u8],
    failed: bool,
    from: &'static str,
    details: Option<(Answer, Timeline)>,
) -> Result<()> {
    let (answer, timeline) = details.unzip();
    let usage = answer.map(|answer| answer.usage).unwrap_or_default();
    if arguments.json {
        return print_json(&Report {
            request_id,
            failed,
            payload: match serde_json::from_slice(payload) {
                Ok(json) => Answered::Json(json),
                Err(_) => Answered::Text(String::from_utf8_lossy(payload).into_owned()),
            },
            from,
            duration_ms: milliseconds(usage.duration),
            max_memory_bytes: usage.max_memory,
            timeline,
        });
    }
    if let Some(timeline) = timeline.filter(|_| arguments.timeline) {
        // The answer is what matters.
        let _ = writeln!(stderr(), "{timeline}");
    }
    let mut out = stdout().lock();
    let newline: &[u8] = if payload.ends_with(b"\n") { b"" } else { b"\n" };
    let written = out.write_all(payload).and_then(|()| out.write_all(newline)).and_then(|()| out.flush());
    written.context("writing the answer")
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
