//! The loading-set file: regions of guest memory in the order of loading, compact, checksummed, tied to its snapshot.
//!
//! Layout (numbers little-endian): 64 bytes of header (magic, version, checksum and length of the table, offset of the data,
//! what mapping a region takes on the machine that wrote it, 0 when it did not look, offset of the compressed chunks, 0 when there are
//! none), the table in postcard, zeros up to a page border, the pages of every region one after the other, then, where that pays, their
//! chunks once more, compressed ([`crate::loading_set::compressed`]). The table holds the snapshot's id, the regions, the pages that were
//! written, which regions are blocks that are loaded as wholes, a CRC32C for each chunk of the data ([`chunks`]), and length and CRC32C of
//! each that is there compressed.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use pages::{Block, PAGE_SIZE, PageCount, PageIndex, PageRange, PageSet};
use serde::{Deserialize, Serialize};
use snapshot::{Snapshot, SnapshotId};
use thiserror::Error;

use crate::layout::GuestLayout;
use crate::loading_set::chunks::{CHUNK, Piece, chunks, page_count, unplaced};
use crate::loading_set::compressed::{Compressed, CompressedBytes, Decoder, Kept, places};
use crate::loading_set::costs::CostModel;
use crate::loading_set::disk::DiskProfile;
use crate::loading_set::rule::LoadingRegion;
use crate::recording::{Recording, memory_pages};
use crate::strategy::RestoreStrategy;

pub(super) const MAGIC: [u8; 8] = *b"FAASLOAD";
pub(super) const VERSION: u16 = 4;
/// The oldest version that is still read. Version 1 knew no pages of the guest's files, version 2 no blocks as wholes, version 3
/// no compressed chunks.
const OLDEST: u16 = 1;
/// An empty file beside the snapshot; see [`LoadingSet::mark_outgrown`].
pub(super) const OUTGROWN: &str = "loading-set.outgrown";
pub(super) const HEADER_BYTES: usize = 64;
/// No table is longer: 8,192 regions and two page sets take a few hundred KiB.
const MAX_TABLE_BYTES: u64 = 64 << 20;

const _: () = assert!(matches!(&MAGIC, b"FAASLOAD") && VERSION == 4 && HEADER_BYTES == 64 && CHUNK.0 == 64);

/// Why a loading-set file can't be used. The restore does without it.
#[derive(Debug, Error)]
pub enum LoadingSetProblem {
    /// There is none.
    #[error("nothing has been recorded for this snapshot")]
    Missing,
    /// It was made for another snapshot.
    #[error("the recording was made for another snapshot ({0})")]
    Stale(SnapshotId),
    /// It isn't what it was when it was written.
    #[error("the recording is damaged: {0}")]
    Damaged(String),
    /// It can't be read.
    #[error("the recording can't be read")]
    Unreadable(#[source] io::Error),
}

/// The table of version 1.
#[derive(Serialize, Deserialize)]
pub(super) struct FirstTable {
    pub snapshot: SnapshotId,
    pub readahead_window: PageCount,
    pub regions: Vec<LoadingRegion>,
    pub written: PageSet,
    pub fresh: PageSet,
    pub disk: DiskProfile,
    pub checksums: Vec<u32>,
}

/// The table: what version 1 has, then what versions 2, 3 and 4 have beside it.
#[derive(Serialize, Deserialize)]
pub(super) struct Table {
    pub first: FirstTable,
    pub files: PageSet,
    pub whole_blocks: PageSet,
    /// One for each chunk, or none at all.
    pub compressed: Vec<Kept>,
}

/// A region with its place in the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PlacedRegion {
    /// The guest's pages.
    pub range: PageRange,
    /// The working-set group.
    pub group: u32,
    /// Byte offset of the first page in the file.
    pub offset: u64,
    /// Whether it is a block of 2 MiB that is loaded as a whole.
    pub is_whole_block: bool,
}

/// A loading-set file, open and checked (but for its data, which the loader checks as it reads).
#[derive(Debug)]
pub struct LoadingSet {
    pub(crate) file: File,
    pub(crate) path: PathBuf,
    pub(crate) data_offset: u64,
    pub(crate) checksums: Vec<u32>,
    /// Where chunks are compressed, by number.
    compressed: Vec<Option<Compressed>>,
    regions: Vec<PlacedRegion>,
    written: PageSet,
    fresh: PageSet,
    files: PageSet,
    disk: DiskProfile,
    region_ns: u64,
    readahead_window: PageCount,
}

impl LoadingSet {
    /// Name of the file that a restore by `strategy` looks for beside its snapshot.
    pub fn file_name(strategy: RestoreStrategy) -> &'static str {
        match strategy {
            RestoreStrategy::Reap => "reap-working-set",
            _ => "loading-set",
        }
    }

    /// The pages of all regions.
    pub fn pages(&self) -> PageSet {
        self.regions.iter().map(|region| region.range).collect()
    }

    /// The regions in the order of loading.
    pub fn regions(&self) -> &[PlacedRegion] {
        &self.regions
    }

    /// The recording that this set was made from, as far as the set keeps it: pages between merged regions count as seen.
    pub(crate) fn recording(&self, snapshot: SnapshotId, strategy: RestoreStrategy) -> Recording {
        let mut groups: Vec<PageSet> = Vec::new();
        for region in &self.regions {
            let group = region.group as usize;
            // A table's groups are numbered without large gaps; a damaged one costs one group more, not memory.
            let group = group.min(groups.len());
            if group == groups.len() {
                groups.push(PageSet::new());
            }
            if let Some(pages) = groups.get_mut(group) {
                pages.insert(region.range);
            }
        }
        Recording {
            snapshot,
            strategy,
            readahead_window: self.readahead_window,
            groups,
            read_ahead: PageSet::new(),
            written: self.written.clone(),
            fresh: self.fresh.clone(),
            files: self.files.clone(),
        }
    }

    /// Pages that the recorded invocation wrote.
    pub fn written(&self) -> &PageSet {
        &self.written
    }

    /// Zero pages that the recorded invocation touched.
    pub fn fresh(&self) -> &PageSet {
        &self.fresh
    }

    /// Pages of its own files that the recorded invocation touched.
    pub fn files(&self) -> &PageSet {
        &self.files
    }

    /// The readahead window of the recording.
    pub fn readahead_window(&self) -> PageCount {
        self.readahead_window
    }

    /// What the disk was good at when the file was written.
    pub fn disk(&self) -> DiskProfile {
        self.disk
    }

    /// What mapping a region takes, in nanoseconds, on the machine that wrote the file.
    pub fn region_ns(&self) -> u64 {
        self.region_ns
    }

    /// The largest gap that is read with its neighbours where the set is read from the memory file.
    pub(crate) fn bridge(&self) -> PageCount {
        self.disk.bridge(self.regions.len(), self.page_count())
    }

    /// Whether mapping every region from this file pays. Reading its pages from where they lie in the memory file needs no
    /// mapping but takes longer, both as measured when the file was written. Mapping delays the guest; reading goes on
    /// beside it and counts half.
    pub(crate) fn is_worth_mapping(&self) -> bool {
        let mapping = (self.regions.len() as u64).saturating_mul(self.region_ns);
        let bridged = self.pages().bridged(self.bridge());
        let measured = (self.regions.len(), self.page_count());
        let reading = self.disk.reading_ns(measured, (bridged.runs().len(), bridged.count()));
        reading.saturating_sub(self.disk.compact_ns) / 2 > mapping
    }

    /// How many pages the file holds.
    pub fn page_count(&self) -> PageCount {
        PageCount(self.regions.iter().map(|region| region.range.count.0).sum())
    }

    /// Opens and checks the file `name` beside `snapshot`, for a guest with `layout`.
    ///
    /// # Errors
    /// [`LoadingSetProblem`] saying why it can't be used.
    pub fn open(snapshot: &Snapshot, name: &str, layout: &GuestLayout) -> Result<Self, LoadingSetProblem> {
        let path = snapshot.directory().join(name);
        let (file, length) = open(&path)?;
        let (Table { first: table, files, whole_blocks, compressed }, head) = read_table(&file, length)?;
        if table.snapshot != snapshot.id() {
            return Err(LoadingSetProblem::Stale(table.snapshot));
        }
        let (regions, data_end) = place(&table, &whole_blocks, head.data_offset, length)?;
        let compressed = place_compressed(&compressed, &regions, data_end, (head.compressed_offset, length))?;
        check_pages(&regions, snapshot.stored_pages(), layout)?;
        Ok(Self {
            file,
            path,
            data_offset: head.data_offset,
            checksums: table.checksums,
            compressed,
            regions,
            written: table.written,
            fresh: table.fresh,
            files,
            disk: table.disk,
            region_ns: head.region_ns,
            readahead_window: table.readahead_window,
        })
    }

    /// Notes that invocations need much that the recording doesn't have: the next one is to be recorded and added.
    ///
    /// # Errors
    /// When the note can't be written.
    pub fn mark_outgrown(snapshot: &Snapshot) -> io::Result<()> {
        File::create(snapshot.directory().join(OUTGROWN)).map(drop)
    }

    /// Whether that was noted since the last recording was published.
    pub(crate) fn is_outgrown(snapshot: &Snapshot) -> bool {
        snapshot.directory().join(OUTGROWN).exists()
    }

    /// Reads the whole file `name` beside `snapshot`; if it is not what was written, renames it, so that the next restore does
    /// without it and a person can look at it. Gives whether it did. A file that isn't there is no damage.
    ///
    /// # Errors
    /// When it can't be renamed.
    pub fn set_aside_if_damaged(snapshot: &Snapshot, name: &str, layout: &GuestLayout) -> io::Result<bool> {
        let is_sound = match Self::open(snapshot, name, layout) {
            Ok(set) => set.check_data(),
            Err(LoadingSetProblem::Missing) => true,
            Err(_) => false,
        };
        if is_sound {
            return Ok(false);
        }
        let path = snapshot.directory().join(name);
        fs::rename(&path, path.with_extension("quarantined"))?;
        Ok(true)
    }

    /// Compares all data with the checksums, and what compressed chunks become. What can't be read is damaged.
    fn check_data(&self) -> bool {
        let (mut pages, mut decoded) = (vec![0; CHUNK.bytes() as usize], vec![0; CHUNK.bytes() as usize]);
        let mut decoder = Decoder::default();
        let mut numbered = chunks(&self.regions).into_iter().zip(&self.checksums).enumerate();
        numbered.all(|(number, (chunk, expected))| {
            let length = page_count(&chunk).bytes() as usize;
            let (Some(pages), Some(decoded)) = (pages.get_mut(..length), decoded.get_mut(..length)) else {
                return false;
            };
            let offset = chunk.first().map_or(0, |piece| piece.offset);
            let is_sound =
                self.file.read_exact_at(pages, offset).is_ok() && crc32c::crc32c(pages) == *expected;
            let is_same =
                |held| decoder.read(&self.file, held, decoded).is_ok_and(|sound| sound) && pages == decoded;
            is_sound && self.compressed(number).is_none_or(is_same)
        })
    }

    /// Where chunk `number` is compressed, if it is.
    pub(crate) fn compressed(&self, number: usize) -> Option<Compressed> {
        self.compressed.get(number).copied().flatten()
    }

    /// Whether the disk has less to do when `chunk` is read compressed, and what of it is not in `placed` beside it.
    pub(crate) fn is_shorter_compressed(&self, held: Compressed, chunk: &[Piece], placed: &PageSet) -> bool {
        let rest = unplaced(chunk, placed);
        let read = (rest.len(), held.length as u64 + page_count(&rest).bytes());
        let all = page_count(chunk);
        self.disk.is_less((self.regions.len(), self.page_count()), read, all)
    }

    /// What of the set is there compressed, and how many bytes of the file that takes.
    pub fn compressed_bytes(&self) -> Option<CompressedBytes> {
        let chunks = chunks(&self.regions);
        let held = chunks.iter().zip(&self.compressed).filter_map(|(chunk, held)| Some((chunk, (*held)?)));
        held.map(|(chunk, held)| CompressedBytes {
            bytes: page_count(chunk).bytes(),
            stored_bytes: held.length as u64,
        })
        .reduce(|one, other| CompressedBytes {
            bytes: one.bytes + other.bytes,
            stored_bytes: one.stored_bytes + other.stored_bytes,
        })
    }
}

/// The little-endian number of `bytes` bytes at `at`.
pub(super) fn number(header: &[u8], at: usize, bytes: usize) -> u64 {
    header.iter().skip(at).take(bytes).rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The regions with their places in the file, whose data begins at `data_offset`. A region is a whole block when it is just a block
/// of `whole_blocks`.
pub(super) fn placed(
    regions: &[LoadingRegion],
    whole_blocks: &PageSet,
    data_offset: u64,
) -> Vec<PlacedRegion> {
    let mut offset = data_offset;
    let place = |LoadingRegion { range, group }: &LoadingRegion| {
        let block = Block::containing(range.start);
        let is_whole_block = *range == block.pages() && whole_blocks.contains(range.start);
        let placed = PlacedRegion { range: *range, group: *group, offset, is_whole_block };
        // Past the largest number nothing is read: who opens a file has checked its length.
        offset = offset.saturating_add(range.count.bytes());
        placed
    };
    regions.iter().map(place).collect()
}

/// The file at `path` and its length.
fn open(path: &Path) -> Result<(File, u64), LoadingSetProblem> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(LoadingSetProblem::Missing),
        Err(error) => return Err(LoadingSetProblem::Unreadable(error)),
    };
    let length = file.metadata().map_err(LoadingSetProblem::Unreadable)?.len();
    Ok((file, length))
}

fn damaged<T>(what: impl Into<String>) -> Result<T, LoadingSetProblem> {
    Err(LoadingSetProblem::Damaged(what.into()))
}

/// The table of a version without blocks that are loaded as wholes.
fn older(first: FirstTable, files: PageSet) -> Table {
    Table { first, files, whole_blocks: PageSet::new(), compressed: Vec::new() }
}

/// What the header says beside where the table is.
struct Head {
    data_offset: u64,
    region_ns: u64,
    compressed_offset: u64,
}

/// Reads and checks header and table.
fn read_table(file: &File, length: u64) -> Result<(Table, Head), LoadingSetProblem> {
    let mut header = [0; HEADER_BYTES];
    if length < HEADER_BYTES as u64 {
        return damaged("it ends inside the header");
    }
    file.read_exact_at(&mut header, 0).map_err(LoadingSetProblem::Unreadable)?;
    let (fields, checksum) = header.split_at(HEADER_BYTES - 4);
    if !header.starts_with(&MAGIC) {
        return damaged("it does not begin as a loading-set file does");
    }
    if checksum != crc32c::crc32c(fields).to_le_bytes() {
        return damaged("the header's checksum doesn't match");
    }
    let number = |at: usize, bytes: usize| number(fields, at, bytes);
    let (version, table_checksum, table_length) = (number(8, 2), number(12, 4), number(16, 8));
    let (data_offset, region_ns, compressed_offset) = (number(24, 8), number(32, 8), number(40, 8));
    if !(u64::from(OLDEST)..=u64::from(VERSION)).contains(&version) {
        return damaged(format!("it has format version {version}, this tool reads {OLDEST} to {VERSION}"));
    }
    let table_end = (HEADER_BYTES as u64).checked_add(table_length);
    let fits = table_end.is_some_and(|end| end <= data_offset) && data_offset <= length;
    if table_length > MAX_TABLE_BYTES || !fits || data_offset % PAGE_SIZE != 0 {
        return damaged("the table doesn't fit into the file");
    }
    let mut table = vec![0; table_length as usize];
    file.read_exact_at(&mut table, HEADER_BYTES as u64).map_err(LoadingSetProblem::Unreadable)?;
    if u64::from(crc32c::crc32c(&table)) != table_checksum {
        return damaged("the table's checksum doesn't match");
    }
    let decoded = match version {
        1 => postcard::from_bytes(&table).map(|first| older(first, PageSet::new())),
        2 => postcard::from_bytes(&table).map(|(first, files)| older(first, files)),
        3 => postcard::from_bytes(&table)
            .map(|(first, files, whole_blocks)| Table { whole_blocks, ..older(first, files) }),
        _ => postcard::from_bytes(&table),
    };
    match decoded {
        Ok(table) => {
            let known = CostModel::default().region_ns;
            let region_ns = if region_ns == 0 { known } else { region_ns };
            Ok((table, Head { data_offset, region_ns, compressed_offset }))
        }
        Err(error) => damaged(format!("the table can't be decoded: {error}")),
    }
}

/// Gives each region its offset and makes sure that file, regions and checksums agree in size. Gives the end of the pages, too.
fn place(
    table: &FirstTable,
    whole_blocks: &PageSet,
    data_offset: u64,
    length: u64,
) -> Result<(Vec<PlacedRegion>, u64), LoadingSetProblem> {
    let mut end = Some(data_offset);
    for LoadingRegion { range, .. } in &table.regions {
        let last = range.start.0.checked_add(range.count.0);
        if range.is_empty() || last.is_none_or(|last| last > PageSet::LIMIT.0) {
            return damaged("a region is empty or out of range");
        }
        end = end.and_then(|end| end.checked_add(range.count.bytes())).filter(|end| *end <= length);
    }
    let Some(end) = end else { return damaged("it is shorter than its regions") };
    let regions = placed(&table.regions, whole_blocks, data_offset);
    if chunks(&regions).len() != table.checksums.len() {
        return damaged("the number of checksums doesn't match");
    }
    Ok((regions, end))
}

/// Where each chunk is compressed; `kept` is empty or has all of them. They begin at `data_end` and end with the file.
fn place_compressed(
    kept: &[Kept],
    regions: &[PlacedRegion],
    data_end: u64,
    (compressed_offset, length): (u64, u64),
) -> Result<Vec<Option<Compressed>>, LoadingSetProblem> {
    let chunks = chunks(regions);
    let expected = if kept.is_empty() { 0 } else { data_end };
    if (!kept.is_empty() && kept.len() != chunks.len()) || compressed_offset != expected {
        return damaged("its compressed chunks don't match");
    }
    let Some((places, end)) = places(kept, chunks.iter().map(|chunk| page_count(chunk).bytes()), data_end)
    else {
        return damaged("a compressed chunk is longer than its pages");
    };
    match end {
        end if end > length => damaged("it is shorter than its regions"),
        end if end < length => damaged("it is longer than its regions"),
        _ => Ok(places),
    }
}

/// A region may bring only pages whose content is the snapshot's: stored ones, and zeros between them in memory regions.
fn check_pages(
    regions: &[PlacedRegion],
    stored: &PageSet,
    layout: &GuestLayout,
) -> Result<(), LoadingSetProblem> {
    let mut by_address: Vec<PageRange> = regions.iter().map(|region| region.range).collect();
    by_address.sort_by_key(|range| range.start);
    if !by_address.is_sorted_by(|one, next| one.end() <= next.start) {
        return damaged("regions overlap");
    }
    let pages: PageSet = by_address.into_iter().collect();
    if pages.end() > PageIndex(layout.page_count().0)
        || !pages.difference(stored).difference(&memory_pages(layout)).is_empty()
    {
        return damaged("a region lies where the guest has no memory of its own");
    }
    Ok(())
}
