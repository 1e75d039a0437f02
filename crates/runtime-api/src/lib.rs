//! AWS Lambda's Runtime API as a pure state machine: the bytes of a guest's loopback connections in, bytes and typed
//! [`Event`]s out.
//!
//! The worker emulates the socket `127.0.0.1:9001` inside the guest and hands what the guest sends on it to [`RuntimeApi`].
//! Everything between two system calls of the guest (half a request, a call blocked in `/runtime/restore/next`, an event not
//! read yet) is in [`SavedState`], which is part of a snapshot: after a restore no client has to connect again.
//!
//! Beside it stand the pure functions that give an invocation its AWS look: [`Outcome`] (payloads of failures), [`log_line`]
//! (START, END, REPORT and their kin) and [`environment`] (the function's environment variables).
//!
//! Architecture invariants: no I/O, no threads, no clock, no randomness. The guest is hostile: no byte sequence panics, and
//! memory is bounded whatever it sends (see [`RuntimeApi::held`]). This crate knows nothing of snapshots, guests or KVM.
#![forbid(unsafe_code)]

mod credentials;
pub mod environment;
mod error_type;
mod event;
mod http;
mod invocation;
mod lifecycle;
pub mod log_line;
mod outcome;
mod reply;
mod route;
mod server;

pub use credentials::Credentials;
pub use error_type::ErrorType;
pub use event::{After, Event, StreamError};
pub use invocation::{CognitoIdentity, Invocation, ResponseMode};
pub use lifecycle::RuntimeState;
pub use outcome::{ExitReason, Outcome};
pub use server::{
    Config, ConnectionId, DeliverError, OpenError, ReleasedRuntime, ResumeError, RuntimeApi, SavedState,
};

/// Largest event and largest buffered response, in bytes: 6 MiB and 100 bytes of slack, as AWS has it.
pub const MAX_PAYLOAD: usize = 6 * 1024 * 1024 + 100;
