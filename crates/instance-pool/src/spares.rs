//! Worker processes that wait, each with an empty machine, for whatever function is called next.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use function_worker::{RecentRestores, SpareWorker, WorkerError};
use parking_lot::Mutex;
use store::Store;
use tokio::sync::Notify;
use worker_protocol::GuestKind;

/// What spare workers are made for.
const KEPT: GuestKind = GuestKind::Process;

/// How long after the last start a spare worker is made while there are others: making one takes a processor for some 40 ms, which
/// whoever waits for that start would rather have.
const QUIET: Duration = Duration::from_millis(200);

/// The spare workers of a pool.
#[derive(Debug)]
pub(crate) struct Spares {
    program: Option<PathBuf>,
    wanted: usize,
    ready: Mutex<Vec<SpareWorker>>,
    taken: Notify,
    /// What the next ones make ready follows from it.
    recent: Mutex<RecentRestores>,
}

impl Spares {
    pub fn new(program: Option<PathBuf>, wanted: usize) -> Self {
        Self {
            program,
            wanted,
            ready: Mutex::new(Vec::with_capacity(wanted)),
            taken: Notify::new(),
            recent: Mutex::default(),
        }
    }

    /// Takes note that a worker went on from the snapshot of a process guest in `directory`.
    pub fn note_restore(&self, directory: &Path) {
        self.recent.lock().note(directory);
    }

    /// A worker for that kind of guest: a spare one if there is one, else a new one. Waits for a process to be made in the
    /// latter case, and so always for a linux guest.
    pub fn take(&self, guest: GuestKind) -> Result<SpareWorker, WorkerError> {
        if guest != KEPT {
            return self.start(guest);
        }
        loop {
            let spare = self.ready.lock().pop();
            self.taken.notify_one();
            let Some(mut spare) = spare else { return self.start(guest) };
            // It may have been killed while it waited.
            if spare.is_alive() {
                return Ok(spare);
            }
        }
    }

    fn start(&self, guest: GuestKind) -> Result<SpareWorker, WorkerError> {
        match &self.program {
            None => SpareWorker::start(guest),
            Some(program) => SpareWorker::start_program(program, guest),
        }
    }

    /// Fills up what was taken, for ever: when no start has come for a while, or when none is left. A machine that can't start
    /// workers is asked again with the next that is taken.
    pub async fn keep(self: Arc<Self>, store: Store) {
        let spares = self.clone();
        // Before anything was restored, the home tells what is likely to be.
        let learnt = tokio::task::spawn_blocking(move || match RecentRestores::of_home(&store) {
            Ok(recent) => *spares.recent.lock() = recent,
            Err(error) => {
                tracing::warn!(error = crate::start::chain(&error), "spare workers make no memory ready yet")
            }
        });
        if learnt.await.is_err() {
            return;
        }
        loop {
            let taken = self.taken.notified();
            while self.ready.lock().len() < self.wanted {
                let spares = self.clone();
                let started = tokio::task::spawn_blocking(move || {
                    let mut spare = spares.start(KEPT)?;
                    spare.wait_ready()?;
                    // It is of use before that is done.
                    let recent = spares.recent.lock().clone();
                    spare.make_memory_ready(recent.likely_pages())?;
                    spares.ready.lock().push(spare);
                    Ok::<_, WorkerError>(())
                });
                match started.await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => {
                        tracing::warn!(
                            error = crate::start::chain(&error),
                            "no spare worker could be started"
                        );
                        break;
                    }
                    Err(_) => return,
                }
            }
            taken.await;
            while self.count() > 0 && tokio::time::timeout(QUIET, self.taken.notified()).await.is_ok() {}
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.ready.lock().len()
    }
}
