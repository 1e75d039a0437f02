//! The thread that alone touches the database: what waits while one transaction is synced goes into the next together.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, Transaction};
use tokio::sync::oneshot;

use crate::database;
use crate::error::QueueError;
use crate::event::{DeadLetter, NewEvent, QueuedEvent};

/// Changes that share a transaction at most: bounds how long the first of them waits.
const BATCH: usize = 1024;

/// A change to the queue. It is durable when its sender is answered.
#[derive(Debug)]
pub(crate) enum Change {
    Put(NewEvent),
    /// An event is over; another one, or a letter, may follow from it.
    Over {
        id: i64,
        follow: Option<(NewEvent, u32)>,
        letter: Option<DeadLetter>,
    },
    /// An event is tried again.
    PutOff {
        id: i64,
        failures: u32,
        refusals: u32,
        due_ms: i64,
    },
}

/// What is due, and when something will be next.
#[derive(Debug, Default)]
pub(crate) struct Due {
    pub events: Vec<QueuedEvent>,
    pub next_ms: Option<i64>,
}

enum Request {
    Change(Change, oneshot::Sender<Result<(), QueueError>>),
    Due { limit: usize, skip: HashSet<i64>, answer: oneshot::Sender<Result<Due, QueueError>> },
    DeadLetters { limit: u32, answer: oneshot::Sender<Result<Vec<DeadLetter>, QueueError>> },
    Count(oneshot::Sender<Result<u64, QueueError>>),
}

/// The way to the thread. It ends when the last of these is dropped.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    requests: Sender<Request>,
    commits: Arc<AtomicU64>,
}

impl Writer {
    pub fn start(path: &Path, dead_letters: u32) -> Result<Self, QueueError> {
        let connection = database::open(path)?;
        let (requests, receiver) = mpsc::channel();
        let commits = Arc::new(AtomicU64::new(0));
        let counter = commits.clone();
        let run = move || run(connection, &receiver, dead_letters, &counter);
        std::thread::Builder::new().name("event-queue".to_owned()).spawn(run).map_err(QueueError::Thread)?;
        Ok(Self { requests, commits })
    }

    pub async fn change(&self, change: Change) -> Result<(), QueueError> {
        self.ask(|answer| Request::Change(change, answer)).await
    }

    /// What is due among the first `limit`, without those in `skip`.
    pub async fn due(&self, limit: usize, skip: HashSet<i64>) -> Result<Due, QueueError> {
        self.ask(|answer| Request::Due { limit, skip, answer }).await
    }

    pub async fn dead_letters(&self, limit: u32) -> Result<Vec<DeadLetter>, QueueError> {
        self.ask(|answer| Request::DeadLetters { limit, answer }).await
    }

    pub async fn count(&self) -> Result<u64, QueueError> {
        self.ask(Request::Count).await
    }

    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, QueueError>>) -> Request,
    ) -> Result<T, QueueError> {
        let (sender, receiver) = oneshot::channel();
        self.requests.send(request(sender)).map_err(|_| QueueError::Closed)?;
        receiver.await.unwrap_or(Err(QueueError::Closed))
    }
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn run(mut connection: Connection, requests: &Receiver<Request>, dead_letters: u32, commits: &AtomicU64) {
    while let Ok(first) = requests.recv() {
        let mut changes = Vec::new();
        let mut request = Some(first);
        // Whoever asks sees what was changed before: questions end a batch.
        let question = loop {
            match request.take() {
                Some(Request::Change(change, answer)) => changes.push((change, answer)),
                other => break other,
            }
            if changes.len() < BATCH {
                request = requests.try_recv().ok();
            }
        };
        if !changes.is_empty() {
            commit(&mut connection, changes, dead_letters);
            commits.fetch_add(1, Ordering::Relaxed);
        }
        // Whoever asked may have gone away.
        match question {
            Some(Request::Due { limit, skip, answer }) => drop(answer.send(due(&connection, limit, &skip))),
            Some(Request::DeadLetters { limit, answer }) => {
                drop(answer.send(database::dead_letters(&connection, limit).map_err(write)));
            }
            Some(Request::Count(answer)) => drop(answer.send(database::count(&connection).map_err(write))),
            Some(Request::Change(..)) | None => {}
        }
    }
}

fn due(connection: &Connection, limit: usize, skip: &HashSet<i64>) -> Result<Due, QueueError> {
    let now = now_ms();
    let events = database::due(connection, now, limit, skip).map_err(write)?;
    Ok(Due { events, next_ms: database::next_due(connection, now).map_err(write)? })
}

fn write(error: rusqlite::Error) -> QueueError {
    QueueError::Write(error.to_string())
}

fn commit(
    connection: &mut Connection,
    changes: Vec<(Change, oneshot::Sender<Result<(), QueueError>>)>,
    dead_letters: u32,
) {
    let done = (|| {
        let transaction = connection.transaction()?;
        for (change, _) in &changes {
            apply(&transaction, change, dead_letters)?;
        }
        transaction.commit()
    })();
    let problem = done.err().map(|error: rusqlite::Error| error.to_string());
    for (_, answer) in changes {
        let result = problem.clone().map_or(Ok(()), |problem| Err(QueueError::Write(problem)));
        let _ = answer.send(result);
    }
}

fn apply(transaction: &Transaction<'_>, change: &Change, dead_letters: u32) -> rusqlite::Result<()> {
    match change {
        Change::Put(event) => database::insert(transaction, event, 0, now_ms()),
        Change::Over { id, follow, letter } => {
            if let Some((event, hops)) = follow {
                database::insert(transaction, event, *hops, now_ms())?;
            }
            if let Some(letter) = letter {
                database::bury(transaction, letter, dead_letters)?;
            }
            database::delete(transaction, *id)
        }
        Change::PutOff { id, failures, refusals, due_ms } => {
            database::put_off(transaction, *id, *failures, *refusals, *due_ms)
        }
    }
}
