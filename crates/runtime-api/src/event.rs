//! What the Runtime API tells the instance.

use serde::{Deserialize, Serialize};

use crate::error_type::ErrorType;

/// Something the runtime did. Taken from [`RuntimeApi::next_event`](crate::RuntimeApi::next_event) in order.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Event {
    /// Init is over and the runtime is blocked in `/runtime/restore/next`: the moment for the snapshot.
    WaitingForRestore,
    /// The runtime is blocked in `/runtime/invocation/next`.
    WaitingForInvocation {
        /// What it finished by that.
        after: After,
    },
    /// The function answered, in one piece.
    Responded {
        /// The invocation.
        request_id: String,
        /// The response body.
        #[serde(with = "serde_bytes")]
        payload: Vec<u8>,
        /// Its media type, if the runtime gave one.
        content_type: Option<String>,
        /// A streaming function failed behind its first bytes; `payload` is what came before.
        error: Option<StreamError>,
    },
    /// The function began to stream its answer.
    ResponseStarted {
        /// The invocation.
        request_id: String,
        /// The media type, if the runtime gave one.
        content_type: Option<String>,
    },
    /// Another piece of a streamed answer. Where pieces end has no meaning.
    ResponseChunk {
        /// The invocation.
        request_id: String,
        /// The piece, never empty.
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
    },
    /// The streamed answer is complete.
    ResponseFinished {
        /// The invocation.
        request_id: String,
        /// The function failed behind its first bytes.
        error: Option<StreamError>,
    },
    /// The response, or the error report, was larger than [`MAX_PAYLOAD`](crate::MAX_PAYLOAD) and was dropped.
    ResponseTooLarge {
        /// The invocation.
        request_id: String,
    },
    /// The runtime broke off or garbled its response.
    ResponseTruncated {
        /// The invocation.
        request_id: String,
    },
    /// The handler failed.
    FunctionError {
        /// The invocation.
        request_id: String,
        /// The type from the header. The `errorType` that callers see is the one inside `payload`.
        error_type: ErrorType,
        /// What the runtime posted, to be passed on byte for byte.
        #[serde(with = "serde_bytes")]
        payload: Vec<u8>,
        /// Its media type, if the runtime gave one.
        content_type: Option<String>,
    },
    /// The runtime could not initialise, or a before-snapshot hook failed.
    InitError {
        /// The type from the header.
        error_type: ErrorType,
        /// What the runtime posted.
        #[serde(with = "serde_bytes")]
        payload: Vec<u8>,
    },
    /// An after-restore hook failed.
    RestoreError {
        /// The type from the header.
        error_type: ErrorType,
        /// What the runtime posted.
        #[serde(with = "serde_bytes")]
        payload: Vec<u8>,
    },
}

/// What a runtime finished when it asks for an invocation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum After {
    /// Its init. It never asked for `/runtime/restore/next`: this is the moment for the snapshot.
    Init,
    /// Its after-restore hooks.
    Restore,
    /// An invocation. Only now is the invocation over; between the answer and this, a function may still run.
    Invocation,
}

/// A failure that a streaming function reports in the trailers, behind what it already sent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StreamError {
    /// The error's type.
    pub error_type: ErrorType,
    /// The error as JSON, decoded from the trailer's base64, or the trailer itself when it isn't base64.
    #[serde(with = "serde_bytes")]
    pub body: Vec<u8>,
}
