//! A durable queue of events for functions (AWS Lambda's asynchronous invocation).
//!
//! ```text
//!   put ──► writer thread ──► one transaction, one sync for all that wait ──► acknowledged
//!                │  ▲
//!          what is due │ deleted, put off, sent on: also in shared transactions
//!                ▼  │
//!            dispatcher ──► Deliver (the node runs the function)
//! ```
//!
//! - *Acknowledged means on disk*: SQLite, write-ahead log, `synchronous = FULL`.
//! - *At least once*: an event is deleted after its delivery, in the same transaction that queues what follows from it. A
//!   process that is killed in between delivers it again.
//! - *Retries as AWS has them*: a failed function twice more, after one and two minutes, with the same request id; a throttled
//!   one with growing pauses until the event is too old.
//!
//! Architecture invariant: knows no pool, no HTTP and no registry; what a function is, only [`Deliver`] knows.
#![forbid(unsafe_code)]

mod database;
mod dispatch;
mod error;
mod event;
mod record;
mod schedule;
mod writer;

pub use dispatch::{Deliver, EventQueue};
pub use error::QueueError;
pub use event::{DeadLetter, Delivery, NewEvent, QueuedEvent, RetryPolicy, Statistics, Target};
pub use schedule::QueueSettings;

/// Largest event in bytes: AWS's limit for asynchronous invocations.
pub const MAX_EVENT: usize = 1 << 20;
