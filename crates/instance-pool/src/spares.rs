//! Worker processes that wait, each with an empty machine, for whatever function is called next: some for process guests, and where
//! linux guests were restored lately as many for these, each for functions of one size.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use function_worker::{RecentRestores, SpareWorker, WorkerError};
use parking_lot::Mutex;
use store::Store;
use tokio::sync::Notify;
use worker_protocol::MachineKind;

/// How long after the last start a spare worker is made while there are others: making one takes a processor for some 40 ms, which
/// whoever waits for that start would rather have.
const QUIET: Duration = Duration::from_millis(200);

/// The spare workers of a pool.
#[derive(Debug)]
pub(crate) struct Spares {
    program: Option<PathBuf>,
    /// How many for each kind of guest.
    wanted: usize,
    ready: Mutex<Vec<(MachineKind, SpareWorker)>>,
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

    /// Takes note that a worker with such a machine went on from the snapshot in `directory`.
    pub fn note_restore(&self, directory: &Path, machine: MachineKind) {
        self.recent.lock().note(directory, machine);
        // There may be none for such a machine yet.
        self.taken.notify_one();
    }

    /// A worker with such a machine: a spare one if there is one, else a new one. Waits for a process to be made in the latter
    /// case.
    pub fn take(&self, machine: MachineKind) -> Result<SpareWorker, WorkerError> {
        loop {
            let spare = {
                let mut ready = self.ready.lock();
                let last = ready.iter().rposition(|(kind, _)| *kind == machine);
                last.map(|place| ready.remove(place).1)
            };
            self.taken.notify_one();
            let Some(mut spare) = spare else { return self.start(machine) };
            // It may have been killed while it waited.
            if spare.is_alive() {
                return Ok(spare);
            }
        }
    }

    fn start(&self, machine: MachineKind) -> Result<SpareWorker, WorkerError> {
        match &self.program {
            None => SpareWorker::start(machine),
            Some(program) => SpareWorker::start_program(program, machine),
        }
    }

    /// What the next spare worker is to be made for, unless all are there. One that nobody is likely to want any more is ended.
    fn missing(&self) -> Option<MachineKind> {
        let kept = kept(self.wanted, &self.recent.lock().machines());
        let (missing, superfluous) = {
            let mut ready = self.ready.lock();
            let there: Vec<MachineKind> = ready.iter().map(|(kind, _)| *kind).collect();
            let (missing, surplus) = compare(kept, &there);
            let surplus: Vec<_> = surplus.into_iter().rev().map(|place| ready.remove(place)).collect();
            (missing, surplus)
        };
        drop(superfluous);
        missing
    }

    /// Makes one.
    fn add(&self, machine: MachineKind) -> Result<(), WorkerError> {
        let mut spare = self.start(machine)?;
        spare.wait_ready()?;
        // It is of use before that is done.
        let recent = self.recent.lock().clone();
        spare.make_memory_ready(recent.likely_pages(machine))?;
        self.ready.lock().push((machine, spare));
        Ok(())
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
            while let Some(machine) = self.missing() {
                let spares = self.clone();
                let started = tokio::task::spawn_blocking(move || spares.add(machine));
                match started.await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => {
                        let error = crate::start::chain(&error);
                        tracing::warn!(error, %machine, "no spare worker could be started");
                        if machine == MachineKind::Process {
                            break;
                        }
                        // A home may have linux guests that this machine can't run. The next that is restored here is noted anew.
                        self.recent.lock().forget(machine);
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

/// What spare workers are kept for, so many for each kind of guest: those for linux guests for the kinds of machine that were
/// used last, `lately`, the latest first.
fn kept(count: usize, lately: &[MachineKind]) -> Vec<MachineKind> {
    let linux = lately.iter().copied().filter(|machine| *machine != MachineKind::Process).cycle();
    std::iter::repeat_n(MachineKind::Process, count).chain(linux.take(count)).collect()
}

/// The first of `kept` that is not `there`, and the places of those that are and are not kept, ascending.
fn compare(mut kept: Vec<MachineKind>, there: &[MachineKind]) -> (Option<MachineKind>, Vec<usize>) {
    let mut is_surplus = |machine: &MachineKind| match kept.iter().position(|kept| kept == machine) {
        Some(place) => {
            kept.remove(place);
            false
        }
        None => true,
    };
    let surplus = there.iter().enumerate().filter(|(_, machine)| is_surplus(machine)).map(|(place, _)| place);
    let surplus = surplus.collect();
    (kept.first().copied(), surplus)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROCESS: MachineKind = MachineKind::Process;

    fn linux(memory_mib: u64) -> MachineKind {
        MachineKind::Linux { memory_mib }
    }

    #[test]
    fn linux_guests_have_as_many_as_process_guests_once_there_are_any() {
        assert_eq!(kept(2, &[]), [PROCESS; 2]);
        assert_eq!(kept(2, &[PROCESS]), [PROCESS; 2]);
        assert_eq!(kept(2, &[linux(128), PROCESS]), [PROCESS, PROCESS, linux(128), linux(128)]);
        let sizes = [linux(128), linux(256), linux(512)];
        assert_eq!(kept(2, &sizes), [PROCESS, PROCESS, linux(128), linux(256)]);
        assert_eq!(kept(0, &sizes), []);
    }

    #[test]
    fn what_is_missing_is_made_and_what_nobody_wants_is_ended() {
        let kept = [PROCESS, PROCESS, linux(128), linux(256)].to_vec();
        assert_eq!(compare(kept.clone(), &[]), (Some(PROCESS), vec![]));
        assert_eq!(compare(kept.clone(), &[PROCESS, linux(512), PROCESS]), (Some(linux(128)), vec![1]));
        assert_eq!(
            compare(kept.clone(), &[linux(128), linux(128), PROCESS, PROCESS]),
            (Some(linux(256)), vec![1])
        );
        assert_eq!(compare(kept.clone(), &kept), (None, vec![]));
    }
}
