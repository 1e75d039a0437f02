//! What is known to be needed: the loading set in chunks, read, compared with their checksums, and put where they belong.
//!
//! A page of it comes into guest memory in one of two ways. Where memory is mapped from the file that is read, the chunk is
//! in the page cache once it has been read, and the host's page tables are filled behind it ([`LoaderJob::populate`]);
//! the guest meets the loader only there, so that nothing is lost whoever is first. Where a page has its own place
//! ([`crate::placement`]) its bytes are copied, which is for memory that the guest can't see yet. What is read as whole blocks
//! ([`crate::huge_blocks`]) is left alone here. A chunk that the loading-set file has compressed is read so when the disk has less
//! to do then, with what has no place of its own read beside it, from where it is mapped.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use guest_memory::{Advice, GuestMemory, cached_count};
use pages::{PAGE_SIZE, PageCount, PageIndex, PageRange, PageSet};
use parking_lot::Mutex;
use rustix::fs::fadvise;

use crate::failure::LoadFailure;
use crate::huge_blocks::HugeBlock;
use crate::layout::{Access, GuestLayout};
use crate::loading_set::{
    Compressed, Decoder, LoadingSet, Piece, PlacedRegion, chunks, extents, page_count, unplaced,
};
use crate::recording::memory_pages;
use crate::strategy::Techniques;

/// How many chunks are asked for ahead of what is read (2 MiB): enough to keep the disk busy while a chunk is checked and
/// put in place.
const AHEAD_CHUNKS: usize = 8;
/// How far compressed chunks are asked for ahead of what is read, in bytes of the file (1 MiB): they are short, and one request is
/// for many.
const AHEAD_COMPRESSED: u64 = 1 << 20;
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
    /// Where those chunks are that are read compressed, by number.
    compressed: Vec<Option<Compressed>>,
    /// Up to where compressed chunks have been asked for, in the loading-set file.
    asked: Mutex<u64>,
    /// What was read compressed.
    pub decoded: Decoded,
}

/// What was read compressed, so far.
#[derive(Debug, Default)]
pub(crate) struct Decoded {
    bytes: AtomicU64,
    compressed_bytes: AtomicU64,
}

impl Decoded {
    /// What it became, and how many bytes of the file it took.
    pub fn bytes(&self) -> (u64, u64) {
        (self.bytes.load(Ordering::Relaxed), self.compressed_bytes.load(Ordering::Relaxed))
    }
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
        let placed = known.placed.union(known.huge);
        let file = memory_file.as_ref().map_or(&set.file, |(file, _)| file);
        let compressed = |(number, chunk): (usize, &Vec<Piece>)| {
            let held = set.compressed(number).filter(|_| techniques.compressed)?;
            let is_shorter = set.is_shorter_compressed(held, chunk, &placed);
            // What is in the page cache takes no disk, and copying it less than decoding.
            (is_shorter && !begins_cached(file, chunk)).then_some(held)
        };
        let compressed = chunks.iter().enumerate().map(compressed).collect();
        Self {
            memory,
            set,
            memory_file,
            techniques,
            placed,
            private,
            files,
            writable,
            inaccessible: with(Access::None),
            fresh,
            chunks,
            huge,
            bridge,
            compressed,
            asked: Mutex::default(),
            decoded: Decoded::default(),
        }
    }

    /// Guest memory.
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// Whether reading ahead is left to the kernel: it can for the compact file, which is read from start to end, when the
    /// device's window is large enough to keep the disk busy, and when nothing in it is read otherwise.
    fn kernel_reads_ahead(&self) -> bool {
        let is_plain = self.memory_file.is_none() && self.huge.is_empty();
        is_plain && self.compressed.iter().all(Option::is_none) && self.set.disk().has_large_window()
    }

    /// Where chunk `number` is read compressed, if it is.
    pub fn compressed(&self, number: usize) -> Option<Compressed> {
        self.compressed.get(number).copied().flatten()
    }

    /// How many pages are read as they are.
    pub fn uncompressed(&self) -> PageCount {
        let plain = self.chunks.iter().zip(&self.compressed).filter(|(_, held)| held.is_none());
        PageCount(plain.map(|(chunk, _)| page_count(chunk).0).sum())
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
        let mut chunk = self.chunks.get(number).cloned().unwrap_or_default();
        if let Some(held) = self.compressed(number) {
            self.ask_compressed(held);
            chunk = self.unplaced(&chunk);
        }
        for (offset, length) in extents(&chunk, self.bridge.bytes()) {
            // A hint: what it doesn't bring in, the read does.
            let _ = fadvise(self.file(), offset, NonZeroU64::new(length), rustix::fs::Advice::WillNeed);
        }
    }

    /// The same for a compressed chunk and those behind it.
    pub fn ask_compressed(&self, held: Compressed) {
        let mut asked = self.asked.lock();
        // Half of what is asked for at once may be left.
        if held.end() + AHEAD_COMPRESSED / 2 <= *asked {
            return;
        }
        let last = self.compressed.iter().rev().find_map(|held| *held);
        let end = (held.end() + AHEAD_COMPRESSED).min(last.map_or(0, Compressed::end));
        let begin = held.offset.max(*asked);
        if let Some(length) = NonZeroU64::new(end.saturating_sub(begin)) {
            let _ = fadvise(self.set_file(), begin, Some(length), rustix::fs::Advice::WillNeed);
            *asked = end;
        }
    }

    /// What of a chunk has no place of its own.
    fn unplaced(&self, chunk: &[Piece]) -> Vec<Piece> {
        unplaced(chunk, &self.placed)
    }

    /// Reads a chunk that is compressed, compares its checksum, and decodes it into `buffer`. Gives its bytes.
    pub fn decode<'a>(
        &self,
        number: usize,
        held: Compressed,
        (decoder, buffer): (&mut Decoder, &'a mut [u8]),
    ) -> Result<&'a [u8], LoadFailure> {
        let length = self.chunks.get(number).map_or(0, |chunk| page_count(chunk).bytes());
        let chunk = buffer.get_mut(..length as usize).unwrap_or_default();
        let (path, offset, is_recording) = (&self.set.path, held.offset, true);
        let is_sound = decoder.read(self.set_file(), held, chunk).map_err(|source| LoadFailure::Read {
            path: path.clone(),
            offset,
            is_recording,
            source,
        })?;
        if !is_sound {
            return Err(LoadFailure::Checksum { path: path.clone(), offset, is_recording });
        }
        self.decoded.bytes.fetch_add(length, Ordering::Relaxed);
        self.decoded.compressed_bytes.fetch_add(held.length as u64, Ordering::Relaxed);
        Ok(chunk)
    }

    /// Brings a chunk in by what is there compressed: copies what has a place, and reads the rest, so that it is in the page cache
    /// and compared, too. Gives the bytes decoded.
    fn read_compressed(
        &self,
        number: usize,
        held: Compressed,
        (decoder, buffer): (&mut Decoder, &mut [u8]),
    ) -> Result<u64, LoadFailure> {
        let Some(chunk) = self.chunks.get(number) else { return Ok(0) };
        let decoded = self.decode(number, held, (decoder, buffer))?;
        let mut at = 0;
        for piece in chunk {
            for part in unplaced(&[*piece], &self.placed) {
                let mut bytes = vec![0; part.range.count.bytes() as usize];
                let read = self.file().read_exact_at(&mut bytes, part.offset);
                read.map_err(|source| self.not_read(part.offset, source))?;
                let from = at + (part.offset - piece.offset) as usize;
                if decoded.get(from..from + bytes.len()) != Some(&*bytes) {
                    return Err(self.wrong_checksum(part.offset));
                }
            }
            at += piece.range.count.bytes() as usize;
        }
        self.put(chunk, decoded)?;
        Ok(decoded.len() as u64)
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

/// Whether the first piece of `chunk` is in the page cache; `false` where the kernel doesn't tell.
fn begins_cached(file: &File, chunk: &[Piece]) -> bool {
    chunk.first().is_some_and(|piece| {
        let range = PageRange::new(PageIndex(piece.offset / PAGE_SIZE), piece.range.count);
        cached_count(file.as_fd(), range).is_ok_and(|cached| cached == range.count)
    })
}

/// Reads chunks of a job, each once, in an order that is known ahead but may be left.
pub(crate) struct Reading<'a> {
    job: &'a LoaderJob,
    order: Vec<usize>,
    /// How many of `order` have been asked for.
    asked: usize,
    is_read: Vec<bool>,
    buffer: Vec<u8>,
    decoder: Decoder,
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
        let (is_read, decoder) = (vec![false; job.chunks.len()], Decoder::default());
        let mut reading = Self { job, order, asked: 0, is_read, buffer, decoder };
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
        let buffer = &mut self.buffer;
        let bytes = match self.job.compressed(number) {
            Some(held) => self.job.read_compressed(number, held, (&mut self.decoder, buffer))?,
            None => self.job.read(number, buffer)?,
        };
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
