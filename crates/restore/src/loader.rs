//! Concurrent paging: a thread that brings the loading set in while the guest runs.
//!
//! The loader and the guest meet only in the page cache and in the kernel's page tables. What the loader has brought in, the
//! guest finds; what it hasn't, the guest's own fault reads from the same file. Nothing is ever remapped, so the guest
//! can't lose a write; populating a page that the guest has already touched changes nothing.
//!
//! For each chunk of the file, in order: ask for a later piece of the file without waiting (or leave that to the kernel's
//! readahead, where the device's window is large: it then uses large folios); read the chunk and compare its checksum; fill the host's page tables for the guest's pages behind it. Pages that the recorded invocation wrote get
//! their private copy now, so that the guest's write doesn't fault; zero pages that it touched get memory now.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use guest_memory::{AccessError, Advice, GuestMemory};
use pages::{PAGE_SIZE, PageCount, PageIndex, PageRange, PageSet};
use rustix::fs::fadvise;
use thiserror::Error;

use crate::layout::{Access, GuestLayout};
use crate::loading_set::{CHUNK, LoadingSet, PlacedRegion};
use crate::recording::memory_pages;
use crate::strategy::Techniques;

/// How many chunks the loader asks for ahead of what it reads (2 MiB): enough to keep the disk busy while a chunk is
/// checked and populated.
const AHEAD_CHUNKS: usize = 8;
/// How many neighbouring pages software KVM maps at one fault (PTE_PREFETCH_NUM in Linux's arch/x86/kvm/mmu).
const GROUP: u64 = 8;
/// At most this many zero pages get memory ahead (64 MiB): beyond that the guest's own faults keep up.
const FRESH_LIMIT: PageCount = PageCount(1 << 14);

/// Why the loading set can't be trusted. The guest may have seen wrong bytes: stop it and discard it.
#[derive(Debug, Error)]
pub enum LoadFailure {
    /// A chunk isn't what it was when it was written.
    #[error("a chunk of {} at byte {offset} doesn't match its checksum; {}", name(path), next_time(*is_recording))]
    Checksum {
        /// The loading-set file.
        path: PathBuf,
        /// Where the chunk starts.
        offset: u64,
        /// Whether the file is a recording, which can be set aside: the next restore does without it.
        is_recording: bool,
    },
    /// The disk failed.
    #[error("reading {} at byte {offset} failed; {}", name(path), next_time(*is_recording))]
    Read {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// Whether the file is a recording, which can be set aside: the next restore does without it.
        is_recording: bool,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Memory that was made ready isn't.
    #[error("the memory that was made ready for {range:?} can't be written")]
    NotWritable {
        /// The pages.
        range: PageRange,
        /// Which of them.
        #[source]
        source: AccessError,
    },
}

impl LoadFailure {
    /// Whether a recording is at fault: whoever keeps the snapshot should have it checked ([`LoadingSet::set_aside_if_damaged`]).
    pub fn is_of_recording(&self) -> bool {
        matches!(self, Self::Checksum { is_recording: true, .. } | Self::Read { is_recording: true, .. })
    }
}

/// A worker knows the directory by a descriptor only: its path would tell nobody anything.
fn name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

fn next_time(is_recording: bool) -> &'static str {
    if is_recording {
        "the file is quarantined, the next restore does without it"
    } else {
        "remove it and create it again"
    }
}

/// Called from a thread of the restore's own when the guest must be stopped, with the reason.
pub type FailureHook = Arc<dyn Fn(&LoadFailure) + Send + Sync>;

/// What the loader is to do.
pub(crate) struct LoaderJob {
    pub memory: Arc<GuestMemory>,
    pub set: LoadingSet,
    /// Reads the regions' pages from the memory file instead of the loading-set file. The checksums are the same.
    pub memory_file: Option<(File, PathBuf)>,
    pub techniques: Techniques,
    /// Pages that have their memory already: content is put into it, before the guest runs.
    pub placed: PageSet,
    /// Pages that get their private copy ahead.
    pub private: PageSet,
    /// Pages of the guest's files that do.
    pub files: PageSet,
    /// Pages that the guest may write.
    pub writable: PageSet,
    /// Pages that nobody may access.
    pub inaccessible: PageSet,
    /// Zero pages to give memory to.
    pub fresh: PageSet,
    pub on_failure: Option<FailureHook>,
}

impl LoaderJob {
    /// The job for `set` in a guest with `layout`.
    pub fn new(
        memory: Arc<GuestMemory>,
        set: LoadingSet,
        layout: &GuestLayout,
        stored: &PageSet,
        techniques: Techniques,
    ) -> Self {
        let with = |access: Access| -> PageSet {
            let regions = layout.regions().iter().filter(|region| region.access == access);
            regions.map(|region| region.range).collect()
        };
        let writable = with(Access::ReadWrite);
        let zero = memory_pages(layout).difference(stored);
        let fresh = set.fresh().intersection(&zero).intersection(&writable);
        let private = match techniques {
            Techniques { private_reads: true, .. } => set.pages(),
            Techniques { neighbours_ahead: true, .. } => with_neighbours(set.written()),
            _ => set.written().clone(),
        };
        let copied = techniques.populate && techniques.private_ahead && techniques.private_reads;
        let files = if copied { set.files().intersection(&writable) } else { PageSet::new() };
        Self {
            memory,
            set,
            memory_file: None,
            techniques,
            placed: PageSet::new(),
            private,
            files,
            writable,
            inaccessible: with(Access::None),
            fresh,
            on_failure: None,
        }
    }

    /// Reads every chunk that has pages with a place, puts these into it, and says how many bytes were read. Touches no other
    /// pages: these may not be mapped yet.
    pub fn place(&self) -> Result<u64, LoadFailure> {
        let mut loaded_bytes = 0;
        let (placed, _) = self.chunks();
        let loaded = load(self, &placed, &AtomicBool::new(false), &mut loaded_bytes, |_| {}, |_| {});
        if let (Err(failure), Some(hook)) = (&loaded, &self.on_failure) {
            hook(failure);
        }
        loaded.map(|()| loaded_bytes)
    }

    /// The chunks with their numbers, in order: those that have pages with a place, and the others.
    fn chunks(&self) -> (Vec<NumberedChunk>, Vec<NumberedChunk>) {
        let meets = |piece: &Piece| self.placed.within(piece.range).next().is_some();
        let all = chunks(&self.regions()).into_iter().enumerate();
        all.partition(|(_, chunk)| chunk.iter().any(meets))
    }

    /// Asks for the first pages, without waiting for them.
    pub fn ask_first(&self) {
        let file = self.file();
        let first = if self.kernel_reads_ahead() { 1 } else { AHEAD_CHUNKS };
        if !self.kernel_reads_ahead() {
            // No readahead but our own. A hint: without it the kernel reads ahead too, which is only slower.
            let _ = fadvise(file, 0, None, rustix::fs::Advice::Random);
        }
        let (placed, others) = self.chunks();
        for (_, chunk) in placed.iter().chain(&others).take(first) {
            ask(file, chunk);
        }
    }

    /// Whether reading ahead is left to the kernel: it can for the compact file, which is read from start to end, when the
    /// device's window is large enough to keep the disk busy.
    fn kernel_reads_ahead(&self) -> bool {
        self.memory_file.is_none() && self.set.disk().has_large_window()
    }

    fn file(&self) -> &File {
        self.memory_file.as_ref().map_or(&self.set.file, |(file, _)| file)
    }

    fn regions(&self) -> Vec<PlacedRegion> {
        let placed = |region: &PlacedRegion| match self.memory_file {
            Some(_) => PlacedRegion { offset: region.range.start.address().0, ..*region },
            None => *region,
        };
        self.set.regions().iter().map(placed).collect()
    }
}

/// `pages` with everything that can share a group of [`GROUP`] with one of them, wherever the groups' borders are: these follow
/// guest-virtual addresses, which are not known here.
fn with_neighbours(pages: &PageSet) -> PageSet {
    let around = |run: &PageRange| {
        let start = PageIndex(run.start.0.saturating_sub(GROUP - 1));
        PageRange::between(start, PageIndex((run.end().0 + GROUP - 1).min(PageSet::LIMIT.0)))
    };
    pages.runs().iter().map(around).collect()
}

/// Pages that are next to each other in the guest and in the file, within one chunk.
#[derive(Clone, Copy)]
struct Piece {
    range: PageRange,
    offset: u64,
}

/// A chunk and its place in the list of checksums.
type NumberedChunk = (usize, Vec<Piece>);

/// What the loader did.
#[derive(Debug)]
pub(crate) struct LoaderReport {
    pub loaded_bytes: u64,
    pub failure: Option<LoadFailure>,
}

/// The loader's thread. Dropping it ends it at the next chunk and waits for it.
#[derive(Debug)]
pub(crate) struct Loader {
    thread: Option<JoinHandle<LoaderReport>>,
    stop: Arc<AtomicBool>,
    /// CLOCK_MONOTONIC when it was done, 0 before.
    done_at_ns: Arc<AtomicU64>,
}

impl Loader {
    /// Starts the thread.
    pub fn start(job: LoaderJob) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let done_at_ns = Arc::new(AtomicU64::new(0));
        let (stopped, done) = (Arc::clone(&stop), Arc::clone(&done_at_ns));
        let thread = thread::Builder::new().name("loader".into()).spawn(move || {
            jail::narrow(jail::Role::Loader);
            let report = run(&job, &stopped);
            done.store(crate::timeline::monotonic_ns(), Ordering::Release);
            report
        })?;
        Ok(Self { thread: Some(thread), stop, done_at_ns })
    }

    /// CLOCK_MONOTONIC when the last page was in, once it is.
    pub fn done_at_ns(&self) -> Option<u64> {
        Some(self.done_at_ns.load(Ordering::Acquire)).filter(|done| *done != 0)
    }

    /// Ends the thread and says what it did; `None` when it ended abnormally.
    pub fn finish(mut self) -> Option<LoaderReport> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().and_then(|thread| thread.join().ok())
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the loader has been printed by its thread.
            let _ = thread.join();
        }
    }
}

/// Loads in this thread what has not been put into its place before.
pub(crate) fn run(job: &LoaderJob, stop: &AtomicBool) -> LoaderReport {
    let mut loaded_bytes = 0;
    let (placed, chunks) = job.chunks();
    let populate = |range| {
        if job.techniques.populate {
            populate(job, range);
        }
    };
    // What of the chunks that are in has no place.
    placed.iter().flat_map(|(_, chunk)| chunk).for_each(|piece| populate(piece.range));
    for run in job.files.difference(&job.placed).runs() {
        // As in `populate`.
        let _ = job.memory.advise(*run, Advice::PopulateWrite);
    }
    let mut fresh = Fresh::new(&job.fresh.difference(&job.placed), chunks.len(), job.techniques);
    let failure =
        load(job, &chunks, stop, &mut loaded_bytes, |memory| fresh.prepare_some(memory), populate).err();
    if failure.is_none() {
        fresh.prepare_rest(&job.memory, stop);
    }
    if let (Some(failure), Some(hook)) = (&failure, &job.on_failure) {
        hook(failure);
    }
    LoaderReport { loaded_bytes, failure }
}

/// Loads `chunks` in this thread; `meanwhile` is done after asking for the next ones, `then` for each piece that is in.
fn load(
    job: &LoaderJob,
    chunks: &[NumberedChunk],
    stop: &AtomicBool,
    loaded_bytes: &mut u64,
    mut meanwhile: impl FnMut(&GuestMemory),
    then: impl Fn(PageRange),
) -> Result<(), LoadFailure> {
    let file = job.file();
    let mut asked = 0;
    let mut buffer = vec![0; CHUNK.bytes() as usize];
    for (index, (number, chunk)) in chunks.iter().enumerate() {
        if stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        let wanted = (index + AHEAD_CHUNKS).min(chunks.len());
        for (_, later) in chunks.get(asked..wanted).unwrap_or_default() {
            if !job.kernel_reads_ahead() {
                ask(file, later);
            }
        }
        asked = asked.max(wanted);
        meanwhile(&job.memory);
        read_checked(job, file, *number, chunk, &mut buffer)?;
        put(job, chunk, &buffer)?;
        chunk.iter().for_each(|piece| then(piece.range));
        *loaded_bytes += chunk.iter().map(|piece| piece.range.count.bytes()).sum::<u64>();
    }
    Ok(())
}

/// Copies what has a place out of `buffer`, which holds the chunk's pieces one after the other.
fn put(job: &LoaderJob, chunk: &[Piece], buffer: &[u8]) -> Result<(), LoadFailure> {
    let mut at = 0;
    for piece in chunk {
        for run in job.placed.within(piece.range) {
            let from = at + (run.start.0 - piece.range.start.0) as usize * PAGE_SIZE as usize;
            let bytes = buffer.get(from..from + run.count.bytes() as usize).unwrap_or_default();
            // The pages are ready and no guest runs yet: `LoaderJob::place`.
            let written = job.memory.write_ready(run.start.address(), bytes);
            written.map_err(|source| LoadFailure::NotWritable { range: run, source })?;
        }
        at += piece.range.count.bytes() as usize;
    }
    Ok(())
}

/// Cuts the regions, in order, into chunks: [`CHUNK`] pages each, the last may have fewer.
fn chunks(regions: &[PlacedRegion]) -> Vec<Vec<Piece>> {
    let mut chunks: Vec<Vec<Piece>> = Vec::new();
    let mut room = 0;
    for region in regions {
        let mut start = region.range.start;
        while start < region.range.end() {
            if room == 0 {
                chunks.push(Vec::new());
                room = CHUNK.0;
            }
            let count = PageCount(room.min(region.range.end().0 - start.0));
            let offset = region.offset + (start.0 - region.range.start.0) * PAGE_SIZE;
            let piece = Piece { range: PageRange::new(start, count), offset };
            if let Some(chunk) = chunks.last_mut() {
                chunk.push(piece);
            }
            room -= count.0;
            start = piece.range.end();
        }
    }
    chunks
}

/// The bytes of the file behind `chunk`, as runs of (offset, length).
fn extents(chunk: &[Piece]) -> Vec<(u64, u64)> {
    let mut extents: Vec<(u64, u64)> = Vec::new();
    for piece in chunk {
        let length = piece.range.count.bytes();
        match extents.last_mut() {
            Some((offset, before)) if *offset + *before == piece.offset => *before += length,
            _ => extents.push((piece.offset, length)),
        }
    }
    extents
}

/// Asks the kernel to read the chunk, without waiting.
fn ask(file: &File, chunk: &[Piece]) {
    for (offset, length) in extents(chunk) {
        // A hint: what it doesn't bring in, the read does.
        let _ = fadvise(file, offset, NonZeroU64::new(length), rustix::fs::Advice::WillNeed);
    }
}

/// Reads a chunk and compares its checksum, which also waits until it is in the page cache.
fn read_checked(
    job: &LoaderJob,
    file: &File,
    index: usize,
    chunk: &[Piece],
    buffer: &mut [u8],
) -> Result<(), LoadFailure> {
    let path = job.memory_file.as_ref().map_or(&job.set.path, |(_, path)| path);
    let mut checksum = 0;
    let mut filled = 0;
    for (offset, length) in extents(chunk) {
        let bytes = buffer.get_mut(filled..filled + length as usize).unwrap_or_default();
        filled += length as usize;
        file.read_exact_at(bytes, offset).map_err(|source| LoadFailure::Read {
            path: path.clone(),
            offset,
            is_recording: job.memory_file.is_none(),
            source,
        })?;
        checksum = crc32c::crc32c_append(checksum, bytes);
    }
    if job.set.checksums.get(index) == Some(&checksum) {
        return Ok(());
    }
    Err(LoadFailure::Checksum {
        path: path.clone(),
        offset: chunk.first().map_or(0, |piece| piece.offset),
        is_recording: job.memory_file.is_none(),
    })
}

/// Fills the host's page tables for `range`. The guest may have unmapped or protected pages of it meanwhile; then there is
/// nothing to do for them, so a refusal is no error. That the file could be read was checked before.
fn populate(job: &LoaderJob, range: PageRange) {
    let here: PageSet = [range].into_iter().collect();
    let here = here.difference(&job.inaccessible).difference(&job.placed);
    let privately = if job.techniques.private_ahead {
        here.intersection(&job.private).intersection(&job.writable)
    } else {
        PageSet::new()
    };
    // Copies first: populating for reading maps neighbours too, and copying a page that is mapped already costs an
    // interrupt to the guest's processor.
    for run in privately.runs() {
        let _ = job.memory.advise(*run, Advice::PopulateWrite);
    }
    for run in here.difference(&privately).runs() {
        let _ = job.memory.advise(*run, Advice::PopulateRead);
    }
}

/// Zero pages that the recorded invocation touched, given memory piece by piece between the chunks.
struct Fresh {
    runs: Vec<PageRange>,
    share: PageCount,
}

impl Fresh {
    fn new(pages: &PageSet, chunks: usize, techniques: Techniques) -> Self {
        if !techniques.fresh_ahead {
            return Self { runs: Vec::new(), share: PageCount(0) };
        }
        let mut left = FRESH_LIMIT.0;
        let mut runs: Vec<PageRange> = Vec::new();
        for run in pages.runs() {
            let count = run.count.0.min(left);
            left -= count;
            if count > 0 {
                runs.push(PageRange::new(run.start, PageCount(count)));
            }
        }
        // Taken from the end: the lowest addresses first.
        runs.reverse();
        let share = (FRESH_LIMIT.0 - left).div_ceil(chunks.max(1) as u64);
        Self { runs, share: PageCount(share) }
    }

    fn prepare_some(&mut self, memory: &GuestMemory) {
        let mut left = self.share.0;
        while left > 0
            && let Some(run) = self.runs.pop()
        {
            let count = PageCount(run.count.0.min(left));
            let now = PageRange::new(run.start, count);
            // As for `populate`, the guest may have other plans for these pages by now.
            let _ = memory.advise(now, Advice::PopulateWrite);
            left -= count.0;
            let rest = PageRange::between(now.end(), run.end());
            if !rest.is_empty() {
                self.runs.push(rest);
            }
        }
    }

    fn prepare_rest(&mut self, memory: &GuestMemory, stop: &AtomicBool) {
        self.share = self.share.max(CHUNK);
        while !self.runs.is_empty() && !stop.load(Ordering::Relaxed) {
            self.prepare_some(memory);
        }
    }
}
