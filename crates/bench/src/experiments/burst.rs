//! Many requests at once: for one snapshot, and for as many copies of it.

use std::path::Path;
use std::sync::Barrier;
use std::thread;

use store::Store;

use crate::attempt::Request;
use crate::catalogue::Subject;
use crate::error::BenchError;
use crate::journal::{Entry, Key};
use crate::mode::{Files, How, Mode};
use crate::page_cache::SnapshotFiles;
use crate::progress::Progress;
use crate::run::{BenchOptions, Run};
use crate::snapshots::{BenchSnapshot, Copying};

const FUNCTIONS: [&str; 2] = ["hello-world", "json"];
pub(crate) const SIZES: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];
const QUICK_SIZES: [usize; 4] = [1, 4, 16, 64];
pub(crate) const MODES: [Mode; 4] = [Mode::Cached, Mode::FaaSnap, Mode::Reap, Mode::OnDemandRandom];
/// Bursts take long: at most this many count.
const REPEATS: u32 = 5;

/// Which snapshots the requests of a burst are for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Snapshots {
    /// All for one.
    Same,
    /// Each for a copy of its own.
    Different,
}

impl Snapshots {
    pub const ALL: [Self; 2] = [Self::Same, Self::Different];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Different => "different",
        }
    }
}

/// How a burst is called in records: `faasnap, same, 64`.
pub(crate) fn name(mode: Mode, snapshots: Snapshots, size: usize) -> String {
    format!("{mode}, {}, {size}", snapshots.name())
}

/// Measures what is missing.
pub(crate) fn measure(store: &Store, options: &BenchOptions) -> Result<Run, BenchError> {
    let options = &BenchOptions {
        repeats: options.repeats.or(Some(if options.quick { 2 } else { REPEATS })),
        ..options.clone()
    };
    let mut run = Run::open(store, "burst", options, &FUNCTIONS, &FUNCTIONS[..1], String::new())?;
    if run.is_over() {
        return Ok(run);
    }
    let subjects = std::mem::take(&mut run.subjects);
    let sizes: &[usize] = if run.quick { &QUICK_SIZES } else { &SIZES };
    let total = subjects.len() * sizes.len() * MODES.len() * Snapshots::ALL.len() * run.repeats as usize;
    let done = run.journal.entries().iter().filter(|entry| matches!(entry, Entry::Burst { .. })).count();
    let progress = Progress::new(total as u64, done as u64);
    for subject in &subjects {
        progress.begin(&format!("{}: bursts of up to {}", subject.name, sizes.last().unwrap_or(&0)));
        let snapshot = BenchSnapshot::make(&run.snapshots, subject, |_| Ok(()))?;
        run.describe(subject, &snapshot)?;
        for snapshots in Snapshots::ALL {
            let copies = copies(&snapshot, snapshots, *sizes.last().unwrap_or(&1))?;
            for size in sizes {
                bursts(&mut run, subject, &copies, &MODES, snapshots, *size, &progress)?;
            }
            if snapshots == Snapshots::Different {
                copies.into_iter().try_for_each(BenchSnapshot::remove)?;
            }
        }
    }
    run.subjects = subjects;
    run.end(&progress)?;
    Ok(run)
}

/// What the requests of a burst are for, in turn.
fn copies(
    snapshot: &BenchSnapshot,
    snapshots: Snapshots,
    count: usize,
) -> Result<Vec<BenchSnapshot>, BenchError> {
    match snapshots {
        Snapshots::Same => Ok(vec![BenchSnapshot { folder: snapshot.folder.clone() }]),
        Snapshots::Different => {
            (0..count).map(|number| snapshot.copied(&format!("copy-{number}"), Copying::Files)).collect()
        }
    }
}

/// The repeats of one size, by each mode in turn; the first ones are not counted.
pub(crate) fn bursts(
    run: &mut Run,
    subject: &Subject,
    copies: &[BenchSnapshot],
    modes: &[Mode],
    snapshots: Snapshots,
    size: usize,
    progress: &Progress,
) -> Result<(), BenchError> {
    let repeats = run.repeats.min(REPEATS);
    let Some(input) = subject.input("b") else { return Ok(()) };
    let request = Request { subject, input };
    let key = |mode: Mode, repeat| Key {
        function: subject.name.to_string(),
        mode: name(mode, snapshots, size),
        input: input.label.clone(),
        repeat,
    };
    let missing = |run: &Run, mode, repeat| !run.journal.has(&key(mode, repeat));
    if !(1..=repeats).any(|repeat| modes.iter().any(|mode| missing(run, *mode, repeat))) {
        return Ok(());
    }
    for repeat in 0..=repeats {
        for mode in modes.iter().copied() {
            let Some(how) = mode.how() else { continue };
            if repeat > 0 && !missing(run, mode, repeat) {
                continue;
            }
            progress.at(&format!("{} {}", subject.name, name(mode, snapshots, size)));
            let folders: Vec<&Path> =
                copies.iter().map(|copy| copy.folder.as_path()).cycle().take(size).collect();
            let answered_ns = at_once(request, &folders, &how)?;
            if repeat > 0 {
                run.journal.add(Entry::Burst { key: key(mode, repeat), answered_ns })?;
                progress.advance();
            }
        }
    }
    Ok(())
}

/// Sends a request for each of `folders` at once, each to a ready worker of its own; gives when they were answered, in
/// nanoseconds since the first one was sent.
fn at_once(request: Request<'_>, folders: &[&Path], how: &How) -> Result<Vec<u64>, BenchError> {
    let mut distinct = folders.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    let mut workers = Vec::new();
    for _ in folders {
        let worker = request.subject.worker_for(&distinct, how);
        workers.push(worker.map_err(|source| request.worker_error(how, source))?);
    }
    for folder in distinct {
        let files = SnapshotFiles::open(folder)?;
        match how.files {
            Files::Cold => files.drop_from_cache()?,
            Files::Cached => files.bring_into_cache()?,
        }
    }
    let ready = Barrier::new(folders.len());
    let answered = thread::scope(|scope| {
        let mut threads = Vec::new();
        for (folder, worker) in folders.iter().zip(workers) {
            let ready = &ready;
            threads.push(scope.spawn(move || {
                ready.wait();
                request.answered(worker, folder, how)
            }));
        }
        threads.into_iter().map(|thread| thread.join()).collect::<Vec<_>>()
    });
    // None is ended before all have answered.
    let mut instances = Vec::new();
    for answered in answered {
        let panicked = |_| BenchError::Impossible { what: "a burst", reason: "a thread panicked".to_owned() };
        instances.push(answered.map_err(panicked)??);
    }
    let begin = instances.iter().map(|(sent, ..)| *sent).min().unwrap_or(0);
    let times = instances.iter().map(|(_, answered, _)| answered - begin).collect();
    for (.., worker) in instances {
        worker.stop().map_err(|source| request.worker_error(how, source))?;
    }
    Ok(times)
}
