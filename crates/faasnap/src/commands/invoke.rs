//! `faasnap invoke`.

use std::fs;
use std::io::{Read, Write, stderr, stdin, stdout};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use function_worker::{
    CredentialsFile, INIT_LIMIT, REGION, RESTORE_LIMIT, RestoreOptions, Role, SpareWorker, WorkerError,
    machine_kind,
};
use restore::{Phase, RestoreStrategy, Timeline};
use runtime_api::{ExitReason, Outcome as Ending};
use serde::Serialize;
use serde::de::IgnoredAny;
use serde_bytes::ByteBuf;
use serde_json::value::RawValue;
use store::{Function, FunctionName, Lease, OpenFunction, SnapshotEntry, Store};
use uuid::Uuid;
use worker_protocol::{Answer, Exit, Failure, FailureKind, Health, Invoke, Record};

use super::Outcome;
use crate::args::{From, InvokeArguments, Payload, Way};
use crate::output::{log_sink, note, print_json};

/// What `--json` prints.
#[derive(Serialize)]
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
    if let Some(times) = arguments.restores {
        return super::restores::run(store, arguments, times, &payload);
    }
    if arguments.leaves_the_way_open()
        && let Some(node) = super::through_node::connect(store)
    {
        // A mistyped name is told of in the same words with and without a node.
        store.function(&arguments.name)?;
        let answered = super::through_node::invoke(node, &arguments.name, &payload, arguments.log)?;
        return show(arguments, answered);
    }
    let timeline = Timeline::start();
    // It makes its machine while the function's files are opened here.
    let worker = SpareWorker::start(machine_kind(&store.function(&arguments.name)?.config))?;
    let function = store.open_function(&arguments.name)?;
    let way = Chosen::new(store, &function, arguments)?;
    let request_id = Uuid::new_v4().to_string();
    let answered = invoke(worker, arguments, &function, &way, timeline, &request_id, payload);
    let mut shown = Shown {
        request_id,
        failed: true,
        payload: Vec::new(),
        from: way.name(),
        duration: Duration::ZERO,
        max_memory: 0,
        timeline: None,
    };
    match answered {
        Ok((answer, timeline)) => {
            shown.failed = answer.ending.is_function_error();
            shown.payload = answer.payload.into_vec();
            shown.timeline = Some(timeline);
            (shown.duration, shown.max_memory) = (answer.usage.duration, answer.usage.max_memory);
        }
        Err(error) => match error.downcast::<WorkerError>() {
            Ok(WorkerError::Failed(failure)) => {
                let limit = Role::latest(false).with_init_limit(INIT_LIMIT, &function).init_limit;
                let answer = function_error(failure, limit, &shown.request_id);
                shown.payload = answer.with_context(|| way.failed(&arguments.name))?;
            }
            Ok(other) => return Err(other.into()),
            Err(error) => return Err(error),
        },
    }
    show(arguments, shown)
}

/// What there is to show of an invocation.
pub(super) struct Shown {
    pub request_id: String,
    /// Whether the function failed.
    pub failed: bool,
    pub payload: Vec<u8>,
    /// Where the instance came from.
    pub from: &'static str,
    pub duration: Duration,
    /// Bytes.
    pub max_memory: u64,
    pub timeline: Option<Timeline>,
}

/// Where the instance comes from, and how.
struct Chosen {
    /// The snapshot that is restored; without one the function is booted.
    snapshot: Option<(SnapshotEntry, Lease)>,
    options: RestoreOptions,
    /// How often the instance is invoked; the last call is the one that is shown.
    calls: u32,
}

impl Chosen {
    fn new(store: &Store, function: &OpenFunction, arguments: &InvokeArguments) -> Result<Self> {
        let restores = matches!(arguments.strategy, Some(Way::Restored(_)));
        let snapshot = match (arguments.from, arguments.strategy) {
            (Some(From::Cold), Some(Way::Restored(strategy))) => {
                bail!("{strategy} restores a snapshot, --from cold boots: leave one of them out")
            }
            (Some(From::Snapshot), Some(Way::Cold)) => {
                bail!("--strategy cold boots, --from snapshot restores: leave one of them out")
            }
            (Some(From::Cold), _) | (_, Some(Way::Cold)) => None,
            (Some(From::Snapshot), _) => Some(existing(store, function)?),
            (None, _) if restores => Some(existing(store, function)?),
            (None, _) => find(store, function)?,
        };
        let mut options = restore_options(arguments);
        let warm = arguments.strategy == Some(Way::Warm);
        let calls = if warm { arguments.repeat.max(2) } else { arguments.repeat };
        if calls > 1 {
            // A recorded instance ends with its first call.
            if arguments.record {
                bail!("--record is about an instance's first call, and this asks for a later one");
            }
            options.record = Record::No;
        }
        if snapshot.is_none() && (options.verify || arguments.record || !arguments.without.is_empty()) {
            bail!("--verify-memory, --record and --without are about restoring a snapshot, and this boots");
        }
        Ok(Self { snapshot, options, calls })
    }

    /// What did not work when the instance could not answer.
    fn failed(&self, function: &FunctionName) -> String {
        match &self.snapshot {
            Some((entry, _)) => format!("restoring {function}@{}", entry.id),
            None => format!("booting {function}"),
        }
    }

    fn name(&self) -> &'static str {
        match &self.snapshot {
            Some(_) => "snapshot",
            None => "cold",
        }
    }
}

/// How a snapshot is to be restored.
pub(super) fn restore_options(arguments: &InvokeArguments) -> RestoreOptions {
    RestoreOptions {
        strategy: match arguments.strategy {
            Some(Way::Restored(strategy)) => strategy,
            _ => RestoreStrategy::default(),
        },
        without: arguments.without.clone(),
        random_access: arguments.random_access,
        record: if arguments.record {
            Record::Again
        } else if arguments.no_record || arguments.verify_memory {
            Record::No
        } else {
            Record::IfNeeded
        },
        verify: arguments.verify_memory,
    }
}

/// An instance of `$LATEST` that may call AWS with what is in `credentials`.
pub(super) fn role(snap_start: bool, credentials: Option<CredentialsFile>) -> Result<Role> {
    let credentials = credentials.map(|file| file.read()).transpose()?;
    Ok(Role { credentials, ..Role::latest(snap_start) })
}

fn find(store: &Store, function: &OpenFunction) -> Result<Option<(SnapshotEntry, Lease)>> {
    let Some(entry) = store.current_snapshot(function)? else { return Ok(None) };
    Ok(Some(store.open_snapshot(&function.function.name, &entry.id)?))
}

/// The function's snapshot, which must be there.
pub(super) fn existing(store: &Store, function: &OpenFunction) -> Result<(SnapshotEntry, Lease)> {
    let name = &function.function.name;
    find(store, function)?.with_context(|| {
        format!(
            "function {name} has no snapshot that fits it as it is now: run `faasnap snapshot create {name}`"
        )
    })
}

/// The event, which must be JSON: AWS Lambda refuses all else, too.
fn payload(payload: &Payload) -> Result<Vec<u8>> {
    let bytes = match payload {
        Payload::Text(text) => text.clone().into_bytes(),
        Payload::File(path) => fs::read(path).with_context(|| format!("reading {}", path.display()))?,
        Payload::StandardInput => {
            let mut bytes = Vec::new();
            stdin().lock().read_to_end(&mut bytes).context("reading standard input")?;
            bytes
        }
    };
    serde_json::from_slice::<IgnoredAny>(&bytes).context(
        "the payload is not JSON: write --payload '{\"name\": \"value\"}', --payload @FILE, or --payload - for standard input",
    )?;
    Ok(bytes)
}

fn invoke(
    worker: SpareWorker,
    arguments: &InvokeArguments,
    function: &OpenFunction,
    way: &Chosen,
    timeline: Timeline,
    request_id: &str,
    payload: Vec<u8>,
) -> Result<(Answer, Timeline)> {
    // On AWS, an init that took longer than its limit is done again within the invocation's own; here it goes on.
    let role =
        role(way.snapshot.is_some(), arguments.network.apply()?)?.with_init_limit(INIT_LIMIT, function);
    let mut worker = worker.configure(function, &role, log_sink(arguments.log), timeline)?;
    let first = invocation(function, request_id, &payload);
    let mut answer = match &way.snapshot {
        Some((entry, _lease)) => {
            let (restored, answer) = worker.restore_and_invoke(&entry.path, &way.options, first)?;
            restored.warnings.iter().for_each(|warning| note(warning));
            answer
        }
        None => {
            worker.boot(role.init_limit)?;
            worker.invoke(first)?
        }
    };
    let mut timeline = worker.timeline(&answer.timeline)?;
    timeline.reached(Phase::Returned);
    for _ in 1..way.calls {
        if answer.health != Health::Ready {
            bail!("the instance can't be invoked again: it ended with {:?}", answer.ending);
        }
        // Of a warm call only the way there and back is known.
        timeline = Timeline::start();
        answer = worker.invoke(invocation(function, &Uuid::new_v4().to_string(), &payload))?;
        timeline.reached(Phase::Returned);
    }
    match way.calls {
        1 => timeline = worker.stop_measured(timeline)?,
        _ => worker.stop()?,
    }
    Ok((answer, timeline))
}

pub(super) fn invocation(function: &OpenFunction, request_id: &str, payload: &[u8]) -> Invoke {
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
/// `init_limit` is how long its init might take.
pub(super) fn function_error(failure: Failure, init_limit: Duration, request_id: &str) -> Result<Vec<u8>> {
    let ended = |outcome: Ending| Ok(outcome.payload(request_id));
    match failure.kind {
        FailureKind::Init { payload, .. } | FailureKind::Restore { payload, .. } => Ok(payload.into_vec()),
        FailureKind::InitTimeout => ended(Ending::TimedOut { limit: init_limit }),
        FailureKind::RestoreTimeout => ended(Ending::TimedOut { limit: RESTORE_LIMIT }),
        FailureKind::Exited(Exit::Status(status)) => ended(Ending::Exited(ExitReason::Status(status))),
        FailureKind::Exited(Exit::Signal(signal)) => ended(Ending::Exited(ExitReason::Signal(signal))),
        FailureKind::Request
        | FailureKind::Machine
        | FailureKind::Program
        | FailureKind::Snapshot
        | FailureKind::Recording
        | FailureKind::Internal => Err(WorkerError::Failed(failure).into()),
    }
}

fn show(arguments: &InvokeArguments, shown: Shown) -> Result<Outcome> {
    let Shown { request_id, failed, payload, from, duration, max_memory, timeline } = shown;
    let outcome = if failed { Outcome::Negative } else { Outcome::Good };
    if arguments.json {
        print_json(&Report {
            request_id: &request_id,
            failed,
            payload: match serde_json::from_slice(&payload) {
                Ok(json) => Answered::Json(json),
                Err(_) => Answered::Text(String::from_utf8_lossy(&payload).into_owned()),
            },
            from,
            duration_ms: milliseconds(duration),
            max_memory_bytes: max_memory,
            timeline,
        })?;
        return Ok(outcome);
    }
    if let Some(verified) = timeline.as_ref().and_then(|timeline| timeline.verified) {
        note(&format!(
            "memory verified: {} pages before the run, {} unwritten ones after it",
            verified.before, verified.after
        ));
    }
    if let Some(timeline) = timeline.filter(|_| arguments.timeline) {
        // The answer is what matters.
        let _ = writeln!(stderr(), "{timeline}");
    }
    let mut out = stdout().lock();
    let newline: &[u8] = if payload.ends_with(b"\n") { b"" } else { b"\n" };
    let written = out.write_all(&payload).and_then(|()| out.write_all(newline)).and_then(|()| out.flush());
    written.context("writing the answer")?;
    Ok(outcome)
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
