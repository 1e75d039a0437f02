//! A run of an experiment: its folder, its functions, and going through requests in turn.

use std::fs;
use std::path::{Path, PathBuf};

use store::{FunctionName, Store};

use crate::attempt::{Measured, Request, WarmInstance};
use crate::bandwidth;
use crate::catalogue::Subject;
use crate::environment::Environment;
use crate::error::BenchError;
use crate::journal::{Entry, Journal, Key, Settings};
use crate::mode::How;
use crate::progress::Progress;
use crate::readahead::Readahead;
use crate::snapshots::{BenchSnapshot, Copying, recorded_request};
use crate::statistics::Random;
use crate::throttle::ThrottleBy;
use crate::yardstick::{self, ForkServer};

/// How long each shape of fio reads, in milliseconds.
const BANDWIDTH_MS: u32 = 400;

/// What every experiment can be told.
#[derive(Clone, Debug, Default)]
pub struct BenchOptions {
    /// The functions; none: those that the experiment chooses among all that can be measured.
    pub functions: Vec<FunctionName>,
    /// Repeats of each request, the warm-up not counted.
    pub repeats: Option<u32>,
    /// Few functions and repeats: under two minutes.
    pub quick: bool,
    /// The run's folder.
    pub into: Option<PathBuf>,
    /// Begin anew, although the folder holds a run.
    pub again: bool,
    /// Measure nothing: report what the folder holds, complete or not.
    pub report_only: bool,
    /// What `slow-disk` slows the disk down by, if not by what is there.
    pub throttle_by: Option<ThrottleBy>,
}

impl BenchOptions {
    fn repeats(&self) -> u32 {
        self.repeats.unwrap_or(if self.quick { 3 } else { 10 })
    }
}

/// Something that is repeated: measured once in each round, in an order that changes.
pub(crate) struct Turn<'a> {
    pub mode: String,
    pub input: &'a str,
    /// Measured in the first rounds only, when it takes long.
    pub at_most: u32,
    pub way: Way,
}

/// Where the instance of a turn comes from.
pub(crate) enum Way {
    Warm,
    Booted,
    Process,
    ForkServer,
    Restored(How),
    /// From a copy that has no recordings, since one would be added to what is there.
    Recorded(How),
}

/// What is kept between the turns of a function.
#[derive(Default)]
struct Kept {
    warm: Option<WarmInstance>,
    fork_server: Option<ForkServer>,
}

/// A run that goes on.
pub(crate) struct Run {
    pub folder: PathBuf,
    /// Where the snapshots of this run are made.
    pub snapshots: PathBuf,
    pub subjects: Vec<Subject>,
    pub journal: Journal,
    pub readahead: Option<Readahead>,
    pub repeats: u32,
    pub quick: bool,
    report_only: bool,
}

impl Run {
    /// Opens or begins the run of `experiment`. `defaults` are the functions it takes when none is named (all when empty),
    /// `quick_functions` those of a quick run.
    pub fn open(
        store: &Store,
        experiment: &str,
        options: &BenchOptions,
        defaults: &[&str],
        quick_functions: &[&str],
        more: String,
    ) -> Result<Self, BenchError> {
        let folder = options.into.clone().unwrap_or_else(|| {
            let suffix = if options.quick { "-quick" } else { "" };
            Path::new("bench-results").join(format!("{experiment}{suffix}"))
        });
        let snapshots = snapshots_in(&folder);
        let (repeats, quick, report_only) = (options.repeats(), options.quick, options.report_only);
        if report_only {
            let journal = Journal::of_report(&folder)?;
            return Ok(Self {
                folder,
                snapshots,
                subjects: Vec::new(),
                journal,
                readahead: None,
                repeats,
                quick,
                report_only,
            });
        }
        let mut subjects = Subject::all(store, &options.functions)?;
        let chosen = if options.quick { quick_functions } else { defaults };
        if options.functions.is_empty() && !chosen.is_empty() {
            subjects.retain(|subject| chosen.contains(&subject.name.as_str()));
        }
        if subjects.is_empty() {
            return Err(BenchError::NoFunctions);
        }
        if options.again && folder.join("journal.jsonl").exists() {
            fs::remove_dir_all(&folder).map_err(BenchError::io("removing", &folder))?;
        }
        fs::create_dir_all(&snapshots).map_err(BenchError::io("creating", &snapshots))?;
        let readahead = Readahead::of(&folder)?;
        let environment = Environment::of(&folder, readahead.as_ref().map(|readahead| readahead.kib));
        let names = subjects.iter().map(|subject| subject.name.to_string()).collect();
        let settings = Settings::new(experiment, names, repeats, quick, more);
        let journal = Journal::open(&folder, &settings, environment)?;
        Ok(Self { folder, snapshots, subjects, journal, readahead, repeats, quick, report_only })
    }

    /// Whether nothing is to be measured.
    pub fn is_over(&self) -> bool {
        self.report_only || self.journal.is_complete()
    }

    /// Notes once that something is left out.
    pub fn leave_out(&mut self, mode: &str, reason: String, progress: &Progress) -> Result<(), BenchError> {
        let entry = Entry::Unavailable { mode: mode.to_owned(), reason: reason.clone() };
        if self.journal.entries().contains(&entry) {
            return Ok(());
        }
        progress.note(&format!("{mode} is left out: {reason}"));
        self.journal.add(entry)
    }

    /// Everything was measured: the snapshots go, the results stay.
    pub fn end(&mut self, progress: &Progress) -> Result<(), BenchError> {
        progress.finish();
        if !self.journal.is_complete() {
            self.journal.add(Entry::Ended)?;
        }
        let snapshots = snapshots_in(&self.folder);
        if snapshots.exists() {
            fs::remove_dir_all(&snapshots).map_err(BenchError::io("removing", &snapshots))?;
        }
        Ok(())
    }

    /// Requests that `turns` make for all of `subjects`, and those that were measured.
    pub fn count(&self, turns: &[Turn<'_>], subjects: &[Subject]) -> (u64, u64) {
        let (mut total, mut done) = (0, 0);
        for subject in subjects {
            for turn in turns {
                for repeat in 1..=self.repeats.min(turn.at_most) {
                    total += 1;
                    done += u64::from(self.journal.has(&key(subject, turn, repeat)));
                }
            }
        }
        (total, done)
    }

    /// Goes through `turns` with each of `subjects`, on a snapshot of its own; `started` is told of every worker.
    pub fn compare(
        &mut self,
        subjects: &[Subject],
        turns: &[Turn<'_>],
        progress: &Progress,
        started: impl Fn(u32) -> Result<(), BenchError>,
    ) -> Result<(), BenchError> {
        for subject in subjects {
            progress.begin(&format!("{}: snapshot, recordings, {} ways", subject.name, turns.len()));
            let snapshot = BenchSnapshot::make(&self.snapshots, subject, &started)?;
            self.describe(subject, &snapshot)?;
            self.rounds(subject, &snapshot, turns, progress, &started)?;
        }
        Ok(())
    }

    /// Goes through the turns of a function in rounds, each in an order of its own; a round that is not counted comes first.
    pub fn rounds(
        &mut self,
        subject: &Subject,
        snapshot: &BenchSnapshot,
        turns: &[Turn<'_>],
        progress: &Progress,
        started: impl Fn(u32) -> Result<(), BenchError>,
    ) -> Result<(), BenchError> {
        let missing = |journal: &Journal, turn: &Turn<'_>, repeat| {
            repeat <= turn.at_most && !journal.has(&key(subject, turn, repeat))
        };
        let rounds = 1..=self.repeats;
        if !rounds.clone().any(|repeat| turns.iter().any(|turn| missing(&self.journal, turn, repeat))) {
            return Ok(());
        }
        let mut kept = Kept::default();
        for repeat in std::iter::once(0).chain(rounds) {
            let mut order: Vec<&Turn<'_>> = turns
                .iter()
                .filter(|turn| match repeat {
                    0 => (1..=self.repeats).any(|repeat| missing(&self.journal, turn, repeat)),
                    repeat => missing(&self.journal, turn, repeat),
                })
                .collect();
            Random::new(u64::from(repeat)).shuffle(&mut order);
            for turn in order {
                progress.at(&format!("{} {} {}", subject.name, turn.mode, turn.input));
                let Some(input) = subject.input(turn.input) else { continue };
                let request = Request { subject, input };
                let measured = self.take(request, snapshot, &turn.way, &mut kept, &started)?;
                if repeat > 0 {
                    self.journal.add(Entry::Sample { key: key(subject, turn, repeat), measured })?;
                    progress.advance();
                }
            }
        }
        if let Some(warm) = kept.warm {
            let failed = |source| BenchError::Worker {
                function: subject.name.clone(),
                mode: "warm".to_owned(),
                input: String::new(),
                log: "ending it".to_owned(),
                source: Box::new(source),
            };
            WarmInstance::stop(warm).map_err(failed)?;
        }
        Ok(())
    }

    fn take(
        &mut self,
        request: Request<'_>,
        snapshot: &BenchSnapshot,
        way: &Way,
        kept: &mut Kept,
        started: impl Fn(u32) -> Result<(), BenchError>,
    ) -> Result<Measured, BenchError> {
        match way {
            Way::Booted => request.booted("cold"),
            Way::Process => yardstick::process(request),
            Way::ForkServer => {
                let server = match &mut kept.fork_server {
                    Some(server) => server,
                    none => none.insert(ForkServer::start(request.subject)?),
                };
                server.ask(request)
            }
            Way::Warm => {
                let instance = match &mut kept.warm {
                    Some(instance) => instance,
                    none => {
                        let recorded = recorded_request(request.subject)?;
                        none.insert(WarmInstance::start(recorded, &snapshot.folder)?)
                    }
                };
                instance.ask(request)
            }
            Way::Recorded(how) => {
                let copy = snapshot.copied("recorded-again", Copying::Links)?;
                let measured = request.restored(&copy.folder, how, &started)?;
                copy.remove()?;
                Ok(measured)
            }
            Way::Restored(how) => {
                let work = || request.restored(&snapshot.folder, how, &started);
                match (how.readahead_kib, &mut self.readahead) {
                    (Some(kib), Some(readahead)) => readahead.with(kib, work),
                    _ => work(),
                }
            }
        }
    }

    /// Notes what a function's snapshot is like, and what the disk gives for its loading set.
    pub fn describe(&mut self, subject: &Subject, snapshot: &BenchSnapshot) -> Result<(), BenchError> {
        let name = subject.name.to_string();
        let known = |entry: &Entry| matches!(entry, Entry::Snapshot { function, .. } if *function == name);
        if !self.journal.any(known) {
            let figures = snapshot.figures(subject)?;
            self.journal.add(Entry::Snapshot { function: name.clone(), figures })?;
        }
        let known = |entry: &Entry| matches!(entry, Entry::Bandwidth { function, .. } if *function == name);
        if !self.journal.any(known) && bandwidth::obstacle().is_none() {
            let milliseconds = if self.quick { BANDWIDTH_MS / 4 } else { BANDWIDTH_MS };
            let bandwidth = bandwidth::measure(&snapshot.loading_set_path(), milliseconds)?;
            self.journal.add(Entry::Bandwidth { function: name, bandwidth })?;
        }
        Ok(())
    }

    /// Counts the pages that the function touches with an input.
    pub fn count_touched(
        &mut self,
        subject: &Subject,
        snapshot: &BenchSnapshot,
        label: &str,
    ) -> Result<(), BenchError> {
        let known = |entry: &Entry| {
            matches!(entry, Entry::Touched { function, input, .. }
                if function == subject.name.as_str() && input == label)
        };
        let Some(input) = subject.input(label) else { return Ok(()) };
        if self.journal.any(known) {
            return Ok(());
        }
        let pages = snapshot.touched_pages(Request { subject, input })?;
        self.journal.add(Entry::Touched {
            function: subject.name.to_string(),
            input: label.to_owned(),
            pages,
        })
    }
}

fn snapshots_in(folder: &Path) -> PathBuf {
    folder.join("snapshots")
}

pub(crate) fn key(subject: &Subject, turn: &Turn<'_>, repeat: u32) -> Key {
    Key { function: subject.name.to_string(), mode: turn.mode.clone(), input: turn.input.to_owned(), repeat }
}
