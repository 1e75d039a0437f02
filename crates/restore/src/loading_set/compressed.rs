//! Chunks of a loading set that are in its file compressed (lz4), beside their pages.
//!
//! Where the disk is slow, reading fewer bytes and decoding them is faster. What a restore maps can't be compressed, so the
//! pages are in the file, too; a restore reads each chunk one way or the other. What is compressed has a checksum of its own,
//! which is compared before it is decoded.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use lz4_flex::block::{compress_into, decompress_into, get_maximum_output_size};
use serde::{Deserialize, Serialize};

use crate::loading_set::disk::DiskProfile;
use crate::loading_set::rule::Compression;

/// What has less than one byte in so many to lose is not compressed.
const LEAST_SAVED: usize = 8;

/// What the table keeps of a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// Bytes; 0 for a chunk that is not compressed.
    length: u32,
    /// CRC32C of these bytes.
    checksum: u32,
}

impl Kept {
    /// Takes as much room as any when it is stored.
    pub const LARGEST: Self = Self { length: u32::MAX, checksum: u32::MAX };
}

/// Where a chunk is compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Compressed {
    /// Byte offset in the loading-set file.
    pub offset: u64,
    /// Bytes.
    pub length: usize,
    checksum: u32,
}

impl Compressed {
    /// Byte offset of what follows.
    pub fn end(self) -> u64 {
        self.offset + self.length as u64
    }
}

/// What of a loading set is there compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CompressedBytes {
    /// Bytes of the pages.
    pub bytes: u64,
    /// Bytes that they take compressed.
    pub stored_bytes: u64,
}

/// The places of `kept` chunks, one after the other from `offset` on, and their end. `None` when one is not shorter than
/// its pages, of which there are `lengths` bytes.
pub(crate) fn places(
    kept: &[Kept],
    lengths: impl Iterator<Item = u64>,
    mut offset: u64,
) -> Option<(Vec<Option<Compressed>>, u64)> {
    let mut places = Vec::with_capacity(kept.len());
    for (Kept { length, checksum }, all) in kept.iter().zip(lengths) {
        if u64::from(*length) >= all {
            return None;
        }
        let held = Compressed { offset, length: *length as usize, checksum: *checksum };
        places.push((*length > 0).then_some(held));
        offset = offset.checked_add(u64::from(*length))?;
    }
    Some((places, offset))
}

/// Reads and decodes chunks, one at a time.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    stored: Vec<u8>,
}

impl Decoder {
    /// Fills `chunk` with the bytes that a chunk of `file` has when it is decoded; `false` when it is not what was written, or has
    /// another length.
    ///
    /// # Errors
    /// What the disk says.
    pub fn read(&mut self, file: &File, held: Compressed, chunk: &mut [u8]) -> io::Result<bool> {
        self.stored.resize(held.length, 0);
        file.read_exact_at(&mut self.stored, held.offset)?;
        let is_sound = crc32c::crc32c(&self.stored) == held.checksum;
        Ok(is_sound && decompress_into(&self.stored, chunk).is_ok_and(|got| got == chunk.len()))
    }
}

/// Compresses the chunks of a set that is being written, and finds out whether reading them is faster so.
pub(crate) struct Compressor {
    rule: Compression,
    /// Where the next one goes.
    end: u64,
    kept: Vec<Kept>,
    compressed: Vec<u8>,
    decoded: Vec<u8>,
    saved_bytes: u64,
    decoding_ns: u64,
}

impl Compressor {
    /// Will put compressed chunks at `offset` and behind.
    pub fn new(rule: Compression, offset: u64) -> Self {
        let (compressed, decoded) = (Vec::new(), Vec::new());
        Self { rule, end: offset, kept: Vec::new(), compressed, decoded, saved_bytes: 0, decoding_ns: 0 }
    }

    /// Compresses the next chunk into `to`, if it gets shorter by that.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn add(&mut self, chunk: &[u8], to: &File) -> io::Result<()> {
        let kept = if self.rule == Compression::Never { None } else { self.compress(chunk) };
        if let Some(Kept { length, .. }) = kept {
            to.write_all_at(self.compressed.get(..length as usize).unwrap_or_default(), self.end)?;
            self.end += u64::from(length);
            self.saved_bytes += (chunk.len() as u64).saturating_sub(u64::from(length));
        }
        self.kept.push(kept.unwrap_or_default());
        Ok(())
    }

    fn compress(&mut self, chunk: &[u8]) -> Option<Kept> {
        self.compressed.resize(get_maximum_output_size(chunk.len()), 0);
        let length = compress_into(chunk, &mut self.compressed).ok()?;
        if length + chunk.len() / LEAST_SAVED > chunk.len() {
            return None;
        }
        let stored = self.compressed.get(..length)?;
        self.decoded.resize(chunk.len(), 0);
        let begun = Instant::now();
        let is_whole = decompress_into(stored, &mut self.decoded).is_ok_and(|got| got == chunk.len());
        self.decoding_ns += begun.elapsed().as_nanos() as u64;
        let kept = Kept { length: u32::try_from(length).ok()?, checksum: crc32c::crc32c(stored) };
        (is_whole && self.decoded == chunk).then_some(kept)
    }

    /// What the table is to keep when reading `bytes` of pages took `disk` so long: nothing where decoding takes longer than what
    /// is saved of that, or where nothing got shorter.
    pub fn kept(self, disk: DiskProfile, bytes: u64) -> Vec<Kept> {
        let saved_ns = u128::from(disk.compact_ns) * u128::from(self.saved_bytes) / u128::from(bytes.max(1));
        let pays = match self.rule {
            Compression::Never => false,
            Compression::Weighed => saved_ns > u128::from(self.decoding_ns),
            Compression::Always => true,
        };
        if pays && self.saved_bytes > 0 { self.kept } else { Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn disk(compact_ns: u64) -> DiskProfile {
        DiskProfile { scattered_ns: compact_ns * 10, compact_ns, readahead_bytes: 0 }
    }

    /// What a file says when it holds `stored` as a chunk.
    fn held(stored: &[u8]) -> (File, Compressed) {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(stored, 100).unwrap();
        (file, Compressed { offset: 100, length: stored.len(), checksum: crc32c::crc32c(stored) })
    }

    #[test]
    fn chunks_that_get_shorter_come_back_and_others_are_not_kept() {
        let file = tempfile::tempfile().unwrap();
        let next = |state: &u64| Some(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        let states = std::iter::successors(Some(7_u64), next);
        let noise: Vec<u8> = states.map(|state| (state >> 56) as u8).take(65_536).collect();
        let chunks = [vec![7; 65_536], noise, b"page".repeat(4096)];
        let mut compressor = Compressor::new(Compression::Always, 4096);
        chunks.iter().for_each(|chunk| compressor.add(chunk, &file).unwrap());
        let kept = compressor.kept(disk(1), 1 << 20);
        let (places, end) = places(&kept, chunks.iter().map(|chunk| chunk.len() as u64), 4096).unwrap();
        assert_eq!(file.metadata().unwrap().len(), end);
        let mut decoder = Decoder::default();
        for (chunk, place) in chunks.iter().zip(&places) {
            let Some(place) = *place else { continue };
            let mut decoded = vec![1; chunk.len() + 1];
            let mut read = |length: usize| decoder.read(&file, place, &mut decoded[..length]).unwrap();
            assert!(!read(chunk.len() - 1) && !read(chunk.len() + 1), "of another length");
            assert!(read(chunk.len()));
            assert_eq!(decoded[..chunk.len()], *chunk);
        }
        assert_eq!(places.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, true]);
    }

    #[test]
    fn what_the_disk_gives_faster_than_it_is_decoded_is_not_kept() {
        let file = tempfile::tempfile().unwrap();
        let kept = |rule, compact_ns| {
            let mut compressor = Compressor::new(rule, 0);
            compressor.add(&[7; 65_536], &file).unwrap();
            compressor.kept(disk(compact_ns), 65_536).len()
        };
        assert_eq!([kept(Compression::Weighed, 0), kept(Compression::Weighed, 1 << 40)], [0, 1]);
        assert_eq!([kept(Compression::Always, 0), kept(Compression::Never, 1 << 40)], [1, 0]);
    }

    #[test]
    fn places_are_never_longer_than_their_pages() {
        let kept = |length| Kept { length, checksum: 0 };
        let of = |kept: &[Kept], offset| places(kept, [4096, 8192].into_iter(), offset);
        let (found, end) = of(&[kept(0), kept(8191)], 10).unwrap();
        assert!(found[0].is_none() && end == 10 + 8191);
        assert!(of(&[kept(4096), kept(1)], 10).is_none() && of(&[kept(1), kept(u32::MAX)], 10).is_none());
        assert!(of(&[kept(1), kept(1)], u64::MAX).is_none());
    }

    proptest! {
        #[test]
        fn whatever_a_file_holds_decoding_stays_within_the_chunk(
            stored in prop::collection::vec(any::<u8>(), 0..4096),
            length in 0_usize..65_536,
        ) {
            let (file, held) = held(&stored);
            // Behind the chunk nothing changes.
            let mut bytes = vec![0x5a; length + 64];
            let _ = Decoder::default().read(&file, held, &mut bytes[..length]).unwrap();
            prop_assert!(bytes[length..].iter().all(|byte| *byte == 0x5a));
        }

        #[test]
        fn a_changed_bit_is_found_before_anything_is_decoded(
            chunk in prop::collection::vec(0_u8..4, 1..8192),
            position in any::<prop::sample::Index>(),
            bit in 0..8_u32,
        ) {
            let mut stored = lz4_flex::block::compress(&chunk);
            let (_, held) = held(&stored);
            let position = position.index(stored.len());
            stored[position] ^= 1 << bit;
            let (file, _) = self::held(&stored);
            let mut decoded = vec![0x5a; chunk.len()];
            prop_assert!(!Decoder::default().read(&file, held, &mut decoded).unwrap());
            prop_assert!(decoded.iter().all(|byte| *byte == 0x5a));
        }
    }
}
