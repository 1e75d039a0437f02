//! The loading-set file: regions of guest memory in the order of loading, compact, checksummed, tied to its snapshot.
//!
//! Layout (numbers little-endian): 64 bytes of header (magic, version, checksum and length of the table, offset of the data,
//! what mapping a region takes on the machine that wrote it, 0 when it did not look), the table in postcard, zeros up to a page border, then the pages of every region one after the other. The table holds
//! the snapshot's id, the regions, the pages that were written, which regions are blocks that are loaded as wholes, and a CRC32C for
//! each chunk of the data ([`chunks`]).

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use pages::{Block, PAGE_SIZE, PageCount, PageIndex, PageRange, PageSet};
use serde::{Deserialize, Serialize};
use snapshot::{PendingFile, Snapshot, SnapshotError, SnapshotId};
use thiserror::Error;

use crate::layout::GuestLayout;
use crate::loading_set::chunks::{CHUNK, Piece, chunks};
use crate::loading_set::costs::CostModel;
use crate::loading_set::disk::DiskProfile;
use crate::loading_set::rule::{LoadingRegion, LoadingSetRule};
use crate::placement::BRIDGE;
use crate::recording::{Recording, memory_pages};
use crate::strategy::RestoreStrategy;

const MAGIC: [u8; 8] = *b"FAASLOAD";
const VERSION: u16 = 3;
/// The oldest version that is still read. Version 1 knew no pages of the guest's files, version 2 no blocks as wholes.
const OLDEST: u16 = 1;
/// An empty file beside the snapshot; see [`LoadingSet::mark_outgrown`].
const OUTGROWN: &str = "loading-set.outgrown";
const HEADER_BYTES: usize = 64;
/// No table is longer: 8,192 regions and two page sets take a few hundred KiB.
const MAX_TABLE_BYTES: u64 = 64 << 20;

const _: () = assert!(matches!(&MAGIC, b"FAASLOAD") && VERSION == 3 && HEADER_BYTES == 64 && CHUNK.0 == 64);

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
struct FirstTable {
    snapshot: SnapshotId,
    readahead_window: PageCount,
    regions: Vec<LoadingRegion>,
    written: PageSet,
    fresh: PageSet,
    disk: DiskProfile,
    checksums: Vec<u32>,
}

/// The table: what version 1 has, then what version 2 has beside it, then the rest.
#[derive(Serialize, Deserialize)]
struct Table {
    first: FirstTable,
    files: PageSet,
    whole_blocks: PageSet,
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

    /// The pages that a restore of the snapshot in `directory` by the FaaSnap strategy knows: those of the loading set, and those
    /// that get memory beside it. Reads the table only; whether it is that snapshot's is not asked.
    ///
    /// # Errors
    /// [`LoadingSetProblem`] saying why it can't be told.
    pub fn known_pages(directory: &Path) -> Result<PageSet, LoadingSetProblem> {
        let (file, length) = open(&directory.join(Self::file_name(RestoreStrategy::FaaSnap)))?;
        let (Table { first, files, whole_blocks }, _) = read_table(&file, length)?;
        let loading: PageSet = first.regions.iter().map(|region| region.range).collect();
        // What a restore reads with them ([`crate::placement`]): its layout is not known here, but mostly they lie in one region.
        let known = loading.union(&first.fresh).union(&files.bridged(BRIDGE));
        // Whole blocks get memory in one piece ([`crate::huge_blocks`]).
        Ok(known.difference(&whole_blocks))
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

    /// Writes the loading set that `rule` makes of `recording` as the file `name` beside `snapshot`, and publishes it. An
    /// older one is replaced.
    ///
    /// # Errors
    /// When the memory file can't be read or the new file can't be written; then an older one stays as it is.
    pub fn write(
        snapshot: &Snapshot,
        name: &str,
        layout: &GuestLayout,
        recording: &Recording,
        rule: &LoadingSetRule,
    ) -> Result<PathBuf, SnapshotError> {
        let stored = snapshot.stored_pages();
        let (regions, whole_blocks) =
            (rule.regions(layout, stored, recording), rule.whole_blocks(layout, stored, recording));
        let pending = PendingFile::begin(snapshot.directory(), name)?;
        let failed = |source| SnapshotError::io("writing", pending.path(), source);
        // The table's length must be known before the data is written; what comes later is filled with the values whose
        // encoding is longest.
        let chunk_count = chunks(&placed(&regions, &whole_blocks, 0)).len();
        let first = FirstTable {
            snapshot: recording.snapshot,
            readahead_window: recording.readahead_window,
            regions,
            written: recording.written.clone(),
            fresh: recording.fresh.clone(),
            disk: DiskProfile::LARGEST,
            checksums: vec![u32::MAX; chunk_count],
        };
        let mut table = Table { first, files: recording.files.clone(), whole_blocks };
        let encode =
            |table: &Table| postcard::to_stdvec(table).map_err(|error| failed(io::Error::other(error)));
        let data_offset = pages::page_align_up(HEADER_BYTES as u64 + encode(&table)?.len() as u64)
            .ok_or_else(|| failed(io::ErrorKind::FileTooLarge.into()))?;
        let placed = placed(&table.first.regions, &table.whole_blocks, data_offset);
        let FirstTable { regions, checksums, disk, .. } = &mut table.first;
        *checksums = copy_pages(snapshot, &chunks(&placed), pending.file()).map_err(failed)?;
        *disk = measure(snapshot, regions, pending.file(), data_offset).map_err(failed)?;
        let table = encode(&table)?;
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend(MAGIC);
        header.extend(VERSION.to_le_bytes());
        header.extend([0; 2]);
        header.extend(crc32c::crc32c(&table).to_le_bytes());
        header.extend((table.len() as u64).to_le_bytes());
        header.extend(data_offset.to_le_bytes());
        header.extend(rule.region_ns().to_le_bytes());
        header.resize(HEADER_BYTES - 4, 0);
        header.extend(crc32c::crc32c(&header).to_le_bytes());
        pending.file().write_all_at(&header, 0).map_err(failed)?;
        pending.file().write_all_at(&table, HEADER_BYTES as u64).map_err(failed)?;
        let published = pending.publish()?;
        // There may be none. One that stays costs another recording.
        let _ = fs::remove_file(snapshot.directory().join(OUTGROWN));
        Ok(published)
    }

    /// Opens and checks the file `name` beside `snapshot`, for a guest with `layout`.
    ///
    /// # Errors
    /// [`LoadingSetProblem`] saying why it can't be used.
    pub fn open(snapshot: &Snapshot, name: &str, layout: &GuestLayout) -> Result<Self, LoadingSetProblem> {
        let path = snapshot.directory().join(name);
        let (file, length) = open(&path)?;
        let (Table { first: table, files, whole_blocks }, head) = read_table(&file, length)?;
        if table.snapshot != snapshot.id() {
            return Err(LoadingSetProblem::Stale(table.snapshot));
        }
        let regions = place(&table, &whole_blocks, head.data_offset, length)?;
        check_pages(&regions, snapshot.stored_pages(), layout)?;
        Ok(Self {
            file,
            path,
            data_offset: head.data_offset,
            checksums: table.checksums,
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

    /// Compares all data with the checksums. What can't be read is damaged.
    fn check_data(&self) -> bool {
        let mut buffer = vec![0; CHUNK.bytes() as usize];
        chunks(&self.regions).iter().zip(&self.checksums).all(|(chunk, expected)| {
            let length: u64 = chunk.iter().map(|piece| piece.range.count.bytes()).sum();
            let bytes = buffer.get_mut(..length as usize).unwrap_or_default();
            let offset = chunk.first().map_or(0, |piece| piece.offset);
            self.file.read_exact_at(bytes, offset).is_ok() && crc32c::crc32c(bytes) == *expected
        })
    }
}

/// The regions with their places in the file, whose data begins at `data_offset`. A region is a whole block when it is just a block
/// of `whole_blocks`.
fn placed(regions: &[LoadingRegion], whole_blocks: &PageSet, data_offset: u64) -> Vec<PlacedRegion> {
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

/// Copies the pages of `chunks` to their places and returns each one's checksum.
fn copy_pages(snapshot: &Snapshot, chunks: &[Vec<Piece>], to: &File) -> io::Result<Vec<u32>> {
    let mut bytes = Vec::with_capacity(CHUNK.bytes() as usize);
    let copy = |chunk: &Vec<Piece>| {
        bytes.clear();
        for Piece { range, .. } in chunk {
            let filled = bytes.len();
            bytes.resize(filled + range.count.bytes() as usize, 0);
            let into = bytes.get_mut(filled..).unwrap_or_default();
            snapshot.memory_file().read_exact_at(into, range.start.address().0)?;
        }
        // The pieces of a chunk follow each other in this file.
        to.write_all_at(&bytes, chunk.first().map_or(0, |piece| piece.offset))?;
        Ok(crc32c::crc32c(&bytes))
    };
    chunks.iter().map(copy).collect()
}

/// Measures what reading the set takes from either place. The data is made durable first: dirty pages stay cached.
fn measure(
    snapshot: &Snapshot,
    regions: &[LoadingRegion],
    compact: &File,
    data_offset: u64,
) -> io::Result<DiskProfile> {
    compact.sync_data()?;
    // A description of its own: advice belongs to the description.
    let memory = File::open(snapshot.memory_path())?;
    let scattered: Vec<(u64, u64)> =
        regions.iter().map(|region| (region.range.start.address().0, region.range.count.bytes())).collect();
    let length = scattered.iter().map(|(_, length)| length).sum();
    DiskProfile::measure(&memory, &scattered, compact, (data_offset, length))
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
    Table { first, files, whole_blocks: PageSet::new() }
}

/// What the header says beside where the table is.
struct Head {
    data_offset: u64,
    region_ns: u64,
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
    let number = |at: usize, bytes: usize| {
        fields.iter().skip(at).take(bytes).rev().fold(0u64, |number, byte| number << 8 | u64::from(*byte))
    };
    let (version, table_checksum, table_length, data_offset, region_ns) =
        (number(8, 2), number(12, 4), number(16, 8), number(24, 8), number(32, 8));
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
        _ => postcard::from_bytes(&table),
    };
    match decoded {
        Ok(table) => {
            let known = CostModel::default().region_ns;
            Ok((table, Head { data_offset, region_ns: if region_ns == 0 { known } else { region_ns } }))
        }
        Err(error) => damaged(format!("the table can't be decoded: {error}")),
    }
}

/// Gives each region its offset and makes sure that file, regions and checksums agree in size.
fn place(
    table: &FirstTable,
    whole_blocks: &PageSet,
    data_offset: u64,
    length: u64,
) -> Result<Vec<PlacedRegion>, LoadingSetProblem> {
    let mut end = Some(data_offset);
    for LoadingRegion { range, .. } in &table.regions {
        let last = range.start.0.checked_add(range.count.0);
        if range.is_empty() || last.is_none_or(|last| last > PageSet::LIMIT.0) {
            return damaged("a region is empty or out of range");
        }
        end = end.and_then(|end| end.checked_add(range.count.bytes())).filter(|end| *end <= length);
    }
    match end {
        None => return damaged("it is shorter than its regions"),
        Some(end) if end != length => return damaged("it is longer than its regions"),
        Some(_) => {}
    }
    let regions = placed(&table.regions, whole_blocks, data_offset);
    if chunks(&regions).len() != table.checksums.len() {
        return damaged("the number of checksums doesn't match");
    }
    Ok(regions)
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
