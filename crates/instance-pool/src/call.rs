//! What goes into the pool and what comes out of it.

use std::time::Duration;

use function_worker::RESTORE_LIMIT;
use restore::Timeline;
use runtime_api::Outcome;
use tokio::sync::{mpsc, oneshot};

/// One invocation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Call {
    /// Identifies the invocation: a UUID.
    pub request_id: String,
    /// The event, at most 6 MiB and 100 bytes.
    pub payload: Vec<u8>,
    /// The function's ARN, with the qualifier only when the caller gave one.
    pub invoked_function_arn: String,
    /// The X-Ray trace header.
    pub trace_id: Option<String>,
    /// The client context as JSON text.
    pub client_context: Option<String>,
    /// The tenant on whose behalf the call is made.
    pub tenant_id: Option<String>,
}

/// An invocation that came to an end. The function ran (or could not initialise, which counts as its own failure): the HTTP
/// status is 200.
#[derive(Clone, PartialEq, Debug)]
pub struct Reply {
    /// The invocation.
    pub request_id: String,
    /// What the caller gets, failures in AWS's texts included; empty when it was streamed.
    pub payload: Vec<u8>,
    /// Set when the function failed: the type of the failure. The header says `Unhandled` whatever it is.
    pub function_error: Option<String>,
    /// The media type of the function's own answer, if it gave one.
    pub content_type: Option<String>,
    /// The version that ran: `$LATEST` or a number.
    pub version: String,
    /// The end of the invocation's log, at most [`LOG_TAIL`](crate::LOG_TAIL) bytes.
    pub log_tail: Vec<u8>,
    /// Where the instance came from.
    pub start: Start,
    /// From the event's delivery to the end of the invocation.
    pub duration: Duration,
    /// The most memory that the instance had in use, in bytes.
    pub max_memory: u64,
    /// What was measured, for the first invocation of an instance.
    pub timeline: Option<Box<Timeline>>,
}

impl Reply {
    /// For an invocation that no worker answered: nothing ran, nothing was logged.
    pub(crate) fn of_failure(request_id: &str, error_type: String, payload: Vec<u8>) -> Self {
        Self {
            request_id: request_id.to_owned(),
            payload,
            function_error: Some(error_type),
            content_type: None,
            version: String::new(),
            log_tail: Vec::new(),
            start: Start::Failed,
            duration: Duration::ZERO,
            max_memory: 0,
            timeline: None,
        }
    }
}

/// Where the instance of an invocation came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// It was there.
    Warm,
    /// It was booted for this invocation.
    Booted {
        /// How long that and the function's init took.
        init: Duration,
    },
    /// It was restored for this invocation.
    Restored {
        /// From the request to the runtime's call for an invocation.
        duration: Duration,
        /// The part of it after the runtime was released: its after-restore hooks.
        hooks: Duration,
    },
    /// No instance came to run: the function could not initialise.
    Failed,
}

/// An invocation whose answer is taken as it comes.
#[derive(Debug)]
pub struct StreamingReply {
    /// The media type, if the runtime gave one.
    pub content_type: Option<String>,
    /// The pieces in order; closed at the end. A slow reader slows the function down; one that goes away does not end it.
    pub pieces: mpsc::Receiver<Vec<u8>>,
    /// How it ended, sent when the last piece was. Whatever did not come as pieces (an answer that was not streamed, a failure
    /// before the first piece) is its payload.
    pub end: oneshot::Receiver<Reply>,
}

/// Why an invocation was refused. The function surely did not run.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    /// Too many invocations run already.
    #[error("{0}")]
    Throttled(Throttle),
    /// No instance could be started, and it is not the function's doing.
    #[error("no instance could be started: {reason}")]
    NotStarted {
        /// What this machine lacks or what is broken, for a person.
        reason: String,
    },
    /// An after-restore hook failed: AWS's `SnapStartException`.
    #[error("an after-restore hook of the function failed: {error_type}")]
    RestoreHook {
        /// The type in the report's header.
        error_type: String,
        /// The report, as the runtime posted it.
        payload: Vec<u8>,
    },
    /// The restore with its hooks took longer than it may: AWS's `SnapStartTimeoutException`.
    #[error("the restore with its hooks took longer than 10 seconds")]
    RestoreTimeout,
    /// The pool is being shut down.
    #[error("the node is being shut down")]
    ShuttingDown,
}

impl Refused {
    /// As the outcome of an invocation, when it is the function's own doing that none came to be: for those who have no other
    /// word for it.
    pub fn function_error(&self, request_id: &str) -> Option<Reply> {
        let (error_type, payload) = match self {
            Self::RestoreHook { error_type, payload } => (error_type.clone(), payload.clone()),
            Self::RestoreTimeout => {
                let outcome = Outcome::TimedOut { limit: RESTORE_LIMIT };
                ("Sandbox.Timedout".to_owned(), outcome.payload(request_id))
            }
            Self::Throttled(_) | Self::NotStarted { .. } | Self::ShuttingDown => return None,
        };
        Some(Reply::of_failure(request_id, error_type, payload))
    }
}

/// Which limit an invocation met.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, thiserror::Error)]
pub enum Throttle {
    /// The function's own reserved concurrency.
    #[error("the function's reserved concurrency is used up")]
    Reserved,
    /// The account's concurrency that no function has reserved.
    #[error("the concurrency that functions share is used up")]
    Account,
    /// There is no memory for another instance on this machine.
    #[error("this machine has no memory for another instance")]
    Memory,
}

impl Throttle {
    /// AWS's `Reason` in the body of the 429.
    pub const fn aws_reason(self) -> &'static str {
        match self {
            Self::Reserved => "ReservedFunctionConcurrentInvocationLimitExceeded",
            // AWS has no reason for a machine without memory; to the caller it is a limit of the account.
            Self::Account | Self::Memory => "ConcurrentInvocationLimitExceeded",
        }
    }
}

/// Why a snapshot was not made.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotFailed {
    /// The function could not initialise: `FunctionError` and its kin in a version's state.
    #[error("the function could not initialise: {error_type}")]
    Init {
        /// The type in the report's header, or the runtime's way to end.
        error_type: String,
        /// What AWS would answer to an invocation.
        payload: Vec<u8>,
    },
    /// Init took longer than it may.
    #[error("the function's init took longer than {0:?}")]
    InitTimeout(Duration),
    /// It is not the function's doing.
    #[error("no snapshot could be made: {reason}")]
    NotStarted {
        /// What this machine lacks or what is broken, for a person.
        reason: String,
    },
    /// The home directory.
    #[error("the snapshot could not be stored")]
    Store(#[from] store::StoreError),
}
