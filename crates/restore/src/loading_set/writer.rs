//! Writing a loading-set file ([`crate::loading_set::file`]).

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use snapshot::{PendingFile, Snapshot, SnapshotError};

use crate::layout::GuestLayout;
use crate::loading_set::chunks::{CHUNK, Piece, chunks};
use crate::loading_set::compressed::{Compressor, Kept};
use crate::loading_set::disk::DiskProfile;
use crate::loading_set::file::{
    FirstTable, HEADER_BYTES, LoadingSet, MAGIC, OUTGROWN, Table, VERSION, placed,
};
use crate::loading_set::rule::{LoadingRegion, LoadingSetRule};
use crate::recording::Recording;

impl LoadingSet {
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
        let compressed = vec![Kept::LARGEST; chunk_count];
        let mut table = Table { first, files: recording.files.clone(), whole_blocks, compressed };
        let encode =
            |table: &Table| postcard::to_stdvec(table).map_err(|error| failed(io::Error::other(error)));
        let data_offset = pages::page_align_up(HEADER_BYTES as u64 + encode(&table)?.len() as u64)
            .ok_or_else(|| failed(io::ErrorKind::FileTooLarge.into()))?;
        let placed = placed(&table.first.regions, &table.whole_blocks, data_offset);
        let length: u64 = placed.iter().map(|region| region.range.count.bytes()).sum();
        let mut compressor = Compressor::new(rule.compression, data_offset.saturating_add(length));
        let FirstTable { regions, checksums, disk, .. } = &mut table.first;
        *checksums =
            copy_pages(snapshot, &chunks(&placed), pending.file(), &mut compressor).map_err(failed)?;
        *disk = measure(snapshot, regions, pending.file(), (data_offset, length)).map_err(failed)?;
        table.compressed = compressor.kept(*disk, length);
        let compressed_offset = match table.compressed.is_empty() {
            true => {
                pending.file().set_len(data_offset + length).map_err(failed)?;
                0
            }
            false => data_offset + length,
        };
        let table = encode(&table)?;
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend(MAGIC);
        header.extend(VERSION.to_le_bytes());
        header.extend([0; 2]);
        header.extend(crc32c::crc32c(&table).to_le_bytes());
        header.extend((table.len() as u64).to_le_bytes());
        header.extend(data_offset.to_le_bytes());
        header.extend(rule.region_ns().to_le_bytes());
        header.extend(compressed_offset.to_le_bytes());
        header.resize(HEADER_BYTES - 4, 0);
        header.extend(crc32c::crc32c(&header).to_le_bytes());
        pending.file().write_all_at(&header, 0).map_err(failed)?;
        pending.file().write_all_at(&table, HEADER_BYTES as u64).map_err(failed)?;
        let published = pending.publish()?;
        // There may be none. One that stays costs another recording.
        let _ = fs::remove_file(snapshot.directory().join(OUTGROWN));
        Ok(published)
    }
}

/// Copies the pages of `chunks` to their places, compresses them, and returns each one's checksum.
fn copy_pages(
    snapshot: &Snapshot,
    chunks: &[Vec<Piece>],
    to: &File,
    compressor: &mut Compressor,
) -> io::Result<Vec<u32>> {
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
        compressor.add(&bytes, to)?;
        Ok(crc32c::crc32c(&bytes))
    };
    chunks.iter().map(copy).collect()
}

/// Measures what reading the set takes from either place. The data is made durable first: dirty pages stay cached.
fn measure(
    snapshot: &Snapshot,
    regions: &[LoadingRegion],
    compact: &File,
    data: (u64, u64),
) -> io::Result<DiskProfile> {
    compact.sync_data()?;
    // A description of its own: advice belongs to the description.
    let memory = File::open(snapshot.memory_path())?;
    let scattered: Vec<(u64, u64)> =
        regions.iter().map(|region| (region.range.start.address().0, region.range.count.bytes())).collect();
    DiskProfile::measure(&memory, &scattered, compact, data)
}
