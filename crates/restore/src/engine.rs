//! The entry: from a snapshot and a layout to memory that a guest can run on.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use guest_memory::{GuestMemory, cached_pages};
use pages::{PageCount, PageIndex, PageRange, PageSet};
use snapshot::Snapshot;

use crate::error::RestoreError;
use crate::layout::{GuestLayout, LayoutError};
use crate::mapper::{self, Sources};
use crate::plan::{MapStep, RestorePlan, StoredPages};
use crate::strategy::RestoreStrategy;
use crate::timeline::{Phase, Timeline};

/// Gaps up to this size are mapped from the memory file with their neighbours: a page of a hole costs the guest about what
/// an anonymous page does, a mapping costs 5 us.
const MERGE_GAP: PageCount = PageCount(8);
/// At most this many mappings of the memory file, well under the kernel's default limit of 65,530 (`vm.max_map_count`).
const MAX_MAPPINGS: usize = 8192;

/// What to restore, into what, and how.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct RestoreRequest<'a> {
    /// The reservation to restore into; nothing of it is in use.
    pub memory: &'a Arc<GuestMemory>,
    /// The snapshot, opened for this machine.
    pub snapshot: &'a Snapshot,
    /// What lies where, usually from [`GuestLayout::from_snapshot`].
    pub layout: &'a GuestLayout,
    /// The files that the layout's [`crate::FileIndex`]es count.
    pub guest_files: &'a [BorrowedFd<'a>],
    /// How.
    pub strategy: RestoreStrategy,
}

impl<'a> RestoreRequest<'a> {
    /// A request with every technique that the strategy has.
    pub fn new(
        memory: &'a Arc<GuestMemory>,
        snapshot: &'a Snapshot,
        layout: &'a GuestLayout,
        guest_files: &'a [BorrowedFd<'a>],
        strategy: RestoreStrategy,
    ) -> Self {
        Self { memory, snapshot, layout, guest_files, strategy }
    }
}

/// Something that a user should hear of though the restore goes on.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum RestoreWarning {}

impl fmt::Display for RestoreWarning {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {}
    }
}

/// What must live as long as the restored guest. Dropping it ends the restore's own threads.
#[derive(Debug)]
pub struct RestoreHandle {
    plan: RestorePlan,
    warning: Option<RestoreWarning>,
}

impl RestoreHandle {
    /// What was done to guest memory.
    pub fn plan(&self) -> &RestorePlan {
        &self.plan
    }

    /// Why the strategy's recording could not be used, when it could not.
    pub fn warning(&self) -> Option<&RestoreWarning> {
        self.warning.as_ref()
    }

    /// Ends the restore's threads and writes what became of the loading set, and the process's counters, into `timeline`.
    /// Call it when the invocation is answered.
    pub fn finish(self, timeline: &mut Timeline) {
        timeline.finish();
    }
}

/// Restores guest memory: when it returns, the guest may run.
///
/// # Errors
/// [`RestoreError`]; then the reservation holds a mixture, and the guest must not run.
pub fn restore(request: RestoreRequest<'_>, timeline: &mut Timeline) -> Result<RestoreHandle, RestoreError> {
    let RestoreRequest { memory, snapshot, layout, guest_files, strategy } = request;
    timeline.strategy = Some(strategy);
    let plan = timeline.measure(Phase::Planned, || plan(memory, snapshot, layout, strategy))?;
    if strategy == RestoreStrategy::Cached {
        timeline.measure(Phase::MadeResident, || make_resident(snapshot))?;
    }
    let sources = Sources { memory_file: snapshot.memory_file(), loading_set: None, guest_files };
    let phase = if strategy == RestoreStrategy::Eager { Phase::Prefetched } else { Phase::Mapped };
    timeline.measure(phase, || {
        mapper::apply(&plan, memory, &sources, |step| match *step {
            MapStep::ReadMemoryFile { range } => {
                memory.read_in(range, snapshot.memory_file().as_fd(), range.start.address().0)?;
                Ok(())
            }
            _ => Ok(()),
        })
    })?;
    timeline.regions_mapped = plan.mappings() as u64;
    Ok(RestoreHandle { plan, warning: None })
}

fn plan(
    memory: &GuestMemory,
    snapshot: &Snapshot,
    layout: &GuestLayout,
    strategy: RestoreStrategy,
) -> Result<RestorePlan, RestoreError> {
    let (layout_pages, snapshot_pages) = (layout.page_count().0, snapshot.page_count().0);
    if layout_pages != snapshot_pages {
        return Err(LayoutError::PageCount { layout: layout_pages, snapshot: snapshot_pages }.into());
    }
    if layout_pages > memory.reserved().0 {
        let reserved = memory.reserved().0;
        return Err(RestoreError::ReservationTooSmall { needed: layout_pages, reserved });
    }
    let stored = snapshot.stored_pages();
    layout.check_stored(stored)?;
    let how = match strategy {
        RestoreStrategy::OnDemand | RestoreStrategy::Cached => {
            StoredPages::Mapped { merge_gap: merge_gap(stored) }
        }
        RestoreStrategy::Eager => StoredPages::Read,
        RestoreStrategy::Reap | RestoreStrategy::FaaSnap => {
            let reason = "it is not built yet".to_owned();
            return Err(RestoreError::Unavailable { strategy, reason });
        }
    };
    Ok(RestorePlan::build(layout, stored, how, &[]))
}

/// The smallest gap from [`MERGE_GAP`] up that leaves at most [`MAX_MAPPINGS`] runs.
fn merge_gap(stored: &PageSet) -> PageCount {
    let runs_with = |gap: PageCount| {
        let separate = stored.runs().windows(2).filter(|pair| match pair {
            [before, after] => after.start.0 - before.end().0 > gap.0,
            _ => false,
        });
        separate.count() + 1
    };
    let mut gap = MERGE_GAP;
    while runs_with(gap) > MAX_MAPPINGS {
        gap = PageCount(gap.0 * 2);
    }
    gap
}

/// Reads what the page cache lacks of the stored pages.
fn make_resident(snapshot: &Snapshot) -> Result<(), RestoreError> {
    let file = snapshot.memory_file();
    let stored = snapshot.stored_pages();
    let whole = PageRange::between(PageIndex(0), stored.end());
    let failed = |range| move |source| RestoreError::Read { range, source };
    let cached = cached_pages(file.as_fd(), whole).map_err(failed(whole))?;
    for run in stored.difference(&cached).runs() {
        read_through(file, *run).map_err(failed(*run))?;
    }
    Ok(())
}

/// Reads `run` of the memory file into the page cache.
fn read_through(file: &std::fs::File, run: PageRange) -> std::io::Result<()> {
    use std::os::unix::fs::FileExt;
    let mut buffer = vec![0; (1 << 20).min(run.count.bytes() as usize)];
    let (mut offset, end) = (run.start.address().0, run.end().address().0);
    while offset < end {
        let wanted = buffer.len().min((end - offset) as usize);
        file.read_exact_at(buffer.get_mut(..wanted).unwrap_or_default(), offset)?;
        offset += wanted as u64;
    }
    Ok(())
}
