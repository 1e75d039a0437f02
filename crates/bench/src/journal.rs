//! A run's folder: every result is appended as it comes, so that an interrupted run goes on where it ended.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::attempt::Measured;
use crate::bandwidth::Bandwidth;
use crate::environment::Environment;
use crate::error::BenchError;
use crate::snapshots::SnapshotFigures;

/// Raised when entries change their meaning: an older run is not continued then.
const FORMAT: u32 = 1;

/// What a run measures; a run is only continued with the same.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Settings {
    pub format: u32,
    pub experiment: String,
    pub functions: Vec<String>,
    pub repeats: u32,
    pub quick: bool,
    /// What else the experiment was told.
    pub more: String,
}

impl Settings {
    pub fn new(experiment: &str, functions: Vec<String>, repeats: u32, quick: bool, more: String) -> Self {
        Self { format: FORMAT, experiment: experiment.to_owned(), functions, repeats, quick, more }
    }
}

/// Identifies one measured request.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(crate) struct Key {
    pub function: String,
    /// A way to an answer: a mode, a technique left out, a burst's size.
    pub mode: String,
    pub input: String,
    /// From 1 on.
    pub repeat: u32,
}

/// A line of the journal.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Entry {
    /// The first line.
    Began {
        settings: Settings,
        environment: Environment,
    },
    Snapshot {
        function: String,
        figures: SnapshotFigures,
    },
    /// Of the loading-set file.
    Bandwidth {
        function: String,
        bandwidth: Bandwidth,
    },
    /// Stored pages that a request touches, counted by a userfaultfd.
    Touched {
        function: String,
        input: String,
        pages: u64,
    },
    Sample {
        key: Key,
        measured: Measured,
    },
    /// Requests at once: when each was answered, in nanoseconds since all were sent.
    Burst {
        key: Key,
        answered_ns: Vec<u64>,
    },
    /// Left out, and why.
    Unavailable {
        mode: String,
        reason: String,
    },
    /// Nothing is missing.
    Ended,
}

/// The journal of a run.
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    entries: Vec<Entry>,
}

impl Journal {
    /// Opens the run in `folder` to go on with it, or begins it.
    pub fn open(folder: &Path, settings: &Settings, environment: Environment) -> Result<Self, BenchError> {
        fs::create_dir_all(folder).map_err(BenchError::io("creating", folder))?;
        let path = folder.join("journal.jsonl");
        let (entries, whole) = read(&path)?;
        let file = File::options().create(true).append(true).open(&path);
        let file = file.map_err(BenchError::io("opening", &path))?;
        // A line that an interruption cut short.
        file.set_len(whole).map_err(BenchError::io("writing", &path))?;
        let mut journal = Self { path, file, entries };
        match journal.entries.first() {
            None => {
                journal.add(Entry::Began { settings: settings.clone(), environment })?;
            }
            Some(Entry::Began { settings: then, environment: at }) => {
                let difference = if then != settings {
                    Some(format!("then {then:?}"))
                } else if at.build != environment.build && !journal.is_complete() {
                    Some(format!("it was begun with {}", at.build))
                } else {
                    None
                };
                if let Some(difference) = difference {
                    return Err(BenchError::AnotherRun { path: folder.to_owned(), difference });
                }
            }
            Some(_) => {
                let difference = "its first line is no beginning".to_owned();
                return Err(BenchError::AnotherRun { path: folder.to_owned(), difference });
            }
        }
        Ok(journal)
    }

    /// The run in `folder`, whatever it is, to be reported.
    pub fn of_report(folder: &Path) -> Result<Self, BenchError> {
        let path = folder.join("journal.jsonl");
        let file = File::open(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => BenchError::NoRun { path: folder.to_owned() },
            _ => BenchError::io("opening", &path)(source),
        })?;
        Ok(Self { entries: read(&path)?.0, path, file })
    }

    /// Appends a result.
    pub fn add(&mut self, entry: Entry) -> Result<(), BenchError> {
        let mut line = serde_json::to_vec(&entry)
            .map_err(|source| BenchError::Damaged { path: self.path.clone(), source })?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(BenchError::io("writing", &self.path))?;
        self.entries.push(entry);
        Ok(())
    }

    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub fn is_complete(&self) -> bool {
        self.entries.last() == Some(&Entry::Ended)
    }

    /// Whether the request was measured already.
    pub fn has(&self, key: &Key) -> bool {
        self.entries.iter().any(|entry| match entry {
            Entry::Sample { key: there, .. } | Entry::Burst { key: there, .. } => there == key,
            _ => false,
        })
    }

    /// Whether an entry fits.
    pub fn any(&self, fits: impl Fn(&Entry) -> bool) -> bool {
        self.entries.iter().any(fits)
    }

    pub fn environment(&self) -> Option<&Environment> {
        match self.entries.first() {
            Some(Entry::Began { environment, .. }) => Some(environment),
            _ => None,
        }
    }
}

/// The results of the run in `folder`, complete or not.
pub(crate) fn load(folder: &Path) -> Result<Vec<Entry>, BenchError> {
    Ok(read(&folder.join("journal.jsonl"))?.0)
}

/// The entries of a journal and the bytes that they take; a last line without an end does not count.
fn read(path: &Path) -> Result<(Vec<Entry>, u64), BenchError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Vec::new(), 0)),
        Err(error) => return Err(BenchError::io("reading", path)(error)),
    };
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    let lines = text.get(..whole).unwrap_or_default().lines();
    let entries = lines
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()
        .map_err(|source| BenchError::Damaged { path: path.to_owned(), source })?;
    Ok((entries, whole as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(repeats: u32) -> Settings {
        Settings::new("modes", vec!["json".to_owned()], repeats, false, String::new())
    }

    #[test]
    fn an_interrupted_run_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let here = || Environment::of(folder.path(), None);
        let mut journal = Journal::open(folder.path(), &settings(3), here()).unwrap();
        let reason = "no reason".to_owned();
        journal.add(Entry::Unavailable { mode: "reap".to_owned(), reason }).unwrap();
        drop(journal);
        let path = folder.path().join("journal.jsonl");
        let mut file = File::options().append(true).open(&path).unwrap();
        file.write_all(b"{\"sample\":{\"key").unwrap();
        let mut journal = Journal::open(folder.path(), &settings(3), here()).unwrap();
        assert_eq!(journal.entries().len(), 2);
        assert!(!journal.is_complete());
        journal.add(Entry::Ended).unwrap();
        let journal = Journal::open(folder.path(), &settings(3), here()).unwrap();
        assert!(journal.is_complete());
    }

    #[test]
    fn a_run_of_other_settings_is_not_continued() {
        let folder = tempfile::tempdir().unwrap();
        let here = || Environment::of(folder.path(), None);
        Journal::open(folder.path(), &settings(3), here()).unwrap();
        let refused = Journal::open(folder.path(), &settings(4), here());
        assert!(matches!(refused, Err(BenchError::AnotherRun { .. })));
    }
}
