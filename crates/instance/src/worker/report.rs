//! What the node and the log are told: steps of the lifecycle as messages and lines.

use std::time::{Instant, SystemTime};

use linux_guest::{GuestError as LinuxError, LinuxGuestError};
use process_guest::GuestError;
use restore::{Phase, RestoreError, Timeline as Record};
use runtime_api::{CognitoIdentity, ExitReason, Outcome, ResponseMode, log_line};
use serde_bytes::ByteBuf;
use worker_protocol::{
    Answer, Booted, Ending, Exit, Failure, FailureKind, FromWorker, Health, Invoke, LogStream, Restored,
    SnapshotPoint, Timeline, Usage,
};

use super::{Worker, WorkerError};
use crate::checkpoint::CheckpointError;
use crate::function_guest::InstanceError;
use crate::guest::Guest;
use crate::lifecycle::{GuestEnd, NotReady, Step, WaitingIn};
use crate::program::ProgramError;

const SIGKILL: u8 = 9;

/// The invocation under way.
pub(super) struct Invocation {
    /// When it was delivered.
    pub began: Instant,
}

impl Worker {
    /// Does what the lifecycle says.
    pub(super) fn take(&mut self, steps: Vec<Step>) -> Result<(), WorkerError> {
        for step in steps {
            match step {
                Step::Booted(waiting) => {
                    self.booted(waiting)?;
                    self.invoke_early()?;
                }
                Step::Restored => {
                    self.restored()?;
                    self.invoke_early()?;
                }
                Step::NotReady(why) => self.not_ready(why)?,
                Step::AnswerStarted { request_id, content_type } => {
                    self.node.send(&FromWorker::AnswerStarted { request_id, content_type })?;
                }
                Step::AnswerPiece { request_id, bytes } => {
                    self.node.send(&FromWorker::AnswerPiece { request_id, bytes: ByteBuf::from(bytes) })?;
                }
                Step::Answered { request_id, outcome, reusable } => {
                    let is_first = self.cold_start.is_some();
                    self.answered(request_id, &outcome, reusable)?;
                    if is_first && matches!(self.guest, Some(Guest::Linux(_))) {
                        // Making or restoring the machine has touched as much again, which calls don't need.
                        jail::let_go_of_start_up();
                    }
                }
                Step::Exited(end) => self.node.send(&FromWorker::Exited(exit(&end)))?,
                Step::Kill => {
                    if let Some(guest) = &self.guest {
                        guest.kill();
                    }
                }
            }
        }
        Ok(())
    }

    /// The instance is ready for an invocation that came before it was.
    fn invoke_early(&mut self) -> Result<(), WorkerError> {
        let Some(invoke) = self.early.take() else { return Ok(()) };
        let done = self.invoke(invoke);
        self.done(done)
    }

    fn booted(&mut self, waiting: WaitingIn) -> Result<(), WorkerError> {
        let duration = self.began.elapsed();
        self.cold_start = Some(log_line::ColdStart::Init { duration });
        if let Some(guest) = &mut self.guest {
            guest.timeline().reached(Phase::Initialised);
        }
        let point = Some(match waiting {
            WaitingIn::RestoreNext => SnapshotPoint::RestoreNext,
            WaitingIn::InvocationNext => SnapshotPoint::InvocationNext,
        });
        let timeline = self.timeline();
        Ok(self.node.send(&FromWorker::Booted(Booted { point, duration, timeline }))?)
    }

    fn restored(&mut self) -> Result<(), WorkerError> {
        let duration = self.began.elapsed();
        let hooks = self.released.map(|released| released.elapsed()).unwrap_or_default();
        self.cold_start = Some(log_line::ColdStart::Restore { duration, billed: hooks });
        let warnings = self.guest.as_ref().map(Guest::warnings).unwrap_or_default();
        let timeline = self.timeline();
        Ok(self.node.send(&FromWorker::Restored(Restored { duration, hooks, warnings, timeline }))?)
    }

    fn not_ready(&mut self, why: NotReady) -> Result<(), WorkerError> {
        let (kind, message) = match why {
            NotReady::InitError { error_type, payload } => {
                let payload = ByteBuf::from(payload);
                (FailureKind::Init { error_type, payload }, "the function could not initialise".to_owned())
            }
            NotReady::RestoreError { error_type, payload } => {
                let payload = ByteBuf::from(payload);
                (FailureKind::Restore { error_type, payload }, "an after-restore hook failed".to_owned())
            }
            NotReady::InitTimeout => (FailureKind::InitTimeout, "init took too long".to_owned()),
            NotReady::RestoreTimeout => (FailureKind::RestoreTimeout, "the restore took too long".to_owned()),
            NotReady::Ended(GuestEnd::Broken(reason)) => {
                let of_memory = self.guest.as_ref().and_then(Guest::memory_failure);
                (of_memory.unwrap_or(FailureKind::Internal), reason)
            }
            NotReady::Ended(end) => {
                let message = match &end {
                    GuestEnd::OutOfMemory => "the function used more memory than it may".to_owned(),
                    GuestEnd::Exit(reason) => reason.describe(),
                    GuestEnd::Broken(reason) => reason.clone(),
                };
                (FailureKind::Exited(exit(&end)), message)
            }
        };
        self.log_unsupported()?;
        Ok(self.node.send(&FromWorker::Failed(Failure { kind, message, health: Health::Discard }))?)
    }

    fn answered(&mut self, request_id: String, outcome: &Outcome, reusable: bool) -> Result<(), WorkerError> {
        let duration =
            self.invocation.take().map(|invocation| invocation.began.elapsed()).unwrap_or_default();
        let (mut max_memory, mut recorded) = (0, false);
        let mut wrong_memory = None;
        if let Some(guest) = &mut self.guest {
            guest.note_answer();
            if reusable && let Some(message) = guest.verify() {
                wrong_memory = Some(Outcome::Sandbox { message });
            }
            max_memory = guest.peak_memory();
            recorded = guest.is_recorded();
        }
        let reusable = reusable && wrong_memory.is_none();
        // Whatever the function answered: it can't be trusted.
        let outcome = wrong_memory.as_ref().unwrap_or(outcome);
        if !reusable {
            self.log_unsupported()?;
        }
        let mut lines = match outcome {
            Outcome::TimedOut { limit } => {
                let now = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
                log_line::timed_out(&now, &request_id, *limit)
            }
            Outcome::Exited(reason) => log_line::exited(&request_id, *reason),
            Outcome::OutOfMemory => log_line::exited(&request_id, ExitReason::Signal(SIGKILL)),
            _ => String::new(),
        };
        lines.push_str(&log_line::end(&request_id));
        lines.push_str(&log_line::report(&log_line::Report {
            request_id: &request_id,
            duration,
            memory_size_mb: self.configured.as_ref().map_or(0, |configured| configured.memory_mb),
            max_memory_used_mb: max_memory.div_ceil(1 << 20),
            cold_start: self.cold_start.take(),
            status: outcome.status(),
        }));
        self.node.log(LogStream::Platform, lines.as_bytes())?;
        let content_type = match outcome {
            Outcome::Response { content_type, .. } => content_type.clone(),
            _ => None,
        };
        let answer = Answer {
            payload: ByteBuf::from(outcome.payload(&request_id)),
            request_id,
            ending: ending(outcome),
            content_type,
            usage: Usage { duration, max_memory },
            // A recorded instance gives its recording up only when it ends.
            health: if reusable && !recorded { Health::Ready } else { Health::Discard },
            timeline: self.timeline(),
        };
        self.node.send(&FromWorker::Answered(Box::new(answer)))?;
        if let Some(guest) = &self.guest {
            guest.end_growth();
        }
        Ok(())
    }

    /// Says which system calls a program that failed made in vain.
    fn log_unsupported(&self) -> Result<(), WorkerError> {
        let Some(guest) = &self.guest else { return Ok(()) };
        let calls = guest.unsupported();
        if calls.is_empty() {
            return Ok(());
        }
        let calls: Vec<_> = calls.iter().map(|(name, count)| format!("{name} ({count} times)")).collect();
        let line = format!("system calls that are not there answered ENOSYS: {}\n", calls.join(", "));
        Ok(self.node.log(LogStream::Worker, line.as_bytes())?)
    }

    fn timeline(&mut self) -> Timeline {
        self.guest.as_mut().map(|guest| encoded(guest.timeline())).unwrap_or_default()
    }
}

/// A record as the node gets it.
pub(super) fn encoded(record: &Record) -> Timeline {
    Timeline(ByteBuf::from(postcard::to_stdvec(record).unwrap_or_default()))
}

/// The invocation as the Runtime API takes it.
pub(super) fn invocation(invoke: Invoke) -> runtime_api::Invocation {
    let deadline = SystemTime::now() + invoke.timeout;
    let since = deadline.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    runtime_api::Invocation {
        request_id: invoke.request_id,
        deadline_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
        invoked_function_arn: invoke.invoked_function_arn,
        trace_id: invoke.trace_id,
        client_context: invoke.client_context,
        cognito_identity: invoke
            .cognito_identity
            .map(|(identity_id, identity_pool_id)| CognitoIdentity { identity_id, identity_pool_id }),
        tenant_id: invoke.tenant_id,
        payload: invoke.payload.into_vec(),
        content_type: None,
        response_mode: if invoke.streaming { ResponseMode::Streaming } else { ResponseMode::Buffered },
    }
}

fn exit(end: &GuestEnd) -> Exit {
    match end {
        GuestEnd::Exit(ExitReason::Status(status)) => Exit::Status(*status),
        GuestEnd::Exit(ExitReason::Signal(signal)) => Exit::Signal(*signal),
        GuestEnd::OutOfMemory | GuestEnd::Broken(_) => Exit::Signal(SIGKILL),
    }
}

fn ending(outcome: &Outcome) -> Ending {
    let text = |error_type: &runtime_api::ErrorType| error_type.as_str().to_owned();
    match outcome {
        Outcome::Response { .. } => Ending::Response,
        Outcome::HandlerError { error_type, .. } => Ending::HandlerError { error_type: text(error_type) },
        Outcome::StreamError(error) => Ending::StreamError { error_type: text(&error.error_type) },
        Outcome::TimedOut { .. } => Ending::TimedOut,
        Outcome::Exited(ExitReason::Status(status)) => Ending::Exited(Exit::Status(*status)),
        Outcome::Exited(ExitReason::Signal(signal)) => Ending::Exited(Exit::Signal(*signal)),
        Outcome::OutOfMemory => Ending::OutOfMemory,
        Outcome::ResponseTooLarge => Ending::ResponseTooLarge,
        Outcome::ResponseTruncated => Ending::ResponseTruncated,
        Outcome::InitFailed { error_type, .. } => Ending::InitFailed { error_type: text(error_type) },
        Outcome::RestoreFailed { error_type, .. } => Ending::RestoreFailed { error_type: text(error_type) },
        Outcome::Sandbox { .. } => Ending::Sandbox,
    }
}

/// What the node can do about an error.
pub(super) fn failure_kind(error: &InstanceError) -> FailureKind {
    match error {
        InstanceError::Machine(_) | InstanceError::MemoryGuard(_) | InstanceError::Relay(_) => {
            FailureKind::Machine
        }
        InstanceError::Program(ProgramError::Machine(_)) => FailureKind::Machine,
        InstanceError::Program(_) | InstanceError::Guest(GuestError::Program(_)) => FailureKind::Program,
        InstanceError::MemoryLost { kind, .. } => kind.clone(),
        InstanceError::Restore(error) if error.is_of_recording() => FailureKind::Recording,
        InstanceError::Restore(RestoreError::Unavailable { .. } | RestoreError::Thread(_)) => {
            FailureKind::Machine
        }
        InstanceError::Checkpoint(CheckpointError::Snapshot(_))
        | InstanceError::Restore(_)
        | InstanceError::Runtime(_)
        | InstanceError::MappedFile(_) => FailureKind::Snapshot,
        InstanceError::Deliver(_) | InstanceError::OtherKind => FailureKind::Request,
        InstanceError::Linux(LinuxError::Machine(LinuxGuestError::Machine(_))) => FailureKind::Machine,
        InstanceError::Linux(LinuxError::Machine(
            LinuxGuestError::DeviceState { .. } | LinuxGuestError::SerialState { .. },
        )) => FailureKind::Snapshot,
        InstanceError::Guest(_)
        | InstanceError::Checkpoint(_)
        | InstanceError::Pause(_)
        | InstanceError::Log(_)
        | InstanceError::Linux(_)
        | InstanceError::Scratch(_)
        | InstanceError::InitialFiles(_) => FailureKind::Internal,
    }
}
