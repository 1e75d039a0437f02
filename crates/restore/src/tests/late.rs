//! Blocks of memory that come in while somebody touches them already.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use guest_memory::{Advice, Arrivals, GuestMemory, Lost, Protection, Source};
use pages::{Block, PageCount, PageIndex, PageSet};

use super::recorded::{record_and_publish, wait_for_loader};
use super::sample::{PAGES, STORED, Sample, page_content, range, set};
use crate::{
    FileUse, LateBlocks, LoadFailure, LoadingSet, MapStep, RestoreHandle, RestoreRequest, RestoreStrategy,
    Technique, Techniques, Timeline, restore,
};

/// What is known of the sample, and more.
const READY: [(u64, u64); 4] = [(30, 40), (1000, 1120), (1600, 1800), (3190, 3560)];

/// Memory of which some is ready, and blocks from the second on that come in late.
pub(super) struct Late {
    pub memory: Arc<GuestMemory>,
    pub arrivals: Arc<Arrivals>,
    pub handle: RestoreHandle,
    pub timeline: Timeline,
}

fn ready_memory(memory: &GuestMemory, runs: &[(u64, u64)]) -> PageSet {
    let ready = set(runs);
    for run in ready.runs() {
        memory.map(*run, Source::Anonymous, Protection::ReadWrite).unwrap();
        memory.advise(*run, Advice::PopulateWrite).unwrap();
    }
    ready
}

pub(super) fn late(sample: &Sample, change: impl FnOnce(&mut RestoreRequest<'_>)) -> Late {
    let memory = Arc::new(GuestMemory::reserve(PageCount(PAGES)).unwrap());
    let ready = ready_memory(&memory, &READY);
    let arrivals = Arc::new(Arrivals::new((1..PAGES / 512).map(Block)));
    let files = sample.files();
    let mut request =
        RestoreRequest::new(&memory, &sample.snapshot, &sample.layout, &files, RestoreStrategy::FaaSnap);
    request.tables_forbid_writes = true;
    request.ready = ready;
    request.late = Some(LateBlocks { arrivals: arrivals.clone(), first: vec![Block(3), Block(7)] });
    change(&mut request);
    let mut timeline = Timeline::start();
    let handle = restore(&request, &mut timeline).unwrap();
    Late { memory, arrivals, handle, timeline }
}

/// The stored pages from the second block on, in an order that `seed` decides.
pub(super) fn shuffled(mut seed: u64) -> Vec<u64> {
    let mut pages: Vec<u64> =
        STORED.iter().flat_map(|(start, end)| *start..*end).filter(|page| *page != 3000).collect();
    for index in (1..pages.len()).rev() {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        pages.swap(index, (seed >> 33) as usize % (index + 1));
    }
    pages
}

/// Reads pages as a guest does: what is not in is waited for.
pub(super) fn touch(memory: &GuestMemory, arrivals: &Arrivals, pages: &[u64]) -> Result<(), Lost> {
    for page in pages {
        arrivals.wait([Block::containing(PageIndex(*page))])?;
        let mut word = [0; 8];
        memory.read(PageIndex(*page).address(), &mut word).unwrap();
        assert_eq!(word, page_content(*page)[..8], "page {page}");
    }
    Ok(())
}

#[test]
fn whoever_touches_what_is_still_to_come_finds_it_whole() {
    let sample = Sample::new();
    record_and_publish(&sample, RestoreStrategy::FaaSnap);
    for (seed, file) in
        [FileUse::Always, FileUse::Never, FileUse::Weighed, FileUse::Weighed].into_iter().enumerate()
    {
        sample.drop_cache();
        let techniques = Techniques { loading_set_file: file, ..Techniques::default() };
        let Late { memory, arrivals, handle, mut timeline } =
            late(&sample, |request| request.techniques = techniques);
        thread::scope(|scope| {
            for more in 0..3 {
                let (memory, arrivals) = (&memory, &arrivals);
                scope.spawn(move || touch(memory, arrivals, &shuffled(seed as u64 * 10 + more)).unwrap());
            }
        });
        arrivals.wait_for_all().unwrap();
        sample.check(&memory);
        wait_for_loader(&handle);
        sample.check(&memory);
        assert!(handle.finish(&mut timeline).failure.is_none());
        assert!(timeline.end_of(crate::Phase::LetIn).is_some());
    }
}

#[test]
fn what_nobody_needs_is_mapped_once_the_guest_has_begun() {
    let sample = Sample::new();
    record_and_publish(&sample, RestoreStrategy::FaaSnap);
    let Late { memory, arrivals, handle, mut timeline } = late(&sample, |_| ());
    let all_mapped = || handle.background.loader.as_ref().unwrap().work().progress.is_all_mapped();
    assert!(!all_mapped());
    touch(&memory, &arrivals, &[3200]).unwrap();
    arrivals.guest_left();
    while !arrivals.is_complete() {
        thread::yield_now();
    }
    assert!(all_mapped());
    sample.check(&memory);
    assert!(handle.finish(&mut timeline).failure.is_none());
}

#[test]
fn the_compact_file_is_read_when_nearly_all_has_its_place() {
    let sample = Sample::new();
    record_and_publish(&sample, RestoreStrategy::FaaSnap);
    let steps = |ready: &[(u64, u64)], file| {
        sample.drop_cache();
        let Late { memory, arrivals, handle, mut timeline } = late(&sample, |request| {
            request.ready = ready_memory(request.memory, ready);
            request.techniques.loading_set_file = file;
        });
        arrivals.wait_for_all().unwrap();
        sample.check(&memory);
        let steps = handle.plan().steps.clone();
        assert!(handle.finish(&mut timeline).failure.is_none());
        steps
            .into_iter()
            .filter(|step| matches!(step, MapStep::LoadingSet { .. }))
            .map(|step| step.range())
            .collect::<PageSet>()
    };
    let set = LoadingSet::open(&sample.snapshot, "loading-set", &sample.layout).unwrap().pages();
    let one = set.runs()[0].start.0;
    let all_but_one = [(0, one), (one + 1, PAGES)];
    let without = steps(&all_but_one, FileUse::Weighed);
    assert_eq!(without, super::sample::set(&[(one, one + 1)]));
    assert!(steps(&all_but_one, FileUse::Never).is_empty());
}

#[test]
fn without_the_technique_everything_is_in_before_the_guest_runs() {
    let sample = Sample::new();
    record_and_publish(&sample, RestoreStrategy::FaaSnap);
    for left_out in [Technique::LateBlocks, Technique::ConcurrentPaging] {
        let Late { memory, arrivals, handle, mut timeline } =
            late(&sample, |request| request.techniques = request.techniques.without(left_out));
        assert!(arrivals.is_complete());
        sample.check(&memory);
        assert!(handle.finish(&mut timeline).failure.is_none());
        assert_eq!(timeline.end_of(crate::Phase::LetIn), None);
    }
    // Other ways bring nothing in late.
    let Late { memory, arrivals, handle, mut timeline } =
        late(&sample, |request| request.strategy = RestoreStrategy::OnDemand);
    assert!(arrivals.is_complete());
    sample.check(&memory);
    handle.finish(&mut timeline);
}

#[test]
fn who_waits_for_wrong_bytes_is_told_that_they_are_lost() {
    let sample = Sample::new();
    record_and_publish(&sample, RestoreStrategy::FaaSnap);
    let path = sample.path().join(LoadingSet::file_name(RestoreStrategy::FaaSnap));
    let mut bytes = std::fs::read(&path).unwrap();
    // Every page of the data differs in its first bytes.
    let data = bytes.len() - 64 * 4096;
    for page in bytes[data..].chunks_mut(4096) {
        page[0] ^= 0xff;
    }
    std::fs::write(&path, bytes).unwrap();
    let stopped = Arc::new(AtomicUsize::new(0));
    let hook = stopped.clone();
    let Late { memory, arrivals, handle, mut timeline } = late(&sample, |request| {
        request.on_failure = Some(Arc::new(move |_| {
            hook.fetch_add(1, Ordering::SeqCst);
        }));
        request.techniques.loading_set_file = FileUse::Always;
    });
    assert_eq!(touch(&memory, &arrivals, &shuffled(1)), Err(Lost));
    assert_eq!(stopped.load(Ordering::SeqCst), 1, "told before anybody waits in vain");
    assert!(arrivals.loss().unwrap().contains("checksum"));
    let failure = handle.finish(&mut timeline).failure;
    assert!(matches!(failure, Some(LoadFailure::Checksum { is_recording: true, .. })), "{failure:?}");
}

#[test]
fn the_end_of_an_instance_leaves_nobody_waiting() {
    let sample = Sample::new();
    record_and_publish(&sample, RestoreStrategy::FaaSnap);
    for seed in 0..12 {
        sample.drop_cache();
        let Late { memory, arrivals, handle, mut timeline } = late(&sample, |_| ());
        let waiting = {
            let (memory, arrivals) = (memory.clone(), arrivals.clone());
            thread::spawn(move || touch(&memory, &arrivals, &shuffled(seed)))
        };
        if seed % 2 == 0 {
            assert!(handle.finish(&mut timeline).failure.is_none());
        } else {
            drop(handle);
        }
        // Either it had all that it wanted or it was told.
        let touched = waiting.join().unwrap();
        assert!(touched == Ok(()) || touched == Err(Lost));
        assert_eq!(Arc::strong_count(&memory), 1, "a thread of the restore still holds guest memory");
    }
}

#[test]
fn pages_that_nobody_could_touch_were_not_missed() {
    let sample = Sample::new();
    record_and_publish(&sample, RestoreStrategy::FaaSnap);
    for _ in 0..5 {
        sample.drop_cache();
        let Late { handle, mut timeline, .. } = late(&sample, |_| ());
        assert!(!handle.finish(&mut timeline).is_outgrown);
    }
    let placed: PageSet = set(&READY);
    assert!(placed.count() < PageCount(PAGES) && !placed.contains(range(0, 1).start));
}
