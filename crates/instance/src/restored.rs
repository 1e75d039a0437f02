//! What a restored instance came from: how its memory is brought back, and what becomes of that when it ends.

use std::os::fd::BorrowedFd;
use std::sync::{Arc, OnceLock};

use guest_memory::GuestMemory;
use pages::PageSet;
use parking_lot::Mutex;
use restore::{
    Foreseen, GuestLayout, LateBlocks, LoadingSetProblem, ReadyPages, ReadyThreads, Record, RestoreError,
    RestoreHandle, RestoreRequest, RestoreStrategy, RestoreWarning, Techniques, Timeline, Verified,
};
use serde_bytes::ByteBuf;
use snapshot::Snapshot;
use worker_protocol::{FailureKind, Learned, Record as Wish};

use crate::error_text::chain;

/// How a snapshot is to be restored.
#[derive(Clone, Debug)]
pub(crate) struct RestoreOptions {
    pub strategy: RestoreStrategy,
    pub techniques: Techniques,
    /// `None`: as the strategy has it.
    pub random_access: Option<bool>,
    pub record: Wish,
    /// Compare all of memory with the snapshot, before the guest runs and after its invocation.
    pub verify: bool,
}

/// Ends a guest, for a reason.
type Fail = Box<dyn Fn(String) + Send + Sync>;

/// Who is ended when memory can't be brought back: known only when the guest has been made again.
#[derive(Clone, Default)]
pub(crate) struct Victim(Arc<Mutex<Known>>);

/// What is known of both: whichever comes first waits for the other.
#[derive(Default)]
struct Known {
    fail: Option<Fail>,
    failure: Option<String>,
}

impl Victim {
    /// Says how the guest is ended. It is at once, when memory has failed already.
    pub fn is(&self, fail: impl Fn(String) + Send + Sync + 'static) {
        let mut known = self.0.lock();
        match known.failure.take() {
            Some(reason) => fail(reason),
            None => known.fail = Some(Box::new(fail)),
        }
    }

    fn fail(&self, reason: String) {
        let mut known = self.0.lock();
        match &known.fail {
            Some(fail) => fail(reason),
            None => known.failure = Some(reason),
        }
    }
}

/// What a snapshot's memory is put behind, as far as it is known before the guest's files are open.
pub(crate) struct Behind {
    pub memory: Arc<GuestMemory>,
    /// The memory that was made ready ahead, for a guest that gains by private copies of all that it is known to touch: a process
    /// guest, whose own page tables forbid the writes that its regions don't allow, and a linux guest that has any.
    pub ready: Option<ReadyPages>,
    /// What of memory may come in while the guest runs.
    pub late: Option<LateBlocks>,
    /// The restore's threads.
    pub threads: Arc<ReadyThreads>,
}

impl Behind {
    /// Works out how the snapshot's memory is put there.
    pub fn foresee(
        &self,
        snapshot: &Snapshot,
        layout: &GuestLayout,
        options: &RestoreOptions,
    ) -> Result<Foreseen, RestoreError> {
        restore::foresee(&self.request(snapshot, layout, options))
    }

    fn request<'a>(
        &'a self,
        snapshot: &'a Snapshot,
        layout: &'a GuestLayout,
        options: &RestoreOptions,
    ) -> RestoreRequest<'a> {
        let mut request = RestoreRequest::new(&self.memory, snapshot, layout, &[], options.strategy);
        request.techniques = options.techniques;
        request.random_access = options.random_access.unwrap_or(request.random_access);
        request.record = match options.record {
            Wish::No => Record::No,
            Wish::IfNeeded => Record::IfNeeded(Default::default()),
            Wish::Again => Record::Always(Default::default()),
        };
        match &self.ready {
            Some(ready) => {
                request.tables_forbid_writes = true;
                request.ready = ready.pages.clone();
                request.ready_writable = ready.writable.clone();
            }
            // Hardware KVM maps no neighbours: copying them would be in vain.
            None => request.techniques.neighbours_ahead = false,
        }
        // A guest that can't wait for single blocks waits for the disk with all of them.
        request.techniques.huge_blocks &= self.late.is_some();
        request.late = self.late.clone();
        request.threads = self.threads.clone();
        if options.verify {
            // What is compared is all there.
            request.techniques.late_blocks = false;
        }
        request
    }
}

/// A snapshot, and what was worked out for it.
pub(crate) struct Foresight {
    pub snapshot: Snapshot,
    pub layout: GuestLayout,
    pub foreseen: Foreseen,
}

/// What follows when memory can't be brought back.
pub(crate) struct Alarm {
    pub victim: Victim,
    /// Tells the node.
    pub learned: Arc<dyn Fn(Learned) + Send + Sync>,
}

/// What a guest touched.
#[derive(Default)]
pub(crate) struct Touched {
    /// Of the blocks that it had from the beginning.
    pub pages: PageSet,
    /// What it had in others.
    pub grown: PageSet,
}

/// How an instance ended.
#[derive(Default)]
pub(crate) struct Conclusion {
    /// What went wrong with what was recorded of it.
    pub problem: Option<String>,
    /// What was measured of a restored one.
    pub timeline: Option<Timeline>,
}

/// A restored instance's snapshot and what works on its memory.
pub(crate) struct Restored {
    handle: RestoreHandle,
    snapshot: Snapshot,
    layout: GuestLayout,
    recorded: bool,
    learned: Arc<dyn Fn(Learned) + Send + Sync>,
    /// What memory failed by, once it has.
    failed: Arc<OnceLock<FailureKind>>,
}

impl Restored {
    /// Puts the snapshot's memory behind the guest, whose `files` are open, as it was foreseen.
    pub fn begin(
        behind: &Behind,
        Foresight { snapshot, layout, foreseen }: Foresight,
        files: &[BorrowedFd<'_>],
        options: &RestoreOptions,
        alarm: Alarm,
        timeline: &mut Timeline,
    ) -> Result<Self, RestoreError> {
        let mut request = behind.request(&snapshot, &layout, options);
        request.guest_files = files;
        let arrivals = behind.late.as_ref().map(|late| late.arrivals.clone());
        let Alarm { victim, learned } = alarm;
        let tell = learned.clone();
        let failed = Arc::new(OnceLock::new());
        let fails = failed.clone();
        request.on_failure = Some(Arc::new(move |failure| {
            let of_recording = failure.is_of_recording();
            let kind = if of_recording { FailureKind::Recording } else { FailureKind::Snapshot };
            // The first one counts.
            let _ = fails.set(kind);
            // First, so that the node knows when it hears of the failed call.
            if of_recording {
                tell(Learned::Damaged);
            }
            let reason = format!("its memory could not be brought back: {}", chain(failure));
            victim.fail(reason.clone());
            if let Some(arrivals) = &arrivals {
                arrivals.lose(Some(reason));
            }
        }));
        let handle = restore::restore_foreseen(&request, foreseen, timeline)?;
        if options.verify {
            let pages = restore::wrong_pages(&behind.memory, &snapshot, &layout, files)?;
            if !pages.is_empty() {
                return Err(RestoreError::WrongPages { pages });
            }
            timeline.verified = Some(Verified { before: layout.page_count().0, ..Verified::default() });
        }
        Ok(Self { handle, snapshot, layout, recorded: timeline.recorded, learned, failed })
    }

    /// What the node can do about memory that could not be brought back, if that is so.
    pub fn failure(&self) -> Option<FailureKind> {
        self.failed.get().cloned()
    }

    /// What is ready for blocks that the guest gets later.
    pub fn growth(&self) -> &PageSet {
        self.handle.growth()
    }

    /// Whether the recording needs to know which pages the guest itself touches.
    pub fn wants_touches(&self) -> bool {
        self.recorded
    }

    /// Writes into `timeline` how far memory has come in.
    pub fn note_loader(&self, timeline: &mut Timeline) {
        self.handle.note_loader(timeline);
    }

    /// What a user should hear of. That nothing is recorded yet is no news when it is being recorded.
    pub fn warnings(&self) -> Vec<String> {
        let is_news = |warning: &&RestoreWarning| {
            let first =
                matches!(warning, RestoreWarning::FellBack { problem: LoadingSetProblem::Missing, .. });
            !(first && self.recorded)
        };
        self.handle.warnings().iter().filter(is_news).map(|warning| chain(warning)).collect()
    }

    /// Compares what the guest, which must be at rest, has not written.
    pub fn verify(&self, memory: &GuestMemory, timeline: &mut Timeline) -> Result<(), RestoreError> {
        let Some(verified) = &mut timeline.verified else { return Ok(()) };
        let found = restore::wrong_unwritten_pages(memory, &self.snapshot)?;
        (verified.after, verified.private) = (found.compared.0, found.private.0);
        match found.wrong.is_empty() {
            true => Ok(()),
            false => Err(RestoreError::WrongPages { pages: found.wrong }),
        }
    }

    /// Ends what works on memory, and tells the node what was recorded; gives what went wrong. `touched` says what the guest itself
    /// touched, if it has come to rest.
    pub fn finish(self, mut timeline: Timeline, touched: Option<Touched>) -> Conclusion {
        let problem = self.finished(&mut timeline, touched);
        Conclusion { problem, timeline: Some(timeline) }
    }

    fn finished(self, timeline: &mut Timeline, touched: Option<Touched>) -> Option<String> {
        let outcome = self.handle.finish(timeline);
        if let Some(failure) = outcome.failure {
            return Some(format!("memory could not be brought back: {}", chain(&failure)));
        }
        if outcome.is_outgrown {
            (self.learned)(Learned::Outgrown);
        }
        match outcome.recording? {
            Err(error) => Some(format!("the invocation was not recorded: {}", chain(&error))),
            Ok(mut recording) => {
                // A guest that didn't come to rest has pages under way.
                let Some(touched) = touched else {
                    return Some(
                        "the invocation was not recorded: its guest did not come to rest".to_owned(),
                    );
                };
                recording.note_touches(&touched.pages, &self.snapshot, &self.layout);
                recording.note_growth(&touched.grown, &self.layout);
                match recording.encode() {
                    Ok(bytes) => {
                        (self.learned)(Learned::Recording(ByteBuf::from(bytes)));
                        None
                    }
                    Err(error) => Some(format!("the recording was not kept: {}", chain(&error))),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_that_comes_before_its_victim_is_not_lost() {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let listener = || {
            let heard = heard.clone();
            move |reason| heard.lock().push(reason)
        };
        let (early, late) = (Victim::default(), Victim::default());
        early.fail("early".to_owned());
        early.is(listener());
        late.is(listener());
        late.fail("late".to_owned());
        assert_eq!(*heard.lock(), ["early", "late"]);
    }
}
