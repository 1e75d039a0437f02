//! A snapshot with a loading-set file as an earlier version wrote them: they must still load.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use guest_memory::GuestMemory;
use pages::{GuestPhysical, PageCount, PageIndex};
use snapshot::{MachineIdentity, Snapshot, SnapshotBuilder, SnapshotError};

use super::recorded::exact;
use super::sample::{page_content, range};
use crate::{
    Access, Backing, GuestLayout, LoadingSet, LoadingSetRule, MemoryPicture, PageClasses, Record, Region,
    RestoreRequest, RestoreStrategy, Timeline, restore, wrong_pages,
};

fn golden(format: u16) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/goldens/format-{format}"))
}

#[test]
fn the_golden_loading_sets_of_older_formats_still_load() {
    [1, 3].into_iter().for_each(check_golden);
}

fn check_golden(format: u16) {
    let snapshot = Snapshot::open(&golden(format)).unwrap();
    let layout = GuestLayout::from_snapshot(&snapshot).unwrap();
    assert_eq!(layout.regions().len(), 2);
    let name = LoadingSet::file_name(RestoreStrategy::FaaSnap);
    let set = LoadingSet::open(&snapshot, name, &layout).unwrap();
    let pages = set.pages();
    assert_eq!(pages.runs(), [range(4, 8), range(20, 22)]);
    assert_eq!(set.written().runs(), [range(20, 22)]);
    assert_eq!(set.fresh().runs(), [range(50, 51)]);

    let classes = PageClasses::of_loading_set(&layout, snapshot.stored_pages(), Some(&set));
    let picture = MemoryPicture::new(layout.page_count(), &classes, Some(&set)).to_string();
    let expected = "oooo0000oooooooooooo66oooooooooo..................+.........    ";
    assert_eq!(picture.lines().next(), Some(expected));

    let memory = Arc::new(GuestMemory::reserve(layout.page_count()).unwrap());
    let mut timeline = Timeline::start();
    let request = RestoreRequest::new(&memory, &snapshot, &layout, &[], RestoreStrategy::FaaSnap);
    let handle = restore(&request, &mut timeline).unwrap();
    assert!(handle.warnings().is_empty(), "{:?}", handle.warnings());
    assert!(wrong_pages(&memory, &snapshot, &layout, &[]).unwrap().is_empty());
    assert!(handle.finish(&mut timeline).failure.is_none());
}

/// Run by hand before a format changes: `cargo test -p restore -- --ignored write_golden`.
#[test]
#[ignore = "writes into the source tree"]
fn write_golden() {
    let path = golden(4);
    let region = |start, end, access| Region { range: range(start, end), backing: Backing::Memory, access };
    let layout =
        GuestLayout::new(PageCount(64), vec![region(0, 16, Access::Read), region(16, 60, Access::ReadWrite)])
            .unwrap();
    let machine = MachineIdentity::of_this_machine().unwrap();
    let name = path.file_name().unwrap().to_str().unwrap();
    let mut builder = SnapshotBuilder::begin(path.parent().unwrap(), name, machine).unwrap();
    layout.add_to(&mut builder).unwrap();
    builder
        .memory(PageCount(64), |sink| -> Result<(), SnapshotError> {
            (0..32).try_for_each(|page| sink.write(PageIndex(page), &page_content(page)))
        })
        .unwrap();
    let snapshot = builder.publish().unwrap();
    let memory = Arc::new(GuestMemory::reserve(PageCount(64)).unwrap());
    let mut timeline = Timeline::start();
    let mut request = RestoreRequest::new(&memory, &snapshot, &layout, &[], RestoreStrategy::FaaSnap);
    request.record = Record::Always(exact());
    let handle = restore(&request, &mut timeline).unwrap();
    for page in 4..8 {
        memory.read(GuestPhysical(page * 4096), &mut [0]).unwrap();
    }
    for page in [20, 21, 50] {
        memory.write(GuestPhysical(page * 4096), &[1]).unwrap();
    }
    let recording = handle.finish(&mut timeline).recording.unwrap().unwrap();
    recording.publish(&snapshot, &layout, &LoadingSetRule::default()).unwrap();
}
