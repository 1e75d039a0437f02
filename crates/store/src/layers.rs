//! Layers that functions share by name.

use registry::{LayerName, LayerVersion};

use crate::error::StoreError;
use crate::home::Store;
use crate::packages;
use crate::staging::{Staging, sweep};
use crate::trees::{CodeSource, StagedTrees};

const PACKAGE: &str = "package.zip";

/// A layer version to be stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewLayerVersion {
    /// The layer.
    pub name: LayerName,
    /// A text for people.
    pub description: String,
    /// Its licence, for people.
    pub license: Option<String>,
    /// The runtimes that it is said to work with.
    pub runtimes: Vec<String>,
    /// The architectures that it is said to work with.
    pub architectures: Vec<String>,
    /// Its files.
    pub source: CodeSource,
}

impl Store {
    /// Stores a new version of a layer.
    ///
    /// # Errors
    /// [`StoreError::Code`] when the archive is refused.
    pub fn publish_layer(&self, new: &NewLayerVersion) -> Result<LayerVersion, StoreError> {
        let staging = Staging::new(self)?;
        let files = StagedTrees::code(&staging, &new.source)?;
        let package = packages::stage(&staging, PACKAGE, &new.source, &files.summary())?;
        let _lock = self.lock()?;
        files.publish(self, &staging)?;
        packages::publish(self, &staging, PACKAGE, &package)?;
        let layer = self.registry().publish_layer(LayerVersion {
            name: new.name.clone(),
            number: 0,
            description: new.description.clone(),
            license: new.license.clone(),
            runtimes: new.runtimes.clone(),
            architectures: new.architectures.clone(),
            tree: files.summary(),
            package,
            created_ms: 0,
        })?;
        sweep(self);
        Ok(layer)
    }

    /// Removes a version of a layer; functions that have it keep its files. Says whether it was there.
    ///
    /// # Errors
    /// [`StoreError::Registry`] or [`StoreError::Io`].
    pub fn remove_layer_version(&self, name: &str, number: u64) -> Result<bool, StoreError> {
        let _lock = self.lock()?;
        let was_there = self.registry().remove_layer_version(name, number)?;
        self.collect()?;
        sweep(self);
        Ok(was_there)
    }
}
