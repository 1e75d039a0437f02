//! The queue's tables in SQLite.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use crate::error::QueueError;
use crate::event::{DeadLetter, NewEvent, QueuedEvent, Target};

/// Version of the schema, in `user_version`.
const SCHEMA: i64 = 1;

const TABLES: &str = "
CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    request_id TEXT NOT NULL,
    function TEXT NOT NULL,
    qualifier TEXT,
    payload BLOB NOT NULL,
    client_context TEXT,
    trace_id TEXT,
    accepted_ms INTEGER NOT NULL,
    due_ms INTEGER NOT NULL,
    failures INTEGER NOT NULL DEFAULT 0,
    refusals INTEGER NOT NULL DEFAULT 0,
    hops INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX events_by_due ON events (due_ms, id);
CREATE TABLE dead_letters (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    request_id TEXT NOT NULL,
    function TEXT NOT NULL,
    qualifier TEXT,
    payload BLOB NOT NULL,
    client_context TEXT,
    trace_id TEXT,
    accepted_ms INTEGER NOT NULL,
    ended_ms INTEGER NOT NULL,
    condition TEXT NOT NULL,
    response BLOB
) STRICT;
";

/// Opens the queue's file and makes it when it isn't there.
pub(crate) fn open(path: &Path) -> Result<Connection, QueueError> {
    let wrap = |source| QueueError::Open { path: path.to_owned(), source };
    let mut connection = Connection::open(path).map_err(wrap)?;
    connection.busy_timeout(Duration::from_secs(5)).map_err(wrap)?;
    connection.pragma_update(None, "journal_mode", "WAL").map_err(wrap)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(wrap)?;
    connection.set_prepared_statement_cache_capacity(16);
    let transaction = connection.transaction().map_err(wrap)?;
    let found: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(wrap)?;
    match found {
        0 => {
            transaction.execute_batch(TABLES).map_err(wrap)?;
            transaction.pragma_update(None, "user_version", SCHEMA).map_err(wrap)?;
        }
        SCHEMA => {}
        found => return Err(QueueError::Schema { path: path.to_owned(), found, known: SCHEMA }),
    }
    transaction.commit().map_err(wrap)?;
    Ok(connection)
}

pub(crate) fn insert(
    transaction: &Transaction<'_>,
    event: &NewEvent,
    hops: u32,
    now_ms: i64,
) -> rusqlite::Result<()> {
    let mut insert = transaction.prepare_cached(
        "INSERT INTO events (request_id, function, qualifier, payload, client_context, trace_id, accepted_ms, due_ms, hops)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7, ?8)",
    )?;
    let NewEvent { request_id, target, payload, client_context, trace_id } = event;
    let Target { function, qualifier } = target;
    insert
        .execute(params![request_id, function, qualifier, payload, client_context, trace_id, now_ms, hops])
        .map(drop)
}

pub(crate) fn delete(transaction: &Transaction<'_>, id: i64) -> rusqlite::Result<()> {
    transaction.prepare_cached("DELETE FROM events WHERE id = ?1")?.execute([id]).map(drop)
}

pub(crate) fn put_off(
    transaction: &Transaction<'_>,
    id: i64,
    failures: u32,
    refusals: u32,
    due_ms: i64,
) -> rusqlite::Result<()> {
    let mut update = transaction
        .prepare_cached("UPDATE events SET failures = ?2, refusals = ?3, due_ms = ?4 WHERE id = ?1")?;
    update.execute(params![id, failures, refusals, due_ms]).map(drop)
}

/// Keeps a given-up event; at most `kept` are, the oldest go.
pub(crate) fn bury(transaction: &Transaction<'_>, letter: &DeadLetter, kept: u32) -> rusqlite::Result<()> {
    let NewEvent { request_id, target, payload, client_context, trace_id } = &letter.event;
    let Target { function, qualifier } = target;
    transaction
        .prepare_cached(
            "INSERT INTO dead_letters (request_id, function, qualifier, payload, client_context, trace_id, accepted_ms,
             ended_ms, condition, response) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        )?
        .execute(params![
            request_id,
            function,
            qualifier,
            payload,
            client_context,
            trace_id,
            letter.accepted_ms,
            letter.ended_ms,
            letter.condition,
            letter.response
        ])?;
    let last = transaction.last_insert_rowid();
    transaction
        .prepare_cached("DELETE FROM dead_letters WHERE id <= ?1")?
        .execute([last - i64::from(kept)])
        .map(drop)
}

/// The events among the `limit` oldest due ones that are not in `skip`.
pub(crate) fn due(
    connection: &Connection,
    now_ms: i64,
    limit: usize,
    skip: &HashSet<i64>,
) -> rusqlite::Result<Vec<QueuedEvent>> {
    let mut ids =
        connection.prepare_cached("SELECT id FROM events WHERE due_ms <= ?1 ORDER BY due_ms, id LIMIT ?2")?;
    let mut whole = connection.prepare_cached(
        "SELECT id, request_id, function, qualifier, payload, client_context, trace_id, accepted_ms, failures, refusals, hops
         FROM events WHERE id = ?1",
    )?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut events = Vec::new();
    for id in ids.query_map(params![now_ms, limit], |row| row.get(0))? {
        let id: i64 = id?;
        if !skip.contains(&id) {
            events.push(whole.query_row([id], queued)?);
        }
    }
    Ok(events)
}

fn queued(row: &Row<'_>) -> rusqlite::Result<QueuedEvent> {
    Ok(QueuedEvent {
        id: row.get("id")?,
        event: event(row)?,
        accepted_ms: row.get("accepted_ms")?,
        failures: row.get("failures")?,
        refusals: row.get("refusals")?,
        hops: row.get("hops")?,
    })
}

fn event(row: &Row<'_>) -> rusqlite::Result<NewEvent> {
    Ok(NewEvent {
        request_id: row.get("request_id")?,
        target: Target { function: row.get("function")?, qualifier: row.get("qualifier")? },
        payload: row.get("payload")?,
        client_context: row.get("client_context")?,
        trace_id: row.get("trace_id")?,
    })
}

/// When the next event is due that is not due at `now_ms`.
pub(crate) fn next_due(connection: &Connection, now_ms: i64) -> rusqlite::Result<Option<i64>> {
    let mut select =
        connection.prepare_cached("SELECT due_ms FROM events WHERE due_ms > ?1 ORDER BY due_ms LIMIT 1")?;
    select.query_row([now_ms], |row| row.get(0)).optional()
}

pub(crate) fn count(connection: &Connection) -> rusqlite::Result<u64> {
    connection.prepare_cached("SELECT count(*) FROM events")?.query_row([], |row| row.get(0))
}

/// The dead letters, latest first, at most `limit`.
pub(crate) fn dead_letters(connection: &Connection, limit: u32) -> rusqlite::Result<Vec<DeadLetter>> {
    let mut select = connection.prepare_cached(
        "SELECT request_id, function, qualifier, payload, client_context, trace_id, accepted_ms, ended_ms, condition, response
         FROM dead_letters ORDER BY id DESC LIMIT ?1",
    )?;
    let letter = |row: &Row<'_>| {
        Ok(DeadLetter {
            event: event(row)?,
            accepted_ms: row.get("accepted_ms")?,
            ended_ms: row.get("ended_ms")?,
            condition: row.get("condition")?,
            response: row.get("response")?,
        })
    };
    select.query_map([limit], letter)?.collect()
}
