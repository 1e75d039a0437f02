//! What every strategy owes its guest.

use std::os::fd::AsFd;

use guest_memory::{FileResidency, GuestMemory, Protection, Source};
use pages::{GuestPhysical, PageCount, PageIndex, PageSet};
use snapshot::Snapshot;

use super::sample::{PAGES, STORED, Sample, page_content, range};
use crate::{GuestLayout, LayoutError, Phase, RestoreError, RestoreStrategy, wrong_pages};

/// The strategies that need nothing recorded.
const PLAIN: [RestoreStrategy; 3] =
    [RestoreStrategy::OnDemand, RestoreStrategy::Cached, RestoreStrategy::Eager];

fn byte(memory: &GuestMemory, page: u64) -> u8 {
    let mut byte = [0];
    memory.read(GuestPhysical(page * 4096 + 1), &mut byte).unwrap();
    byte[0]
}

#[test]
fn every_page_is_what_it_was() {
    let sample = Sample::new();
    for strategy in PLAIN {
        let (memory, handle, mut timeline) = sample.restore(strategy).unwrap();
        sample.check(&memory);
        handle.finish(&mut timeline);
        assert_eq!(timeline.strategy, Some(strategy));
        assert!(timeline.regions_mapped > 0 && timeline.faults.minor > 0, "{timeline}");
    }
}

#[test]
fn the_comparison_sees_a_wrong_page() {
    let sample = Sample::new();
    let (memory, _handle, _) = sample.restore(RestoreStrategy::OnDemand).unwrap();
    memory.write(GuestPhysical(1234 * 4096), b"changed").unwrap();
    let wrong = wrong_pages(&memory, &sample.snapshot, &sample.layout, &sample.files()).unwrap();
    assert_eq!(wrong.runs(), [range(1234, 1235)]);
}

#[test]
fn protections_come_back() {
    let sample = Sample::new();
    for strategy in PLAIN {
        let (memory, _handle, _) = sample.restore(strategy).unwrap();
        let may_write = |page: u64| memory.write(GuestPhysical(page * 4096), &[1]).is_ok();
        let may_read = |page: u64| memory.read(GuestPhysical(page * 4096), &mut [0]).is_ok();
        for page in [10, 12, 30, 36, 1000, 3001, 3999] {
            assert!(may_write(page), "{strategy}: page {page} is not writable");
        }
        for page in [0, 2000, 2400, 2599] {
            assert!(may_read(page) && !may_write(page), "{strategy}: page {page} is not read-only");
        }
        for page in [20, 25, 29, 2999, 3000, 4000, PAGES - 1] {
            assert!(!may_read(page), "{strategy}: page {page} is accessible");
        }
    }
}

#[test]
fn writes_stay_private_except_to_shared_files() {
    let sample = Sample::new();
    for strategy in PLAIN {
        let (memory, ..) = sample.restore(strategy).unwrap();
        memory.write(GuestPhysical(11 * 4096 + 1), &[1]).unwrap();
        memory.write(GuestPhysical(1000 * 4096 + 1), &[1]).unwrap();
        memory.write(GuestPhysical(2600 * 4096 + 1), &[77]).unwrap();
        let (other, ..) = sample.restore(strategy).unwrap();
        assert_eq!(byte(&other, 11), 103);
        assert_eq!(byte(&other, 1000), page_content(1000)[1]);
        assert_eq!(byte(&other, 2600), 77);
    }
}

#[test]
fn memory_given_back_and_mapped_again_reads_zero() {
    let sample = Sample::new();
    for strategy in PLAIN {
        let (memory, ..) = sample.restore(strategy).unwrap();
        memory.release(range(1000, 1010)).unwrap();
        memory.map(range(1000, 1010), Source::Anonymous, Protection::ReadWrite).unwrap();
        assert_eq!(byte(&memory, 1005), 0, "{strategy}");
    }
}

#[test]
fn cached_makes_the_memory_file_resident_first() {
    let sample = Sample::new();
    sample.drop_cache();
    let file = sample.snapshot.memory_file().as_fd();
    let residency = FileResidency::of(file, PageCount(PAGES)).unwrap();
    let cached = || residency.cached(residency.whole()).unwrap();
    assert!(cached().is_empty(), "the page cache could not be dropped");
    let (_memory, _handle, timeline) = sample.restore(RestoreStrategy::Cached).unwrap();
    assert!(timeline.end_of(Phase::MadeResident).is_some());
    let stored: PageSet = STORED.iter().map(|(start, end)| range(*start, *end)).collect();
    assert!(stored.difference(&cached()).is_empty());
}

#[test]
fn the_layout_is_read_back_from_the_snapshot() {
    let sample = Sample::new();
    let snapshot = Snapshot::open(&sample.path()).unwrap();
    assert_eq!(GuestLayout::from_snapshot(&snapshot).unwrap(), sample.layout);
}

#[test]
fn layouts_that_do_not_fit_are_refused() {
    let mut sample = Sample::new();
    let regions = sample.layout.regions().to_vec();
    sample.layout = GuestLayout::new(PageCount(PAGES + 1), regions.clone()).unwrap();
    let error = sample.restore(RestoreStrategy::OnDemand).unwrap_err();
    assert!(matches!(error, RestoreError::Layout(LayoutError::PageCount { .. })), "{error}");

    let without_memory = regions.iter().filter(|region| region.range.start.0 != 3001).copied().collect();
    sample.layout = GuestLayout::new(PageCount(PAGES), without_memory).unwrap();
    let error = sample.restore(RestoreStrategy::OnDemand).unwrap_err();
    let expected = LayoutError::StoredWithoutMemory { page: PageIndex(3009) };
    assert!(matches!(&error, RestoreError::Layout(found) if *found == expected), "{error}");
}
