//! Instances of functions, shared out among invocations: warm ones, restores, boots.
//!
//! ```text
//!   Pool::invoke ──► fleet (decides: pure) ──► an instance's task ──► worker process
//!                         ▲                         │
//!                         └── ready, finished ◄─────┘
//! ```
//!
//! Each instance has a task of its own that talks to its worker's socket from the event loop: an idle instance costs a socket
//! and no thread. The task outlives the request: a caller who goes away does not stop a function.
//!
//! Architecture invariant: links no KVM and no guest, knows no HTTP.
#![forbid(unsafe_code)]

mod admission;
mod call;
mod connection;
mod deployed;
mod fleet;
mod freshness;
mod histories;
mod instance;
mod log;
pub mod policy;
mod pool;
mod recordings;
mod settings;
pub mod simulation;
mod spares;
mod start;

pub use call::{Call, Refused, Reply, SnapshotFailed, Start, StreamingReply, Throttle};
pub use deployed::Deployed;
pub use fleet::Census;
pub use log::{LOG_TAIL, LogReceiver, LogTap};
pub use pool::{Pool, Statistics};
pub use settings::PoolSettings;
pub use worker_protocol::LogStream;
