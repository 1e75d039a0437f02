//! One version of a function, ready to be run.

use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use store::{FunctionName, OpenFunction, TreeDigest};

/// One version of a function as the pool runs it. Make one when a function is first invoked or changes, and keep it: its files
/// stay on disk as long as it lives.
#[derive(Debug)]
pub struct Deployed {
    /// The function and its files.
    pub function: OpenFunction,
    /// The version as the function sees it: `$LATEST` or a number.
    pub version: String,
    /// The function's ARN, without a qualifier.
    pub arn: String,
    /// Whether the user asked for SnapStart on this version.
    pub snap_start: bool,
    /// Whether the pool may snapshot it by itself; see [`crate::PoolSettings::automatic_snapshots`].
    pub automatic_snapshot: bool,
    key: Key,
}

/// Tells versions of functions apart: name, version, and everything that a snapshot depends on.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Key(Arc<Identity>);

#[derive(PartialEq, Eq, Hash, Debug)]
struct Identity {
    name: FunctionName,
    version: String,
    revision: TreeDigest,
}

impl Deployed {
    /// Describes a version.
    pub fn new(
        function: OpenFunction,
        version: String,
        arn: String,
        snap_start: bool,
        automatic_snapshot: bool,
    ) -> Self {
        let revision = function.revision().digest();
        let key = Key::new(function.function.name.clone(), version.clone(), revision);
        Self { function, version, arn, snap_start, automatic_snapshot, key }
    }

    /// The function's name.
    pub fn name(&self) -> &FunctionName {
        &self.function.function.name
    }

    /// How long one invocation may take.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.function.function.config.timeout.get().into())
    }

    pub(crate) fn key(&self) -> &Key {
        &self.key
    }
}

impl Key {
    pub(crate) fn new(name: FunctionName, version: String, revision: TreeDigest) -> Self {
        Self(Arc::new(Identity { name, version, revision }))
    }

    pub(crate) fn name(&self) -> &FunctionName {
        &self.0.name
    }

    pub(crate) fn version(&self) -> &str {
        &self.0.version
    }

    pub(crate) fn revision(&self) -> TreeDigest {
        self.0.revision
    }
}
