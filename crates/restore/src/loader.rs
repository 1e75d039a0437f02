//! What is known to be needed: the loading set in chunks, read, compared with their checksums, and put where they belong.
//!
//! A page of it comes into guest memory in one of two ways. Where memory is mapped from the file that is read, the chunk is
//! in the page cache once it has been read, and the host's page tables are filled behind it ([`LoaderJob::populate`]);
//! the guest meets the loader only there, so that nothing is lost whoever is first. Where a page has its own place
//! ([`crate::placement`]) its bytes are copied, which is for memory that the guest can't see yet. What is read as whole blocks
//! ([`crate::huge_blocks`]) is left alone here.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use guest_memory::{Advice, GuestMemory};
use pages::{PAGE_SIZE, PageCount, PageIndex, PageRange, PageSet};
use rustix::fs::fadvise;

use crate::failure::LoadFailure;
use crate::huge_blocks::HugeBlock;
use crate::layout::{Access, GuestLayout};
use crate::loading_set::{LoadingSet, Piece, PlacedRegion, chunks, extents};
use crate::recording::memory_pages;
use crate::strategy::Techniques;

/// How many chunks are asked for ahead of what is read (2 MiB): enough to keep the disk busy while a chunk is checked and
/// put in place.
const AHEAD_CHUNKS: usize = 8;
/// How many neighbouring pages software KVM maps at one fault (PTE_PREFETCH_NUM in Linux's arch/x86/kvm/mmu).
const GROUP: u64 = 8;

/// Everything that is known of a guest's need.
pub(crate) struct LoaderJob {
    memory: Arc<GuestMemory>,
    pub set: LoadingSet,
    /// Reads the regions' pages from the memory file instead of the loading-set file. The checksums are the same.
    memory_file: Option<(File, PathBuf)>,
    pub techniques: Techniques,
    /// Pages that have their memory already: content is put into it before the guest can see it.
    pub placed: PageSet,
    /// Pages that get their private copy ahead.
    private: PageSet,
    /// Pages of the guest's files that do.
    pub files: PageSet,
    /// Pages that the guest may write.
    writable: PageSet,
    /// Pages that nobody may access.
    inaccessible: PageSet,
    /// Zero pages to give memory to.
    pub fresh: PageSet,
    /// The set, cut for reading.
    pub chunks: Vec<Vec<Piece>>,
    /// What is read as whole blocks.
    pub huge: Vec<HugeBlock>,
    /// The largest gap in the file that is asked for with its neighbours.
    bridge: PageCount,
}

/// What the guest's layout says of a loading set.
pub(crate) struct Known<'a> {
    pub layout: &'a GuestLayout,
    pub stored: &'a PageSet,
    /// Pages that have their memory already.
    pub placed: &'a PageSet,
    /// Blocks that become huge pages.
    pub huge: &'a PageSet,
}

impl LoaderJob {
    /// The job for `set`, which is read from `memory_file` if that is given.
    pub fn new(
        memory: Arc<GuestMemory>,
        set: LoadingSet,
        memory_file: Option<(File, PathBuf)>,
        known: &Known<'_>,
        techniques: Techniques,
    ) -> Self {
        let with = |access: Access| -> PageSet {
            let regions = known.layout.regions().iter().filter(|region| region.access == access);
            regions.map(|region| region.range).collect()
        };
        let writable = with(Access::ReadWrite);
        let zero = memory_pages(known.layout).difference(known.stored);
        let fresh = set.fresh().intersection(&zero).intersection(&writable);
        let private = match techniques {
            Techniques { private_reads: true, .. } => set.pages(),
            Techniques { neighbours_ahead: true, .. } => with_neighbours(set.written()),
            _ => set.written().clone(),
        };
        let copied = techniques.populate && techniques.private_ahead && techniques.private_reads;
        let files = if copied { set.files().intersection(&writable) } else { PageSet::new() };
        let offset = |region: &PlacedRegion| match memory_file {
            Some(_) => PlacedRegion { offset: region.range.start.address().0, ..*region },
            None => *region,
        };
        let chunks = chunks(&set.regions().iter().map(offset).collect::<Vec<_>>());
        let huge = HugeBlock::of(&chunks, known.huge);
        // The compact file has none.
        let bridge = memory_file.as_ref().map_or(PageCount(0), |_| set.bridge());
        Self {
            memory,
            set,
            memory_file,
            techniques,
            placed: known.placed.union(known.huge),
            private,
            files,
            writable,
            inaccessible: with(Access::None),
            fresh,
            chunks,
            huge,
            bridge,
        }
    }

    /// Guest memory.
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// Whether reading ahead is left to the kernel: it can for the compact file, which is read from start to end, when the
    /// device's window is large enough to keep the disk busy, and when nothing in it is read otherwise.
    fn kernel_reads_ahead(&self) -> bool {
        self.memory_file.is_none() && self.huge.is_empty() && self.set.disk().has_large_window()
    }

    /// The loading-set file.
    pub fn set_file(&self) -> &File {
        &self.set.file
    }

    /// The file that the set is read from.
    pub fn file(&self) -> &File {
        self.memory_file.as_ref().map_or(&self.set.file, |(file, _)| file)
    }

    /// That file could not be read at `offset`.
    pub fn not_read(&self, offset: u64, source: io::Error) -> LoadFailure {
        LoadFailure::Read { path: self.path().clone(), offset, is_recording: self.is_recording(), source }
    }

    /// What it has at `offset` is not what was written.
    pub fn wrong_checksum(&self, offset: u64) -> LoadFailure {
        LoadFailure::Checksum { path: self.path().clone(), offset, is_recording: self.is_recording() }
    }

    fn path(&self) -> &PathBuf {
        self.memory_file.as_ref().map_or(&self.set.path, |(_, path)| path)
    }

    fn is_recording(&self) -> bool {
        self.memory_file.is_none()
    }

    /// Asks the kernel to read a chunk, without waiting; of the memory file also what lies between its pieces, where that costs the
    /// disk less than another read.
    fn ask(&self, number: usize) {
        let chunk = self.chunks.get(number).map(Vec::as_slice).unwrap_or_default();
        for (offset, length) in extents(chunk, self.bridge.bytes()) {
            // A hint: what it doesn't bring in, the read does.
            let _ = fadvise(self.file(), offset, NonZeroU64::new(length), rustix::fs::Advice::WillNeed);
        }
    }

    /// Reads a chunk, compares its checksum (which also waits until it is in the page cache), and copies what has a place.
    /// Gives the bytes read.
    fn read(&self, number: usize, buffer: &mut [u8]) -> Result<u64, LoadFailure> {
        let Some(chunk) = self.chunks.get(number) else { return Ok(0) };
        let mut checksum = 0;
        let mut filled = 0;
        for (offset, length) in extents(chunk, 0) {
            let bytes = buffer.get_mut(filled..filled + length as usize).unwrap_or_default();
            filled += length as usize;
            self.file().read_exact_at(bytes, offset).map_err(|source| self.not_read(offset, source))?;
            checksum = crc32c::crc32c_append(checksum, bytes);
        }
        if self.set.checksums.get(number) != Some(&checksum) {
            return Err(self.wrong_checksum(chunk.first().map_or(0, |piece| piece.offset)));
        }
        self.put(chunk, buffer)?;
        Ok(filled as u64)
    }

    /// Copies what has a place out of `buffer`, which holds the chunk's pieces one after the other.
    fn put(&self, chunk: &[Piece], buffer: &[u8]) -> Result<(), LoadFailure> {
        let mut at = 0;
        for piece in chunk {
            for run in self.placed.within(piece.range) {
                let from = at + (run.start.0 - piece.range.start.0) as usize * PAGE_SIZE as usize;
                let bytes = buffer.get(from..from + run.count.bytes() as usize).unwrap_or_default();
                // The pages are ready, and the guest can't see them yet.
                let written = self.memory.write_ready(run.start.address(), bytes);
                written.map_err(|source| LoadFailure::NotWritable { range: run, source })?;
            }
            at += piece.range.count.bytes() as usize;
        }
        Ok(())
    }

    /// Fills the host's page tables for `range`. The guest may have unmapped or protected pages of it meanwhile; then there is
    /// nothing to do for them, so a refusal is no error. That the file could be read was checked before.
    pub fn populate(&self, range: PageRange) {
        let here: PageSet = [range].into_iter().collect();
        let here = here.difference(&self.inaccessible).difference(&self.placed);
        let privately = if self.techniques.private_ahead {
            here.intersection(&self.private).intersection(&self.writable)
        } else {
            PageSet::new()
        };
        // Copies first: populating for reading maps neighbours too, and copying a page that is mapped already costs an
        // interrupt to the guest's processor.
        for run in privately.runs() {
            let _ = self.memory.advise(*run, Advice::PopulateWrite);
        }
        for run in here.difference(&privately).runs() {
            let _ = self.memory.advise(*run, Advice::PopulateRead);
        }
    }
}

/// Reads chunks of a job, each once, in an order that is known ahead but may be left.
pub(crate) struct Reading<'a> {
    job: &'a LoaderJob,
    order: Vec<usize>,
    /// How many of `order` have been asked for.
    asked: usize,
    is_read: Vec<bool>,
    buffer: Vec<u8>,
}

impl<'a> Reading<'a> {
    /// Will read the chunks of `order` first, then the others that don't belong to whole blocks, each into `buffer`, which has a
    /// chunk's size. The first are asked for now.
    pub fn new(job: &'a LoaderJob, mut order: Vec<usize>, buffer: Vec<u8>) -> Self {
        let mut known = vec![false; job.chunks.len()];
        for number in job.huge.iter().flat_map(HugeBlock::chunks) {
            known.get_mut(number).into_iter().for_each(|known| *known = true);
        }
        order.retain(|number| known.get_mut(*number).is_some_and(|known| !std::mem::replace(known, true)));
        order.extend((0..job.chunks.len()).filter(|number| known.get(*number) == Some(&false)));
        if !job.kernel_reads_ahead() {
            // No readahead but our own. A hint: without it the kernel reads ahead too, which is only slower.
            let _ = fadvise(job.file(), 0, None, rustix::fs::Advice::Random);
        }
        let mut reading = Self { job, order, asked: 0, is_read: vec![false; job.chunks.len()], buffer };
        let first = if job.kernel_reads_ahead() { 1 } else { AHEAD_CHUNKS };
        reading.ask_up_to(first);
        reading
    }

    fn ask_up_to(&mut self, end: usize) {
        while self.asked < end.min(self.order.len()) {
            if let Some(number) = self.order.get(self.asked) {
                self.job.ask(*number);
            }
            self.asked += 1;
        }
    }

    /// Reads a chunk, unless that was done before; gives the bytes read.
    pub fn read(&mut self, number: usize) -> Result<u64, LoadFailure> {
        if self.is_read.get(number) != Some(&false) {
            return Ok(0);
        }
        if !self.job.kernel_reads_ahead() {
            let place = self.order.iter().position(|one| *one == number).unwrap_or(0);
            self.ask_up_to(place + 1 + AHEAD_CHUNKS);
        }
        let bytes = self.job.read(number, &mut self.buffer)?;
        if let Some(is_read) = self.is_read.get_mut(number) {
            *is_read = true;
        }
        Ok(bytes)
    }

    /// The chunks that have not been read, in order.
    pub fn left(&self) -> Vec<usize> {
        self.with(false)
    }

    /// The chunks that have been.
    pub fn done(&self) -> Vec<usize> {
        self.with(true)
    }

    fn with(&self, is_read: bool) -> Vec<usize> {
        self.order.iter().copied().filter(|number| self.is_read.get(*number) == Some(&is_read)).collect()
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
