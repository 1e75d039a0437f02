//! Loading sets whose chunks are compressed.

use std::fs::{self, File};
use std::path::PathBuf;

use guest_memory::Lost;
use proptest::prelude::*;

use super::huge::{HUGE, damage, open, recorded_as};
use super::late::{Late, late, shuffled, touch};
use super::recorded::userfaults_here;
use super::sample::{Sample, set};
use crate::{
    Compression, FileUse, LoadFailure, LoadingSet, LoadingSetProblem, LoadingSetUse, RestoreStrategy,
    Technique, Techniques, Timeline,
};

fn path(sample: &Sample) -> PathBuf {
    open(sample).path
}

/// Restores with `techniques` while three touch everything; what the loader says of it.
fn restored(sample: &Sample, seed: u64, techniques: Techniques) -> LoadingSetUse {
    sample.drop_cache();
    let Late { memory, arrivals, handle, mut timeline } =
        late(sample, |request| request.techniques = techniques);
    std::thread::scope(|scope| {
        for more in 0..3 {
            let (memory, arrivals) = (&memory, &arrivals);
            scope.spawn(move || touch(memory, arrivals, &shuffled(seed * 10 + more)).unwrap());
        }
    });
    arrivals.wait_for_all().unwrap();
    sample.check(&memory);
    assert!(handle.finish(&mut timeline).failure.is_none());
    timeline.loading_set.unwrap()
}

#[test]
fn whoever_touches_what_is_decoded_finds_it_whole() {
    let sample = recorded_as(Compression::Always);
    let held = open(&sample).compressed_bytes().unwrap();
    assert!(held.stored_bytes < held.bytes);
    let all = Techniques::default();
    let of_huge_blocks = set(&HUGE).count().bytes();
    for (seed, (techniques, least)) in [
        (all, of_huge_blocks),
        (Techniques { loading_set_file: FileUse::Never, ..all }, of_huge_blocks),
        (Techniques { loading_set_file: FileUse::Always, ..all }, of_huge_blocks),
        (all.without(Technique::ReadyMemory), of_huge_blocks),
        (all.without(Technique::LateBlocks), of_huge_blocks),
        (all.without(Technique::HugeBlocks), 0),
    ]
    .into_iter()
    .enumerate()
    {
        let used = restored(&sample, seed as u64, techniques);
        assert!(used.decoded_bytes >= least && used.loaded_bytes >= used.decoded_bytes, "{used:?}");
        assert_eq!(used.compressed_bytes < used.decoded_bytes, used.decoded_bytes > 0, "{used:?}");
    }
}

#[test]
fn what_is_not_to_be_decoded_or_has_no_place_is_read_as_it_is() {
    let sample = recorded_as(Compression::Always);
    assert_eq!(restored(&sample, 1, Techniques::default().without(Technique::Compressed)).decoded_bytes, 0);
    // A guest whose tables don't forbid writes maps everything.
    sample.drop_cache();
    let (memory, handle, mut timeline) = sample.restore(RestoreStrategy::FaaSnap).unwrap();
    sample.check(&memory);
    assert!(handle.finish(&mut timeline).failure.is_none());
    assert_eq!(timeline.loading_set.unwrap().decoded_bytes, 0);
    assert!(open(&recorded_as(Compression::Never)).compressed_bytes().is_none());
}

#[test]
fn what_is_in_the_page_cache_is_read_as_it_is() {
    let sample = recorded_as(Compression::Always);
    assert!(restored(&sample, 1, Techniques::default()).decoded_bytes > 0);
    for file in [path(&sample), sample.snapshot.memory_path()] {
        fs::read(file).unwrap();
    }
    let Late { memory, arrivals, handle, mut timeline } = late(&sample, |_| ());
    arrivals.wait_for_all().unwrap();
    sample.check(&memory);
    assert!(handle.finish(&mut timeline).failure.is_none());
    assert_eq!(timeline.loading_set.unwrap().decoded_bytes, 0);
}

#[test]
fn the_timeline_tells_what_was_decoded() {
    let used =
        LoadingSetUse { decoded_bytes: 8 << 20, compressed_bytes: 1 << 20, ..LoadingSetUse::default() };
    let mut timeline = Timeline::start();
    timeline.loading_set = Some(used);
    let text = timeline.to_string();
    assert!(text.contains("compressed         1024 KiB read, 8192 KiB decoded\n"), "{text}");
}

#[test]
fn a_damaged_compressed_chunk_is_never_seen_and_sets_the_file_aside() {
    let sample = recorded_as(Compression::Always);
    let name = LoadingSet::file_name(RestoreStrategy::FaaSnap);
    let set_aside = || LoadingSet::set_aside_if_damaged(&sample.snapshot, name, &sample.layout).unwrap();
    assert!(!set_aside());
    let length = fs::metadata(path(&sample)).unwrap().len();
    let held = open(&sample).compressed_bytes().unwrap();
    (length - held.stored_bytes..length).step_by(4096).for_each(|offset| damage(&path(&sample), offset));
    sample.drop_cache();
    let Late { memory, arrivals, handle, mut timeline } = late(&sample, |_| ());
    assert_eq!(touch(&memory, &arrivals, &[1950]), Err(Lost));
    match handle.finish(&mut timeline).failure {
        Some(LoadFailure::Checksum { is_recording: true, .. }) => {}
        other => panic!("{other:?}"),
    }
    assert!(set_aside());
}

#[test]
fn a_file_cut_short_in_its_compressed_chunks_is_found() {
    let sample = recorded_as(Compression::Always);
    let whole = fs::read(path(&sample)).unwrap();
    let path = path(&sample);
    let held = open(&sample).compressed_bytes().unwrap().stored_bytes as usize;
    for length in [whole.len() - 1, whole.len() - held / 2, whole.len() - held, whole.len() - held - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        let name = LoadingSet::file_name(RestoreStrategy::FaaSnap);
        let problem = LoadingSet::open(&sample.snapshot, name, &sample.layout).unwrap_err();
        assert!(matches!(problem, LoadingSetProblem::Damaged(_)), "{problem}");
    }
    fs::write(&path, &whole).unwrap();
    // Under a restore.
    let Late { memory, arrivals, handle, mut timeline } = late(&sample, |request| {
        request.on_failure = Some(std::sync::Arc::new(|_| ()));
        File::options().write(true).open(&path).unwrap().set_len((whole.len() - held) as u64).unwrap();
    });
    let seen = touch(&memory, &arrivals, &shuffled(7));
    match handle.finish(&mut timeline).failure {
        Some(LoadFailure::Read { is_recording: true, .. }) => assert_eq!(seen, Err(Lost)),
        // The request looks at the file when it is made, or when it is carried out.
        None => assert!(timeline.fell_back.is_some() && seen.is_ok()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn reap_reads_pages_as_they_are() {
    if !userfaults_here() {
        return;
    }
    let sample = Sample::new();
    super::recorded::record_and_publish(&sample, RestoreStrategy::Reap);
    let name = LoadingSet::file_name(RestoreStrategy::Reap);
    let set = LoadingSet::open(&sample.snapshot, name, &sample.layout).unwrap();
    assert!(set.compressed_bytes().is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_flipped_bit_of_a_compressed_chunk_is_found(position in any::<prop::sample::Index>(), bit in 0..8u32) {
        let sample = recorded_as(Compression::Always);
        let (path, name) = (path(&sample), LoadingSet::file_name(RestoreStrategy::FaaSnap));
        let mut bytes = fs::read(&path).unwrap();
        let held = open(&sample).compressed_bytes().unwrap().stored_bytes as usize;
        let position = bytes.len() - held + position.index(held);
        bytes[position] ^= 1 << bit;
        fs::write(&path, &bytes).unwrap();
        prop_assert!(LoadingSet::set_aside_if_damaged(&sample.snapshot, name, &sample.layout).unwrap());
    }
}
