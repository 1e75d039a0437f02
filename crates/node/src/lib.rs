//! The node: AWS Lambda's API over HTTP.
//!
//! ```text
//!   connection ──► authentication ──► operation ──► store, registry        (blocking, off the event loop)
//!                                         └──────► deployments ──► pool    (Invoke: no disk, no lock held while it waits)
//! ```
//!
//! An answer that says that something is stored is sent when it is on disk. What goes on after an answer (a version's
//! snapshot) is recorded as in progress and taken up again when the node starts.
//!
//! Architecture invariant: links no KVM and no guest; what a request means is `lambda-api`'s to say, how functions are kept
//! is `store`'s, how they run is `instance-pool`'s.
#![forbid(unsafe_code)]

mod aliases;
mod answer;
mod asynchronous;
mod auth;
mod body;
mod code;
mod concurrency;
mod configuration;
mod connections;
mod credentials;
mod deployments;
mod dispatch;
mod events;
mod functions;
mod internal;
mod invoke;
mod layers;
mod lifecycle;
mod node;
mod permissions;
mod readiness;
mod reading;
mod request;
mod server;
mod settings;
mod stream;
mod tags;
mod versions;
mod watched;

pub use credentials::{Credentials, CredentialsError};
pub use node::{Node, NodeSettings};
pub use server::{ServeError, Server};
pub use watched::{INVOKE_PATH, Invocation, Origin, Told};
