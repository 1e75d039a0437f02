//! Aliases: names for versions.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use rusqlite::{OptionalExtension, params};
use serde::{Deserialize, Serialize};

use crate::database::{Page, Registry, decode, encode};
use crate::error::RegistryError;
use crate::names::{FunctionName, Version};

/// An alias's name: 1 to 128 of `[a-zA-Z0-9-_]`, not digits only.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AliasName(String);

impl AliasName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AliasName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let valid = (1..=128).contains(&text.len())
            && text.bytes().all(allowed)
            && !text.bytes().all(|byte| byte.is_ascii_digit());
        if valid { Ok(Self(text.to_owned())) } else { Err(format!("{text:?} can't be an alias's name")) }
    }
}

impl TryFrom<String> for AliasName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<AliasName> for String {
    fn from(name: AliasName) -> Self {
        name.0
    }
}

impl fmt::Display for AliasName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// An alias.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Alias {
    /// Its name.
    pub name: AliasName,
    /// The version it stands for.
    pub version: Version,
    /// A text for people.
    pub description: String,
    /// Shares of invocations (0 to 1) that go to other versions.
    pub routing: BTreeMap<Version, f64>,
    /// Changes with every write.
    pub revision_id: String,
}

impl Registry {
    /// An alias.
    ///
    /// # Errors
    /// [`RegistryError::Database`], or its record is damaged.
    pub fn alias(&self, function: &FunctionName, name: &str) -> Result<Option<Alias>, RegistryError> {
        let sql = "SELECT record FROM aliases WHERE function = ?1 AND name = ?2";
        self.record(sql, params![function.as_str(), name], || format!("alias {name}"))
    }

    /// A page of a function's aliases behind the name `after`.
    ///
    /// # Errors
    /// [`RegistryError::Database`], or a record is damaged.
    pub fn aliases_page(
        &self,
        function: &FunctionName,
        after: &str,
        limit: usize,
    ) -> Result<Page<Alias>, RegistryError> {
        let sql = "SELECT name, record FROM aliases WHERE function = ?1 AND name > ?2 ORDER BY name LIMIT ?3";
        self.page(sql, params![function.as_str(), after, limit + 1], limit)
    }

    /// Stores an alias that is new. Says whether it was.
    ///
    /// # Errors
    /// [`RegistryError::NoFunction`].
    pub fn insert_alias(&self, function: &FunctionName, alias: &Alias) -> Result<bool, RegistryError> {
        let record = encode(alias, || alias.name.to_string())?;
        self.write_for(function, "storing an alias", |transaction| {
            if !transaction.prepare("SELECT 1 FROM functions WHERE name = ?1")?.exists([function.as_str()])? {
                return Err(RegistryError::NoFunction(function.clone()).into());
            }
            let row = params![function.as_str(), alias.name.as_str(), record];
            let sql = "INSERT INTO aliases VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";
            Ok(transaction.execute(sql, row)? > 0)
        })
    }

    /// Changes an alias in one transaction; `None` when there is none.
    ///
    /// # Errors
    /// [`RegistryError::Database`], or what `change` refuses with.
    pub fn update_alias<E: From<RegistryError>>(
        &self,
        function: &FunctionName,
        name: &str,
        change: impl FnOnce(&mut Alias) -> Result<(), E>,
    ) -> Result<Option<Alias>, E> {
        self.write_for(function, "changing an alias", |transaction| {
            let sql = "SELECT record FROM aliases WHERE function = ?1 AND name = ?2";
            let text: Option<String> =
                transaction.query_row(sql, params![function.as_str(), name], |row| row.get(0)).optional()?;
            let Some(text) = text else { return Ok(Ok(None)) };
            let mut alias: Alias = decode(&text, || format!("alias {name}"))?;
            if let Err(refused) = change(&mut alias) {
                return Ok(Err(refused));
            }
            alias.revision_id = uuid::Uuid::new_v4().to_string();
            let record = encode(&alias, || name.to_owned())?;
            let sql = "UPDATE aliases SET record = ?3 WHERE function = ?1 AND name = ?2";
            transaction.execute(sql, params![function.as_str(), name, record])?;
            Ok(Ok(Some(alias)))
        })?
    }

    /// Removes an alias. Says whether it was there.
    ///
    /// # Errors
    /// [`RegistryError::Database`].
    pub fn remove_alias(&self, function: &FunctionName, name: &str) -> Result<bool, RegistryError> {
        self.write_for(function, "removing an alias", |transaction| {
            let sql = "DELETE FROM aliases WHERE function = ?1 AND name = ?2";
            Ok(transaction.execute(sql, params![function.as_str(), name])? > 0)
        })
    }

    /// The aliases that lead to a version.
    ///
    /// # Errors
    /// [`RegistryError::Database`], or a record is damaged.
    pub fn aliases_of(
        &self,
        function: &FunctionName,
        version: Version,
    ) -> Result<Vec<AliasName>, RegistryError> {
        let all = self.aliases_page(function, "", usize::MAX >> 2)?.items;
        let leads = |alias: &Alias| alias.version == version || alias.routing.contains_key(&version);
        Ok(all.into_iter().filter(leads).map(|alias| alias.name).collect())
    }
}
