//! Memory that is ready for blocks which the guest gets after the restore.

use std::sync::Arc;

use guest_memory::{Advice, GuestMemory, Protection, Source};
use pages::{PageCount, PageIndex, PageSet};

use super::recorded::record_and_publish;
use super::sample::{PAGES, Sample, range, set};
use crate::layout::READY_END;
use crate::{
    LoadingSetRule, ReadyPages, Recording, RestoreRequest, RestoreStrategy, Technique, Timeline, restore,
};

/// What was ready, and of it what is still accessible, when the guest is known to have grown by `GROWN`.
const READY: [(u64, u64); 3] = [(1000, 1120), (PAGES - 10, PAGES + 300), (PAGES + 600, PAGES + 700)];
const GROWN: [(u64, u64); 3] =
    [(PAGES - 5, PAGES + 1), (PAGES + 20, PAGES + 400), (PAGES + 650, PAGES + 2000)];

fn recorded(sample: &Sample) -> Recording {
    let mut recording = record_and_publish(sample, RestoreStrategy::FaaSnap);
    let (end, beyond) = (READY_END.0, READY_END.0 + 10);
    recording.note_growth(&set(&GROWN).union(&set(&[(40, 50), (end - 1, beyond)])), &sample.layout);
    assert!(recording.fresh.contains(PageIndex(end - 1)) && !recording.fresh.contains(READY_END));
    recording
}

/// The growth that a restore leaves, having given back all else.
fn left(sample: &Sample, without: &[Technique], strategy: RestoreStrategy) -> PageSet {
    let memory = Arc::new(GuestMemory::reserve(PageCount(PAGES + 1024)).unwrap());
    let ready = set(&READY);
    for run in ready.runs() {
        memory.map(*run, Source::Anonymous, Protection::ReadWrite).unwrap();
        memory.advise(*run, Advice::PopulateWrite).unwrap();
    }
    let files = sample.files();
    let mut request = RestoreRequest::new(&memory, &sample.snapshot, &sample.layout, &files, strategy);
    request.tables_forbid_writes = true;
    request.ready = ready.clone();
    request.techniques =
        without.iter().fold(request.techniques, |techniques, left| techniques.without(*left));
    let mut timeline = Timeline::start();
    let handle = restore(&request, &mut timeline).unwrap();
    for page in ready.within(range(PAGES, PAGES + 1024)).flat_map(pages::PageRange::iter) {
        assert_eq!(memory.read(page.address(), &mut [0]).is_ok(), handle.growth().contains(page), "{page:?}");
    }
    sample.check(&memory);
    let growth = handle.growth().clone();
    assert!(handle.finish(&mut timeline).failure.is_none());
    growth
}

#[test]
fn what_a_recorded_invocation_grew_into_is_left_ready_and_nothing_else() {
    let sample = Sample::new();
    let recording = recorded(&sample);
    let bytes = recording.encode().unwrap();
    let decoded = Recording::decode(&bytes, &sample.snapshot, RestoreStrategy::FaaSnap).unwrap();
    assert_eq!(decoded, recording);
    decoded.publish(&sample.snapshot, &sample.layout, &LoadingSetRule::default()).unwrap();
    let likely = ReadyPages::of_snapshot(sample.snapshot.directory(), true).unwrap();
    assert!(set(&GROWN).within(range(PAGES, PAGES + 1024)).all(|run| likely.pages.contains(run.start)));
    assert!(likely.pages.contains(PageIndex(PAGES + 10)));
    assert!(likely.writable.contains(PageIndex(1600)) && !likely.writable.contains(PageIndex(PAGES)));
    let fixed = ReadyPages::of_snapshot(sample.snapshot.directory(), false).unwrap();
    assert!(fixed.pages.contains(PageIndex(1600)) && !fixed.pages.contains(PageIndex(PAGES + 10)));
    // What is used of a block may be more with another input.
    let expected = set(&[(PAGES, PAGES + 300), (PAGES + 650, PAGES + 700)]);
    assert_eq!(left(&sample, &[], RestoreStrategy::FaaSnap), expected);
    for technique in [Technique::GrowthAhead, Technique::ReadyMemory, Technique::PrivateReads] {
        assert!(left(&sample, &[technique], RestoreStrategy::FaaSnap).is_empty(), "{technique}");
    }
    assert!(left(&sample, &[], RestoreStrategy::OnDemand).is_empty());
}
