//! What a restore leaves behind: its threads, its warnings, and at the end what became of it all.

use std::sync::Arc;

use guest_memory::GuestMemory;
use pages::{PageCount, PageSet};
use snapshot::SnapshotId;
use thiserror::Error;

use crate::bring_in::Loader;
use crate::failure::LoadFailure;
use crate::loading_set::LoadingSetProblem;
use crate::plan::RestorePlan;
use crate::reap::{self, Server};
use crate::recorder::{RecordError, Recorder};
use crate::recording::Recording;
use crate::strategy::RestoreStrategy;
use crate::timeline::{LoadingSetUse, Phase, Timeline};

/// Something that a user should hear of though the restore goes on.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RestoreWarning {
    /// The strategy's recording can't be used: memory comes in on demand.
    #[error("restoring on demand instead of by {strategy}; the next recorded invocation mends it")]
    FellBack {
        /// The strategy that was asked for.
        strategy: RestoreStrategy,
        /// What is wrong with its recording.
        #[source]
        problem: LoadingSetProblem,
    },
    /// The invocation was to be recorded and is not.
    #[error("this invocation is not recorded")]
    NotRecorded(#[source] RecordError),
}

/// What became of a restore.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What was recorded, when the invocation was recorded.
    pub recording: Option<Result<Recording, RecordError>>,
    /// Whether the invocation needed much that its recording didn't foresee: the next one should be recorded, too.
    pub is_outgrown: bool,
    /// Why the guest can't be trusted: discard the instance, its call has failed.
    pub failure: Option<LoadFailure>,
}

/// The threads that work beside the guest.
#[derive(Debug, Default)]
pub(crate) struct Background {
    pub loader: Option<Loader>,
    pub server: Option<Server>,
    pub recorder: Option<Recorder>,
    /// Whether the server's faults are the recording.
    pub record_faults: bool,
}

/// What must live as long as the restored guest. Dropping it ends the restore's own threads; the guest must not run any
/// more then, since under REAP nobody would serve its faults.
#[derive(Debug)]
pub struct RestoreHandle {
    pub(crate) memory: Arc<GuestMemory>,
    pub(crate) snapshot: SnapshotId,
    pub(crate) plan: RestorePlan,
    pub(crate) warnings: Vec<RestoreWarning>,
    pub(crate) background: Background,
    pub(crate) loading_set: PageSet,
    /// Pages whose content was put into memory that was there before.
    pub(crate) placed: PageSet,
    /// Pages that are ready for blocks which the guest gets later.
    pub(crate) growth: PageSet,
    pub(crate) stored: PageSet,
    /// Bytes that were in place before the guest ran.
    pub(crate) prefetched_bytes: u64,
    /// When the loader started, since the request.
    pub(crate) loader_start_ns: u64,
}

impl RestoreHandle {
    /// What was done to guest memory.
    pub fn plan(&self) -> &RestorePlan {
        &self.plan
    }

    /// What is ready of guest memory in which the guest has nothing yet: in memory, writable, zero.
    pub fn growth(&self) -> &PageSet {
        &self.growth
    }

    /// What a user should hear of.
    pub fn warnings(&self) -> &[RestoreWarning] {
        &self.warnings
    }

    /// Writes into `timeline` when the last block was in and the loader had done, as far as that has been by now.
    pub fn note_loader(&self, timeline: &mut Timeline) {
        let Some(loader) = &self.background.loader else { return };
        let complete = loader.work().progress.complete_at_ns().filter(|_| loader.has_late_blocks());
        for (phase, at) in [(Phase::LetIn, complete), (Phase::Loaded, loader.done_at_ns())] {
            if let Some(at) = at.filter(|_| timeline.end_of(phase).is_none()) {
                let end_ns = timeline.since_request(at);
                timeline.record(phase, self.loader_start_ns, end_ns);
            }
        }
    }

    /// Ends the restore's threads and writes what became of the loading set, and the process's counters, into `timeline`.
    /// Call it when the invocation is answered and the guest doesn't run, before its memory goes.
    pub fn finish(mut self, timeline: &mut Timeline) -> Outcome {
        self.note_loader(timeline);
        let mut outcome = Outcome::default();
        let mut coming = PageSet::new();
        let Background { loader, server, recorder, record_faults } = std::mem::take(&mut self.background);
        let mut used = LoadingSetUse {
            bytes: self.loading_set.count().bytes(),
            loaded_bytes: self.prefetched_bytes,
            ..LoadingSetUse::default()
        };
        if let Some(loader) = loader {
            if timeline.end_of(Phase::Loaded).is_none() {
                // One that is ended before it is done has loaded until now.
                timeline.record(Phase::Loaded, self.loader_start_ns, timeline.now_ns());
            }
            let report = loader.finish();
            used.loaded_bytes += report.loaded_bytes;
            (used.huge_bytes, used.direct_bytes) = (report.huge_bytes, report.direct_bytes);
            (used.decoded_bytes, used.compressed_bytes) = (report.decoded_bytes, report.compressed_bytes);
            outcome.failure = report.failure;
            coming = report.coming.iter().map(|block| block.pages()).collect();
        }
        if let Some(server) = server {
            if let Some(report) = server.finish() {
                timeline.faults.userfault = report.faults.len() as u64;
                outcome.failure = report.failure;
                if record_faults {
                    outcome.recording = Some(Ok(Recording {
                        snapshot: self.snapshot,
                        strategy: RestoreStrategy::Reap,
                        readahead_window: PageCount(1),
                        groups: vec![reap::working_set(&report.faults)],
                        read_ahead: PageSet::new(),
                        written: PageSet::new(),
                        fresh: PageSet::new(),
                        files: PageSet::new(),
                    }));
                }
            } else if record_faults {
                outcome.recording = Some(Err(RecordError::Thread));
            }
        }
        if let Some(recorder) = recorder {
            outcome.recording = Some(recorder.finish());
        }
        if !self.loading_set.is_empty() {
            for run in self.loading_set.runs() {
                // A number for the record only: without the pagemap it stays 0.
                let _ = self.memory.page_states(*run, |_, state| {
                    used.private_bytes += if state.is_private() { PageCount(1).bytes() } else { 0 };
                });
            }
            timeline.finish();
            used.missed_bytes = self.missed(&coming, timeline.faults.major);
            timeline.loading_set = Some(used);
        } else {
            timeline.finish();
        }
        outcome.is_outgrown = timeline.loading_set.is_some_and(|used| used.is_outgrown());
        outcome
    }

    /// Bytes of stored pages outside the loading set that were written, and pages that had to be waited for. What is `coming` still
    /// nobody has touched.
    fn missed(&self, coming: &PageSet, major_faults: u64) -> u64 {
        let mut pages = major_faults;
        let others = self.stored.difference(&self.loading_set).difference(&self.placed).difference(coming);
        for run in others.runs() {
            // As above: a number, which without the pagemap is smaller.
            let _ = self.memory.page_states(*run, |_, state| pages += u64::from(state.is_private()));
        }
        PageCount(pages).bytes()
    }
}
