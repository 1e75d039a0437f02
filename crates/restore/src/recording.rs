//! What a recorded invocation touched, and the page classes that follow from it.

use std::path::PathBuf;
use std::time::Duration;

use pages::{PageCount, PageIndex, PageRange, PageSet};
use serde::{Deserialize, Serialize};
use snapshot::{Snapshot, SnapshotError, SnapshotId};
use thiserror::Error;

use crate::layout::{Backing, GuestLayout, READY_END};
use crate::loading_set::{Compression, LoadingSet, LoadingSetRule, MergeRule, Order};
use crate::strategy::RestoreStrategy;

/// How an invocation is recorded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordingOptions {
    /// Around each page that the guest brought in, the aligned window of this many pages is recorded too, since a host with
    /// such a readahead setting would have read it; 1 records only what was touched. Default: 32 pages, 128 KiB.
    pub readahead_window: PageCount,
    /// A working-set group ends when it has this many pages. Default: 1024 pages, 4 MiB, as in the paper.
    pub group: PageCount,
    /// Time between two looks at the page cache; becomes longer by itself when looking takes long. Default: 1 ms.
    pub poll: Duration,
}

impl Default for RecordingOptions {
    fn default() -> Self {
        Self { readahead_window: PageCount(32), group: PageCount(1024), poll: Duration::from_millis(1) }
    }
}

/// Most working-set groups of a recording that came from elsewhere: those of 16 GiB, at [`RecordingOptions::group`]'s size.
const MAX_GROUPS: usize = 4096;
/// Most runs of pages in all its sets: eight times the regions of a loading set. With [`MAX_GROUPS`] this bounds the time that
/// merging takes.
const MAX_RUNS: usize = 65_536;

/// Bytes that are no recording of the snapshot.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum RecordingError {
    /// They can't be decoded.
    #[error("a recording can't be decoded")]
    Encoding(#[from] postcard::Error),
    /// It is another snapshot's or strategy's, or names pages that the guest doesn't have.
    #[error("a recording does not fit its snapshot: {0}")]
    Misfit(&'static str),
    /// It has more parts than any recording that would be of use.
    #[error(
        "a recording has {groups} groups and {runs} runs of pages, more than the {MAX_GROUPS} and {MAX_RUNS} that are kept"
    )]
    TooScattered {
        /// Working-set groups.
        groups: usize,
        /// Runs of pages in all sets.
        runs: usize,
    },
}

/// What one invocation (or several, merged) touched of a snapshot.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Recording {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// For which strategy: [`RestoreStrategy::FaaSnap`] by host page recording, [`RestoreStrategy::Reap`] by its faults.
    pub strategy: RestoreStrategy,
    /// The window it was recorded with.
    pub readahead_window: PageCount,
    /// Stored pages by working-set group: those that the first, second, ... look found in the page cache.
    pub groups: Vec<PageSet>,
    /// Of these, pages that were not touched: readahead of the window would have brought them in.
    pub read_ahead: PageSet,
    /// Stored pages of which the guest had a private copy at the end: it wrote them.
    pub written: PageSet,
    /// Zero pages of the snapshot that the guest had touched at the end: new memory. So are pages that it has beyond those of the
    /// snapshot; see [`Recording::note_growth`].
    pub fresh: PageSet,
    /// Pages of its own files, not stored in the snapshot, that the guest touched; see [`Recording::note_touches`].
    pub files: PageSet,
}

impl Recording {
    /// Adds what the guest's own page tables say that it touched: pages of files, which the page cache doesn't tell.
    pub fn note_touches(&mut self, touched: &PageSet, snapshot: &Snapshot, layout: &GuestLayout) {
        let files = layout
            .regions()
            .iter()
            .filter(|region| matches!(region.backing, Backing::File { shared: false, .. }))
            .map(|region| region.range);
        let files: PageSet = files.collect();
        self.files = touched.intersection(&files).difference(snapshot.stored_pages());
    }

    /// Adds what the guest had of blocks that no region of the snapshot's layout has a part in, as far as such memory can be made
    /// ready ahead.
    pub fn note_growth(&mut self, grown: &PageSet, layout: &GuestLayout) {
        self.fresh = self.fresh.union(&layout.in_free_blocks(grown));
    }

    /// Every stored page that was seen.
    pub fn seen(&self) -> PageSet {
        self.groups.iter().fold(PageSet::new(), |all, group| all.union(group))
    }

    /// For whoever may write beside the snapshot, which a worker may not.
    ///
    /// # Errors
    /// [`RecordingError::TooScattered`]: what it would refuse is not sent.
    pub fn encode(&self) -> Result<Vec<u8>, RecordingError> {
        self.check_size()?;
        Ok(postcard::to_stdvec(self)?)
    }

    /// What [`Self::encode`] gave, of an invocation of `snapshot` restored by `strategy`. The bytes may be anybody's: what comes of
    /// them names pages of that snapshot only, and the loading set made of it takes their content from the snapshot.
    ///
    /// # Errors
    /// [`RecordingError`].
    pub fn decode(
        bytes: &[u8],
        snapshot: &Snapshot,
        strategy: RestoreStrategy,
    ) -> Result<Self, RecordingError> {
        let recording: Self = postcard::from_bytes(bytes)?;
        recording.check_size()?;
        if recording.snapshot != snapshot.id() {
            return Err(RecordingError::Misfit("it is another snapshot's"));
        }
        if recording.strategy != strategy {
            return Err(RecordingError::Misfit("it is for another strategy"));
        }
        let pages = snapshot.page_count();
        let past = |set: &PageSet| set.end().0 > pages.0;
        let not_fresh =
            recording.groups.iter().chain([&recording.read_ahead, &recording.written, &recording.files]);
        let too_fresh = recording.fresh.end().0 > pages.0.max(READY_END.0);
        if recording.readahead_window > pages || not_fresh.into_iter().any(past) || too_fresh {
            return Err(RecordingError::Misfit("it names pages that the guest does not have"));
        }
        Ok(recording)
    }

    fn sets(&self) -> impl Iterator<Item = &PageSet> {
        self.groups.iter().chain([&self.read_ahead, &self.written, &self.fresh, &self.files])
    }

    fn check_size(&self) -> Result<(), RecordingError> {
        let (groups, runs) = (self.groups.len(), self.sets().map(|set| set.runs().len()).sum());
        let fits = groups <= MAX_GROUPS && runs <= MAX_RUNS;
        if fits { Ok(()) } else { Err(RecordingError::TooScattered { groups, runs }) }
    }

    /// Makes the loading set that `rule` finds in this recording and publishes it beside `snapshot`, where the next restore
    /// by the same strategy finds it. An older one is replaced. REAP's working set is what faulted, in address order,
    /// whatever the rule.
    ///
    /// # Errors
    /// When the file can't be written; then an older one stays as it is.
    pub fn publish(
        &self,
        snapshot: &Snapshot,
        layout: &GuestLayout,
        rule: &LoadingSetRule,
    ) -> Result<PathBuf, SnapshotError> {
        let reap = LoadingSetRule {
            include_read_ahead: true,
            merge: MergeRule::Never,
            order: Order::Address,
            whole_blocks: false,
            compression: Compression::Never,
        };
        let rule = if self.strategy == RestoreStrategy::Reap { &reap } else { rule };
        LoadingSet::write(snapshot, LoadingSet::file_name(self.strategy), layout, self, rule)
    }

    /// This recording, added to the one that is published beside `snapshot` for the same strategy. One that can't be used
    /// adds nothing: it is about to be replaced.
    #[must_use]
    pub fn added_to_published(self, snapshot: &Snapshot, layout: &GuestLayout) -> Self {
        match LoadingSet::open(snapshot, LoadingSet::file_name(self.strategy), layout) {
            Ok(set) => set.recording(snapshot.id(), self.strategy).merged(&self),
            Err(_) => self,
        }
    }

    /// This recording extended by `other`, of another invocation of the same snapshot: a page keeps its earliest group.
    #[must_use]
    pub fn merged(&self, other: &Self) -> Self {
        let mut seen = PageSet::new();
        let count = self.groups.len().max(other.groups.len());
        let groups = (0..count)
            .map(|index| {
                let of = |recording: &Self| recording.groups.get(index).cloned().unwrap_or_default();
                let group = of(self).union(&of(other)).difference(&seen);
                seen = seen.union(&group);
                group
            })
            .collect();
        // A page is only there by readahead when no recording touched it.
        let touched = |recording: &Self| recording.seen().difference(&recording.read_ahead);
        Self {
            snapshot: self.snapshot,
            strategy: self.strategy,
            readahead_window: self.readahead_window.max(other.readahead_window),
            groups,
            read_ahead: seen.difference(&touched(self)).difference(&touched(other)),
            written: self.written.union(&other.written),
            fresh: self.fresh.union(&other.fresh),
            files: self.files.union(&other.files),
        }
    }
}

/// The four classes of a guest's pages (FaaSnap, section 4): by what the snapshot holds and what the recording saw.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PageClasses {
    /// Stored and seen: brought in by the loader.
    pub loading: PageSet,
    /// Stored and not seen: mapped from the memory file, read when touched.
    pub cold: PageSet,
    /// Zero, and touched by the recorded invocation: memory that was free at the snapshot.
    pub released: PageSet,
    /// Zero and not touched.
    pub unused: PageSet,
}

impl PageClasses {
    /// Sorts the pages of a guest with `layout` and the snapshot's `stored` pages by what `recording` saw.
    pub fn of(layout: &GuestLayout, stored: &PageSet, recording: &Recording) -> Self {
        Self::sorted(layout, stored, &recording.seen(), &recording.fresh)
    }

    /// The same by what a loading-set file says; without one, every stored page is cold and every other unused.
    pub fn of_loading_set(layout: &GuestLayout, stored: &PageSet, set: Option<&LoadingSet>) -> Self {
        let Some(set) = set else {
            return Self::sorted(layout, stored, &PageSet::new(), &PageSet::new());
        };
        let loaded = set.pages();
        Self::sorted(layout, stored, &loaded, set.fresh())
    }

    fn sorted(layout: &GuestLayout, stored: &PageSet, seen: &PageSet, fresh: &PageSet) -> Self {
        let zero = memory_pages(layout).difference(stored);
        Self {
            loading: stored.intersection(seen),
            cold: stored.difference(seen),
            released: zero.intersection(fresh),
            unused: zero.difference(fresh),
        }
    }
}

/// The pages of the layout's memory regions.
pub(crate) fn memory_pages(layout: &GuestLayout) -> PageSet {
    let memory = layout.regions().iter().filter(|region| region.backing == Backing::Memory);
    memory.map(|region| region.range).collect()
}

/// The aligned window of `window` pages around `page`.
pub(crate) fn window_around(page: PageIndex, window: PageCount) -> PageRange {
    let size = window.0.max(1);
    PageRange::new(PageIndex(page.0 / size * size), PageCount(size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{Access, Region};
    use crate::tests::sample::set;

    fn recording(groups: &[&[(u64, u64)]]) -> Recording {
        Recording {
            snapshot: SnapshotId([1; 16]),
            strategy: RestoreStrategy::FaaSnap,
            readahead_window: PageCount(1),
            groups: groups.iter().map(|runs| set(runs)).collect(),
            read_ahead: PageSet::new(),
            written: PageSet::new(),
            fresh: PageSet::new(),
            files: PageSet::new(),
        }
    }

    #[test]
    fn pages_are_classed_by_content_and_recording() {
        let range = PageRange::between(PageIndex(0), PageIndex(20));
        let region = Region { range, backing: Backing::Memory, access: Access::ReadWrite };
        let layout = GuestLayout::new(PageCount(30), vec![region]).unwrap();
        let recording = Recording { fresh: set(&[(12, 14), (25, 26)]), ..recording(&[&[(0, 3)], &[(5, 7)]]) };
        let classes = PageClasses::of(&layout, &set(&[(0, 10)]), &recording);
        assert_eq!(classes.loading, set(&[(0, 3), (5, 7)]));
        assert_eq!(classes.cold, set(&[(3, 5), (7, 10)]));
        assert_eq!(classes.released, set(&[(12, 14)]));
        assert_eq!(classes.unused, set(&[(10, 12), (14, 20)]));
    }

    #[test]
    fn merging_keeps_the_earliest_group_and_what_anyone_touched() {
        let first = Recording { read_ahead: set(&[(2, 4)]), ..recording(&[&[(0, 4)], &[(8, 9)]]) };
        let second = recording(&[&[(8, 9)], &[(3, 4), (20, 21)]]);
        let merged = first.merged(&second);
        assert_eq!(merged.groups, [set(&[(0, 4), (8, 9)]), set(&[(20, 21)])]);
        assert_eq!(merged.read_ahead, set(&[(2, 3)]));
    }

    #[test]
    fn windows_are_aligned() {
        let window = window_around(PageIndex(45), PageCount(32));
        assert_eq!(window, PageRange::new(PageIndex(32), PageCount(32)));
    }
}
