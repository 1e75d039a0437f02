//! How a loading set is cut for reading: each chunk has a checksum of its own.

use pages::{PAGE_SIZE, PageCount, PageRange, PageSet};

use crate::loading_set::file::PlacedRegion;

/// Pages of data that share a checksum (256 KiB).
pub(crate) const CHUNK: PageCount = PageCount(64);

/// Pages that are next to each other in the guest and in the file, within one chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Piece {
    pub range: PageRange,
    pub offset: u64,
}

/// Cuts the regions, in order, into chunks: [`CHUNK`] pages each. One has fewer where the data ends, or where a block begins that is
/// loaded as a whole: the chunks of such a block hold nothing else.
pub(crate) fn chunks(regions: &[PlacedRegion]) -> Vec<Vec<Piece>> {
    let mut chunks: Vec<Vec<Piece>> = Vec::new();
    let mut room = 0;
    for region in regions {
        if region.is_whole_block {
            room = 0;
        }
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

/// The pages of `chunk`.
pub(crate) fn page_count(chunk: &[Piece]) -> PageCount {
    PageCount(chunk.iter().map(|piece| piece.range.count.0).sum())
}

/// What of `chunk` is not in `placed`.
pub(crate) fn unplaced(chunk: &[Piece], placed: &PageSet) -> Vec<Piece> {
    let mut rest = Vec::new();
    for Piece { range, offset } in chunk {
        let all: PageSet = [*range].into_iter().collect();
        rest.extend(
            all.difference(placed)
                .runs()
                .iter()
                .map(|run| Piece { range: *run, offset: offset + (run.start.0 - range.start.0) * PAGE_SIZE }),
        );
    }
    rest
}

/// The bytes of the file behind `chunk`, as runs of (offset, length), with what lies between two that follow one another with at
/// most `gap` bytes between.
pub(crate) fn extents(chunk: &[Piece], gap: u64) -> Vec<(u64, u64)> {
    joined(chunk.iter().map(|piece| (piece.offset, piece.range.count.bytes())), gap)
}

fn joined(pieces: impl IntoIterator<Item = (u64, u64)>, gap: u64) -> Vec<(u64, u64)> {
    let mut joined: Vec<(u64, u64)> = Vec::new();
    for (offset, length) in pieces {
        match joined.last_mut() {
            Some((before, known)) if (*before + *known..=*before + *known + gap).contains(&offset) => {
                *known = offset + length - *before;
            }
            _ => joined.push((offset, length)),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::sample::range;

    #[test]
    fn a_whole_block_has_its_chunks_for_itself() {
        let region = |start, end, offset, is_whole_block| PlacedRegion {
            range: range(start, end),
            group: 0,
            offset,
            is_whole_block,
        };
        let page = PAGE_SIZE;
        let regions = [
            region(10, 20, 0, false),
            region(30, 130, 10 * page, false),
            region(512, 1024, 110 * page, true),
            region(1024, 1030, 622 * page, false),
        ];
        let chunks = chunks(&regions);
        let counts: Vec<u64> =
            chunks.iter().map(|chunk| chunk.iter().map(|piece| piece.range.count.0).sum()).collect();
        assert_eq!(counts, [64, 46, 64, 64, 64, 64, 64, 64, 64, 64, 6]);
        assert_eq!(chunks[2], [Piece { range: range(512, 576), offset: 110 * page }]);
        assert_eq!(extents(&chunks[0], 0), [(0, 64 * page)]);
    }

    #[test]
    fn what_is_asked_for_bridges_small_gaps_ahead_only() {
        let extents = vec![(100, 10), (115, 5), (126, 4), (40, 10), (50, 1)];
        assert_eq!(joined(extents.clone(), 5), [(100, 20), (126, 4), (40, 11)]);
        assert_eq!(joined(extents, 6), [(100, 30), (40, 11)]);
    }
}
