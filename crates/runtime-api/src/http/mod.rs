//! HTTP/1.0 and HTTP/1.1, the server's side of one connection, as a pure state machine. Knows nothing of Lambda.
//!
//! The peer is a guest, thus hostile: whatever it sends, memory stays within the limits of [`Limits`], and a request that
//! is not plain HTTP is refused once and the connection closed, since the two sides can't agree any more on where the next
//! request starts.

mod body;
mod connection;
mod head;
mod input;
mod response;

pub(crate) use connection::{Connection, Step};
pub(crate) use head::{Fields, Framing, Method, RequestHead};
pub(crate) use response::Response;

/// Bounds on what one connection may make the server hold, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Limits {
    /// A request head (request line and header fields), and likewise the trailers of a chunked body.
    pub head: usize,
    /// Bytes kept for later while the connection is busy: pipelined requests behind one that is still unanswered.
    pub ahead: usize,
    /// Unsent output above which no further pipelined request is answered.
    pub output: usize,
}

/// Why a request was refused before anyone looked at what it asks for. Always the connection's last exchange.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// Not HTTP, or HTTP with an ambiguous end.
    #[error("malformed HTTP: {0}")]
    Malformed(&'static str),
    /// The head or the trailers are larger than [`Limits::head`], or have too many fields.
    #[error("request header fields too large")]
    HeadTooLarge,
    /// A transfer coding other than `chunked`.
    #[error("unsupported transfer encoding")]
    UnsupportedTransferCoding,
    /// Neither HTTP/1.0 nor HTTP/1.1.
    #[error("unsupported HTTP version")]
    UnsupportedVersion,
    /// The peer ended its side in the middle of a request.
    #[error("the request ended early")]
    Truncated,
}

impl Refusal {
    /// The status that goes with it (RFC 9110 section 15, RFC 6585 section 5).
    pub(crate) const fn status(self) -> u16 {
        match self {
            Self::Malformed(_) | Self::Truncated => 400,
            Self::HeadTooLarge => 431,
            Self::UnsupportedTransferCoding => 501,
            Self::UnsupportedVersion => 505,
        }
    }
}
