//! Functions and their versions.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use file_tree::TreeDigest;
use rusqlite::{OptionalExtension, Transaction, params};

use crate::database::{Aborted, Page, Registry, decode, encode};
use crate::error::RegistryError;
use crate::function::Function;
use crate::names::{FunctionName, Version};

const SELECT: &str = "SELECT record FROM versions WHERE function = ?1 AND number = ?2";

impl Registry {
    /// A version of a function.
    ///
    /// # Errors
    /// [`RegistryError::NoFunction`], [`RegistryError::NoVersion`], or its record is damaged.
    pub fn function(&self, name: &FunctionName, version: Version) -> Result<Function, RegistryError> {
        let found = self.record(SELECT, params![name.as_str(), version.number()], || name.to_string())?;
        match found {
            Some(function) => Ok(function),
            None if version == Version::Latest || !self.exists(name)? => {
                Err(RegistryError::NoFunction(name.clone()))
            }
            None => Err(RegistryError::NoVersion { name: name.clone(), version }),
        }
    }

    /// Whether there is such a function, damaged or not.
    ///
    /// # Errors
    /// [`RegistryError::Database`].
    pub fn exists(&self, name: &FunctionName) -> Result<bool, RegistryError> {
        self.read("reading", |connection| {
            let mut statement = connection.prepare_cached("SELECT 1 FROM functions WHERE name = ?1")?;
            statement.exists([name.as_str()])
        })
    }

    /// `$LATEST` of every function, by name; a damaged one as its error, so that one can't hide the others.
    ///
    /// # Errors
    /// [`RegistryError::Database`].
    pub fn functions(&self) -> Result<Vec<(FunctionName, Result<Function, RegistryError>)>, RegistryError> {
        let sql = "SELECT function, record FROM versions WHERE number = 0 ORDER BY function";
        let rows: Vec<(String, String)> = self.rows(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let named = |(name, text): (String, String)| {
            let function = decode(&text, || name.clone());
            name.parse().ok().map(|name| (name, function))
        };
        Ok(rows.into_iter().filter_map(named).collect())
    }

    /// How many functions there are, and the bytes of all their versions' and layers' archives.
    ///
    /// # Errors
    /// [`RegistryError::Database`].
    pub fn usage(&self) -> Result<(u64, u64), RegistryError> {
        let sql = "SELECT (SELECT count(*) FROM functions), \
                   (SELECT coalesce(sum(json_extract(record, '$.package.bytes')), 0) FROM versions) + \
                   (SELECT coalesce(sum(json_extract(record, '$.package.bytes')), 0) FROM layer_versions)";
        self.read("counting", |connection| {
            connection.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))
        })
    }

    /// A page of functions behind the name `after`: `$LATEST` of each.
    ///
    /// # Errors
    /// [`RegistryError::Database`], or a record is damaged.
    pub fn functions_page(&self, after: &str, limit: usize) -> Result<Page<Function>, RegistryError> {
        let sql = "SELECT function, record FROM versions WHERE number = 0 AND function > ?1 \
                   ORDER BY function LIMIT ?2";
        self.page(sql, params![after, limit + 1], limit)
    }

    /// A page of all versions of all functions behind the key `after` (`NAME:NUMBER`, 0 for `$LATEST`).
    ///
    /// # Errors
    /// [`RegistryError::Database`], or a record is damaged.
    pub fn all_versions_page(&self, after: &str, limit: usize) -> Result<Page<Function>, RegistryError> {
        let (name, number) = after.split_once(':').unwrap_or((after, "-1"));
        let number: i64 = number.parse().unwrap_or(-1);
        let sql = "SELECT function || ':' || number, record FROM versions WHERE (function, number) > (?1, ?2) \
                   ORDER BY function, number LIMIT ?3";
        self.page(sql, params![name, number, limit + 1], limit)
    }

    /// A page of a function's versions behind the number `after`, `$LATEST` first.
    ///
    /// # Errors
    /// [`RegistryError::Database`], or a record is damaged.
    pub fn versions_page(
        &self,
        name: &FunctionName,
        after: &str,
        limit: usize,
    ) -> Result<Page<Function>, RegistryError> {
        let after: i64 = after.parse().unwrap_or(-1);
        let sql = "SELECT CAST(number AS TEXT), record FROM versions WHERE function = ?1 AND number > ?2 \
                   ORDER BY number LIMIT ?3";
        self.page(sql, params![name.as_str(), after, limit + 1], limit)
    }

    /// Every version of a function, `$LATEST` first.
    ///
    /// # Errors
    /// [`RegistryError::Database`], or a record is damaged.
    pub fn versions(&self, name: &FunctionName) -> Result<Vec<Function>, RegistryError> {
        Ok(self.versions_page(name, "", usize::MAX >> 2)?.items)
    }

    /// The latest published version.
    ///
    /// # Errors
    /// [`RegistryError::Database`], or its record is damaged.
    pub fn latest_published(&self, name: &FunctionName) -> Result<Option<Function>, RegistryError> {
        let sql =
            "SELECT record FROM versions WHERE function = ?1 AND number > 0 ORDER BY number DESC LIMIT 1";
        self.record(sql, [name.as_str()], || name.to_string())
    }

    /// Versions that something is still being done about.
    ///
    /// # Errors
    /// [`RegistryError::Database`].
    pub fn in_progress(&self) -> Result<Vec<(FunctionName, Version)>, RegistryError> {
        let sql = "SELECT function, number FROM versions WHERE in_progress";
        let rows: Vec<(String, u64)> = self.rows(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let version = |number| if number == 0 { Version::Latest } else { Version::Number(number) };
        Ok(rows
            .into_iter()
            .filter_map(|(name, number)| Some((name.parse().ok()?, version(number))))
            .collect())
    }

    /// Stores a function that is new, or takes the place of `$LATEST` when `replace` is set.
    ///
    /// # Errors
    /// [`RegistryError::FunctionExists`].
    pub fn insert(
        &self,
        function: &Function,
        tags: &BTreeMap<String, String>,
        replace: bool,
    ) -> Result<(), RegistryError> {
        let name = function.name.as_str();
        self.write("storing a function", |transaction| {
            let inserted = transaction
                .execute("INSERT INTO functions (name) VALUES (?1) ON CONFLICT DO NOTHING", [name])?;
            if inserted == 0 && !replace {
                return Err(RegistryError::FunctionExists(function.name.clone()).into());
            }
            put(transaction, function)?;
            for (key, value) in tags {
                transaction.execute("INSERT OR REPLACE INTO tags VALUES (?1, ?2, ?3)", [name, key, value])?;
            }
            Ok(())
        })
    }

    /// Changes a version in one transaction. A user's change gets a new revision identifier and time.
    ///
    /// # Errors
    /// [`RegistryError::NoFunction`], [`RegistryError::NoVersion`], or what `change` refuses with.
    pub fn update<E: From<RegistryError>>(
        &self,
        name: &FunctionName,
        version: Version,
        change: impl FnOnce(&mut Function) -> Result<(), E>,
    ) -> Result<Function, E> {
        self.write("changing a function", |transaction| {
            let mut function = get(transaction, name, version)?;
            if let Err(refused) = change(&mut function) {
                return Ok(Err(refused));
            }
            put(transaction, &function)?;
            Ok(Ok(function))
        })?
    }

    /// Publishes `$LATEST` as it is, unless the latest published version is the same. `change` sees
    /// the new version before it is stored. The second value says whether there is a new one.
    ///
    /// # Errors
    /// [`RegistryError::NoFunction`], or what `check` and `change` refuse with.
    pub fn publish<E: From<RegistryError>>(
        &self,
        name: &FunctionName,
        check: impl FnOnce(&Function) -> Result<(), E>,
        change: impl FnOnce(&mut Function),
    ) -> Result<(Function, bool), E> {
        self.write("publishing a version", |transaction| {
            let mut function = get(transaction, name, Version::Latest)?;
            if let Err(refused) = check(&function) {
                return Ok(Err(refused));
            }
            let last: Option<String> = transaction
                .query_row(
                    "SELECT record FROM versions WHERE function = ?1 AND number > 0 ORDER BY number DESC LIMIT 1",
                    [name.as_str()],
                    |row| row.get(0),
                )
                .optional()?;
            if let Some(last) = last {
                let last: Function = decode(&last, || name.to_string())?;
                if last.is_same_as(&function) {
                    return Ok(Ok((last, false)));
                }
            }
            let number: u64 = transaction.query_row(
                "UPDATE functions SET next_version = next_version + 1 WHERE name = ?1 RETURNING next_version - 1",
                [name.as_str()],
                |row| row.get(0),
            )?;
            function.version = Version::Number(number);
            function.touch();
            change(&mut function);
            put(transaction, &function)?;
            Ok(Ok((function, true)))
        })?
    }

    /// Removes a function with all that belongs to it. Says whether it was there.
    ///
    /// # Errors
    /// [`RegistryError::Database`].
    pub fn remove(&self, name: &FunctionName) -> Result<bool, RegistryError> {
        self.write("removing a function", |transaction| {
            Ok(transaction.execute("DELETE FROM functions WHERE name = ?1", [name.as_str()])? > 0)
        })
    }

    /// Removes a published version. Says whether it was there.
    ///
    /// # Errors
    /// [`RegistryError::Database`].
    pub fn remove_version(&self, name: &FunctionName, number: u64) -> Result<bool, RegistryError> {
        self.write("removing a version", |transaction| {
            let sql = "DELETE FROM versions WHERE function = ?1 AND number = ?2 AND number > 0";
            Ok(transaction.execute(sql, params![name.as_str(), number])? > 0)
        })
    }

    /// Every tree that a version or a layer needs, and the digest (base64) of every package that is to be kept.
    ///
    /// # Errors
    /// [`RegistryError::Database`].
    pub fn digests_in_use(&self) -> Result<std::collections::HashSet<String>, RegistryError> {
        let sql = "SELECT digest FROM digests UNION SELECT digest FROM layer_versions \
                   UNION SELECT package FROM layer_versions";
        Ok(self.rows(sql, [], |row| row.get(0))?.into_iter().collect())
    }

    /// The functions that have this runtime in any version.
    ///
    /// # Errors
    /// [`RegistryError::Database`].
    pub fn users_of_runtime(&self, runtime: &str) -> Result<Vec<FunctionName>, RegistryError> {
        let sql = "SELECT DISTINCT function FROM versions \
                   WHERE json_valid(record) AND json_extract(record, '$.config.runtime') = ?1 ORDER BY function";
        let names: Vec<String> = self.rows(sql, [runtime], |row| row.get(0))?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// The concurrency that is reserved for a function.
    ///
    /// # Errors
    /// [`RegistryError::Database`].
    pub fn reserved_concurrency(&self, name: &FunctionName) -> Result<Option<u32>, RegistryError> {
        let sql = "SELECT reserved_concurrency FROM functions WHERE name = ?1";
        let found = self.read("reading", |connection| {
            connection.prepare_cached(sql)?.query_row([name.as_str()], |row| row.get(0)).optional()
        })?;
        Ok(found.flatten())
    }

    /// Every function that has reserved concurrency.
    ///
    /// # Errors
    /// [`RegistryError::Database`].
    pub fn reservations(&self) -> Result<Vec<(FunctionName, u32)>, RegistryError> {
        let sql = "SELECT name, reserved_concurrency FROM functions WHERE reserved_concurrency IS NOT NULL";
        let rows: Vec<(String, u32)> = self.rows(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.into_iter().filter_map(|(name, reserved)| Some((name.parse().ok()?, reserved))).collect())
    }

    /// The concurrency that is reserved for functions together, but for `except`.
    ///
    /// # Errors
    /// [`RegistryError::Database`].
    pub fn reserved_by_others(&self, except: &str) -> Result<u64, RegistryError> {
        let sql = "SELECT coalesce(sum(reserved_concurrency), 0) FROM functions WHERE name <> ?1";
        self.read("reading", |connection| {
            connection.prepare_cached(sql)?.query_row([except], |row| row.get(0))
        })
    }

    /// Reserves concurrency for a function, or none.
    ///
    /// # Errors
    /// [`RegistryError::NoFunction`].
    pub fn reserve_concurrency(
        &self,
        name: &FunctionName,
        reserved: Option<u32>,
    ) -> Result<(), RegistryError> {
        self.write("reserving concurrency", |transaction| {
            let sql = "UPDATE functions SET reserved_concurrency = ?2 WHERE name = ?1";
            match transaction.execute(sql, params![name.as_str(), reserved])? {
                0 => Err(RegistryError::NoFunction(name.clone()).into()),
                _ => Ok(()),
            }
        })
    }
}

impl Function {
    /// Gives it a new revision identifier and time, as every change by a user does.
    pub fn touch(&mut self) {
        self.revision_id = uuid::Uuid::new_v4().to_string();
        self.modified_ms = now_ms();
    }
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn get(transaction: &Transaction<'_>, name: &FunctionName, version: Version) -> Result<Function, Aborted> {
    let text: Option<String> = transaction
        .query_row(SELECT, params![name.as_str(), version.number()], |row| row.get(0))
        .optional()?;
    let missing = || match version {
        Version::Latest => RegistryError::NoFunction(name.clone()),
        Version::Number(_) => RegistryError::NoVersion { name: name.clone(), version },
    };
    Ok(decode(&text.ok_or_else(missing)?, || name.to_string())?)
}

fn put(transaction: &Transaction<'_>, function: &Function) -> Result<(), Aborted> {
    let (name, number) = (function.name.as_str(), function.version.number());
    let record = encode(function, || name.to_owned())?;
    transaction.execute(
        "INSERT INTO versions VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE SET \
         in_progress = excluded.in_progress, record = excluded.record",
        params![name, number, function.status.is_in_progress(), record],
    )?;
    transaction.execute("DELETE FROM digests WHERE function = ?1 AND number = ?2", params![name, number])?;
    let mut statement = transaction.prepare_cached("INSERT OR IGNORE INTO digests VALUES (?1, ?2, ?3)")?;
    let trees = function.trees().map(|digest: TreeDigest| digest.to_string());
    let package = function.package.kept.then(|| function.package.sha256.clone());
    for digest in trees.chain(package) {
        statement.execute(params![digest, name, number])?;
    }
    Ok(())
}
