//! Functions' logs: files with a limit below the home directory, one folder for each function.
//!
//! ```text
//! HOME/logs/NAME/current.log      2026-01-02T03:04:05.678Z 3f2a9c1d START RequestId: ...
//! HOME/logs/NAME/1.log, 2.log     older ones; the oldest goes when current.log is full
//! ```
//!
//! Whoever logs only hands bytes over and never waits for a disk: a thread writes them. What comes faster than the disk takes
//! it is left out, and the log says how much.
#![forbid(unsafe_code)]

mod lines;
mod reader;
mod writer;

pub use reader::{LogReader, ReadLogError};
pub use writer::{FunctionLogs, LogSettings, StartLogError};

/// The newest file of a function's log.
const CURRENT: &str = "current.log";
