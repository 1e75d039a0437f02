//! Runtimes: root file systems with where they came from.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use file_tree::{TreeSummary, digest_tree};
use registry::RuntimeName;
use serde::{Deserialize, Serialize};

use crate::error::StoreError;
use crate::functions::WhenPresent;
use crate::home::{Listing, Store, names, now};
use crate::lease::Lease;
use crate::manifest;
use crate::staging::{Staging, discard, make_folder, sweep};
use crate::trees::{open_leased, verify};

const STAGED: &str = "runtime";
const ROOT: &str = "root";
const KIND: &str = "runtime";

/// Something that a runtime was made of.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Package {
    /// Its name where it comes from.
    pub name: String,
    /// Its version there.
    pub version: String,
}

/// Where a runtime came from.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum RuntimeOrigin {
    /// Built by a recipe.
    Built {
        /// The recipe's name.
        recipe: String,
        /// A digest of everything that determines the result: the same inputs need not be built again.
        inputs: String,
        /// Debian packages in it.
        debian: Vec<Package>,
        /// Python packages in it.
        python: Vec<Package>,
    },
    /// Taken from a folder or a tar.
    Imported {
        /// Its path when it was imported.
        from: PathBuf,
    },
}

/// A stored runtime.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Runtime {
    /// Its name.
    pub name: RuntimeName,
    /// Where it came from.
    pub origin: RuntimeOrigin,
    /// The root file system.
    pub root: TreeSummary,
    /// Environment variables that every function in it gets, such as `AWS_EXECUTION_ENV`. Lambda's own and the function's
    /// go before them.
    pub environment: BTreeMap<String, String>,
    /// When it was stored, in seconds since 1970.
    pub created: u64,
}

/// A runtime that is in use.
#[derive(Debug)]
pub struct OpenRuntime {
    /// Its record.
    pub record: Runtime,
    /// The root file system, opened with O_PATH: it stays the right one whatever happens to its name.
    pub directory: OwnedFd,
    /// Its path now, for messages.
    pub path: PathBuf,
    /// Keeps the files on disk.
    pub lease: Lease,
}

/// A runtime in the making; dropped without [`Self::publish`], it is deleted.
#[derive(Debug)]
pub struct RuntimeStaging {
    store: Store,
    staging: Staging,
}

impl RuntimeStaging {
    /// Where the root file system has to be made. It does not exist yet.
    pub fn root(&self) -> PathBuf {
        self.staging.path().join(STAGED).join(ROOT)
    }

    /// A folder for whatever is needed on the way; deleted with the staging.
    pub fn scratch(&self) -> PathBuf {
        self.staging.path().join("scratch")
    }

    /// Gives the root its name. The caller has synced it to disk.
    ///
    /// # Errors
    /// [`StoreError::RuntimeExists`] under [`WhenPresent::Refuse`], or the file system refuses.
    pub fn publish(
        self,
        name: &RuntimeName,
        origin: RuntimeOrigin,
        environment: BTreeMap<String, String>,
        when: WhenPresent,
    ) -> Result<Runtime, StoreError> {
        let root = self.root();
        let summary = digest_tree(&root).map_err(StoreError::tree(&root))?;
        let record = Runtime { name: name.clone(), origin, root: summary, environment, created: now() };
        manifest::write(&self.staging.path().join(STAGED).join("manifest.json"), KIND, &record)?;
        let target = self.store.runtimes().join(name.as_str());
        let _lock = self.store.lock()?;
        match (target.exists(), when) {
            (true, WhenPresent::Refuse) => return Err(StoreError::RuntimeExists(name.clone())),
            (true, WhenPresent::Replace) => {
                self.staging.publish_over(&self.store, STAGED, &target)?;
                for user in self.store.registry().users_of_runtime(name.as_str())? {
                    self.store.discard_stale_snapshots(&user)?;
                }
            }
            (false, _) => self.staging.publish_new(STAGED, &target)?,
        }
        sweep(&self.store);
        Ok(record)
    }
}

impl Store {
    /// Starts a new runtime.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the home can't be written.
    pub fn stage_runtime(&self) -> Result<RuntimeStaging, StoreError> {
        let staging = Staging::new(self)?;
        make_folder(&staging.path().join(STAGED))?;
        make_folder(&staging.path().join("scratch"))?;
        Ok(RuntimeStaging { store: self.clone(), staging })
    }

    /// The record of a runtime.
    ///
    /// # Errors
    /// [`StoreError::NoRuntime`], or its record is damaged.
    pub fn runtime(&self, name: &RuntimeName) -> Result<Runtime, StoreError> {
        Ok(self.open_runtime(name)?.record)
    }

    /// Opens a runtime for use.
    ///
    /// # Errors
    /// [`StoreError::NoRuntime`], or its record is damaged.
    pub fn open_runtime(&self, name: &RuntimeName) -> Result<OpenRuntime, StoreError> {
        let folder = self.runtimes().join(name.as_str());
        let lease = Lease::take(&folder)?.ok_or_else(|| StoreError::NoRuntime(name.clone()))?;
        let (record, directory) = open_leased(&lease, &folder, ROOT, KIND)?;
        Ok(OpenRuntime { record, directory, path: folder.join(ROOT), lease })
    }

    /// Every runtime, by name; a damaged one as its error, so that one can't hide the others.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the home can't be read.
    pub fn list_runtimes(&self) -> Result<Listing<RuntimeName, Runtime>, StoreError> {
        let found = names(&self.runtimes(), |name| name.parse().ok())?;
        Ok(found.into_iter().map(|name: RuntimeName| (name.clone(), self.runtime(&name))).collect())
    }

    /// Reads every file of a runtime and compares with the recorded digest.
    ///
    /// # Errors
    /// [`StoreError::Changed`] when a file was changed, added or removed.
    pub fn verify_runtime(&self, name: &RuntimeName) -> Result<(), StoreError> {
        let open = self.open_runtime(name)?;
        verify(&open.path, open.record.root.digest)
    }

    /// Removes a runtime. Functions that run from it right now are not disturbed.
    ///
    /// # Errors
    /// [`StoreError::NoRuntime`]; [`StoreError::RuntimeInUse`] when a function has it and `even_if_used` is false.
    pub fn remove_runtime(&self, name: &RuntimeName, even_if_used: bool) -> Result<(), StoreError> {
        let _lock = self.lock()?;
        let folder = self.runtimes().join(name.as_str());
        if !folder.exists() {
            return Err(StoreError::NoRuntime(name.clone()));
        }
        let functions = self.registry().users_of_runtime(name.as_str())?;
        if !functions.is_empty() && !even_if_used {
            return Err(StoreError::RuntimeInUse { runtime: name.clone(), functions });
        }
        discard(self, &folder)?;
        sweep(self);
        Ok(())
    }
}
