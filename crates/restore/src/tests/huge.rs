//! Blocks that a recording knows nearly whole: huge pages, read as wholes.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use guest_memory::{GuestMemory, Lost, Protection, Source, cached_count};
use pages::{Block, PAGE_SIZE, PageCount, PageIndex, PageRange, PageSet};

use super::late::{Late, late, shuffled, touch};
use super::sample::{Sample, page_content, range, set};
use crate::huge_blocks::{self, HugeBlock, HugeReader};
use crate::loader::{Known, LoaderJob};
use crate::loading_set::{CHUNK, Decoder, LoadingSet};
use crate::{
    Compression, FileUse, LoadFailure, LoadingSetRule, Recording, RestoreError, RestoreStrategy, Technique,
    Techniques,
};

/// Of blocks 2 and 3 nearly all that is stored, of block 4 too little, and pages elsewhere.
const SEEN: [(u64, u64); 4] = [(1000, 1400), (1500, 1600), (1610, 2300), (3100, 3110)];
/// Zero pages of block 2.
const FRESH: [(u64, u64); 1] = [(1420, 1440)];
pub(super) const HUGE: [(u64, u64); 1] = [(1024, 2048)];

fn recorded() -> Sample {
    recorded_as(Compression::Never)
}

pub(super) fn recorded_as(compression: Compression) -> Sample {
    let sample = Sample::new();
    let recording = Recording {
        snapshot: sample.snapshot.id(),
        strategy: RestoreStrategy::FaaSnap,
        readahead_window: PageCount(1),
        groups: vec![
            set(&[(1700, 1800), (3100, 3110)]),
            set(&SEEN).difference(&set(&[(1700, 1800), (3100, 3110)])),
        ],
        read_ahead: PageSet::new(),
        written: set(&[(1100, 1200)]),
        fresh: set(&FRESH),
        files: PageSet::new(),
    };
    let rule = LoadingSetRule { compression, ..LoadingSetRule::default() };
    recording.publish(&sample.snapshot, &sample.layout, &rule).unwrap();
    sample
}

pub(super) fn open(sample: &Sample) -> LoadingSet {
    let name = LoadingSet::file_name(RestoreStrategy::FaaSnap);
    LoadingSet::open(&sample.snapshot, name, &sample.layout).unwrap()
}

/// Where a page of the set is in its file.
fn offset_of(sample: &Sample, page: u64) -> u64 {
    let set = open(sample);
    let region = set.regions().iter().find(|region| region.range.iter().any(|one| one.0 == page)).unwrap();
    region.offset + (page - region.range.start.0) * PAGE_SIZE
}

pub(super) fn damage(path: &std::path::Path, offset: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[!byte[0]], offset).unwrap();
    file.sync_all().unwrap();
}

#[test]
fn whoever_touches_a_huge_block_finds_it_whole() {
    let sample = recorded();
    let all = Techniques::default();
    let variants = [
        all,
        Techniques { loading_set_file: FileUse::Never, ..all },
        Techniques { loading_set_file: FileUse::Always, ..all },
        all.without(Technique::ReadyMemory),
        all.without(Technique::HugeBlocks),
    ];
    for (seed, techniques) in variants.into_iter().enumerate() {
        sample.drop_cache();
        let Late { memory, arrivals, handle, mut timeline } =
            late(&sample, |request| request.techniques = techniques);
        std::thread::scope(|scope| {
            for more in 0..3 {
                let (memory, arrivals) = (&memory, &arrivals);
                scope.spawn(move || touch(memory, arrivals, &shuffled(seed as u64 * 10 + more)).unwrap());
            }
        });
        arrivals.wait_for_all().unwrap();
        sample.check(&memory);
        let outcome = handle.finish(&mut timeline);
        assert!(outcome.failure.is_none());
        let used = timeline.loading_set.unwrap();
        let expected = if techniques.huge_blocks { set(&HUGE).count().bytes() } else { 0 };
        assert_eq!((used.huge_bytes, used.bytes), (expected, open(&sample).page_count().bytes()));
        let text = timeline.to_string();
        assert_eq!(text.contains("in huge pages"), techniques.huge_blocks, "{text}");
    }
}

#[test]
fn where_nothing_comes_late_huge_blocks_are_in_before_the_guest_runs() {
    let sample = recorded();
    for technique in [Technique::LateBlocks, Technique::ConcurrentPaging] {
        sample.drop_cache();
        let (memory, handle, mut timeline) = sample
            .restore_with(RestoreStrategy::FaaSnap, |request| {
                request.tables_forbid_writes = true;
                request.techniques = Techniques::default().without(technique);
            })
            .unwrap();
        sample.check(&memory);
        assert!(handle.finish(&mut timeline).failure.is_none());
        assert_eq!(timeline.loading_set.unwrap().huge_bytes, set(&HUGE).count().bytes());
    }
}

#[test]
fn a_guest_whose_tables_do_not_forbid_writes_has_no_huge_blocks() {
    let sample = recorded();
    let (memory, handle, mut timeline) = sample.restore(RestoreStrategy::FaaSnap).unwrap();
    sample.check(&memory);
    assert!(handle.finish(&mut timeline).failure.is_none());
    assert_eq!(timeline.loading_set.unwrap().huge_bytes, 0);
}

#[test]
fn pages_of_a_huge_block_can_be_changed_one_by_one() {
    let sample = recorded();
    let Late { memory, arrivals, handle, mut timeline } = late(&sample, |_| ());
    arrivals.wait_for_all().unwrap();
    let word = |page: u64| {
        let mut word = [0; 8];
        memory.read(PageIndex(page).address(), &mut word).map(|()| word)
    };
    // What the kernel of a process guest does for mprotect, munmap and madvise.
    memory.protect(range(1600, 1601), Protection::None).unwrap();
    memory.map(range(1700, 1702), Source::Anonymous, Protection::ReadWrite).unwrap();
    memory.release(range(1800, 1810)).unwrap();
    memory.write(PageIndex(1900).address(), b"changed!").unwrap();
    assert!(word(1600).is_err() && word(1805).is_err());
    assert_eq!([word(1700), word(1701), word(1900)], [Ok([0; 8]), Ok([0; 8]), Ok(*b"changed!")]);
    memory.protect(range(1600, 1601), Protection::ReadWrite).unwrap();
    for page in [1536, 1599, 1600, 1601, 1699, 1702, 1799, 1810, 1899, 1901, 2047] {
        assert_eq!(word(page).unwrap(), page_content(page)[..8], "page {page}");
    }
    assert!(handle.finish(&mut timeline).failure.is_none());
}

#[test]
fn a_damaged_chunk_in_a_huge_block_is_never_seen() {
    for file in [FileUse::Always, FileUse::Never] {
        let sample = recorded();
        match file {
            FileUse::Never => damage(&sample.snapshot.memory_path(), 1950 * PAGE_SIZE + 77),
            _ => damage(&open(&sample).path, offset_of(&sample, 1950) + 77),
        }
        let Late { memory, arrivals, handle, mut timeline } =
            late(&sample, |request| request.techniques.loading_set_file = file);
        assert_eq!(touch(&memory, &arrivals, &[1950]), Err(Lost));
        match handle.finish(&mut timeline).failure {
            Some(LoadFailure::Checksum { is_recording, .. }) => {
                assert_eq!(is_recording, file == FileUse::Always)
            }
            other => panic!("{other:?}"),
        }
        let refused = sample.restore_with(RestoreStrategy::FaaSnap, |request| {
            request.tables_forbid_writes = true;
            request.techniques.loading_set_file = file;
        });
        assert!(matches!(refused, Err(RestoreError::Load(LoadFailure::Checksum { .. }))));
    }
}

#[test]
fn exchanged_pages_of_huge_blocks_are_found_and_set_the_file_aside() {
    let sample = recorded();
    let (path, name) = (open(&sample).path, LoadingSet::file_name(RestoreStrategy::FaaSnap));
    let (one, other) = (offset_of(&sample, 1100), offset_of(&sample, 1990));
    let mut bytes = fs::read(&path).unwrap();
    for at in 0..PAGE_SIZE {
        bytes.swap((one + at) as usize, (other + at) as usize);
    }
    fs::write(&path, bytes).unwrap();
    let Late { memory, arrivals, handle, mut timeline } =
        late(&sample, |request| request.techniques.loading_set_file = FileUse::Always);
    assert_eq!(touch(&memory, &arrivals, &[1990]), Err(Lost));
    assert!(handle.finish(&mut timeline).failure.unwrap().is_of_recording());
    assert!(LoadingSet::set_aside_if_damaged(&sample.snapshot, name, &sample.layout).unwrap());
}

/// A reader past the page cache and its job, over memory that is in place for it.
fn job(sample: &Sample, memory_file: Option<File>) -> LoaderJob {
    let memory = Arc::new(GuestMemory::reserve(sample.layout.page_count()).unwrap());
    huge_blocks::prepare(&memory, &set(&HUGE)).unwrap();
    let memory_file = memory_file.map(|file| (file, sample.snapshot.memory_path()));
    let (stored, nothing) = (sample.snapshot.stored_pages(), PageSet::new());
    let known = Known { layout: &sample.layout, stored, placed: &nothing, huge: &set(&HUGE) };
    LoaderJob::new(memory, open(sample), memory_file, &known, Techniques::default())
}

fn read(reader: &HugeReader, job: &LoaderJob, huge: &HugeBlock) -> Result<u64, LoadFailure> {
    reader.read(job, huge, (&mut Decoder::default(), &mut [0; CHUNK.bytes() as usize]))
}

#[test]
fn blocks_are_read_past_the_page_cache_into_huge_pages() {
    let sample = recorded();
    sample.drop_cache();
    let job = job(&sample, None);
    let reader = HugeReader::new(job.file(), true);
    for huge in &job.huge {
        assert_eq!(read(&reader, &job, huge).unwrap(), Block::PAGES.bytes());
    }
    let all = set(&HUGE).count().bytes();
    if reader.direct_bytes() == 0 {
        eprintln!("NOT TESTED: this file system can't be read past the page cache");
    } else {
        assert_eq!(reader.direct_bytes(), all);
        let length = PageCount(fs::metadata(&job.set.path).unwrap().len() / PAGE_SIZE);
        let cached = cached_count(job.file().as_fd(), PageRange::new(PageIndex(0), length)).unwrap();
        assert!(cached.bytes() < all / 2, "{cached:?} are cached");
    }
    for page in [1024, 1399, 1400, 1450, 1500, 1536, 2047] {
        let mut found = vec![1; PAGE_SIZE as usize];
        job.memory().read(PageIndex(page).address(), &mut found).unwrap();
        let stored = sample.snapshot.stored_pages().contains(PageIndex(page));
        assert_eq!(
            found,
            if stored { page_content(page) } else { vec![0; PAGE_SIZE as usize] },
            "page {page}"
        );
    }
    match huge_kib(job.memory()) {
        0 => eprintln!("NOT TESTED: this host gives no huge pages"),
        // A host that is short of free blocks may give fewer.
        found => assert!(found % 2048 == 0 && found << 10 <= all, "{found} KiB"),
    }
}

/// What of guest memory is in huge pages, by /proc/self/smaps.
fn huge_kib(memory: &GuestMemory) -> u64 {
    let start = format!("{:x}-", memory.host_address(PageIndex(HUGE[0].0).address()));
    let maps = fs::read_to_string("/proc/self/smaps").unwrap();
    let mapping = maps.lines().skip_while(|line| !line.starts_with(&start));
    let line = mapping.map(|line| line.strip_prefix("AnonHugePages:")).find_map(|line| line).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

#[test]
fn errors_of_the_disk_and_files_cut_short_are_passed_on() {
    let sample = recorded();
    // Reading this process's unmapped low addresses answers EIO, as a broken disk does.
    let broken = job(&sample, Some(File::open("/proc/self/mem").unwrap()));
    for past_cache in [false, true] {
        let reader = HugeReader::new(broken.file(), past_cache);
        match read(&reader, &broken, &broken.huge[0]) {
            Err(LoadFailure::Read { is_recording: false, source, .. }) => {
                assert_eq!(source.raw_os_error(), Some(5));
            }
            other => panic!("{other:?}"),
        }
    }
    let job = job(&sample, None);
    let (reader, last) = (HugeReader::new(job.file(), true), *job.huge.last().unwrap());
    File::options().write(true).open(&job.set.path).unwrap().set_len(100 * PAGE_SIZE).unwrap();
    match read(&reader, &job, &last) {
        Err(LoadFailure::Read { is_recording: true, source, .. }) => {
            assert_eq!(source.kind(), std::io::ErrorKind::UnexpectedEof);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_end_of_an_instance_leaves_no_reader_at_work() {
    let sample = recorded();
    for _ in 0..10 {
        sample.drop_cache();
        let Late { memory, handle, .. } = late(&sample, |_| ());
        drop(handle);
        assert_eq!(Arc::strong_count(&memory), 1, "a thread of the restore still holds guest memory");
    }
}
