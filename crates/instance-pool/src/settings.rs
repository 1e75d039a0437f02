//! What a node decides about its pool.

use std::path::PathBuf;
use std::time::Duration;

/// Settings of a pool.
#[derive(Clone, PartialEq, Debug)]
pub struct PoolSettings {
    /// Invocations that may run at once: AWS's account limit.
    pub concurrency: u32,
    /// How long an instance without work is kept.
    pub keep_alive: Duration,
    /// Whether functions are snapshotted though nobody asked for it: `$LATEST`, and functions without SnapStart. The next cold
    /// start is a restore then. A function opts out by [`crate::Deployed::automatic_snapshot`].
    pub automatic_snapshots: bool,
    /// The executable to start workers from; `None`: this very one.
    pub worker_program: Option<PathBuf>,
}

impl Default for PoolSettings {
    fn default() -> Self {
        Self {
            concurrency: 1000,
            keep_alive: Duration::from_secs(600),
            automatic_snapshots: true,
            worker_program: None,
        }
    }
}
