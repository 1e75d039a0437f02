//! The tables, and how older registries get them.

use rusqlite::Connection;

/// Marks the file as ours: `PRAGMA application_id`, "FSnp".
pub(crate) const APPLICATION: i32 = 0x4653_6e70;

/// Steps from one schema to the next; a registry's schema is the number of steps it has seen. A step is never changed
/// once it is released.
const STEPS: [&str; 1] = ["
CREATE TABLE functions (
    name TEXT PRIMARY KEY,
    next_version INTEGER NOT NULL DEFAULT 1,
    reserved_concurrency INTEGER
) STRICT, WITHOUT ROWID;
CREATE TABLE versions (
    function TEXT NOT NULL REFERENCES functions ON DELETE CASCADE,
    number INTEGER NOT NULL,
    in_progress INTEGER NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (function, number)
) STRICT;
CREATE INDEX versions_in_progress ON versions (in_progress) WHERE in_progress;
CREATE TABLE digests (
    digest TEXT NOT NULL,
    function TEXT NOT NULL,
    number INTEGER NOT NULL,
    PRIMARY KEY (digest, function, number),
    FOREIGN KEY (function, number) REFERENCES versions ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX digests_of ON digests (function, number);
CREATE TABLE aliases (
    function TEXT NOT NULL REFERENCES functions ON DELETE CASCADE,
    name TEXT NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (function, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE tags (
    function TEXT NOT NULL REFERENCES functions ON DELETE CASCADE,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (function, key)
) STRICT, WITHOUT ROWID;
CREATE TABLE event_configs (
    function TEXT NOT NULL REFERENCES functions ON DELETE CASCADE,
    qualifier TEXT NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (function, qualifier)
) STRICT, WITHOUT ROWID;
CREATE TABLE permissions (
    function TEXT NOT NULL REFERENCES functions ON DELETE CASCADE,
    qualifier TEXT NOT NULL,
    statement TEXT NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (function, qualifier, statement)
) STRICT, WITHOUT ROWID;
CREATE TABLE urls (
    function TEXT NOT NULL REFERENCES functions ON DELETE CASCADE,
    qualifier TEXT NOT NULL,
    identifier TEXT NOT NULL UNIQUE,
    record TEXT NOT NULL,
    PRIMARY KEY (function, qualifier)
) STRICT, WITHOUT ROWID;
CREATE TABLE layers (
    name TEXT PRIMARY KEY,
    next_version INTEGER NOT NULL DEFAULT 1
) STRICT, WITHOUT ROWID;
CREATE TABLE layer_versions (
    layer TEXT NOT NULL REFERENCES layers,
    number INTEGER NOT NULL,
    digest TEXT NOT NULL,
    package TEXT NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (layer, number)
) STRICT, WITHOUT ROWID;
"];

/// The newest schema.
pub(crate) const SCHEMA: u32 = STEPS.len() as u32;

/// What a file turned out to be.
pub(crate) enum Found {
    /// Ours, and as new as can be now.
    Current,
    /// Ours, from a newer program.
    Newer(u32),
    /// Something else.
    Foreign,
}

/// Brings a registry to the newest schema, each step in a transaction with its number.
pub(crate) fn migrate(connection: &mut Connection) -> rusqlite::Result<Found> {
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let found: u32 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let application: i32 = transaction.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let tables: u32 = transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if application != APPLICATION && (found != 0 || tables != 0) {
        return Ok(Found::Foreign);
    }
    if found > SCHEMA {
        return Ok(Found::Newer(found));
    }
    if found < SCHEMA {
        for step in STEPS.iter().skip(found as usize) {
            transaction.execute_batch(step)?;
        }
        transaction.pragma_update(None, "application_id", APPLICATION)?;
        transaction.pragma_update(None, "user_version", SCHEMA)?;
        transaction.commit()?;
    }
    Ok(Found::Current)
}
