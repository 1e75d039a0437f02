//! The container as a whole: what is written is read back, and damage of any kind is refused with its name.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use pages::{PageCount, PageIndex, PageRange};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::{ErrorKind, MachineIdentity, SectionKind, Snapshot, SnapshotBuilder, SnapshotError};

const VCPUS: SectionKind = SectionKind::named("vcpus");
const PAGE: usize = 4096;

fn machine() -> MachineIdentity {
    MachineIdentity {
        cpu_vendor: "GenuineIntel".into(),
        cpu_model: "A CPU (family 6, model 143, stepping 8)".into(),
        cpu_features: "fpu avx".into(),
        kernel_release: "6.1.0".into(),
        page_size: 4096,
    }
}

/// Pages 3, 4 and 290 of 300 hold data; page 5 is passed but zero.
fn write(parent: &Path, name: &str) -> Snapshot {
    let mut builder = SnapshotBuilder::begin(parent, name, machine()).unwrap();
    builder.section(VCPUS, 7, b"registers").unwrap();
    builder
        .memory(PageCount(300), |sink| -> Result<(), SnapshotError> {
            let mut pages = vec![3; 3 * PAGE];
            pages[2 * PAGE..].fill(0);
            sink.write(PageIndex(3), &pages)?;
            sink.write(PageIndex(290), &[9; PAGE])
        })
        .unwrap();
    builder.publish().unwrap()
}

fn sample() -> (TempDir, PathBuf) {
    let parent = tempfile::tempdir().unwrap();
    let path = write(parent.path(), "sample").directory().to_owned();
    (parent, path)
}

#[test]
fn what_is_written_is_read_back() {
    let (_parent, path) = sample();
    let snapshot = Snapshot::open_for(&path, &machine()).unwrap();
    assert_eq!(snapshot.section(VCPUS).unwrap().version, 7);
    assert_eq!(snapshot.section_version(VCPUS, 7).unwrap(), b"registers");
    assert_eq!(snapshot.page_count(), PageCount(300));
    let runs = [PageRange::new(PageIndex(3), PageCount(2)), PageRange::new(PageIndex(290), PageCount(1))];
    assert_eq!(snapshot.stored_pages().runs(), runs);
    assert_eq!(snapshot.verify(|_| {}).unwrap().stored_pages, PageCount(3));
}

#[test]
fn zero_pages_are_holes_and_only_the_owner_may_read() {
    let (parent, path) = sample();
    let memory = fs::metadata(path.join("memory")).unwrap();
    assert_eq!(memory.len(), 300 * 4096);
    assert!(memory.blocks() * 512 < 100 * 4096, "the file is not sparse");
    assert_eq!(memory.permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(path.join("state")).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1, "temporary files were left");
}

#[test]
fn a_disk_is_stored_and_checked_as_memory_is() {
    let parent = tempfile::tempdir().unwrap();
    let mut builder = SnapshotBuilder::begin(parent.path(), "disk", machine()).unwrap();
    builder.memory::<SnapshotError>(PageCount(1), |_| Ok(())).unwrap();
    builder
        .disk(PageCount(9), |sink| sink.write(PageIndex(4), &[[3; PAGE], [0; PAGE], [5; PAGE]].concat()))
        .unwrap();
    let snapshot = builder.publish().unwrap();
    let mut content = [1; PAGE];
    let disk = snapshot.disk_file().unwrap();
    disk.read_exact_at(&mut content, 6 * PAGE as u64).unwrap();
    assert_eq!((content, disk.metadata().unwrap().len()), ([5; PAGE], 9 * PAGE as u64));
    assert_eq!(snapshot.verify(|_| {}).unwrap().stored_pages, PageCount(2));
    let path = parent.path().join("disk");
    let file = fs::OpenOptions::new().write(true).open(path.join("disk")).unwrap();
    file.write_all_at(&[9], 4 * PAGE as u64).unwrap();
    assert_eq!(check(&path).unwrap_err().kind(), ErrorKind::Corrupt);
    file.set_len(8 * PAGE as u64).unwrap();
    assert_eq!(check(&path).unwrap_err().kind(), ErrorKind::WrongLength);
    fs::remove_file(path.join("disk")).unwrap();
    assert_eq!(check(&path).unwrap_err().kind(), ErrorKind::Corrupt);
    let (_other, without) = sample();
    assert!(Snapshot::open(&without).unwrap().disk_file().is_none());
}

#[test]
fn a_taken_name_is_refused_and_nothing_is_left() {
    let (parent, path) = sample();
    let before = fs::read(path.join("state")).unwrap();
    let mut builder = SnapshotBuilder::begin(parent.path(), "sample", machine()).unwrap();
    builder.memory::<SnapshotError>(PageCount(1), |_| Ok(())).unwrap();
    assert_eq!(builder.publish().unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(fs::read(path.join("state")).unwrap(), before);
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
}

#[test]
fn a_writer_that_fails_leaves_nothing() {
    let parent = tempfile::tempdir().unwrap();
    let mut builder = SnapshotBuilder::begin(parent.path(), "half", machine()).unwrap();
    let failed = builder.memory(PageCount(4), |sink| sink.write(PageIndex(3), &[1; 2 * PAGE]));
    assert_eq!(failed.unwrap_err().kind(), ErrorKind::Misuse);
    drop(builder);
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
}

#[test]
fn pages_out_of_order_and_broken_pages_are_misuse() {
    let parent = tempfile::tempdir().unwrap();
    for (first, second, length) in
        [(2, 2, PAGE), (2, 1, PAGE), (0, 1, PAGE - 1), (0, 4, PAGE), (0, u64::MAX, PAGE)]
    {
        let mut builder = SnapshotBuilder::begin(parent.path(), "order", machine()).unwrap();
        let failed: Result<(), SnapshotError> = builder.memory(PageCount(4), |sink| {
            sink.write(PageIndex(first), &[1; PAGE])?;
            sink.write(PageIndex(second), &vec![1; length])
        });
        assert_eq!(failed.unwrap_err().kind(), ErrorKind::Misuse, "{first} then {second}");
    }
}

#[test]
fn another_machine_is_refused_by_name() {
    let (_parent, path) = sample();
    let other = MachineIdentity { kernel_release: "6.18".into(), ..machine() };
    let error = Snapshot::open_for(&path, &other).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OtherMachine);
    let text = error.to_string();
    assert!(
        text.contains("kernel was \"6.1.0\", is \"6.18\"") && text.contains("create the snapshot again"),
        "{text}"
    );
}

#[test]
fn missing_things_say_what_to_do() {
    let (parent, path) = sample();
    let snapshot = Snapshot::open(&path).unwrap();
    assert_eq!(snapshot.section(SectionKind::named("files")).unwrap_err().kind(), ErrorKind::MissingSection);
    assert_eq!(snapshot.section_version(VCPUS, 8).unwrap_err().kind(), ErrorKind::UnsupportedVersion);
    assert_eq!(Snapshot::open(&parent.path().join("none")).unwrap_err().kind(), ErrorKind::NotFound);
    fs::remove_file(path.join("memory")).unwrap();
    let lost = Snapshot::open(&path).unwrap_err();
    assert_eq!(lost.kind(), ErrorKind::Corrupt);
    assert!(lost.to_string().contains("memory"), "{lost}");
}

#[test]
fn the_version_is_reported_whatever_else_the_file_holds() {
    let (_parent, path) = sample();
    let state = path.join("state");
    let mut bytes = fs::read(&state).unwrap();
    bytes[8] = 2;
    fs::write(&state, &bytes).unwrap();
    assert_eq!(Snapshot::open(&path).unwrap_err().kind(), ErrorKind::UnsupportedVersion);
    fs::write(&state, b"#!/bin/sh").unwrap();
    assert_eq!(Snapshot::open(&path).unwrap_err().kind(), ErrorKind::NotASnapshot);
}

#[test]
fn data_in_a_hole_is_found() {
    let (_parent, path) = sample();
    let mut bytes = fs::read(path.join("memory")).unwrap();
    bytes[280 * PAGE + 17] = 1;
    fs::write(path.join("memory"), &bytes).unwrap();
    let error = Snapshot::open(&path).unwrap().verify(|_| {}).unwrap_err();
    assert_eq!((error.kind(), error.offset()), (ErrorKind::Corrupt, Some(280 * 4096 + 17)));
}

/// Opens and verifies whatever is in `path`.
fn check(path: &Path) -> Result<(), SnapshotError> {
    Snapshot::open(path)?.verify(|_| {}).map(drop)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_flipped_bit_is_found(memory in any::<bool>(), position in any::<prop::sample::Index>(), bit in 0..8u32) {
        let (_parent, path) = sample();
        let file = path.join(if memory { "memory" } else { "state" });
        let mut bytes = fs::read(&file).unwrap();
        let position = position.index(bytes.len());
        bytes[position] ^= 1 << bit;
        fs::write(&file, &bytes).unwrap();
        let error = check(&path).unwrap_err();
        let expected = [ErrorKind::Corrupt, ErrorKind::NotASnapshot, ErrorKind::UnsupportedVersion,
            ErrorKind::LimitExceeded, ErrorKind::WrongLength];
        prop_assert!(expected.contains(&error.kind()), "{error:?}");
    }

    #[test]
    fn any_other_length_is_found(memory in any::<bool>(), cut in any::<prop::sample::Index>(), longer in any::<bool>()) {
        let (_parent, path) = sample();
        let file = path.join(if memory { "memory" } else { "state" });
        let length = fs::metadata(&file).unwrap().len();
        let new = if longer { length + 1 + cut.index(5000) as u64 } else { cut.index(length as usize) as u64 };
        fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(new).unwrap();
        let error = check(&path).unwrap_err();
        prop_assert!([ErrorKind::WrongLength, ErrorKind::NotASnapshot].contains(&error.kind()), "{error:?}");
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), with_magic in any::<bool>()) {
        let (_parent, path) = sample();
        let mut bytes = bytes;
        if with_magic {
            bytes.splice(0..0, *b"FAASNAP\0\x01\0");
        }
        fs::write(path.join("state"), &bytes).unwrap();
        prop_assert!(check(&path).is_err());
    }
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/format-1")
}

#[test]
fn the_golden_snapshot_of_format_1_still_loads() {
    let snapshot = Snapshot::open_for(&golden(), &machine()).unwrap();
    assert_eq!(snapshot.id().to_string(), "cb9b00311c5400ba5ef12a41eacfb599");
    assert_eq!(snapshot.tool_version(), "0.1.0");
    assert_eq!(snapshot.section_version(VCPUS, 7).unwrap(), b"registers");
    let runs = [PageRange::new(PageIndex(3), PageCount(2)), PageRange::new(PageIndex(290), PageCount(1))];
    assert_eq!(snapshot.stored_pages().runs(), runs);
    snapshot.verify(|_| {}).unwrap();
}

/// Run by hand when the format changes: `cargo test -p snapshot -- --ignored write_golden`, after removing the old one.
#[test]
#[ignore = "writes into the source tree"]
fn write_golden() {
    let path = golden();
    let snapshot = write(path.parent().unwrap(), path.file_name().unwrap().to_str().unwrap());
    panic!("now put the id {} into the test above", snapshot.id());
}
