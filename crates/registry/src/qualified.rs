//! What a function has per qualifier: how its events are handled, who may call it, its URL.

use rusqlite::params;
use serde::{Deserialize, Serialize};

use crate::database::{Page, Registry, encode};
use crate::error::RegistryError;
use crate::functions::now_ms;
use crate::names::FunctionName;

/// How asynchronous events of a qualifier are handled.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct EventInvokeConfig {
    /// The qualifier: `$LATEST`, a version or an alias.
    pub qualifier: String,
    /// Further attempts after the first, 0 to 2.
    pub maximum_retries: Option<u32>,
    /// How old an event may become, 60 to 21600 seconds.
    pub maximum_age_seconds: Option<u32>,
    /// Where results go: a function's ARN.
    pub on_success: Option<String>,
    /// Where events go that failed for good: a function's ARN.
    pub on_failure: Option<String>,
    /// In milliseconds since 1970.
    pub modified_ms: u64,
}

/// A statement of a function's policy.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Permission {
    /// Its identifier.
    pub statement: String,
    /// The statement as JSON text.
    pub document: String,
}

/// A function's URL.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FunctionUrl {
    /// The qualifier: `$LATEST` or an alias.
    pub qualifier: String,
    /// The first label of its host name.
    pub identifier: String,
    /// `NONE` or `AWS_IAM`.
    pub authentication: String,
    /// Whether answers are streamed.
    pub streaming: bool,
    /// The rules for browsers, as JSON text.
    pub cors: Option<String>,
    /// In milliseconds since 1970.
    pub created_ms: u64,
    /// In milliseconds since 1970.
    pub modified_ms: u64,
}

impl Registry {
    /// How events of a qualifier are handled, if that was set.
    ///
    /// # Errors
    /// [`RegistryError::Database`], or its record is damaged.
    pub fn event_config(
        &self,
        function: &FunctionName,
        qualifier: &str,
    ) -> Result<Option<EventInvokeConfig>, RegistryError> {
        let sql = "SELECT record FROM event_configs WHERE function = ?1 AND qualifier = ?2";
        self.record(sql, params![function.as_str(), qualifier], || format!("events of {function}"))
    }

    /// A page of them, behind the qualifier `after`.
    ///
    /// # Errors
    /// [`RegistryError::Database`], or a record is damaged.
    pub fn event_configs_page(
        &self,
        function: &FunctionName,
        after: &str,
        limit: usize,
    ) -> Result<Page<EventInvokeConfig>, RegistryError> {
        let sql = "SELECT qualifier, record FROM event_configs WHERE function = ?1 AND qualifier > ?2 \
                   ORDER BY qualifier LIMIT ?3";
        self.page(sql, params![function.as_str(), after, limit + 1], limit)
    }

    /// Stores how events are handled.
    ///
    /// # Errors
    /// [`RegistryError::NoFunction`] when the function is gone, [`RegistryError::Database`].
    pub fn put_event_config(
        &self,
        function: &FunctionName,
        config: EventInvokeConfig,
    ) -> Result<EventInvokeConfig, RegistryError> {
        let config = EventInvokeConfig { modified_ms: now_ms(), ..config };
        let record = encode(&config, || format!("events of {function}"))?;
        self.write_for(function, "storing how events are handled", |transaction| {
            let row = params![function.as_str(), config.qualifier, record];
            transaction.execute("INSERT OR REPLACE INTO event_configs VALUES (?1, ?2, ?3)", row)?;
            Ok(())
        })?;
        Ok(config)
    }

    /// Removes it. Says whether it was there.
    ///
    /// # Errors
    /// [`RegistryError::Database`].
    pub fn remove_event_config(
        &self,
        function: &FunctionName,
        qualifier: &str,
    ) -> Result<bool, RegistryError> {
        self.write_for(function, "removing how events are handled", |transaction| {
            let sql = "DELETE FROM event_configs WHERE function = ?1 AND qualifier = ?2";
            Ok(transaction.execute(sql, params![function.as_str(), qualifier])? > 0)
        })
    }

    /// The statements of a qualifier's policy, by identifier.
    ///
    /// # Errors
    /// [`RegistryError::Database`], or a record is damaged.
    pub fn permissions(
        &self,
        function: &FunctionName,
        qualifier: &str,
    ) -> Result<Vec<Permission>, RegistryError> {
        let sql = "SELECT statement, record FROM permissions WHERE function = ?1 AND qualifier = ?2 \
                   ORDER BY statement";
        Ok(self.page(sql, params![function.as_str(), qualifier], usize::MAX >> 2)?.items)
    }

    /// Adds a statement. Says whether its identifier was free.
    ///
    /// # Errors
    /// [`RegistryError::Database`].
    pub fn add_permission(
        &self,
        function: &FunctionName,
        qualifier: &str,
        permission: &Permission,
    ) -> Result<bool, RegistryError> {
        let record = encode(permission, || format!("policy of {function}"))?;
        self.write_for(function, "storing a permission", |transaction| {
            let row = params![function.as_str(), qualifier, permission.statement, record];
            let sql = "INSERT INTO permissions VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING";
            Ok(transaction.execute(sql, row)? > 0)
        })
    }

    /// Removes a statement. Says whether it was there.
    ///
    /// # Errors
    /// [`RegistryError::Database`].
    pub fn remove_permission(
        &self,
        function: &FunctionName,
        qualifier: &str,
        statement: &str,
    ) -> Result<bool, RegistryError> {
        self.write_for(function, "removing a permission", |transaction| {
            let sql = "DELETE FROM permissions WHERE function = ?1 AND qualifier = ?2 AND statement = ?3";
            Ok(transaction.execute(sql, params![function.as_str(), qualifier, statement])? > 0)
        })
    }

    /// A qualifier's URL.
    ///
    /// # Errors
    /// [`RegistryError::Database`], or its record is damaged.
    pub fn url(
        &self,
        function: &FunctionName,
        qualifier: &str,
    ) -> Result<Option<FunctionUrl>, RegistryError> {
        let sql = "SELECT record FROM urls WHERE function = ?1 AND qualifier = ?2";
        self.record(sql, params![function.as_str(), qualifier], || format!("URL of {function}"))
    }

    /// The function behind a URL's host label.
    ///
    /// # Errors
    /// [`RegistryError::Database`], or its record is damaged.
    pub fn url_by_identifier(
        &self,
        identifier: &str,
    ) -> Result<Option<(FunctionName, FunctionUrl)>, RegistryError> {
        let sql = "SELECT record FROM urls WHERE identifier = ?1";
        let what = || format!("URL {identifier}");
        let Some(url) = self.record::<FunctionUrl>(sql, [identifier], what)? else { return Ok(None) };
        let sql = "SELECT function FROM urls WHERE identifier = ?1";
        let names: Vec<String> = self.rows(sql, [identifier], |row| row.get(0))?;
        Ok(names.first().and_then(|name| name.parse().ok()).map(|name| (name, url)))
    }

    /// A function's URLs, by qualifier.
    ///
    /// # Errors
    /// [`RegistryError::Database`], or a record is damaged.
    pub fn urls_page(
        &self,
        function: &FunctionName,
        after: &str,
        limit: usize,
    ) -> Result<Page<FunctionUrl>, RegistryError> {
        let sql = "SELECT qualifier, record FROM urls WHERE function = ?1 AND qualifier > ?2 \
                   ORDER BY qualifier LIMIT ?3";
        self.page(sql, params![function.as_str(), after, limit + 1], limit)
    }

    /// Stores a URL; a new one only when there is none. Says whether it did.
    ///
    /// # Errors
    /// [`RegistryError::Database`].
    pub fn put_url(
        &self,
        function: &FunctionName,
        url: &FunctionUrl,
        new: bool,
    ) -> Result<bool, RegistryError> {
        let record = encode(url, || format!("URL of {function}"))?;
        self.write_for(function, "storing a URL", |transaction| {
            let row = params![function.as_str(), url.qualifier, url.identifier, record];
            let sql = if new {
                "INSERT INTO urls VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING"
            } else {
                "UPDATE urls SET record = ?4 WHERE function = ?1 AND qualifier = ?2 AND identifier = ?3"
            };
            Ok(transaction.execute(sql, row)? > 0)
        })
    }

    /// Removes a URL. Says whether it was there.
    ///
    /// # Errors
    /// [`RegistryError::Database`].
    pub fn remove_url(&self, function: &FunctionName, qualifier: &str) -> Result<bool, RegistryError> {
        self.write_for(function, "removing a URL", |transaction| {
            let sql = "DELETE FROM urls WHERE function = ?1 AND qualifier = ?2";
            Ok(transaction.execute(sql, params![function.as_str(), qualifier])? > 0)
        })
    }
}
