//! What a worker tells its node.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// A worker's message.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum FromWorker {
    /// The worker's virtual machine is made: what comes next begins at once. Sent once, unasked; nobody has to wait for it.
    Ready,
    /// All memory that [`MakeMemoryReady`](crate::ToWorker::MakeMemoryReady) asked for is ready. Nobody has to wait for it.
    MemoryReady,
    /// The program has started, and initialised if it is a function.
    Booted(Booted),
    /// The instance goes on from the snapshot and waits for an invocation.
    Restored(Restored),
    /// A streaming answer began; its pieces follow, then [`FromWorker::Answered`].
    AnswerStarted {
        /// The invocation.
        request_id: String,
        /// The media type, if the runtime gave one.
        content_type: Option<String>,
    },
    /// A piece of a streaming answer.
    AnswerPiece {
        /// The invocation.
        request_id: String,
        /// The piece.
        bytes: ByteBuf,
    },
    /// An invocation is over.
    Answered(Box<Answer>),
    /// The function or the platform wrote to the log.
    Log {
        /// Who wrote.
        stream: LogStream,
        /// What, not cut at line ends.
        bytes: ByteBuf,
    },
    /// The snapshot is complete, synced, and ready to be published.
    Snapshotted(Snapshotted),
    /// What was asked failed. What may be done next is in [`Failure::health`].
    Failed(Failure),
    /// The guest's program ended outside of an invocation.
    Exited(Exit),
    /// What was measured until a restored instance's end, the loader's included; sent after [`Stop`](crate::ToWorker::Stop).
    /// Nobody has to wait for it.
    Finished(Timeline),
    /// Something about the snapshot that the instance was restored from. A worker can't write there; its node checks what it
    /// says and keeps it.
    Learned(Learned),
}

/// What a restored instance has to say about its snapshot.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Learned {
    /// What the invocation touched, in the encoding of the crate that recorded it; sent before the worker ends.
    Recording(ByteBuf),
    /// The invocation needed much that the recording doesn't have: the next one is to be recorded, too.
    Outgrown,
    /// The recording's file is not what was written; sent before the invocation's failure.
    Damaged,
}

/// What a restore or an invocation measured, in the encoding of the crate that measured it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Timeline(pub ByteBuf);

/// The program has started.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Booted {
    /// Where a function's runtime waits; `None` for an ordinary program, which runs.
    pub point: Option<SnapshotPoint>,
    /// From Boot to here.
    pub duration: Duration,
    /// What was measured.
    pub timeline: Timeline,
}

/// Where a runtime waits when it has initialised: what it is snapshotted in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum SnapshotPoint {
    /// In `/runtime/restore/next`.
    RestoreNext,
    /// In `/runtime/invocation/next`.
    InvocationNext,
}

/// The instance goes on from its snapshot.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Restored {
    /// From Restore to the runtime's call for an invocation.
    pub duration: Duration,
    /// The part after the runtime was released: its after-restore hooks.
    pub hooks: Duration,
    /// What a user should hear of though the instance goes on: a recording that could not be used, an invocation that is
    /// not recorded.
    pub warnings: Vec<String>,
    /// What was measured.
    pub timeline: Timeline,
}

/// An invocation is over.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Answer {
    /// The invocation.
    pub request_id: String,
    /// How it ended.
    pub ending: Ending,
    /// What the caller gets, failures in AWS's texts included; empty when it was streamed.
    pub payload: ByteBuf,
    /// The media type of a function's own answer, if it gave one.
    pub content_type: Option<String>,
    /// What it used.
    pub usage: Usage,
    /// What may be done with the instance.
    pub health: Health,
    /// What was measured.
    pub timeline: Timeline,
}

/// How an invocation ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Ending {
    /// The function answered.
    Response,
    /// The handler failed and reported it.
    HandlerError {
        /// The type in the report's header.
        error_type: String,
    },
    /// A streaming function failed behind its first bytes.
    StreamError {
        /// The type in the trailer.
        error_type: String,
    },
    /// The function's timeout passed.
    TimedOut,
    /// The runtime exited without answering.
    Exited(Exit),
    /// The instance exceeded its memory.
    OutOfMemory,
    /// The answer was too large.
    ResponseTooLarge,
    /// The runtime broke off its answer.
    ResponseTruncated,
    /// The function could not initialise.
    InitFailed {
        /// The type in the report's header.
        error_type: String,
    },
    /// An after-restore hook failed: a `SnapStartException` to the caller, not a function error.
    RestoreFailed {
        /// The type in the report's header.
        error_type: String,
    },
    /// The worker failed, not the function.
    Sandbox,
}

impl Ending {
    /// Whether the caller's answer carries `X-Amz-Function-Error`.
    pub const fn is_function_error(&self) -> bool {
        !matches!(self, Self::Response)
    }
}

/// How a program ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Exit {
    /// It called exit with this status.
    Status(u8),
    /// It was killed by this signal.
    Signal(u8),
}

/// What an invocation used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Usage {
    /// From delivery to the runtime's call for the next invocation, or to its end.
    pub duration: Duration,
    /// The most memory that the guest had in use, in bytes.
    pub max_memory: u64,
}

/// What may be done with an instance.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Health {
    /// It may take the next invocation.
    Ready,
    /// Its program is gone or in doubt; the worker is sound and may restore it from its snapshot.
    MustRestore,
    /// Neither can be trusted: end the process.
    Discard,
}

/// Who wrote to the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum LogStream {
    /// The program, to its standard output.
    Output,
    /// The program, to its standard error.
    Error,
    /// The platform: START, END, REPORT and their kin.
    Platform,
    /// The worker, about what the guest asked and it doesn't do.
    Worker,
}

/// A snapshot is complete.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Snapshotted {
    /// Guest memory that is not zero, in bytes.
    pub memory: u64,
    /// How long the instance stood still.
    pub duration: Duration,
}

/// What was asked failed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// What the node can do about it.
    pub kind: FailureKind,
    /// The error and its causes, for a person.
    pub message: String,
    /// What may be done with the instance.
    pub health: Health,
}

/// Kinds of failures, by what the node can do about them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum FailureKind {
    /// The message was wrong or came at the wrong time: the node's own mistake.
    Request,
    /// This machine lacks something (KVM, a kernel feature, memory): another machine may do.
    Machine,
    /// The program could not be started: the function's package or runtime is wrong.
    Program,
    /// The function reported that it could not initialise, with the report.
    Init {
        /// The type in the report's header.
        error_type: String,
        /// The report, as the runtime posted it.
        payload: ByteBuf,
    },
    /// Init took longer than it may.
    InitTimeout,
    /// An after-restore hook failed, with the report.
    Restore {
        /// The type in the report's header.
        error_type: String,
        /// The report, as the runtime posted it.
        payload: ByteBuf,
    },
    /// A restore took longer than it may.
    RestoreTimeout,
    /// The snapshot is damaged, from another version or for another CPU: quarantine it, boot, snapshot anew.
    Snapshot,
    /// A recording beside the snapshot is damaged, which was told as [`Learned::Damaged`]: once it is set aside, the next
    /// restore does without it.
    Recording,
    /// The program ended by itself before it was ready.
    Exited(Exit),
    /// Anything else: a defect.
    Internal,
}
