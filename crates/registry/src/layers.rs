//! Layers and their versions.

use file_tree::TreeSummary;
use rusqlite::params;
use serde::{Deserialize, Serialize};

use crate::database::{Page, Registry, encode};
use crate::error::RegistryError;
use crate::function::Package;
use crate::functions::now_ms;
use crate::names::LayerName;

/// A version of a layer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LayerVersion {
    /// The layer.
    pub name: LayerName,
    /// Its number, from 1 on.
    pub number: u64,
    /// A text for people.
    pub description: String,
    /// Its licence, for people.
    pub license: Option<String>,
    /// The runtimes that it is said to work with.
    pub runtimes: Vec<String>,
    /// The architectures that it is said to work with.
    pub architectures: Vec<String>,
    /// Its files.
    pub tree: TreeSummary,
    /// Its archive.
    pub package: Package,
    /// In milliseconds since 1970.
    pub created_ms: u64,
}

impl Registry {
    /// Stores a new version of a layer and gives it its number.
    ///
    /// # Errors
    /// [`RegistryError::Database`].
    pub fn publish_layer(&self, layer: LayerVersion) -> Result<LayerVersion, RegistryError> {
        self.write("publishing a layer", |transaction| {
            let name = layer.name.as_str();
            transaction.execute("INSERT INTO layers (name) VALUES (?1) ON CONFLICT DO NOTHING", [name])?;
            let number: u64 = transaction.query_row(
                "UPDATE layers SET next_version = next_version + 1 WHERE name = ?1 RETURNING next_version - 1",
                [name],
                |row| row.get(0),
            )?;
            let layer = LayerVersion { number, created_ms: now_ms(), ..layer.clone() };
            let record = encode(&layer, || name.to_owned())?;
            let digest = layer.tree.digest.to_string();
            let row = params![name, number, digest, layer.package.sha256, record];
            transaction.execute("INSERT INTO layer_versions VALUES (?1, ?2, ?3, ?4, ?5)", row)?;
            Ok(layer)
        })
    }

    /// A version of a layer.
    ///
    /// # Errors
    /// [`RegistryError::Database`], or its record is damaged.
    pub fn layer_version(&self, name: &str, number: u64) -> Result<Option<LayerVersion>, RegistryError> {
        let sql = "SELECT record FROM layer_versions WHERE layer = ?1 AND number = ?2";
        self.record(sql, params![name, number], || format!("layer {name}:{number}"))
    }

    /// A page of a layer's versions before the number `before`, the latest first.
    ///
    /// # Errors
    /// [`RegistryError::Database`], or a record is damaged.
    pub fn layer_versions_page(
        &self,
        name: &str,
        before: &str,
        limit: usize,
    ) -> Result<Page<LayerVersion>, RegistryError> {
        let before: i64 = before.parse().unwrap_or(i64::MAX);
        let sql = "SELECT CAST(number AS TEXT), record FROM layer_versions WHERE layer = ?1 AND number < ?2 \
                   ORDER BY number DESC LIMIT ?3";
        self.page(sql, params![name, before, limit + 1], limit)
    }

    /// A page of layers behind the name `after`, each with its latest version.
    ///
    /// # Errors
    /// [`RegistryError::Database`], or a record is damaged.
    pub fn layers_page(&self, after: &str, limit: usize) -> Result<Page<LayerVersion>, RegistryError> {
        let sql = "SELECT layer, record FROM layer_versions AS one WHERE layer > ?1 AND number = \
                   (SELECT max(number) FROM layer_versions WHERE layer = one.layer) ORDER BY layer LIMIT ?2";
        self.page(sql, params![after, limit + 1], limit)
    }

    /// Removes a version of a layer; functions that have it keep its files. Says whether it was there.
    ///
    /// # Errors
    /// [`RegistryError::Database`].
    pub fn remove_layer_version(&self, name: &str, number: u64) -> Result<bool, RegistryError> {
        self.write("removing a layer", |transaction| {
            let sql = "DELETE FROM layer_versions WHERE layer = ?1 AND number = ?2";
            Ok(transaction.execute(sql, params![name, number])? > 0)
        })
    }
}
