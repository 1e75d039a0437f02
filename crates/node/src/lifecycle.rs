//! What goes on behind an answer: functions become active, versions get their snapshots; what others change is noticed.

use std::time::Duration;

use instance_pool::SnapshotFailed;
use registry::{Function, FunctionName, RegistryError, SnapStart, State, Status, Version};

use crate::answer::chain;
use crate::node::Node;

/// How often the registry is looked at for what other processes changed.
const WATCH: Duration = Duration::from_secs(1);

impl Node {
    /// Takes up what was in progress when an earlier node ended.
    pub(crate) fn resume(&self) -> Result<(), store::StoreError> {
        let registry = self.store.registry();
        for (name, version) in registry.in_progress()? {
            match registry.function(&name, version) {
                Ok(function) => self.settle(&function),
                Err(error) => {
                    tracing::error!(%name, %version, error = chain(&error), "can't be taken up again")
                }
            }
        }
        Ok(())
    }

    /// Tells the pool what is reserved.
    pub(crate) fn reserve_all(&self) -> Result<(), store::StoreError> {
        for (name, reserved) in self.store.registry().reservations()? {
            self.pool.reserve(&name, Some(reserved));
        }
        Ok(())
    }

    /// Brings a version out of its state of transition, in the background.
    pub(crate) fn settle(&self, function: &Function) {
        if !function.status.is_in_progress() {
            return;
        }
        let (node, name, version) = (self.clone(), function.name.clone(), function.version);
        let snapshot =
            version != Version::Latest && function.settings.snap_start == SnapStart::PublishedVersions;
        tokio::runtime::Handle::current().spawn(async move {
            let status =
                if snapshot { node.snapshotted(&name, version).await } else { Some(Status::active()) };
            let Some(status) = status else { return };
            let (shared, of) = (node.clone(), name.clone());
            let recorded =
                tokio::task::spawn_blocking(move || shared.record_status(&of, version, status)).await;
            match recorded {
                // A function that was deleted meanwhile has no state.
                Ok(Ok(()) | Err(RegistryError::NoFunction(_) | RegistryError::NoVersion { .. })) => {}
                Ok(Err(error)) => {
                    tracing::error!(%name, %version, error = chain(&error), "its state can't be recorded")
                }
                Err(error) => tracing::error!(%name, %version, %error, "its state can't be recorded"),
            }
        });
    }

    fn record_status(
        &self,
        name: &FunctionName,
        version: Version,
        status: Status,
    ) -> Result<(), RegistryError> {
        self.store
            .registry()
            .update(name, version, |function| {
                if function.status.is_in_progress() {
                    function.status = status;
                    // AWS gives a new one with each transition, and leaves LastModified.
                    function.revision_id = uuid::Uuid::new_v4().to_string();
                }
                Ok::<_, RegistryError>(())
            })
            .map(drop)
    }

    /// Takes a version's snapshot; `None` when the version is gone or the node ends.
    async fn snapshotted(&self, name: &FunctionName, version: Version) -> Option<Status> {
        let deployed = match self.deploy(name, version).await {
            Ok(deployed) => deployed,
            Err(error) => return Some(Status::failed(error.message, "InternalError".to_owned())),
        };
        let failed = |text: String, code: &str| Some(Status::failed(text, code.to_owned()));
        match self.pool.snapshot(deployed).await {
            Ok(_) => Some(Status { snapshot_on: true, ..Status::active() }),
            Err(SnapshotFailed::Init { error_type, payload }) => {
                let report = String::from_utf8_lossy(&payload);
                failed(format!("The function could not initialise ({error_type}): {report}"), "FunctionError")
            }
            Err(error @ SnapshotFailed::InitTimeout(_)) => {
                failed(error.to_string(), "FunctionError.InitTimeout")
            }
            Err(SnapshotFailed::Store(store::StoreError::NoFunction(_) | store::StoreError::Outdated(_))) => {
                None
            }
            Err(error) => {
                let text = chain(&error);
                tracing::error!(%name, %version, error = text, "no snapshot could be made");
                failed(text, "InternalError")
            }
        }
    }

    /// Looks now and then for what the command line or another process changed.
    pub(crate) fn watch_registry(&self) {
        let weak = self.clone();
        tokio::spawn(async move {
            let mut seen = None;
            loop {
                tokio::time::sleep(WATCH).await;
                let node = weak.clone();
                let look = tokio::task::spawn_blocking(move || {
                    let now = node.store.registry().data_version().ok();
                    if now != seen {
                        node.drop_outdated();
                    }
                    now
                });
                seen = look.await.unwrap_or(seen);
            }
        });
    }
}

/// Whether calls may come to a version in this state.
pub(crate) fn is_pending(function: &Function) -> bool {
    function.status.state == State::Pending
}
