//! An instance's task: its start, its invocations one after the other, its end.

use std::sync::Arc;
use std::time::Duration;

use function_worker::{GRACE, Heard, WorkerError};
use restore::Timeline;
use runtime_api::Outcome;
use serde_bytes::ByteBuf;
use tokio::sync::{mpsc, oneshot};
use worker_protocol::{Answer, Ending, Health, Invoke};

use crate::call::{Call, Refused, Reply, Start, StreamingReply};
use crate::connection::Connection;
use crate::deployed::Deployed;
use crate::fleet::InstanceId;
use crate::freshness::outlived;
use crate::log::{InstanceLog, LogTap};
use crate::pool::{Core, count};
use crate::start::{self, Born, NotBorn, Starting};

/// How long an instance may take to end after it was asked to; a recording is written in that time.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// Instances that may be gone before they took an event, until its caller is told.
const ATTEMPTS: u8 = 3;
/// Pieces of a streamed answer that may wait for their reader.
const PIECES: usize = 16;

/// An invocation that waits for its instance.
#[derive(Debug)]
pub(crate) struct Job {
    pub call: Call,
    pub answer: AnswerTo,
    /// Who wants its whole log.
    pub log: Option<LogTap>,
    /// Instances that were gone before they took it.
    pub attempts: u8,
}

/// Who waits for the answer. Whoever has gone away is not missed.
#[derive(Debug)]
pub(crate) enum AnswerTo {
    Whole(oneshot::Sender<Result<Reply, Refused>>),
    Streaming(oneshot::Sender<Result<StreamingReply, Refused>>),
}

impl AnswerTo {
    /// Answers with what is no stream.
    pub fn send(self, result: Result<Reply, Refused>) {
        match self {
            Self::Whole(sender) => drop(sender.send(result)),
            Self::Streaming(sender) => {
                let streaming = result.map(|reply| {
                    let (end, receiver) = oneshot::channel();
                    let content_type = reply.content_type.clone();
                    // The receiver is right here.
                    let _ = end.send(reply);
                    StreamingReply { content_type, pieces: mpsc::channel(1).1, end: receiver }
                });
                drop(sender.send(streaming));
            }
        }
    }
}

/// The life of an instance. Jobs come one at a time; when no more can come, it ends.
pub(crate) async fn live(
    core: Arc<Core>,
    id: InstanceId,
    deployed: Arc<Deployed>,
    timeline: Timeline,
    mut jobs: mpsc::UnboundedReceiver<Box<Job>>,
) {
    let Some(permit) = core.may_start(id).await else { return };
    let log = InstanceLog::new(core.log.clone(), deployed.clone());
    let record = core.recordings.begin(deployed.key());
    let mut starting = Starting {
        core: &core,
        id,
        deployed: &deployed,
        log: &log,
        timeline,
        record: record.is_some(),
        promised: None,
    };
    let born = starting.start().await;
    let promised = starting.promised;
    drop(permit);
    match born {
        Ok(born) => serve(&core, id, &deployed, &log, born, promised, &mut jobs).await,
        Err(why) => core.start_failed(id, &deployed, &log, why, promised),
    }
    drop(record);
    log.end();
}

/// Takes jobs as they come, first the one that it was promised.
async fn serve(
    core: &Arc<Core>,
    id: InstanceId,
    deployed: &Arc<Deployed>,
    log: &InstanceLog,
    born: Born,
    mut promised: Option<Box<Job>>,
    jobs: &mut mpsc::UnboundedReceiver<Box<Job>>,
) {
    let Born { connection, start, first_limit, mut asked, _snapshot } = born;
    let expires = connection.expires;
    if matches!(start, Start::Booted { .. }) {
        count(&core.counters.booted);
        core.snapshot_soon(deployed);
    } else {
        count(&core.counters.restored);
    }
    core.ready(id);
    let mut instance = Instance { connection, deployed: deployed.clone(), log: log.clone(), start };
    let mut limit = first_limit;
    loop {
        let file = core.settings.function_credentials.as_ref();
        let job = match promised.take() {
            Some(job) => Some(job),
            None => tokio::select! {
                job = jobs.recv() => job,
                heard = instance.connection.hear() => {
                    tracing::debug!(function = %deployed.name(), ?heard, "an idle instance ended");
                    return leave(core, id, jobs).await;
                }
                () = outlived(file, expires) => {
                    leave(core, id, jobs).await;
                    break;
                }
            },
        };
        let Some(job) = job else { break };
        match instance.run(job, limit, std::mem::take(&mut asked)).await {
            // The instance is free before its caller hears: whoever calls again at once finds it.
            Ran::Answered { sound, memory, answer } => {
                core.finished(id, sound, Some(memory));
                answer.send();
            }
            Ran::Dead(answer) => {
                count(&core.counters.crashed);
                core.finished(id, false, None);
                return answer.send();
            }
            Ran::NotAtAll(mut job) if job.attempts < ATTEMPTS => {
                job.attempts += 1;
                return core.returned(id, job);
            }
            Ran::NotAtAll(job) => {
                let reason = format!("{ATTEMPTS} workers in a row ended before they took the event");
                job.answer.send(Err(Refused::NotStarted { reason }));
                return core.finished(id, false, None);
            }
        }
        limit = instance.deployed.timeout();
        instance.start = Start::Warm;
    }
    instance.stop().await;
}

/// Takes an idle instance out of the pool.
async fn leave(core: &Arc<Core>, id: InstanceId, jobs: &mut mpsc::UnboundedReceiver<Box<Job>>) {
    core.ended(id);
    // It may have been given a job at this very moment.
    jobs.close();
    while let Some(job) = jobs.recv().await {
        core.returned(id, job);
    }
}

struct Instance {
    connection: Connection,
    deployed: Arc<Deployed>,
    log: InstanceLog,
    /// Where it came from, until its first invocation is over.
    start: Start,
}

/// What became of a job and its instance.
enum Ran {
    /// It is done. The instance used `memory` bytes; when it is `sound`, it takes another one.
    Answered { sound: bool, memory: u64, answer: Answered },
    /// The instance has ended, or does not answer.
    Dead(Answered),
    /// The event never reached the function.
    NotAtAll(Box<Job>),
}

impl Instance {
    /// Runs a job. `asked`: the worker has it already.
    async fn run(&mut self, job: Box<Job>, limit: Duration, asked: bool) -> Ran {
        if !asked {
            self.log.begin(job.log.clone());
            let invoke = invoke(&job, limit);
            let sent = self.connection.ask(|worker| worker.send_invoke(invoke)).await;
            if sent.is_err() && !self.may_have_started() {
                return Ran::NotAtAll(job);
            }
        }
        let Job { call, answer, log, attempts } = *job;
        let mut receiver = Receiver::new(answer);
        let deadline = tokio::time::Instant::now() + limit + GRACE;
        loop {
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            let problem = match self.connection.hear_within(left).await {
                Ok(Heard::AnswerStarted { content_type }) => {
                    receiver.start(content_type);
                    continue;
                }
                Ok(Heard::AnswerPiece(piece)) => {
                    // The function's own timeout goes on; a reader that does not read does not hold the instance for longer.
                    let _ = tokio::time::timeout_at(deadline, receiver.piece(piece)).await;
                    continue;
                }
                Ok(Heard::Answered(answer)) => {
                    let (sound, memory) = (answer.health == Health::Ready, answer.usage.max_memory);
                    let reply = self.reply(&call, *answer);
                    return Ran::Answered { sound, memory, answer: Answered { receiver, reply } };
                }
                Ok(Heard::Failed(failure)) => failure.message,
                Ok(Heard::Ended) => "the worker ended within an invocation".to_owned(),
                Ok(other) => format!("the worker answered out of turn: {other:?}"),
                Err(error) => start::chain(&error),
            };
            receiver = match receiver {
                Receiver::Waiting(answer) if !self.log.has_started() => {
                    return Ran::NotAtAll(Box::new(Job { call, answer, log, attempts }));
                }
                started => started,
            };
            tracing::error!(function = %self.deployed.name(), request = call.request_id, problem, "a worker failed");
            let outcome = Outcome::Sandbox { message: problem };
            let reply = failed(&self.deployed, &self.log.take(), &call.request_id, &outcome, Duration::ZERO);
            return Ran::Dead(Answered { receiver, reply });
        }
    }

    /// Whether the event may have reached the function: reads what the worker said before it went.
    fn may_have_started(&mut self) -> bool {
        while let Ok(Some(heard)) = self.connection.heard() {
            if heard == Heard::Ended {
                break;
            }
        }
        self.log.has_started()
    }

    fn reply(&self, call: &Call, answer: Answer) -> Reply {
        let first = self.start != Start::Warm;
        let timeline = self.connection.worker().filter(|_| first).and_then(|worker| {
            let read = worker.timeline(&answer.timeline);
            read.inspect_err(|error| tracing::warn!(error = start::chain(error), "a timeline is lost")).ok()
        });
        Reply {
            request_id: call.request_id.clone(),
            function_error: error_type(&answer.ending),
            payload: answer.payload.into_vec(),
            content_type: answer.content_type,
            version: self.deployed.version.clone(),
            log_tail: self.log.take(),
            start: self.start,
            duration: answer.usage.duration,
            max_memory: answer.usage.max_memory,
            timeline: timeline.map(Box::new),
        }
    }

    /// Ends the instance in good order, so that a recording is kept.
    async fn stop(mut self) {
        let asked: Result<(), WorkerError> = self.connection.ask(|worker| worker.send_stop()).await;
        if asked.is_err() {
            return;
        }
        while let Ok(heard) = self.connection.hear_within(STOP_LIMIT).await {
            if heard == Heard::Ended {
                return;
            }
        }
    }
}

/// The reply for an outcome that no worker told of.
fn failed(deployed: &Deployed, log: &[u8], request_id: &str, outcome: &Outcome, duration: Duration) -> Reply {
    Reply {
        version: deployed.version.clone(),
        log_tail: log.to_vec(),
        duration,
        ..Reply::of_failure(request_id, outcome_type(outcome), outcome.payload(request_id))
    }
}

impl NotBorn {
    /// What the caller of a job hears.
    pub fn answer(self, deployed: &Deployed, call: &Call) -> Result<Reply, Refused> {
        match self {
            Self::Refused(refused) => Err(refused),
            Self::Lost { reason } => Err(Refused::NotStarted { reason }),
            Self::Function { outcome, max_duration } => {
                Ok(failed(deployed, &[], &call.request_id, &outcome, max_duration))
            }
        }
    }
}

/// The way to whoever waits for an answer.
enum Receiver {
    Waiting(AnswerTo),
    Streaming { pieces: mpsc::Sender<Vec<u8>>, end: oneshot::Sender<Reply> },
    Gone,
}

impl Receiver {
    fn new(answer: AnswerTo) -> Self {
        Self::Waiting(answer)
    }

    fn start(&mut self, content_type: Option<String>) {
        match std::mem::replace(self, Self::Gone) {
            Self::Waiting(AnswerTo::Streaming(begun)) => {
                let (pieces, to_read) = mpsc::channel(PIECES);
                let (end, at_end) = oneshot::channel();
                let reply = StreamingReply { content_type, pieces: to_read, end: at_end };
                if begun.send(Ok(reply)).is_ok() {
                    *self = Self::Streaming { pieces, end };
                }
            }
            other => *self = other,
        }
    }

    async fn piece(&mut self, piece: Vec<u8>) {
        if let Self::Streaming { pieces, .. } = self {
            // A reader that has gone away is not missed.
            let _ = pieces.send(piece).await;
        }
    }

    fn end(self, reply: Reply) {
        match self {
            Self::Waiting(answer) => answer.send(Ok(reply)),
            Self::Streaming { pieces, end } => {
                drop(pieces);
                let _ = end.send(reply);
            }
            Self::Gone => {}
        }
    }
}

/// A reply on its way to whoever waits for it.
struct Answered {
    receiver: Receiver,
    reply: Reply,
}

impl Answered {
    fn send(self) {
        self.receiver.end(self.reply);
    }
}

/// A job as its worker is asked.
pub(crate) fn invoke(job: &Job, timeout: Duration) -> Invoke {
    let call = &job.call;
    Invoke {
        request_id: call.request_id.clone(),
        payload: ByteBuf::from(call.payload.clone()),
        timeout,
        invoked_function_arn: call.invoked_function_arn.clone(),
        trace_id: call.trace_id.clone(),
        client_context: call.client_context.clone(),
        cognito_identity: None,
        tenant_id: call.tenant_id.clone(),
        streaming: matches!(job.answer, AnswerTo::Streaming(_)),
    }
}

fn error_type(ending: &Ending) -> Option<String> {
    Some(match ending {
        Ending::Response => return None,
        Ending::HandlerError { error_type }
        | Ending::StreamError { error_type }
        | Ending::InitFailed { error_type }
        | Ending::RestoreFailed { error_type } => error_type.clone(),
        Ending::TimedOut => "Sandbox.Timedout".to_owned(),
        Ending::Exited(_) | Ending::OutOfMemory => "Runtime.ExitError".to_owned(),
        Ending::ResponseTooLarge => "Function.ResponseSizeTooLarge".to_owned(),
        Ending::ResponseTruncated => "Runtime.TruncatedResponse".to_owned(),
        Ending::Sandbox => "Sandbox.Failure".to_owned(),
    })
}

fn outcome_type(outcome: &Outcome) -> String {
    match outcome {
        Outcome::InitFailed { error_type, .. } => error_type.as_str().to_owned(),
        Outcome::TimedOut { .. } => "Sandbox.Timedout".to_owned(),
        Outcome::Exited(_) => "Runtime.ExitError".to_owned(),
        _ => "Sandbox.Failure".to_owned(),
    }
}
