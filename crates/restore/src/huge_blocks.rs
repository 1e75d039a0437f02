//! Blocks of 2 MiB that become huge pages: those that the recording knows nearly whole.
//!
//! The guest has one fault for such a block, where it has one for eight pages at best otherwise, and the disk writes straight
//! into it. Several threads read them, each a block at a time, so that the disk always has some to do. The page cache is
//! gone past when nobody else has a use for it ([`crate::sole_reader`]). Chunks that are read compressed are decoded into the
//! block by the thread that reads them.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use guest_memory::{Advice, GuestMemory, MapError, Protection, Source};
use pages::{Block, PAGE_SIZE, PageCount, PageIndex, PageRange, PageSet};

use crate::description;
use crate::error::RestoreError;
use crate::failure::LoadFailure;
use crate::layout::{Access, Backing, GuestLayout};
use crate::loader::LoaderJob;
use crate::loading_set::{CHUNK, Decoder, LoadingSet, Piece};

/// How many threads read: enough for the disk to be busy while some of them wait for a processor, clear memory or compare checksums.
const READERS: usize = 8;
/// How many of them begin before what the guest needs first is mapped.
pub(crate) const FIRST_READERS: usize = 2;
/// Bytes that are compared with their checksum at once: they stay in the processor's first cache.
const COMPARED_AT_ONCE: usize = 16 << 10;

/// How many threads read the blocks of `job`. What is decoded costs a processor, not the disk: more of them than there are
/// `processors` would only take turns with the guest's own start.
pub(crate) fn readers(job: &LoaderJob, processors: usize) -> usize {
    let is_decoded = |huge: &&HugeBlock| huge.chunks().all(|number| job.compressed(number).is_some());
    let decoded = job.huge.iter().filter(is_decoded).count();
    (job.huge.len() - decoded + decoded.min(processors)).min(READERS)
}

/// The pages of `set`'s whole blocks that can be huge pages in a guest with `layout`: memory of its own, writable throughout.
pub(crate) fn huge_pages(set: &LoadingSet, layout: &GuestLayout) -> PageSet {
    let is_memory =
        |region: &&crate::Region| region.backing == Backing::Memory && region.access == Access::ReadWrite;
    let memory: PageSet = layout.regions().iter().filter(is_memory).map(|region| region.range).collect();
    let whole = set.regions().iter().filter(|region| region.is_whole_block).map(|region| region.range);
    whole.filter(|range| memory.within(*range).eq([*range])).collect()
}

/// A block that is read as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct HugeBlock {
    pub block: Block,
    /// Where it is in the file.
    offset: u64,
    /// The first of its chunks.
    first_chunk: usize,
}

impl HugeBlock {
    /// The blocks of `huge`, in the order of `chunks`.
    pub fn of(chunks: &[Vec<Piece>], huge: &PageSet) -> Vec<Self> {
        let begins = chunks.iter().enumerate().filter_map(|(first_chunk, chunk)| {
            let Piece { range, offset } = *chunk.first()?;
            let block = Block::containing(range.start);
            let is_huge = range.start == block.first() && huge.contains(range.start);
            is_huge.then_some(Self { block, offset, first_chunk })
        });
        begins.collect()
    }

    /// The numbers of its chunks.
    pub fn chunks(&self) -> Range<usize> {
        self.first_chunk..self.first_chunk + (Block::PAGES.0 / CHUNK.0) as usize
    }
}

/// Puts memory in place for blocks: huge pages as soon as they are written. The guest can't see them yet.
pub(crate) fn prepare(memory: &GuestMemory, huge: &PageSet) -> Result<(), RestoreError> {
    for run in huge.runs() {
        memory.map(*run, Source::Anonymous, Protection::ReadWrite)?;
        // A host without huge pages refuses it, and everything works without.
        let _ = memory.advise(*run, Advice::HugePage);
    }
    Ok(())
}

/// How whole blocks are read.
#[derive(Debug, Default)]
pub(crate) struct HugeReader {
    /// The file, past the page cache.
    direct: Option<File>,
    /// The file system refused that while it was read.
    is_refused: AtomicBool,
    /// Bytes read past the page cache.
    direct_bytes: AtomicU64,
}

impl HugeReader {
    /// For blocks of `file`; `past_cache` if nobody else has a use for its page cache.
    pub fn new(file: &File, past_cache: bool) -> Self {
        // A file system that can't is read through the page cache; the timeline tells.
        let direct = past_cache.then(|| description::reopened_past_cache(file).ok()).flatten();
        Self { direct, ..Self::default() }
    }

    /// Bytes that were read past the page cache.
    pub fn direct_bytes(&self) -> u64 {
        self.direct_bytes.load(Ordering::Relaxed)
    }

    /// Reads a block of `job` into its place and compares its checksums. Gives the bytes that it has.
    pub fn read(
        &self,
        job: &LoaderJob,
        huge: &HugeBlock,
        (decoder, buffer): (&mut Decoder, &mut [u8]),
    ) -> Result<u64, LoadFailure> {
        let is_plain = huge.chunks().all(|number| job.compressed(number).is_none());
        if is_plain {
            self.read_pages(job, huge.block.pages(), huge.offset, huge.chunks())?;
            return Ok(Block::PAGES.bytes());
        }
        for number in huge.chunks() {
            let further = PageCount((number - huge.first_chunk) as u64 * CHUNK.0);
            let range = PageRange::new(PageIndex(huge.block.first().0 + further.0), CHUNK);
            let Some(held) = job.compressed(number) else {
                self.read_pages(job, range, huge.offset + further.bytes(), number..number + 1)?;
                continue;
            };
            job.ask_compressed(held);
            let decoded = job.decode(number, held, (&mut *decoder, &mut *buffer))?;
            let written = job.memory().write_ready(range.start.address(), decoded);
            written.map_err(|source| LoadFailure::NotWritable { range, source })?;
        }
        Ok(Block::PAGES.bytes())
    }

    /// Reads the pages `range`, which are the chunks `numbers`, from `offset` and compares their checksums.
    fn read_pages(
        &self,
        job: &LoaderJob,
        range: PageRange,
        offset: u64,
        numbers: Range<usize>,
    ) -> Result<(), LoadFailure> {
        if !self.read_direct(job.memory(), range, offset) {
            let read = job.memory().read_in(range, job.file().as_fd(), offset);
            read.map_err(|error| job.not_read(offset, of_disk(error)))?;
        }
        check(job, range, offset, numbers)
    }

    /// Reads past the page cache; `false` where that can't be.
    fn read_direct(&self, memory: &GuestMemory, range: PageRange, offset: u64) -> bool {
        let Some(file) = self.direct.as_ref().filter(|_| !self.is_refused.load(Ordering::Relaxed)) else {
            return false;
        };
        // Whatever is wrong, reading through the page cache tells.
        let is_read = memory.read_in(range, file.as_fd(), offset).is_ok();
        if is_read {
            self.direct_bytes.fetch_add(range.count.bytes(), Ordering::Relaxed);
        } else {
            self.is_refused.store(true, Ordering::Relaxed);
        }
        is_read
    }
}

/// What the kernel said.
fn of_disk(error: MapError) -> io::Error {
    match error {
        MapError::Host { source, .. } => source,
        other => io::Error::other(other),
    }
}

fn check(job: &LoaderJob, range: PageRange, offset: u64, numbers: Range<usize>) -> Result<(), LoadFailure> {
    let mut bytes = [0; COMPARED_AT_ONCE];
    let mut at = range.start.address();
    let mut offset = offset;
    for number in numbers {
        let mut checksum = 0;
        for _ in 0..CHUNK.bytes() as usize / COMPARED_AT_ONCE {
            let read = job.memory().read_ready(at, &mut bytes);
            read.map_err(|source| LoadFailure::NotWritable { range, source })?;
            checksum = crc32c::crc32c_append(checksum, &bytes);
            at = at + COMPARED_AT_ONCE as u64;
        }
        if job.set.checksums.get(number) != Some(&checksum) {
            return Err(job.wrong_checksum(offset));
        }
        offset += CHUNK.bytes();
    }
    Ok(())
}

const _: () = assert!((CHUNK.0 * PAGE_SIZE).is_multiple_of(COMPARED_AT_ONCE as u64));
