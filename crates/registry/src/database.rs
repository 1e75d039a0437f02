//! The database file: opened, migrated, read and written.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Params, Row, Transaction, TransactionBehavior};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::RegistryError;
use crate::names::FunctionName;
use crate::schema::{Found, SCHEMA, migrate};

/// How long a process waits while another one writes.
const BUSY: Duration = Duration::from_secs(10);

/// An opened registry. Shared between threads; readers don't wait for a writer's disk.
#[derive(Debug)]
pub struct Registry {
    path: PathBuf,
    reader: Mutex<Connection>,
    writer: Mutex<Connection>,
}

/// A piece of a listing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Where the next page begins, when there is one: the last item's key.
    pub next: Option<String>,
}

impl Registry {
    /// Opens the registry at `path`, makes it when it isn't there, and migrates an older one.
    ///
    /// # Errors
    /// [`RegistryError::Schema`] for one of a newer program, [`RegistryError::Database`] when it can't be read.
    pub fn open(path: &Path) -> Result<Self, RegistryError> {
        // SQLite gives its other files the mode of this one.
        File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path)
            .map_err(|source| RegistryError::Create { path: path.to_owned(), source })?;
        let fail = |source| RegistryError::Database { operation: "opening", path: path.to_owned(), source };
        let mut writer = connect(path).map_err(fail)?;
        match migrate(&mut writer).map_err(fail)? {
            Found::Current => {}
            Found::Newer(found) => {
                return Err(RegistryError::Schema { path: path.to_owned(), found, known: SCHEMA });
            }
            Found::Foreign => return Err(RegistryError::Foreign { path: path.to_owned() }),
        }
        let reader = connect(path).map_err(fail)?;
        reader.pragma_update(None, "query_only", true).map_err(fail)?;
        Ok(Self { path: path.to_owned(), reader: Mutex::new(reader), writer: Mutex::new(writer) })
    }

    /// A number that changes when another process has written.
    ///
    /// # Errors
    /// [`RegistryError::Database`].
    pub fn data_version(&self) -> Result<i64, RegistryError> {
        self.read("reading", |connection| {
            connection.pragma_query_value(None, "data_version", |row| row.get(0))
        })
    }

    /// Looks through the whole file: that its structure and indices are sound, and that nothing belongs to a function that is not there.
    ///
    /// # Errors
    /// [`RegistryError::Unsound`] with what is wrong first, [`RegistryError::Database`] when it can't even be looked at.
    pub fn check(&self) -> Result<(), RegistryError> {
        let unsound = |problem| RegistryError::Unsound { path: self.path.clone(), problem };
        let found: String = self.read("checking", |connection| {
            connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))
        })?;
        if found != "ok" {
            return Err(unsound(found));
        }
        let keys: i64 = self.read("checking", |connection| {
            connection.query_row("SELECT count(*) FROM pragma_foreign_key_check", [], |row| row.get(0))
        })?;
        if keys != 0 {
            return Err(unsound(format!("{keys} records belong to functions that are not there")));
        }
        Ok(())
    }

    /// Runs a query.
    pub(crate) fn read<T>(
        &self,
        operation: &'static str,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, RegistryError> {
        query(&self.reader.lock()).map_err(|source| self.failed(operation, source))
    }

    /// Runs a transaction; it is on disk when this returns. An error takes everything back.
    pub(crate) fn write<T>(
        &self,
        operation: &'static str,
        change: impl FnOnce(&Transaction<'_>) -> Result<T, Aborted>,
    ) -> Result<T, RegistryError> {
        let mut connection = self.writer.lock();
        let run = || {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let result = change(&transaction)?;
            transaction.commit()?;
            Ok(result)
        };
        run().map_err(|aborted| match aborted {
            Aborted::Database(source) => self.failed(operation, source),
            Aborted::Refused(error) => error,
        })
    }

    /// [`Self::write`] of something that belongs to a function: the function may be removed at any time before.
    pub(crate) fn write_for<T>(
        &self,
        function: &FunctionName,
        operation: &'static str,
        change: impl FnOnce(&Transaction<'_>) -> Result<T, Aborted>,
    ) -> Result<T, RegistryError> {
        self.write(operation, change).map_err(|error| match error {
            RegistryError::Database { source: rusqlite::Error::SqliteFailure(code, _), .. }
                if code.extended_code == rusqlite::ffi::SQLITE_CONSTRAINT_FOREIGNKEY =>
            {
                RegistryError::NoFunction(function.clone())
            }
            other => other,
        })
    }

    fn failed(&self, operation: &'static str, source: rusqlite::Error) -> RegistryError {
        RegistryError::Database { operation, path: self.path.clone(), source }
    }

    /// One record.
    pub(crate) fn record<T: DeserializeOwned>(
        &self,
        sql: &str,
        parameters: impl Params,
        what: impl FnOnce() -> String,
    ) -> Result<Option<T>, RegistryError> {
        let text: Option<String> = self.read("reading", |connection| {
            connection.prepare_cached(sql)?.query_row(parameters, |row| row.get(0)).optional()
        })?;
        text.map(|text| decode(&text, what)).transpose()
    }

    /// Several rows.
    pub(crate) fn rows<T>(
        &self,
        sql: &str,
        parameters: impl Params,
        decode: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, RegistryError> {
        self.read("listing", |connection| {
            connection.prepare_cached(sql)?.query_map(parameters, decode)?.collect()
        })
    }

    /// A page of records. `sql` selects key and record in the key's order, one more than `limit`.
    pub(crate) fn page<T: DeserializeOwned>(
        &self,
        sql: &str,
        parameters: impl Params,
        limit: usize,
    ) -> Result<Page<T>, RegistryError> {
        let mut rows: Vec<(String, String)> =
            self.rows(sql, parameters, |row| Ok((row.get(0)?, row.get(1)?)))?;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| more).map(|(key, _)| key.clone());
        let items: Result<Vec<T>, _> = rows.iter().map(|(key, text)| decode(text, || key.clone())).collect();
        Ok(Page { items: items?, next })
    }
}

/// Why a transaction was taken back.
pub(crate) enum Aborted {
    Database(rusqlite::Error),
    Refused(RegistryError),
}

impl From<rusqlite::Error> for Aborted {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error)
    }
}

impl From<RegistryError> for Aborted {
    fn from(error: RegistryError) -> Self {
        Self::Refused(error)
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// A record from its text.
pub(crate) fn decode<T: DeserializeOwned>(
    text: &str,
    what: impl FnOnce() -> String,
) -> Result<T, RegistryError> {
    serde_json::from_str(text).map_err(|source| RegistryError::Damaged { what: what(), source })
}

/// A record as text.
pub(crate) fn encode<T: Serialize>(
    record: &T,
    what: impl FnOnce() -> String,
) -> Result<String, RegistryError> {
    serde_json::to_string(record).map_err(|source| RegistryError::Damaged { what: what(), source })
}
