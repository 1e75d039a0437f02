//! What can go wrong with the queue.

use std::path::PathBuf;

use thiserror::Error;

/// The queue failed. Nothing that was acknowledged is lost.
#[derive(Debug, Error)]
pub enum QueueError {
    /// The file can't be opened or made.
    #[error("opening the event queue {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// The file was made by another version.
    #[error(
        "the event queue {} has schema {found}, this faasnap knows {known}: use the faasnap that made it",
        path.display()
    )]
    Schema {
        /// The file.
        path: PathBuf,
        /// What it says.
        found: i64,
        /// What this program knows.
        known: i64,
    },
    /// The thread that writes can't be started.
    #[error("starting the event queue's thread")]
    Thread(#[source] std::io::Error),
    /// The disk is full or failed: the event was not taken.
    #[error("the event could not be put on disk: {0}")]
    Write(String),
    /// The event is too large.
    #[error("an event of {0} bytes; {max} are allowed", max = crate::MAX_EVENT)]
    TooLarge(usize),
    /// The queue has been closed.
    #[error("the event queue is closed")]
    Closed,
}
