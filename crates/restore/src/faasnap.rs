//! The FaaSnap strategy: a known loading set, brought in while the guest runs.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::sync::Arc;

use guest_memory::Arrivals;
use pages::{PAGE_SIZE, PageRange, PageSet};
use parking_lot::Mutex;
use rustix::fs::{Advice, fadvise};
use rustix::io::{ReadWriteFlags, preadv2};
use snapshot::Snapshot;

use crate::bring_in::{BringIn, Files, Loader, Outcome};
use crate::engine::{RestoreRequest, Restored, mapped_plan, random_pages, reopened};
use crate::error::RestoreError;
use crate::huge_blocks::{self, HugeReader, huge_pages};
use crate::loader::{Known, LoaderJob};
use crate::loading_set::{LoadingSet, PlacedRegion};
use crate::placement::Placement;
use crate::plan::{PlacedRun, RestorePlan};
use crate::progress::Progress;
use crate::ready::{ReadyPages, likely_growth};
use crate::schedule::{Late, Schedule, Unit};
use crate::sole_reader::SoleReader;
use crate::strategy::{FileUse, Techniques};
use crate::timeline::{Phase, Timeline};

/// So many pages, spread over the set, tell whether it is in the page cache.
const LOOKS: usize = 16;
/// One page without a place of its own for so many of the set are few.
const FEW_UNPLACED: u64 = 8;

/// Maps, reads and lets in, as far as that is done before the guest runs; the rest goes on beside it.
pub(crate) fn loaded(
    request: &RestoreRequest<'_>,
    timeline: &mut Timeline,
    draft: Draft,
) -> Result<Restored, RestoreError> {
    let techniques = draft.job.techniques;
    let Draft { plan, placed, huge, growth, loading_set, .. } = draft;
    let files = Files::of(request, draft.job.set_file(), &plan)?;
    // Without private copies the page cache is what the guest maps.
    let private = techniques.private_reads;
    let (set_file, read) = (draft.job.set_file(), draft.job.file());
    let sole_reader = private.then(|| SoleReader::begin(set_file, read, draft.job.uncompressed())).flatten();
    let huge_reader = HugeReader::new(read, sole_reader.as_ref().is_some_and(SoleReader::is_alone));
    let work = BringIn {
        sole_reader: Mutex::new(sole_reader),
        huge_reader,
        job: draft.job,
        progress: Progress::new(draft.schedule, draft.arrivals),
        files,
        on_failure: request.on_failure.clone(),
        one_processor: request.threads.processors() == 1,
        outcome: Outcome::default(),
    };
    let work = Arc::new(work);
    let start_ns = timeline.now_ns();
    huge_blocks::prepare(request.memory, &huge)?;
    // The disk works while the mappings are made.
    let mut loader = Loader::start(Arc::clone(&work), &request.threads).map_err(RestoreError::Thread)?;
    timeline.measure(Phase::Mapped, || work.map_first())?;
    loader.start_huge_readers(&request.threads, usize::MAX).map_err(RestoreError::Thread)?;
    if work.progress.schedule().has_late_units() {
        loader.start_mapper(&request.threads).map_err(RestoreError::Thread)?;
    }
    let first_is_read = work.progress.schedule().units.first().is_some_and(Unit::has_content);
    let is_in = work.progress.wait_until_in(0);
    if !techniques.concurrent_paging {
        loader.wait();
    }
    if first_is_read || !techniques.concurrent_paging {
        timeline.record(Phase::Prefetched, start_ns, timeline.now_ns());
    }
    if (!is_in || !techniques.concurrent_paging)
        && let Some(failure) = work.take_failure()
    {
        return Err(RestoreError::Load(failure));
    }
    if !is_in {
        return Err(RestoreError::Thread(io::Error::other("it ended before its work was done")));
    }
    let mut restored = Restored { plan, loading_set, placed, growth, ..Restored::default() };
    restored.loader_start_ns = start_ns;
    restored.background.loader = Some(loader);
    Ok(restored)
}

/// What is known before anything is mapped.
pub(crate) struct Draft {
    plan: RestorePlan,
    /// Pages whose memory is there.
    placed: PageSet,
    /// Blocks that become huge pages.
    huge: PageSet,
    /// What is left for blocks that the guest gets later.
    growth: PageSet,
    loading_set: PageSet,
    job: LoaderJob,
    schedule: Schedule,
    arrivals: Arc<Arrivals>,
}

/// Plans how `set` is brought in.
pub(crate) fn draft(request: &RestoreRequest<'_>, set: LoadingSet) -> Result<Draft, RestoreError> {
    let techniques = Techniques {
        private_reads: request.techniques.private_reads && request.tables_forbid_writes,
        ..request.techniques
    };
    let (stored, memory) = (request.snapshot.stored_pages(), request.memory);
    let layout = match techniques.private_reads {
        true => Cow::Owned(request.layout.writable()),
        false => Cow::Borrowed(request.layout),
    };
    // Nothing may arrive in plain memory that the guest could see: it must be able to hide blocks, or wait for all of them.
    let can_wait = techniques.private_reads || request.late.is_some();
    let huge = match can_wait && techniques.huge_blocks {
        true => huge_pages(&set, &layout),
        false => PageSet::new(),
    };
    let mut placement = Placement::default();
    if techniques.private_reads && techniques.ready_memory {
        let ready = ReadyPages { pages: request.ready.clone(), writable: request.ready_writable.clone() };
        placement = Placement::new(&ready.usable(request.layout).difference(&huge), &layout, stored, &set);
        if techniques.growth_ahead {
            placement.growth = likely_growth(set.fresh(), request.layout).intersection(&ready.pages);
        }
    }
    placement.huge = huge;
    let loading_set = set.pages();
    let unplaced = loading_set.difference(&placement.pages).difference(&placement.huge);
    let source = source(request.snapshot, &set, &unplaced, techniques.loading_set_file)?;
    let plan = mapped_plan(request, &layout, &source.mapped).around(&placement.kept());
    let memory_file = source.memory_file.map(|file| (file, request.snapshot.memory_path()));
    let known = Known { layout: &layout, stored, placed: &placement.pages, huge: &placement.huge };
    let job = LoaderJob::new(Arc::clone(memory), set, memory_file, &known, techniques);
    let late = request.late.as_ref().filter(|_| techniques.late_blocks && techniques.concurrent_paging);
    let arrivals = late.map(|late| Arc::clone(&late.arrivals)).unwrap_or_default();
    let blocks = arrivals.coming();
    let first = late.map(|late| &late.first[..]).unwrap_or_default();
    let mut schedule = Schedule::new(&plan, &placement, &job.chunks, Late { blocks: &blocks, first });
    schedule.read_whole(job.huge.iter().map(|huge| huge.block));
    if request.random_access {
        schedule.read_singly(&random_pages(request, &plan));
    }
    let Placement { pages: placed, huge, growth, .. } = placement;
    Ok(Draft { plan, placed, huge, growth, loading_set, job, schedule, arrivals })
}

/// Where a loading set is read from.
struct Source {
    /// The memory file, unless it is the compact one.
    memory_file: Option<File>,
    /// What is mapped from the compact file.
    mapped: Vec<PlacedRun>,
}

/// Where `set` is read from, when the pages `unplaced` of it have no place of their own. What has its place needs no mapping: where
/// that is nearly all, the compact file, which is read in few calls, costs no more mappings than the memory file. Nor is anything
/// gained by mappings when the memory file's pages need no disk.
fn source(
    snapshot: &Snapshot,
    set: &LoadingSet,
    unplaced: &PageSet,
    file: FileUse,
) -> Result<Source, RestoreError> {
    let is_few = unplaced.count().0.saturating_mul(FEW_UNPLACED) <= set.page_count().0;
    let unplaced_only = file == FileUse::Weighed && is_few;
    let memory_file = match file {
        FileUse::Always => None,
        FileUse::Weighed if unplaced_only => None,
        FileUse::Weighed | FileUse::Never => {
            let memory_file = reopened(snapshot)?;
            let is_compact =
                file == FileUse::Weighed && set.is_worth_mapping() && !is_cached(&memory_file, set);
            Some(memory_file).filter(|_| !is_compact)
        }
    };
    let part = |region: &PlacedRegion, range: PageRange| {
        let further = (range.start.0 - region.range.start.0) * PAGE_SIZE;
        PlacedRun { range, offset: region.offset + further }
    };
    let regions = set.regions().iter().filter(|_| memory_file.is_none());
    let mapped = regions.flat_map(|region| match unplaced_only {
        true => unplaced.within(region.range).map(|run| part(region, run)).collect(),
        false => vec![part(region, region.range)],
    });
    let mapped = mapped.collect();
    Ok(Source { memory_file, mapped })
}

/// Whether the memory file's pages of `set` are in the page cache, by some of them.
fn is_cached(memory_file: &File, set: &LoadingSet) -> bool {
    // What is not there is read for the look: that page and no window of others.
    let _ = fadvise(memory_file, 0, None, Advice::Random);
    let regions = set.regions();
    regions.iter().step_by((regions.len() / LOOKS).max(1)).all(|region| {
        let mut byte = [0];
        let into = &mut [IoSliceMut::new(&mut byte)];
        preadv2(memory_file, into, region.range.start.address().0, ReadWriteFlags::NOWAIT) == Ok(1)
    })
}
