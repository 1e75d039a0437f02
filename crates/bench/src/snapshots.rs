//! The snapshots that a run measures: made afresh in its own folder, recorded on input A.

use std::fs;
use std::path::{Path, PathBuf};

use pages::PAGE_SIZE;
use restore::{GuestLayout, LoadingSet, RestoreStrategy};
use serde::{Deserialize, Serialize};
use snapshot::Snapshot;

use crate::attempt::{self, Request};
use crate::catalogue::Subject;
use crate::error::BenchError;

/// What is known of a function's snapshot and its recordings, in bytes and pages.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct SnapshotFigures {
    /// Guest memory that is not zero.
    pub stored_bytes: u64,
    /// What memory file and state take on disk.
    pub bytes_on_disk: u64,
    /// FaaSnap's loading set.
    pub loading_pages: u64,
    /// The size of its file.
    pub loading_file_bytes: u64,
    /// Its regions.
    pub loading_regions: u64,
    /// REAP's working set.
    pub working_set_pages: u64,
}

/// A snapshot in a run's folder.
pub(crate) struct BenchSnapshot {
    pub folder: PathBuf,
}

impl BenchSnapshot {
    /// The snapshot of `subject` below `runs`, made and recorded when it isn't there yet. `started` hears of each worker.
    pub fn make(
        runs: &Path,
        subject: &Subject,
        started: impl Fn(u32) -> Result<(), BenchError>,
    ) -> Result<Self, BenchError> {
        let parent = runs.join(subject.name.as_str());
        let made = Self { folder: parent.join("snapshot") };
        let done = parent.join("recorded");
        if done.exists() {
            return Ok(made);
        }
        if parent.exists() {
            fs::remove_dir_all(&parent).map_err(BenchError::io("removing", &parent))?;
        }
        fs::create_dir_all(&parent).map_err(BenchError::io("creating", &parent))?;
        let request = recorded_request(subject)?;
        attempt::snapshotted(request, &parent)?;
        for strategy in [RestoreStrategy::FaaSnap, RestoreStrategy::Reap] {
            attempt::recorded(request, &made.folder, strategy, &started)?;
            made.recording(subject, strategy)?;
        }
        fs::write(&done, "").map_err(BenchError::io("writing", &done))?;
        Ok(made)
    }

    /// The recording of a strategy.
    pub fn recording(&self, subject: &Subject, strategy: RestoreStrategy) -> Result<LoadingSet, BenchError> {
        let snapshot = Snapshot::open(&self.folder)?;
        let layout = GuestLayout::from_snapshot(&snapshot)?;
        LoadingSet::open(&snapshot, LoadingSet::file_name(strategy), &layout).map_err(|problem| {
            BenchError::Recording { function: subject.name.clone(), strategy: strategy.name(), problem }
        })
    }

    /// Where the loading set is kept.
    pub fn loading_set_path(&self) -> PathBuf {
        self.folder.join(LoadingSet::file_name(RestoreStrategy::FaaSnap))
    }

    pub fn figures(&self, subject: &Subject) -> Result<SnapshotFigures, BenchError> {
        use std::os::unix::fs::MetadataExt;
        let snapshot = Snapshot::open(&self.folder)?;
        let loading = self.recording(subject, RestoreStrategy::FaaSnap)?;
        let path = self.loading_set_path();
        let recordings = [RestoreStrategy::FaaSnap, RestoreStrategy::Reap].map(LoadingSet::file_name);
        let mut bytes_on_disk = 0;
        for entry in fs::read_dir(&self.folder).map_err(BenchError::io("reading", &self.folder))? {
            let entry = entry.map_err(BenchError::io("reading", &self.folder))?;
            if !recordings.iter().any(|name| entry.file_name() == *name) {
                let metadata = entry.metadata().map_err(BenchError::io("reading", &entry.path()))?;
                bytes_on_disk += metadata.blocks() * 512;
            }
        }
        Ok(SnapshotFigures {
            stored_bytes: snapshot.stored_pages().count().0 * PAGE_SIZE,
            bytes_on_disk,
            loading_pages: loading.page_count().0,
            loading_file_bytes: fs::metadata(&path).map_err(BenchError::io("reading", &path))?.len(),
            loading_regions: loading.regions().len() as u64,
            working_set_pages: self.recording(subject, RestoreStrategy::Reap)?.page_count().0,
        })
    }

    /// Stored pages that the function touches with an input: each faults once under a userfaultfd in a copy of the snapshot
    /// that has no recording.
    pub fn touched_pages(&self, request: Request<'_>) -> Result<u64, BenchError> {
        let copy = self.copied(&format!("touched-{}", request.input.label), Copying::Links)?;
        attempt::recorded(request, &copy.folder, RestoreStrategy::Reap, |_| Ok(()))?;
        let pages = copy.recording(request.subject, RestoreStrategy::Reap)?.page_count().0;
        copy.remove()?;
        Ok(pages)
    }

    /// A copy beside this snapshot: without recordings by links, or with all files of its own.
    pub fn copied(&self, name: &str, copying: Copying) -> Result<Self, BenchError> {
        let folder = self.folder.with_file_name(name);
        if folder.exists() {
            fs::remove_dir_all(&folder).map_err(BenchError::io("removing", &folder))?;
        }
        fs::create_dir_all(&folder).map_err(BenchError::io("creating", &folder))?;
        let recordings = [RestoreStrategy::FaaSnap, RestoreStrategy::Reap].map(LoadingSet::file_name);
        for entry in fs::read_dir(&self.folder).map_err(BenchError::io("reading", &self.folder))? {
            let from = entry.map_err(BenchError::io("reading", &self.folder))?.path();
            let Some(name) = from.file_name() else { continue };
            let to = folder.join(name);
            match copying {
                Copying::Links if recordings.iter().any(|recording| name == *recording) => {}
                Copying::Links => fs::hard_link(&from, &to).map_err(BenchError::io("linking", &from))?,
                Copying::Files => copy_sparse(&from, &to)?,
            }
        }
        Ok(Self { folder })
    }

    pub fn remove(self) -> Result<(), BenchError> {
        fs::remove_dir_all(&self.folder).map_err(BenchError::io("removing", &self.folder))
    }
}

/// How a snapshot is copied.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Copying {
    /// The same files, without the recordings.
    Links,
    /// Files of its own, recordings included.
    Files,
}

/// Copies a file; holes stay holes, since the standard library's copy uses copy_file_range(2) or reads zeros.
fn copy_sparse(from: &Path, to: &Path) -> Result<(), BenchError> {
    let mut cp = std::process::Command::new("cp");
    let status = cp.arg("--sparse=always").arg("--preserve=mode").arg(from).arg(to).status();
    let status = status.map_err(BenchError::io("starting cp for", from))?;
    if status.success() {
        return Ok(());
    }
    Err(BenchError::Program { program: "cp", reason: format!("it ended with {status}") })
}

/// The request that is recorded: input A.
pub(crate) fn recorded_request(subject: &Subject) -> Result<Request<'_>, BenchError> {
    let input = subject.input("a").ok_or_else(|| BenchError::NotForBenchmarks(subject.name.clone()))?;
    Ok(Request { subject, input })
}
