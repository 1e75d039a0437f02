//! What a node decides about its pool.

use std::path::PathBuf;
use std::time::Duration;

use function_worker::CredentialsFile;
use store::Retention;

use crate::policy::Policy;

/// Settings of a pool.
#[derive(Clone, PartialEq, Debug)]
pub struct PoolSettings {
    /// Invocations that may run at once: AWS's account limit.
    pub concurrency: u32,
    /// How long instances without work are kept.
    pub policy: Policy,
    /// Bytes of this machine's memory that instances leave to others.
    pub memory_reserve: u64,
    /// Whether functions are snapshotted though nobody asked for it: `$LATEST`, and functions without SnapStart. The next cold
    /// start is a restore then. A function opts out by [`crate::Deployed::automatic_snapshot`].
    pub automatic_snapshots: bool,
    /// How long snapshots are kept, and how much the home may take.
    pub retention: Retention,
    /// Time between two looks at what is kept on disk.
    pub retention_every: Duration,
    /// Instances that are started at once; further ones wait their turn.
    pub starts_at_once: usize,
    /// Worker processes that wait with an empty machine for whatever function is called next.
    pub spare_workers: usize,
    /// The executable to start workers from; `None`: this very one.
    pub worker_program: Option<PathBuf>,
    /// What functions may call AWS with: read anew for each instance.
    pub function_credentials: Option<CredentialsFile>,
}

impl Default for PoolSettings {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            concurrency: 1000,
            policy: Policy::fixed(Duration::from_secs(600)),
            memory_reserve: 256 << 20,
            automatic_snapshots: true,
            retention: Retention::default(),
            retention_every: Duration::from_secs(600),
            starts_at_once: 2 * processors,
            spare_workers: processors,
            worker_program: None,
            function_credentials: None,
        }
    }
}
