//! The entry: from a snapshot and a layout to memory that a guest can run on.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use guest_memory::{Advice, Arrivals, FileResidency, GuestMemory, Userfault, cached_count};
use pages::{Block, PageCount, PageIndex, PageRange, PageSet};
use snapshot::{Snapshot, SnapshotError};

use crate::bring_in::Loader;
use crate::description;
use crate::error::RestoreError;
use crate::faasnap;
use crate::failure::FailureHook;
use crate::foresight::{Foreseen, Way, foresee};
use crate::handle::{Background, RestoreHandle, RestoreWarning};
use crate::layout::{Backing, GuestLayout};
use crate::loading_set::LoadingSet;
use crate::map_step::MapStep;
use crate::mapper::{self, Sources};
use crate::plan::{PlacedRun, RestorePlan, StoredPages};
use crate::ready_threads::ReadyThreads;
use crate::reap::{Server, ServerJob, WorkingSet};
use crate::recorder::Prepared;
use crate::recording::{RecordingOptions, memory_pages};
use crate::strategy::{RestoreStrategy, Techniques};
use crate::timeline::{Phase, ReadyUse, Timeline};

/// Gaps up to this size are mapped from the memory file with their neighbours: a page of a hole costs the guest about what
/// an anonymous page does, a mapping costs 5 us.
const MERGE_GAP: PageCount = PageCount(8);
/// At most this many mappings of the memory file, well under the kernel's default limit of 65,530 (`vm.max_map_count`).
const MAX_MAPPINGS: usize = 8192;

/// Whether the invocation behind a restore is recorded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Record {
    /// It is not.
    #[default]
    No,
    /// It is, when the strategy has no recording that can be used.
    IfNeeded(RecordingOptions),
    /// It is: memory comes in on demand, a recording that is there is not used.
    Always(RecordingOptions),
}

/// Blocks of guest memory that may come in while the guest runs.
#[derive(Clone, Debug)]
pub struct LateBlocks {
    /// Which, and who waits for them. When the restore returns, those are in that are not to come later.
    pub arrivals: Arc<Arrivals>,
    /// Those that are needed first, in that order.
    pub first: Vec<Block>,
}

/// What to restore, into what, and how.
#[derive(Clone)]
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
    /// Which of its techniques the FaaSnap strategy uses.
    pub techniques: Techniques,
    /// Whether a fault on the memory file reads a single page instead of the device's readahead window. By default only the
    /// FaaSnap strategy and recordings do; a benchmark tries both for the others.
    pub random_access: bool,
    /// Whether this invocation is recorded; for the strategies that use recordings.
    pub record: Record,
    /// Whether the guest's own page tables forbid the writes that its regions don't allow: the FaaSnap strategy then leaves
    /// private memory writable for the host.
    pub tables_forbid_writes: bool,
    /// Anonymous memory, writable, populated and zero, that is there already; it may reach past the layout's end.
    pub ready: PageSet,
    /// Those of them whose shadow tables let the guest write, whatever its own tables say.
    pub ready_writable: PageSet,
    /// Which blocks may come in while the guest runs; without this everything is mapped before it does.
    pub late: Option<LateBlocks>,
    /// Its threads, as far as they were started before.
    pub threads: Arc<ReadyThreads>,
    /// Called, from a thread of the restore's own, when the guest must be stopped because its memory can't be trusted.
    pub on_failure: Option<FailureHook>,
}

impl<'a> RestoreRequest<'a> {
    /// A request with every technique that the strategy has, and no recording.
    pub fn new(
        memory: &'a Arc<GuestMemory>,
        snapshot: &'a Snapshot,
        layout: &'a GuestLayout,
        guest_files: &'a [BorrowedFd<'a>],
        strategy: RestoreStrategy,
    ) -> Self {
        Self {
            memory,
            snapshot,
            layout,
            guest_files,
            strategy,
            techniques: Techniques::default(),
            random_access: strategy == RestoreStrategy::FaaSnap,
            record: Record::No,
            tables_forbid_writes: false,
            ready: PageSet::new(),
            ready_writable: PageSet::new(),
            late: None,
            threads: Arc::default(),
            on_failure: None,
        }
    }
}

/// Restores guest memory: when it returns, the guest may run.
///
/// # Errors
/// [`RestoreError`]; then the reservation holds a mixture, and the guest must not run.
pub fn restore(request: &RestoreRequest<'_>, timeline: &mut Timeline) -> Result<RestoreHandle, RestoreError> {
    restore_foreseen(request, foresee(request)?, timeline)
}

/// As [`restore`], by what was worked out before for the same request, but that its files and its hook may have been unknown.
///
/// # Errors
/// As [`restore`].
pub fn restore_foreseen(
    request: &RestoreRequest<'_>,
    foreseen: Foreseen,
    timeline: &mut Timeline,
) -> Result<RestoreHandle, RestoreError> {
    let Foreseen { way, warnings, from_ns, until_ns } = foreseen;
    timeline.strategy = Some(request.strategy);
    timeline.record(Phase::Planned, timeline.since_request(from_ns), timeline.since_request(until_ns));
    timeline.fell_back = warnings.iter().find_map(|warning| match warning {
        RestoreWarning::FellBack { problem, .. } => Some(problem.to_string()),
        RestoreWarning::NotRecorded(_) => None,
    });
    timeline.recorded = matches!(way, Way::Recorded(_) | Way::Userfaults { working_set: None });
    let restored = match way {
        Way::Mapped => mapped(request, timeline, request.random_access),
        Way::Recorded(prepared) => recorded(request, timeline, prepared),
        Way::Read => read(request, timeline),
        Way::Loaded(draft) => faasnap::loaded(request, timeline, *draft),
        Way::Userfaults { working_set } => userfaults(request, timeline, working_set),
    };
    let Restored { plan, background, loading_set, placed, growth, prefetched_bytes, loader_start_ns } =
        restored?;
    let is_late = background.loader.as_ref().is_some_and(Loader::has_late_blocks);
    if let Some(late) = request.late.as_ref().filter(|_| !is_late) {
        late.arrivals.all_arrived();
    }
    // Of what was made ready past the guest's end, that is of no use to it which it is not known to grow into.
    let end = PageIndex(request.layout.page_count().0);
    if end < request.ready.end() {
        let past = PageRange::between(end, request.ready.end());
        let past: PageSet = request.ready.within(past).collect();
        past.difference(&growth).runs().iter().try_for_each(|run| request.memory.release(*run))?;
    }
    if !request.ready.is_empty() {
        let (bytes, used) = (request.ready.count().bytes(), placed.union(&growth));
        let used_bytes = used.count().bytes();
        timeline.ready = Some(ReadyUse { bytes, used_bytes });
    }
    let cut = background.loader.as_ref().map(|loader| loader.work().progress.schedule().mappings());
    timeline.regions_mapped = cut.unwrap_or_else(|| plan.mappings()) as u64;
    Ok(RestoreHandle {
        memory: Arc::clone(request.memory),
        snapshot: request.snapshot.id(),
        plan,
        warnings,
        background,
        loading_set,
        placed,
        growth,
        stored: request.snapshot.stored_pages().clone(),
        prefetched_bytes,
        loader_start_ns,
    })
}

/// What one way leaves for the handle.
#[derive(Default)]
pub(crate) struct Restored {
    pub plan: RestorePlan,
    pub background: Background,
    pub loading_set: PageSet,
    /// Pages whose memory was there before.
    pub placed: PageSet,
    /// Pages that are ready for blocks which the guest gets later.
    pub growth: PageSet,
    pub prefetched_bytes: u64,
    pub loader_start_ns: u64,
}

fn mapped(
    request: &RestoreRequest<'_>,
    timeline: &mut Timeline,
    random_access: bool,
) -> Result<Restored, RestoreError> {
    let plan = mapped_plan(request, request.layout, &[]);
    if request.strategy == RestoreStrategy::Cached {
        timeline.measure(Phase::MadeResident, || make_resident(request.snapshot))?;
    }
    timeline.measure(Phase::Mapped, || map(request, &plan, None, random_access))?;
    Ok(Restored { plan, ..Restored::default() })
}

fn recorded(
    request: &RestoreRequest<'_>,
    timeline: &mut Timeline,
    prepared: Prepared,
) -> Result<Restored, RestoreError> {
    let mut restored = mapped(request, timeline, true)?;
    let recorder = prepared.start(Arc::clone(request.memory), request.layout.clone());
    restored.background.recorder = Some(recorder.map_err(RestoreError::Thread)?);
    Ok(restored)
}

fn read(request: &RestoreRequest<'_>, timeline: &mut Timeline) -> Result<Restored, RestoreError> {
    let stored = request.snapshot.stored_pages();
    let plan = RestorePlan::build(request.layout, stored, StoredPages::Read, &[]);
    timeline.measure(Phase::Prefetched, || map(request, &plan, None, false))?;
    Ok(Restored { plan, prefetched_bytes: stored.count().bytes(), ..Restored::default() })
}

fn userfaults(
    request: &RestoreRequest<'_>,
    timeline: &mut Timeline,
    working_set: Option<LoadingSet>,
) -> Result<Restored, RestoreError> {
    let (memory, snapshot) = (request.memory, request.snapshot);
    let userfault = Userfault::open().map_err(|error| RestoreError::Unavailable {
        strategy: request.strategy,
        reason: format!(
            "userfaultfd can't be opened ({error}): run as root or give access to /dev/userfaultfd"
        ),
    })?;
    let plan = RestorePlan::build(request.layout, snapshot.stored_pages(), StoredPages::Userfault, &[]);
    let sources =
        Sources { memory_file: snapshot.memory_file(), loading_set: None, guest_files: request.guest_files };
    timeline.measure(Phase::Mapped, || {
        mapper::apply(&plan, memory, &sources, |step| match *step {
            MapStep::Userfault { range } => Ok(userfault.register(memory, range)?),
            _ => Ok(()),
        })
    })?;
    let recording = working_set.is_none();
    let installed = timeline.measure(Phase::Prefetched, || {
        working_set
            .map(|set| {
                let read = WorkingSet::read(set)?;
                read.install(&userfault, memory)?;
                Ok::<_, RestoreError>(read)
            })
            .transpose()
    })?;
    let mut restored = Restored { plan, ..Restored::default() };
    if let Some(working_set) = &installed {
        restored.prefetched_bytes = working_set.bytes();
        restored.loading_set = working_set.pages();
    }
    let job = ServerJob {
        userfault,
        memory: Arc::clone(memory),
        memory_file: reopened(snapshot)?,
        memory_path: snapshot.memory_path(),
        installed,
        on_failure: request.on_failure.clone(),
    };
    restored.background.server = Some(Server::start(job).map_err(RestoreError::Thread)?);
    restored.background.record_faults = recording;
    Ok(restored)
}

/// The plan for mapped memory, with `loading_set` runs over it.
pub(crate) fn mapped_plan(
    request: &RestoreRequest<'_>,
    layout: &GuestLayout,
    loading_set: &[PlacedRun],
) -> RestorePlan {
    let stored = request.snapshot.stored_pages();
    if request.strategy == RestoreStrategy::FaaSnap && !request.techniques.per_region_mapping {
        let everything = stored.union(&memory_pages(layout));
        let how = StoredPages::Mapped { merge_gap: PageCount(u64::MAX) };
        return RestorePlan::build(layout, &everything, how, loading_set);
    }
    let how = StoredPages::Mapped { merge_gap: merge_gap(stored) };
    RestorePlan::build(layout, stored, how, loading_set)
}

/// Applies a plan without userfaults.
fn map(
    request: &RestoreRequest<'_>,
    plan: &RestorePlan,
    loading_set: Option<&File>,
    random_access: bool,
) -> Result<(), RestoreError> {
    let (memory, snapshot) = (request.memory, request.snapshot);
    let sources =
        Sources { memory_file: snapshot.memory_file(), loading_set, guest_files: request.guest_files };
    mapper::apply(plan, memory, &sources, |step| match *step {
        MapStep::ReadMemoryFile { range } => {
            Ok(memory.read_in(range, snapshot.memory_file().as_fd(), range.start.address().0)?)
        }
        _ => Ok(()),
    })?;
    if random_access {
        for range in random_pages(request, plan).runs() {
            memory.advise(*range, Advice::Random)?;
        }
    }
    Ok(())
}

/// Where a fault is to read a single page: not in the guest's own files. Private copies of pages of these lie in the memory
/// file, too: one of them read with the device's window would bring in megabytes of the memory file around it.
pub(crate) fn random_pages(request: &RestoreRequest<'_>, plan: &RestorePlan) -> PageSet {
    between_guest_files(request.layout).union(&plan.snapshot_pages())
}

/// Everything but the guest's own files, whose readahead stays the device's: few ranges, so few calls.
fn between_guest_files(layout: &GuestLayout) -> PageSet {
    let files: PageSet = layout
        .regions()
        .iter()
        .filter(|region| matches!(region.backing, Backing::File { .. }))
        .map(|region| region.range)
        .collect();
    let whole: PageSet = [PageRange::new(PageIndex(0), layout.page_count())].into_iter().collect();
    whole.difference(&files)
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

/// The memory file under a description of its own, for a thread.
pub(crate) fn reopened(snapshot: &Snapshot) -> Result<File, RestoreError> {
    let failed = |source| SnapshotError::io("opening again", &snapshot.memory_path(), source);
    Ok(description::reopened(snapshot.memory_file()).map_err(failed)?)
}

/// Reads what the page cache lacks of the stored pages.
fn make_resident(snapshot: &Snapshot) -> Result<(), RestoreError> {
    let file = snapshot.memory_file();
    let stored = snapshot.stored_pages();
    let whole = PageRange::between(PageIndex(0), stored.end());
    let failed = |range| move |source| RestoreError::Read { range, source };
    // Where the kernel counts as many cached pages as are stored, nothing is to be done: holes are not cached.
    if cached_count(file.as_fd(), whole).is_ok_and(|count| count >= stored.count()) {
        return Ok(());
    }
    let cached = FileResidency::of(file.as_fd(), whole.count)
        .and_then(|residency| residency.cached(whole))
        .map_err(failed(whole))?;
    for run in stored.difference(&cached).runs() {
        read_through(file, *run).map_err(failed(*run))?;
    }
    Ok(())
}

/// Reads `run` of the memory file into the page cache.
fn read_through(file: &File, run: PageRange) -> io::Result<()> {
    let mut buffer = vec![0; (1 << 20).min(run.count.bytes() as usize)];
    let (mut offset, end) = (run.start.address().0, run.end().address().0);
    while offset < end {
        let wanted = buffer.len().min((end - offset) as usize);
        file.read_exact_at(buffer.get_mut(..wanted).unwrap_or_default(), offset)?;
        offset += wanted as u64;
    }
    Ok(())
}
