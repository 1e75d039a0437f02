//! Recording an invocation and restoring by what was recorded.

use std::sync::Arc;
use std::time::Duration;

use guest_memory::{GuestMemory, Userfault};
use pages::{GuestPhysical, PageCount, PageSet};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::sample::{Sample, page_content, range, set};
use crate::{
    Compression, CostModel, FileUse, LoadingSet, LoadingSetRule, MergeRule, PageClasses, Phase, Record,
    Recording, RecordingOptions, RestoreStrategy, RestoreWarning, Technique, Techniques, Timeline,
};

/// Pages that the "function" reads, writes, and touches though they are zero.
const READ: [(u64, u64); 3] = [(1000, 1100), (1600, 1610), (3200, 3201)];
const WRITTEN: [(u64, u64); 2] = [(1104, 1112), (1700, 1720)];
const FRESH: [(u64, u64); 1] = [(3500, 3540)];

pub(super) fn exact() -> RecordingOptions {
    RecordingOptions {
        readahead_window: PageCount(1),
        poll: Duration::from_micros(200),
        ..RecordingOptions::default()
    }
}

/// What a recorded function does to guest memory.
fn invoke(memory: &GuestMemory) {
    let mut word = [0; 8];
    for (start, end) in READ {
        for page in start..end {
            memory.read(GuestPhysical(page * 4096), &mut word).unwrap();
            assert_eq!(word, page_content(page)[..8]);
        }
    }
    for page in WRITTEN.iter().chain(&FRESH).flat_map(|(start, end)| *start..*end) {
        memory.write(GuestPhysical(page * 4096 + 8), b"written").unwrap();
    }
}

fn touched() -> PageSet {
    set(&READ).union(&set(&WRITTEN))
}

/// Records one invocation and returns what was seen; REAP's only where this process may use userfaultfd.
pub(super) fn record(sample: &Sample, strategy: RestoreStrategy, options: RecordingOptions) -> Recording {
    let (memory, handle, mut timeline) =
        sample.restore_with(strategy, |request| request.record = Record::Always(options)).unwrap();
    assert!(handle.warnings().is_empty(), "{:?}", handle.warnings());
    invoke(&memory);
    let outcome = handle.finish(&mut timeline);
    assert!(outcome.failure.is_none() && timeline.recorded);
    outcome.recording.unwrap().unwrap()
}

pub(super) fn record_and_publish(sample: &Sample, strategy: RestoreStrategy) -> Recording {
    let recording = record(sample, strategy, exact());
    let rule = LoadingSetRule { compression: Compression::Never, ..LoadingSetRule::default() };
    recording.publish(&sample.snapshot, &sample.layout, &rule).unwrap();
    recording
}

/// False, with a word about it, where userfaultfd is out of reach.
pub(super) fn userfaults_here() -> bool {
    let opened = Userfault::open();
    if let Err(error) = &opened {
        eprintln!("NOT TESTED: userfaultfd can't be opened here ({error})");
    }
    opened.is_ok()
}

#[test]
fn host_page_recording_sees_what_was_touched() {
    let sample = Sample::new();
    let recording = record(&sample, RestoreStrategy::FaaSnap, exact());
    assert_eq!(recording.seen(), touched());
    assert_eq!(recording.written, set(&WRITTEN));
    assert_eq!(recording.fresh, set(&FRESH));
    assert!(recording.read_ahead.is_empty());
    let classes = PageClasses::of(&sample.layout, sample.snapshot.stored_pages(), &recording);
    assert_eq!(classes.loading, touched());
    assert_eq!(classes.cold, sample.snapshot.stored_pages().difference(&touched()));
    assert_eq!(classes.released, set(&FRESH));
}

#[test]
fn readahead_is_recorded_in_bounded_windows() {
    let sample = Sample::new();
    let options = RecordingOptions { readahead_window: PageCount(32), ..exact() };
    let recording = record(&sample, RestoreStrategy::FaaSnap, options);
    let windows: PageSet =
        touched().pages().map(|page| range(page.0 / 32 * 32, page.0 / 32 * 32 + 32)).collect();
    assert_eq!(recording.seen(), windows.intersection(sample.snapshot.stored_pages()));
    assert_eq!(recording.read_ahead, recording.seen().difference(&touched()));
}

#[test]
fn groups_follow_the_order_of_touch() {
    let sample = Sample::new();
    let options = RecordingOptions { group: PageCount(1), ..exact() };
    let (memory, handle, mut timeline) = sample
        .restore_with(RestoreStrategy::FaaSnap, |request| request.record = Record::Always(options))
        .unwrap();
    for page in [3100, 1200, 2300] {
        memory.read(GuestPhysical(page * 4096), &mut [0]).unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    let recording = handle.finish(&mut timeline).recording.unwrap().unwrap();
    let order: Vec<_> = recording.groups.iter().flat_map(PageSet::pages).map(|page| page.0).collect();
    assert_eq!(order, [3100, 1200, 2300]);
}

#[test]
fn faasnap_restores_every_page_with_and_without_each_technique() {
    let sample = Sample::new();
    record_and_publish(&sample, RestoreStrategy::FaaSnap);
    let all = Techniques::default();
    let variants = [
        all,
        Techniques { per_region_mapping: false, ..all },
        Techniques { loading_set_file: FileUse::Never, ..all },
        Techniques { loading_set_file: FileUse::Always, ..all },
        Techniques { concurrent_paging: false, ..all },
        Techniques { populate: false, ..all },
        Techniques { private_ahead: false, ..all },
        Techniques { fresh_ahead: false, ..all },
    ];
    for techniques in variants {
        sample.drop_cache();
        let (memory, handle, mut timeline) =
            sample.restore_with(RestoreStrategy::FaaSnap, |request| request.techniques = techniques).unwrap();
        assert!(handle.warnings().is_empty(), "{:?}", handle.warnings());
        sample.check(&memory);
        invoke(&memory);
        assert!(handle.finish(&mut timeline).failure.is_none());
    }
}

#[test]
fn the_loader_brings_the_set_in_while_nobody_touches_it() {
    brought_in_while_nobody_touches_it();
}

#[test]
fn on_one_processor_it_does_so_too() {
    // This thread, and those that it starts.
    let all = sched_getaffinity(None).unwrap();
    let mut one = CpuSet::new();
    one.set((0..CpuSet::MAX_CPU).find(|cpu| all.is_set(*cpu)).unwrap());
    sched_setaffinity(None, &one).unwrap();
    brought_in_while_nobody_touches_it();
}

fn brought_in_while_nobody_touches_it() {
    let sample = Sample::new();
    record_and_publish(&sample, RestoreStrategy::FaaSnap);
    sample.drop_cache();
    // Which pages are private is compared, so none may be for a neighbour's sake.
    let techniques = Techniques::default().without(Technique::NeighboursAhead);
    let (memory, handle, mut timeline) =
        sample.restore_with(RestoreStrategy::FaaSnap, |request| request.techniques = techniques).unwrap();
    wait_for_loader(&handle);
    let mut absent = PageSet::new();
    let mut private = PageSet::new();
    for run in touched().union(&set(&FRESH)).runs() {
        memory
            .page_states(*run, |page, state| {
                if !state.present {
                    absent.insert(range(page.0, page.0 + 1));
                }
                if state.is_private() {
                    private.insert(range(page.0, page.0 + 1));
                }
            })
            .unwrap();
    }
    assert!(absent.is_empty(), "the loader left out {absent:?}");
    assert_eq!(private, set(&WRITTEN).union(&set(&FRESH)));
    let before = timeline.faults;
    let outcome = handle.finish(&mut timeline);
    assert!(outcome.failure.is_none() && before.userfault == 0);
    let used = timeline.loading_set.unwrap();
    assert_eq!(used.loaded_bytes, used.bytes);
    assert!(timeline.end_of(Phase::Loaded).is_some());
    sample.check(&memory);
}

/// Waits until the loader has brought everything in; one that never gets there hangs the test, which is how it fails.
pub(super) fn wait_for_loader(handle: &crate::RestoreHandle) {
    while handle.background.loader.as_ref().is_some_and(|loader| loader.done_at_ns().is_none()) {
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn writes_of_a_guest_that_races_the_loader_are_kept() {
    let sample = Sample::new();
    record_and_publish(&sample, RestoreStrategy::FaaSnap);
    for _ in 0..20 {
        sample.drop_cache();
        let (memory, handle, mut timeline) = sample.restore(RestoreStrategy::FaaSnap).unwrap();
        for page in touched().pages() {
            memory.write(page.address(), &page.0.to_le_bytes()).unwrap();
        }
        handle.finish(&mut timeline);
        for page in touched().pages() {
            let mut words = [0; 16];
            memory.read(page.address(), &mut words).unwrap();
            assert_eq!(words[..8], page.0.to_le_bytes(), "page {page:?} lost its write");
            assert_eq!(words[8..], page_content(page.0)[8..16], "page {page:?} lost its content");
        }
    }
}

#[test]
fn memory_freed_and_mapped_again_under_the_loader_reads_zero() {
    let sample = Sample::new();
    record_and_publish(&sample, RestoreStrategy::FaaSnap);
    for _ in 0..20 {
        sample.drop_cache();
        let (memory, handle, mut timeline) = sample.restore(RestoreStrategy::FaaSnap).unwrap();
        let freed = range(1700, 1720);
        memory.release(freed).unwrap();
        memory.map(freed, guest_memory::Source::Anonymous, guest_memory::Protection::ReadWrite).unwrap();
        wait_for_loader(&handle);
        for page in freed.iter() {
            let mut bytes = vec![1; 4096];
            memory.read(page.address(), &mut bytes).unwrap();
            assert!(bytes.iter().all(|byte| *byte == 0));
        }
        handle.finish(&mut timeline);
    }
}

#[test]
fn without_a_recording_memory_comes_in_on_demand_and_is_recorded() {
    let sample = Sample::new();
    let (memory, handle, mut timeline) = sample.restore(RestoreStrategy::FaaSnap).unwrap();
    assert!(matches!(handle.warnings(), [RestoreWarning::FellBack { .. }]), "{:?}", handle.warnings());
    assert!(timeline.fell_back.is_some() && !timeline.recorded);
    sample.check(&memory);
    assert!(handle.finish(&mut timeline).recording.is_none());
    drop(memory);

    let (memory, handle, mut timeline) = sample
        .restore_with(RestoreStrategy::FaaSnap, |request| request.record = Record::IfNeeded(exact()))
        .unwrap();
    invoke(&memory);
    let recording = handle.finish(&mut timeline).recording.unwrap().unwrap();
    recording.publish(&sample.snapshot, &sample.layout, &LoadingSetRule::default()).unwrap();

    let (_memory, handle, mut timeline) = sample
        .restore_with(RestoreStrategy::FaaSnap, |request| request.record = Record::IfNeeded(exact()))
        .unwrap();
    assert!(handle.warnings().is_empty());
    assert!(handle.finish(&mut timeline).recording.is_none());
}

#[test]
fn the_file_keeps_what_was_recorded() {
    let sample = Sample::new();
    let recording = record_and_publish(&sample, RestoreStrategy::FaaSnap);
    let name = LoadingSet::file_name(RestoreStrategy::FaaSnap);
    let set = LoadingSet::open(&sample.snapshot, name, &sample.layout).unwrap();
    let pages = set.pages();
    assert!(touched().difference(&pages).is_empty());
    assert_eq!((set.written(), set.fresh()), (&recording.written, &recording.fresh));
    assert_eq!(set.readahead_window(), PageCount(1));
    assert_eq!(set.region_ns(), CostModel::default().region_ns);
}

#[test]
fn the_file_keeps_what_a_mapping_takes_on_the_machine_that_wrote_it() {
    let sample = Sample::new();
    let recording = record(&sample, RestoreStrategy::FaaSnap, exact());
    let costs = CostModel { region_ns: 200_000, ..CostModel::default() };
    let rule = LoadingSetRule { merge: MergeRule::Weighed(costs), ..LoadingSetRule::default() };
    recording.publish(&sample.snapshot, &sample.layout, &rule).unwrap();
    let name = LoadingSet::file_name(RestoreStrategy::FaaSnap);
    let set = LoadingSet::open(&sample.snapshot, name, &sample.layout).unwrap();
    assert_eq!(set.region_ns(), 200_000);
}

#[test]
fn reap_records_its_faults_and_serves_the_rest() {
    if !userfaults_here() {
        return;
    }
    let sample = Sample::new();
    let recording = record_and_publish(&sample, RestoreStrategy::Reap);
    assert_eq!(recording.seen(), touched());
    sample.drop_cache();
    let (memory, handle, mut timeline) = sample.restore(RestoreStrategy::Reap).unwrap();
    invoke(&memory);
    assert!(handle.finish(&mut timeline).failure.is_none());
    assert_eq!(timeline.faults.userfault, 0, "a recorded page faulted");
    assert_eq!(timeline.loading_set.unwrap().bytes, touched().count().bytes());

    let (memory, handle, mut timeline) = sample.restore(RestoreStrategy::Reap).unwrap();
    sample.check(&memory);
    assert!(handle.finish(&mut timeline).failure.is_none());
    let missed = sample.snapshot.stored_pages().count().0 - touched().count().0;
    assert_eq!(timeline.faults.userfault, missed);
}

#[test]
fn reap_lets_many_threads_wait_for_the_same_page() {
    if !userfaults_here() {
        return;
    }
    let sample = Sample::new();
    let (memory, handle, mut timeline) = sample
        .restore_with(RestoreStrategy::Reap, |request| request.record = Record::Always(exact()))
        .unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let memory = Arc::clone(&memory);
            scope.spawn(move || invoke(&memory));
        }
    });
    let outcome = handle.finish(&mut timeline);
    assert_eq!(outcome.recording.unwrap().unwrap().seen(), touched());
}

#[test]
fn strategies_without_recordings_refuse_to_record() {
    let sample = Sample::new();
    let refused =
        sample.restore_with(RestoreStrategy::Eager, |request| request.record = Record::Always(exact()));
    assert!(matches!(refused, Err(crate::RestoreError::Unavailable { .. })));
    let timeline = Timeline::start();
    assert!(!timeline.recorded);
}

#[test]
fn a_recording_from_elsewhere_is_checked_before_it_is_kept() {
    let sample = Sample::new();
    let recording = record(&sample, RestoreStrategy::FaaSnap, exact());
    let decode = |recording: &Recording| {
        let bytes = postcard::to_stdvec(recording).unwrap();
        Recording::decode(&bytes, &sample.snapshot, RestoreStrategy::FaaSnap)
    };
    let bytes = recording.encode().unwrap();
    assert_eq!(Recording::decode(&bytes, &sample.snapshot, RestoreStrategy::FaaSnap), Ok(recording.clone()));
    assert!(Recording::decode(&bytes, &sample.snapshot, RestoreStrategy::Reap).is_err());
    assert!(
        Recording::decode(&bytes[..bytes.len() - 1], &sample.snapshot, RestoreStrategy::FaaSnap).is_err()
    );
    let beyond = sample.snapshot.page_count().0;
    let scattered: PageSet = (0..70_000).map(|page| pages::PageIndex(page * 2)).collect();
    let wrong = [
        Recording { snapshot: snapshot::SnapshotId([9; 16]), ..recording.clone() },
        Recording { written: [range(beyond, beyond + 1)].into_iter().collect(), ..recording.clone() },
        Recording { fresh: [range(1 << 18, (1 << 18) + 1)].into_iter().collect(), ..recording.clone() },
        Recording { groups: vec![[range(0, 1 << 40)].into_iter().collect()], ..recording.clone() },
        Recording { readahead_window: PageCount(u64::MAX), ..recording.clone() },
        Recording { groups: vec![PageSet::new(); 5000], ..recording.clone() },
        Recording { written: scattered, ..recording },
    ];
    for wrong in wrong {
        assert!(decode(&wrong).is_err(), "{wrong:?}");
    }
}
