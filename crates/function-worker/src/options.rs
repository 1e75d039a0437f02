//! How a function is restored.

use restore::{RestoreStrategy, Technique};
use worker_protocol::Record;

/// How a function is restored. The default is what a node does: by FaaSnap, recorded when there is no recording yet.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RestoreOptions {
    /// How memory comes back.
    pub strategy: RestoreStrategy,
    /// Techniques of the FaaSnap strategy to do without.
    pub without: Vec<Technique>,
    /// Whether a fault on the memory file reads a single page instead of the device's readahead window; `None`: as the
    /// strategy has it.
    pub random_access: Option<bool>,
    /// Whether the invocation that follows is recorded.
    pub record: Record,
    /// Whether all of memory is compared with the snapshot.
    pub verify: bool,
}

impl RestoreOptions {
    /// By `strategy`, otherwise as by default.
    pub fn by(strategy: RestoreStrategy) -> Self {
        Self { strategy, ..Self::default() }
    }
}
