//! What a worker says of a snapshot, checked and kept. A worker can write no snapshot but the one that it is asked for, and that
//! only until it is done: everything else comes as bytes, from a process that a hostile guest may have taken over.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jail::Passage;
use restore::{GuestLayout, LoadingSet, LoadingSetRule, Recording, RecordingError, RestoreStrategy};
use snapshot::{DISK_FILE, MEMORY_FILE, STATE_FILE, Snapshot, SnapshotError};
use thiserror::Error;
use worker_protocol::{Learned, Record};

/// The folder that a worker writes into the directory that it is given for a snapshot.
const WRITTEN: &str = "snapshot";

/// What a worker said can't be kept.
#[derive(Debug, Error)]
pub enum KeepError {
    /// The snapshot that the instance came from can't be read, or nothing be put beside it.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// What was sent is no recording of it.
    #[error(transparent)]
    Recording(#[from] RecordingError),
    /// A file beside the snapshot can't be changed.
    #[error("changing what is known of a snapshot")]
    Io(#[from] io::Error),
}

/// A snapshot that was not written as it is asked for.
#[derive(Debug, Error)]
pub enum WrittenError {
    /// The worker could still change it.
    #[error("the worker keeps files of the snapshot open")]
    Open(#[source] jail::JailError),
    /// Something else is there.
    #[error("the worker wrote something that is no snapshot: {0}")]
    Strange(PathBuf),
    /// It can't be looked at.
    #[error("looking at what the worker wrote")]
    Io(#[from] io::Error),
}

/// The snapshot that an instance was restored from, and what it may say of it: each thing once.
#[derive(Debug)]
pub(crate) struct Restoring {
    directory: PathBuf,
    strategy: RestoreStrategy,
    may_record: bool,
    said: [bool; 3],
}

/// Work on a snapshot's files: it reads and writes as much as a loading set has, so it belongs off an event loop.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Keeping {
    directory: PathBuf,
    strategy: RestoreStrategy,
    learned: Learned,
}

impl Restoring {
    pub fn new(directory: &Path, strategy: RestoreStrategy, record: Record) -> Self {
        Self { directory: directory.to_owned(), strategy, may_record: record != Record::No, said: [false; 3] }
    }

    /// The work that follows; `None` for what was said before or not asked for.
    pub fn hear(&mut self, learned: Learned) -> Option<Keeping> {
        let [recording, outgrown, damaged] = &mut self.said;
        let said = match &learned {
            Learned::Recording(_) if !self.may_record => return None,
            Learned::Recording(_) => recording,
            Learned::Outgrown => outgrown,
            Learned::Damaged => damaged,
        };
        let is_new = !std::mem::replace(said, true);
        is_new.then(|| Keeping { directory: self.directory.clone(), strategy: self.strategy, learned })
    }
}

impl Keeping {
    /// Checks what was said and keeps it: a recording becomes a loading-set file with the snapshot's own pages, a file that is
    /// said to be damaged is set aside if it is.
    ///
    /// # Errors
    /// [`KeepError`]. What was beside the snapshot is as it was.
    pub fn keep(&self) -> Result<(), KeepError> {
        let snapshot = Snapshot::open(&self.directory)?;
        let layout = GuestLayout::from_snapshot(&snapshot)?;
        match &self.learned {
            Learned::Recording(bytes) => {
                let recording = Recording::decode(bytes, &snapshot, self.strategy)?;
                let recording = recording.added_to_published(&snapshot, &layout);
                let rule = LoadingSetRule::measured(snapshot.memory_file());
                recording.publish(&snapshot, &layout, &rule)?;
            }
            Learned::Outgrown => LoadingSet::mark_outgrown(&snapshot)?,
            Learned::Damaged => {
                let name = LoadingSet::file_name(self.strategy);
                LoadingSet::set_aside_if_damaged(&snapshot, name, &layout)?;
            }
        }
        Ok(())
    }
}

/// A directory in which a worker writes a snapshot.
#[derive(Debug)]
pub(crate) struct Writing {
    pub parent: PathBuf,
    /// The worker's mount of it.
    pub handed: OwnedFd,
}

impl Writing {
    /// Makes sure that the worker can't change what it wrote, and that this is a snapshot's files and nothing else: a link in their
    /// place would lead a later instance to another function's.
    pub fn finish(self, passage: &Passage) -> Result<(), WrittenError> {
        passage.seal(self.handed.as_fd()).map_err(WrittenError::Open)?;
        let folder = self.parent.join(WRITTEN);
        if !folder.symlink_metadata()?.is_dir() {
            return Err(WrittenError::Strange(folder));
        }
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            let is_known =
                [STATE_FILE, MEMORY_FILE, DISK_FILE].iter().any(|name| entry.file_name() == **name);
            if !is_known || !metadata.is_file() || metadata.nlink() != 1 {
                return Err(WrittenError::Strange(entry.path()));
            }
        }
        Ok(())
    }
}
