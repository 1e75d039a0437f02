//! How an instance comes to be: restored when there is a snapshot, else booted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use function_worker::{
    CredentialsFile, GRACE, Heard, INIT_LIMIT, RESTORE_LIMIT, RestoreOptions, Role, SNAPSHOT_INIT_LIMIT,
    SNAPSHOT_LIMIT, WorkerError, expiration, machine_kind,
};
use restore::Timeline;
use runtime_api::log_line::{self, InitPhase, Status};
use runtime_api::{ErrorType, ExitReason, Outcome};
use store::{Lease, SnapshotEntry, StoreError};
use worker_protocol::{Exit, Failure, FailureKind, LogStream, Record, Restored};

use crate::call::{Refused, SnapshotFailed, Start};
use crate::connection::Connection;
use crate::deployed::Deployed;
use crate::fleet::InstanceId;
use crate::instance::{Job, invoke};
use crate::log::InstanceLog;
use crate::pool::Core;

/// An instance that takes invocations.
pub(crate) struct Born {
    pub connection: Connection,
    pub start: Start,
    /// What the first invocation may take: less than the function's timeout when init was repeated inside it.
    pub first_limit: Duration,
    /// Whether the worker has the promised job already.
    pub asked: bool,
    /// Keeps the snapshot's files.
    pub _snapshot: Option<Lease>,
}

/// An instance to be started.
pub(crate) struct Starting<'a> {
    pub core: &'a Arc<Core>,
    pub id: InstanceId,
    pub deployed: &'a Arc<Deployed>,
    pub log: &'a InstanceLog,
    pub timeline: Timeline,
    /// Whether its first invocation may be recorded.
    pub record: bool,
    /// Its first job, once it was promised one; it is whoever starts the instance's to answer, whatever becomes of the start.
    pub promised: Option<Box<Job>>,
}

/// Time until a lost worker's start is tried again: what killed it may be about to kill the spare ones.
const PAUSE: Duration = Duration::from_millis(100);
/// Bytes of an event that a socket surely takes beside a request to restore: a worker reads nothing while it restores.
const WITH_RESTORE: usize = 64 << 10;

/// Why there is none.
pub(crate) enum NotBorn {
    /// The function's own doing: the caller gets this outcome.
    Function { outcome: Outcome, max_duration: Duration },
    /// Not the function's doing.
    Refused(Refused),
    /// The worker's process ended before the function ran, nobody said why: another may do.
    Lost { reason: String },
}

impl From<WorkerError> for NotBorn {
    fn from(error: WorkerError) -> Self {
        let reason = chain(&error);
        if error.is_lost() { Self::Lost { reason } } else { Self::Refused(Refused::NotStarted { reason }) }
    }
}

impl From<NotBorn> for SnapshotFailed {
    fn from(why: NotBorn) -> Self {
        let reason = match why {
            NotBorn::Refused(Refused::NotStarted { reason }) | NotBorn::Lost { reason } => reason,
            NotBorn::Refused(other) => other.to_string(),
            NotBorn::Function { .. } => "the function could not initialise".to_owned(),
        };
        Self::NotStarted { reason }
    }
}

impl From<StoreError> for NotBorn {
    fn from(error: StoreError) -> Self {
        Self::Refused(Refused::NotStarted { reason: chain(&error) })
    }
}

impl Starting<'_> {
    /// Starts the instance. A worker that is killed by somebody meanwhile is replaced once.
    pub async fn start(&mut self) -> Result<Born, NotBorn> {
        match self.attempt().await {
            Err(NotBorn::Lost { reason }) => {
                tracing::warn!(function = %self.deployed.name(), reason, "a worker was lost; its start is tried again");
                tokio::time::sleep(PAUSE).await;
                self.attempt().await
            }
            done => done,
        }
    }

    async fn attempt(&mut self) -> Result<Born, NotBorn> {
        let (core, deployed) = (self.core, self.deployed);
        if let Some((entry, lease)) = find_snapshot(core, deployed).await? {
            match self.restore(&entry).await {
                Ok(born) => return Ok(Born { _snapshot: Some(lease), ..born }),
                Err(Unrestored::Snapshot(reason)) => {
                    drop(lease);
                    discard_snapshot(core, deployed, &entry, &reason).await;
                }
                Err(Unrestored::Other(why)) => return Err(why),
            }
        }
        boot(core, deployed, self.log, self.timeline.clone()).await
    }

    async fn restore(&mut self, entry: &SnapshotEntry) -> Result<Born, Unrestored> {
        let Self { core, deployed, log, .. } = *self;
        let role = role(deployed, true, INIT_LIMIT);
        let mut connection =
            worker(core, deployed, role, log, self.timeline.clone()).await.map_err(Unrestored::Other)?;
        let record = if self.record { Record::IfNeeded } else { Record::No };
        let options = RestoreOptions { record, ..RestoreOptions::default() };
        // As late as can be: until here, another instance may have become free.
        if self.promised.is_none() {
            self.promised = core.promise(self.id);
        }
        let with = self.promised.as_ref().filter(|job| job.call.payload.len() <= WITH_RESTORE);
        let (asked, tap) = (with.is_some(), with.and_then(|job| job.log.clone()));
        match with.map(|job| invoke(job, deployed.timeout())) {
            Some(first) => {
                connection.ask(|worker| worker.send_restore_and_invoke(&entry.path, &options, first)).await?
            }
            None => connection.ask(|worker| worker.send_restore(&entry.path, &options)).await?,
        }
        let restored = restored(&mut connection, function_worker::boot_limit(&deployed.function)).await?;
        if asked {
            // What its hooks wrote is no invocation's.
            log.begin(tap);
        }
        core.spares.note_restore(&entry.path, machine_kind(&deployed.function.function.config));
        for warning in &restored.warnings {
            // That nothing is recorded yet is so at every first restore.
            tracing::debug!(function = %deployed.name(), warning, "a restore");
        }
        let start = Start::Restored { duration: restored.duration, hooks: restored.hooks };
        Ok(Born { connection, start, first_limit: deployed.timeout(), asked, _snapshot: None })
    }
}

/// Waits until the worker has restored its function; `machine` is the time that its machine has before its hooks begin.
async fn restored(connection: &mut Connection, machine: Duration) -> Result<Restored, Unrestored> {
    match connection.hear_within(RESTORE_LIMIT + machine + GRACE).await? {
        Heard::Restored(restored) => Ok(restored),
        Heard::Failed(Failure { kind: FailureKind::Snapshot, message, .. }) => {
            Err(Unrestored::Snapshot(message))
        }
        Heard::Failed(Failure { kind: FailureKind::Restore { error_type, payload }, .. }) => {
            let refused = Refused::RestoreHook { error_type, payload: payload.into_vec() };
            Err(Unrestored::Other(NotBorn::Refused(refused)))
        }
        Heard::Failed(Failure { kind: FailureKind::RestoreTimeout, .. }) => {
            Err(Unrestored::Other(NotBorn::Refused(Refused::RestoreTimeout)))
        }
        Heard::Failed(Failure { kind: FailureKind::Exited(exit), message, .. }) => {
            // AWS tells of it as of a hook that failed; the way it ended is what there is to report.
            let outcome = Outcome::Exited(reason(exit));
            let refused = Refused::RestoreHook {
                error_type: "Runtime.ExitError".to_owned(),
                payload: outcome.payload(&message),
            };
            Err(Unrestored::Other(NotBorn::Refused(refused)))
        }
        other => Err(Unrestored::Other(unexpected(other))),
    }
}

async fn find_snapshot(
    core: &Arc<Core>,
    deployed: &Arc<Deployed>,
) -> Result<Option<(SnapshotEntry, Lease)>, NotBorn> {
    let (core, deployed) = (core.clone(), deployed.clone());
    let find = move || -> Result<_, StoreError> {
        let Some(entry) = core.store.current_snapshot(&deployed.function)? else { return Ok(None) };
        match core.store.open_snapshot(deployed.name(), &entry.id) {
            // Removed in between.
            Err(StoreError::NoSnapshot { .. }) => Ok(None),
            Err(other) => Err(other),
            Ok(found) => {
                // A full disk is no reason not to run.
                if let Err(error) = core.store.note_use(deployed.name(), &entry.id) {
                    tracing::warn!(error = chain(&error), "the use of a snapshot can't be noted");
                }
                Ok(Some(found))
            }
        }
    };
    Ok(blocking(find).await??)
}

enum Unrestored {
    /// The snapshot is of no use.
    Snapshot(String),
    Other(NotBorn),
}

impl From<WorkerError> for Unrestored {
    fn from(error: WorkerError) -> Self {
        Self::Other(error.into())
    }
}

async fn discard_snapshot(core: &Arc<Core>, deployed: &Arc<Deployed>, entry: &SnapshotEntry, reason: &str) {
    tracing::warn!(function = %deployed.name(), snapshot = %entry.id, reason, "a snapshot is of no use and is removed");
    let (store, name, id) = (core.store.clone(), deployed.name().clone(), entry.id.clone());
    match blocking(move || store.remove_snapshot(&name, &id)).await {
        // Somebody else removed it, or met the same.
        Ok(Ok(()) | Err(StoreError::NoSnapshot { .. })) => {}
        Ok(Err(error)) => tracing::warn!(error = chain(&error), "a snapshot could not be removed"),
        Err(_) => {}
    }
}

/// Boots; when the function fails to initialise in time or at all, once more inside the invocation, as AWS does.
async fn boot(
    core: &Arc<Core>,
    deployed: &Arc<Deployed>,
    log: &InstanceLog,
    timeline: Timeline,
) -> Result<Born, NotBorn> {
    let role = |init_limit| role(deployed, false, init_limit);
    let first = Instant::now();
    let outcome = match initialise(core, deployed, log, timeline.clone(), role(INIT_LIMIT)).await? {
        Ok((connection, init)) => {
            let start = Start::Booted { init };
            return Ok(Born {
                connection,
                start,
                first_limit: deployed.timeout(),
                asked: false,
                _snapshot: None,
            });
        }
        Err(outcome) => outcome,
    };
    log_init(log, first.elapsed(), InitPhase::Init, &outcome);
    let limit = deployed.timeout();
    let again = Instant::now();
    match initialise(core, deployed, log, timeline, role(limit)).await? {
        Ok((connection, init)) => {
            let start = Start::Booted { init };
            let first_limit = limit.saturating_sub(again.elapsed()).max(Duration::from_millis(1));
            Ok(Born { connection, start, first_limit, asked: false, _snapshot: None })
        }
        Err(outcome) => {
            log_init(log, again.elapsed(), InitPhase::Invoke, &outcome);
            Err(NotBorn::Function { outcome, max_duration: again.elapsed() })
        }
    }
}

fn log_init(log: &InstanceLog, duration: Duration, phase: InitPhase, outcome: &Outcome) {
    let status: Status = outcome.status();
    log.write(LogStream::Platform, log_line::init_report(duration, phase, &status).as_bytes());
}

/// One boot: the instance and what its init took, or how the function failed.
async fn initialise(
    core: &Arc<Core>,
    deployed: &Arc<Deployed>,
    log: &InstanceLog,
    timeline: Timeline,
    role: Role,
) -> Result<Result<(Connection, Duration), Outcome>, NotBorn> {
    let limit = role.init_limit;
    let mut connection = worker(core, deployed, role, log, timeline).await?;
    connection.ask(|worker| worker.send_boot()).await?;
    let boot = function_worker::boot_limit(&deployed.function);
    let failure = match connection.hear_within(boot + limit + GRACE).await? {
        Heard::Booted(booted) => return Ok(Ok((connection, booted.duration))),
        Heard::Failed(failure) => failure,
        other => return Err(unexpected(other)),
    };
    match failure.kind {
        FailureKind::Init { error_type, payload } => {
            let error_type = ErrorType::from_header(Some(&error_type));
            Ok(Err(Outcome::InitFailed { error_type, payload: payload.into_vec() }))
        }
        FailureKind::InitTimeout => Ok(Err(Outcome::TimedOut { limit })),
        FailureKind::Exited(exit) => Ok(Err(Outcome::Exited(reason(exit)))),
        _ => Err(unexpected(Heard::Failed(failure))),
    }
}

fn role(deployed: &Deployed, snap_start: bool, init_limit: Duration) -> Role {
    Role { snap_start, version: deployed.version.clone(), init_limit, credentials: None }
}

/// A configured worker.
async fn worker(
    core: &Arc<Core>,
    deployed: &Arc<Deployed>,
    mut role: Role,
    log: &InstanceLog,
    timeline: Timeline,
) -> Result<Connection, NotBorn> {
    let (core, deployed, sink) = (core.clone(), deployed.clone(), log.sink());
    let start = move || {
        let credentials = core.settings.function_credentials.as_ref();
        role.credentials = credentials.map(CredentialsFile::read).transpose()?;
        let expires = role.credentials.as_ref().and_then(expiration);
        let spare = core.spares.take(machine_kind(&deployed.function.function.config))?;
        Connection::new(spare.configure(&deployed.function, &role, sink, timeline)?, expires)
    };
    Ok(blocking(start).await??)
}

/// Boots an instance of its own for a snapshot, takes it, and ends the instance.
pub(crate) async fn snapshot(
    core: &Arc<Core>,
    deployed: &Arc<Deployed>,
    log: &InstanceLog,
) -> Result<SnapshotEntry, SnapshotFailed> {
    let init_limit = SNAPSHOT_INIT_LIMIT.max(deployed.timeout());
    let role = role(deployed, true, init_limit);
    let (mut connection, init) = match initialise(core, deployed, log, Timeline::start(), role).await {
        Ok(Ok(ready)) => ready,
        Ok(Err(Outcome::TimedOut { limit })) => return Err(SnapshotFailed::InitTimeout(limit)),
        Ok(Err(outcome)) => {
            let error_type = match &outcome {
                Outcome::InitFailed { error_type, .. } => error_type.as_str().to_owned(),
                _ => "Runtime.ExitError".to_owned(),
            };
            return Err(SnapshotFailed::Init { error_type, payload: outcome.payload("") });
        }
        Err(why) => return Err(why.into()),
    };
    let report = log_line::init_report(init, InitPhase::Init, &Status::Success);
    log.write(LogStream::Platform, report.as_bytes());
    let store = core.store.clone();
    let staging = blocking(move || store.stage_snapshot()).await.map_err(SnapshotFailed::from)??;
    let place = staging.path();
    let parent = place.parent().unwrap_or(&place).to_owned();
    let written = async {
        connection.ask(|worker| worker.send_snapshot(&parent)).await?;
        connection.hear_within(SNAPSHOT_LIMIT + GRACE).await
    };
    match written.await {
        Ok(Heard::Snapshotted(_)) => {}
        Ok(other) => return Err(unexpected(other).into()),
        Err(error) => return Err(NotBorn::from(error).into()),
    }
    drop(connection);
    let (name, revision) = (deployed.name().clone(), deployed.function.revision());
    Ok(blocking(move || staging.publish(&name, revision)).await.map_err(SnapshotFailed::from)??)
}

/// Does what waits for the disk or for another process outside of the event loop.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, NotBorn> {
    tokio::task::spawn_blocking(work).await.map_err(|_| NotBorn::Refused(Refused::ShuttingDown))
}

fn unexpected(heard: Heard) -> NotBorn {
    let reason = match heard {
        Heard::Failed(failure) => failure.message,
        Heard::ProgramEnded(exit) => format!("the function's program ended while it waited: {exit:?}"),
        Heard::Ended => {
            return NotBorn::Lost { reason: "the worker ended without an answer".to_owned() };
        }
        _ => "the worker answered out of turn (a defect)".to_owned(),
    };
    NotBorn::Refused(Refused::NotStarted { reason })
}

fn reason(exit: Exit) -> ExitReason {
    match exit {
        Exit::Status(status) => ExitReason::Status(status),
        Exit::Signal(signal) => ExitReason::Signal(signal),
    }
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
