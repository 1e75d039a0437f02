//! The request that occupies a connection, between its head and its answer.

use serde::{Deserialize, Serialize};

use crate::error_type::ErrorType;
use crate::reply::Reply;

/// What becomes of the request on a connection when its body has come.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Exchange {
    /// There is no request.
    None,
    /// The answer is fixed; the body is dropped.
    Answer(Reply),
    /// `/runtime/invocation/next`, the body not ended yet.
    AskInvocation,
    /// `/runtime/restore/next`, the body not ended yet.
    AskRestore,
    /// The credentials endpoint; whether the token was right.
    AskCredentials { authorized: bool },
    /// Blocked in `/runtime/invocation/next`.
    WaitingForInvocation,
    /// Blocked in `/runtime/restore/next`.
    WaitingForRestore,
    /// The body is collected.
    Collect(Collected),
    /// The body is passed on as it comes.
    Stream {
        request_id: String,
        /// Bytes passed on so far.
        length: u64,
        /// More came than is allowed; the rest is dropped.
        excess: bool,
    },
}

/// A body being collected.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Collected {
    pub(super) purpose: Purpose,
    #[serde(with = "serde_bytes")]
    pub(super) body: Vec<u8>,
    /// The body is larger than allowed, and dropped.
    pub(super) excess: bool,
}

/// What a collected body is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Purpose {
    Response { request_id: String, content_type: Option<String> },
    Error { request_id: String, error_type: ErrorType, content_type: Option<String> },
    InitError { error_type: ErrorType },
    RestoreError { error_type: ErrorType },
}

impl Exchange {
    /// Starts to collect a body for `purpose`; `excess` when its announced length is too much already.
    pub(super) fn collect(purpose: Purpose, excess: bool) -> Self {
        Self::Collect(Collected { purpose, body: Vec::new(), excess })
    }

    /// Bytes held.
    pub(super) fn held(&self) -> usize {
        if let Self::Collect(collected) = self { collected.body.capacity() } else { 0 }
    }

    pub(super) fn streams(&self) -> bool {
        matches!(self, Self::Stream { .. })
    }
}
