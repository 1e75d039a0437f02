//! Functions that were called lately, opened: from a name and a qualifier to what the pool runs, without the disk.
//!
//! The registry counts its changes. While the count stands still, what was found last time holds; when it moves, each
//! function is looked at again when it is next called.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use instance_pool::Deployed;
use lambda_api::{ErrorKind, LambdaError};
use parking_lot::Mutex;
use registry::{Alias, Function, FunctionName, SnapStart, State, Version};
use store::StoreError;

use crate::answer::Failed;
use crate::node::Node;
use crate::request::Target;

/// Functions that are kept open: each holds a few descriptors.
const KEPT: usize = 512;
/// How long a runtime's folder is believed to be the same.
const RUNTIME_CHECKED: Duration = Duration::from_secs(1);

type Key = (FunctionName, Version);

/// What is known of the functions that were called.
#[derive(Debug, Default)]
pub(crate) struct Deployments {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// The registry's count that everything below was read at.
    count: i64,
    open: HashMap<Key, Entry>,
    aliases: HashMap<(FunctionName, String), Arc<Alias>>,
}

#[derive(Clone, Debug)]
struct Entry {
    deployed: Arc<Deployed>,
    /// The count at which the record was the one that is open.
    at: i64,
    runtime_checked: Instant,
    used: Instant,
}

impl Known {
    /// Forgets what was read at another count; what is open is kept and looked at when it is asked for.
    fn move_to(&mut self, count: i64) {
        if self.count != count {
            self.count = count;
            self.aliases.clear();
        }
    }

    fn insert(&mut self, key: Key, entry: Entry) {
        if self.open.len() >= KEPT
            && let Some(oldest) =
                self.open.iter().min_by_key(|(_, entry)| entry.used).map(|(key, _)| key.clone())
        {
            self.open.remove(&oldest);
        }
        self.open.insert(key, entry);
    }
}

impl Node {
    /// What the pool is to run for a target.
    pub(crate) async fn deployment(&self, target: &Target) -> Result<Arc<Deployed>, LambdaError> {
        let version = self.routed_version(target)?;
        self.deploy(&target.name, version).await.map_err(|error| match error.kind {
            // The text names what the caller named.
            ErrorKind::ResourceNotFound => target.not_found(self),
            _ => error,
        })
    }

    /// The version that this call goes to: an alias may share calls out.
    fn routed_version(&self, target: &Target) -> Result<Version, LambdaError> {
        let Some(qualifier) = &target.qualifier else { return Ok(Version::Latest) };
        if let Ok(version) = qualifier.parse() {
            return Ok(version);
        }
        let failed = |error: registry::RegistryError| Failed::from(error).into_error(&target.arn(self));
        let registry = self.store.registry();
        let count = registry.data_version().map_err(failed)?;
        let key = (target.name.clone(), qualifier.clone());
        let known = {
            let mut known = self.deployments.known.lock();
            known.move_to(count);
            known.aliases.get(&key).cloned()
        };
        let alias = match known {
            Some(alias) => alias,
            None => {
                let alias = registry.alias(&target.name, qualifier).map_err(failed)?;
                let alias = Arc::new(alias.ok_or_else(|| target.not_found(self))?);
                self.deployments.known.lock().aliases.insert(key, alias.clone());
                alias
            }
        };
        Ok(route(alias.version, &alias.routing, random_share()))
    }

    /// A version, opened. Waits for the disk off the event loop, and only when something may have changed.
    pub(crate) async fn deploy(
        &self,
        name: &FunctionName,
        version: Version,
    ) -> Result<Arc<Deployed>, LambdaError> {
        let key = (name.clone(), version);
        if let Ok(count) = self.store.registry().data_version() {
            let mut known = self.deployments.known.lock();
            known.move_to(count);
            let now = Instant::now();
            if let Some(entry) = known.open.get_mut(&key)
                && entry.at == count
                && now.duration_since(entry.runtime_checked) < RUNTIME_CHECKED
            {
                entry.used = now;
                return Ok(entry.deployed.clone());
            }
        }
        let node = self.clone();
        let opened = tokio::task::spawn_blocking(move || node.open(key)).await;
        opened.unwrap_or_else(|error| {
            Err(LambdaError::new(ErrorKind::Service, format!("opening the function: {error}")))
        })
    }

    fn open(&self, key: Key) -> Result<Arc<Deployed>, LambdaError> {
        let (name, version) = &key;
        let arn = match version {
            Version::Latest => self.account.function(name.as_str()),
            Version::Number(number) => self.account.qualified(name.as_str(), &number.to_string()),
        };
        let failed = |error: StoreError| Failed::from(error).into_error(&arn);
        let count = self.store.registry().data_version().map_err(|error| failed(error.into()))?;
        let record = self.store.registry().function(name, *version).map_err(|error| failed(error.into()))?;
        callable(&record)?;
        let before = self.deployments.known.lock().open.get(&key).cloned();
        let now = Instant::now();
        if let Some(entry) = &before
            && entry.deployed.function.function.revision_id == record.revision_id
            && runtime_is_same(&entry.deployed)
        {
            let entry = Entry { at: count, runtime_checked: now, used: now, ..entry.clone() };
            let deployed = entry.deployed.clone();
            self.deployments.known.lock().insert(key, entry);
            return Ok(deployed);
        }
        let function = self.store.open_version(name, *version).map_err(failed)?;
        let changed = before.is_some_and(|entry| entry.deployed.function.revision() != function.revision());
        let snap_start = *version != Version::Latest
            && function.function.settings.snap_start == SnapStart::PublishedVersions;
        let deployed = Arc::new(Deployed::new(
            function,
            version.to_string(),
            self.account.function(name.as_str()),
            snap_start,
            self.settings.automatic_snapshots,
        ));
        if changed {
            // Before anybody can ask for the new one: what is retired here is the old one.
            self.pool.retire(name, Some(&version.to_string()));
        }
        let entry = Entry { deployed: deployed.clone(), at: count, runtime_checked: now, used: now };
        self.deployments.known.lock().insert(key, entry);
        Ok(deployed)
    }

    /// Forgets a function, or one version of it, and lets its instances end.
    pub(crate) fn forget(&self, name: &FunctionName, version: Option<Version>) {
        let mut known = self.deployments.known.lock();
        known.open.retain(|(of, which), _| of != name || version.is_some_and(|version| version != *which));
        drop(known);
        let version = version.map(|version| version.to_string());
        self.pool.retire(name, version.as_deref());
    }

    /// Forgets what is not any more as it was opened.
    pub(crate) fn drop_outdated(&self) {
        let open: Vec<(Key, Arc<Deployed>)> = {
            let known = self.deployments.known.lock();
            known.open.iter().map(|(key, entry)| (key.clone(), entry.deployed.clone())).collect()
        };
        for ((name, version), deployed) in open {
            match self.store.registry().function(&name, version) {
                Ok(record) if record.revision_id == deployed.function.function.revision_id => {}
                // Only the state changed, or a text: what runs is the same. The next call sees.
                Ok(record)
                    if record.config == deployed.function.function.config
                        && record.code == deployed.function.function.code
                        && record.merged_layers == deployed.function.function.merged_layers => {}
                Ok(_)
                | Err(registry::RegistryError::NoFunction(_) | registry::RegistryError::NoVersion { .. }) => {
                    self.forget(&name, Some(version));
                }
                Err(_) => {}
            }
        }
    }
}

/// Refuses calls of versions that can't take them, in AWS's words.
fn callable(function: &Function) -> Result<(), LambdaError> {
    let state = match function.status.state {
        State::Active => return Ok(()),
        // Its files are there; only the word "Active" is missing.
        State::Pending if function.version == Version::Latest => return Ok(()),
        State::Pending if function.settings.snap_start == SnapStart::PublishedVersions => return Ok(()),
        State::Pending => "Pending",
        State::Failed => "Failed",
    };
    let message = format!(
        "The operation cannot be performed at this time. The function is currently in the following state: {state}"
    );
    Err(LambdaError::new(ErrorKind::ResourceConflict, message))
}

/// Whether the runtime's name still means the folder that is open.
fn runtime_is_same(deployed: &Deployed) -> bool {
    let open = rustix::fs::fstat(&deployed.function.runtime.directory);
    let named = std::fs::metadata(&deployed.function.runtime.path);
    matches!((open, named), (Ok(open), Ok(named)) if (open.st_dev, open.st_ino) == (named.dev(), named.ino()))
}

/// The version for a share from 0 to 1.
fn route(main: Version, others: &BTreeMap<Version, f64>, share: f64) -> Version {
    let mut left = share;
    for (version, weight) in others {
        if left < *weight {
            return *version;
        }
        left -= weight;
    }
    main
}

/// A random number from 0 to 1.
fn random_share() -> f64 {
    let bits = uuid::Uuid::new_v4().as_u128() as u32;
    f64::from(bits) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_shares_calls_out() {
        let others = BTreeMap::from([(Version::Number(2), 0.25)]);
        let routed = [0.0, 0.24, 0.25, 1.0].map(|share| route(Version::Number(1), &others, share));
        assert_eq!(routed, [2, 2, 1, 1].map(Version::Number));
        assert!((0..100).all(|_| (0.0..=1.0).contains(&random_share())));
    }
}
