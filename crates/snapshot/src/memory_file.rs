//! The memory file: guest-physical page N at byte N * 4096, zero pages as holes, one checksum for each chunk.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use pages::{PAGE_SIZE, PageCount, PageIndex, PageRange, PageSet};
use rustix::fs::SeekFrom;

use crate::error::{ErrorKind, SnapshotError};

/// Guest-physical pages that share one checksum (1 MiB). The checksum covers the chunk's stored pages in ascending order.
pub const CHUNK_PAGES: PageCount = PageCount(256);

const PAGE: usize = PAGE_SIZE as usize;
static ZERO_PAGE: [u8; PAGE] = [0; PAGE];

/// Takes guest memory page by page, in ascending order, and stores what isn't zero.
#[derive(Debug)]
pub struct MemorySink {
    file: File,
    path: PathBuf,
    page_count: PageCount,
    next: PageIndex,
    stored: PageSet,
    checksums: Checksums,
}

impl MemorySink {
    pub(crate) fn new(file: File, path: PathBuf, page_count: PageCount) -> Result<Self, SnapshotError> {
        file.set_len(page_count.bytes()).map_err(|source| SnapshotError::io("sizing", &path, source))?;
        Ok(Self {
            file,
            path,
            page_count,
            next: PageIndex(0),
            stored: PageSet::new(),
            checksums: Checksums::default(),
        })
    }

    /// Stores `bytes`, whole pages that start at page `first`. Zero pages are recognised by content and left out; pages
    /// never passed are zero.
    ///
    /// # Errors
    /// [`ErrorKind::Misuse`] when the pages don't lie behind the ones before or reach past the end; [`ErrorKind::Io`].
    pub fn write(&mut self, first: PageIndex, bytes: &[u8]) -> Result<(), SnapshotError> {
        let (pages, rest) = bytes.as_chunks::<PAGE>();
        let run = PageRange::new(first, PageCount(pages.len() as u64));
        let end = first.0.checked_add(run.count.0);
        if !rest.is_empty() || first < self.next || end.is_none_or(|end| end > self.page_count.0) {
            let detail = format!("{run:?} after page {} of {}", self.next.0, self.page_count.0);
            return Err(SnapshotError::new(ErrorKind::Misuse, "writing pages to", &self.path, detail));
        }
        self.next = run.end();
        // Maximal pieces of non-zero pages: one write each.
        let mut index = 0;
        while let Some(page) = pages.get(index) {
            if *page == ZERO_PAGE {
                index += 1;
                continue;
            }
            let length = pages.iter().skip(index).take_while(|page| **page != ZERO_PAGE).count();
            let piece = PageRange::new(PageIndex(first.0 + index as u64), PageCount(length as u64));
            if let Some(content) = pages.get(index..index + length) {
                self.store(piece, content)?;
            }
            index += length;
        }
        Ok(())
    }

    fn store(&mut self, piece: PageRange, content: &[[u8; PAGE]]) -> Result<(), SnapshotError> {
        let offset = piece.start.address().0;
        self.file
            .write_all_at(content.as_flattened(), offset)
            .map_err(|source| SnapshotError::io("writing", &self.path, source).at(offset))?;
        for (page, bytes) in piece.iter().zip(content) {
            self.checksums.add(page, bytes);
        }
        self.stored.insert(piece);
        Ok(())
    }

    /// Makes the file durable and returns what it stores.
    pub(crate) fn finish(self) -> Result<(File, PageSet, Vec<u32>), SnapshotError> {
        self.file.sync_all().map_err(|source| SnapshotError::io("making durable", &self.path, source))?;
        Ok((self.file, self.stored, self.checksums.finish()))
    }
}

/// Checksums of the chunks that store a page, in ascending order of chunks, made page by page.
#[derive(Debug, Default)]
struct Checksums {
    finished: Vec<u32>,
    current: Option<(u64, u32)>,
}

impl Checksums {
    fn add(&mut self, page: PageIndex, bytes: &[u8]) {
        let chunk = page.0 / CHUNK_PAGES.0;
        let so_far = match self.current {
            Some((current, so_far)) if current == chunk => so_far,
            Some((_, finished)) => {
                self.finished.push(finished);
                0
            }
            None => 0,
        };
        self.current = Some((chunk, crc32c::crc32c_append(so_far, bytes)));
    }

    fn finish(mut self) -> Vec<u32> {
        self.finished.extend(self.current.map(|(_, checksum)| checksum));
        self.finished
    }
}

/// How many chunks store at least one page.
pub(crate) fn chunk_count(stored: &PageSet) -> usize {
    let mut count = 0;
    let mut counted_to = 0;
    for run in stored.runs() {
        let (first, end) = (run.start.0 / CHUNK_PAGES.0, run.end().0.div_ceil(CHUNK_PAGES.0));
        count += end - first.max(counted_to);
        counted_to = end;
    }
    count as usize
}

/// Reads every stored page and compares the chunk checksums, then makes sure that everything else is zero.
///
/// `progress` is told the pages checked so far, now and then.
pub(crate) fn verify(
    file: &File,
    path: &Path,
    stored: &PageSet,
    recorded: &[u32],
    mut progress: impl FnMut(PageCount),
) -> Result<(), SnapshotError> {
    const OPERATION: &str = "verifying";
    let failed = |source, offset| SnapshotError::io(OPERATION, path, source).at(offset);
    let mut checked = PageCount(0);
    let mut recorded = recorded.iter();
    let mut buffer = vec![0; CHUNK_PAGES.bytes() as usize];
    let end = stored.end().0.div_ceil(CHUNK_PAGES.0);
    for chunk in 0..end {
        let window = PageRange::new(PageIndex(chunk * CHUNK_PAGES.0), CHUNK_PAGES);
        let mut checksum = None;
        for piece in stored.within(window) {
            let offset = piece.start.address().0;
            let bytes = buffer.get_mut(..piece.count.bytes() as usize).unwrap_or_default();
            file.read_exact_at(bytes, offset).map_err(|source| failed(source, offset))?;
            checksum = Some(crc32c::crc32c_append(checksum.unwrap_or(0), bytes));
            checked.0 += piece.count.0;
        }
        if let Some(checksum) = checksum {
            if recorded.next() != Some(&checksum) {
                let detail = format!("the checksum of {window:?} doesn't match");
                return Err(SnapshotError::new(ErrorKind::Corrupt, OPERATION, path, detail)
                    .at(window.start.address().0));
            }
            progress(checked);
        }
    }
    verify_unstored(file, path, stored)
}

/// Whatever the file system holds outside the stored pages must read as zero.
fn verify_unstored(file: &File, path: &Path, stored: &PageSet) -> Result<(), SnapshotError> {
    const OPERATION: &str = "verifying the holes of";
    let mut position = 0;
    let mut buffer = vec![0; CHUNK_PAGES.bytes() as usize];
    loop {
        let start = match rustix::fs::seek(file, SeekFrom::Data(position)) {
            Ok(start) => start,
            // No data behind `position`.
            Err(rustix::io::Errno::NXIO) => return Ok(()),
            Err(errno) => return Err(SnapshotError::io(OPERATION, path, errno.into()).at(position)),
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(start))
            .map_err(|errno| SnapshotError::io(OPERATION, path, errno.into()).at(start))?;
        let data: PageSet =
            [PageRange::between(PageIndex(start / PAGE_SIZE), PageIndex(end.div_ceil(PAGE_SIZE)))]
                .into_iter()
                .collect();
        for run in data.difference(stored).runs() {
            let mut page = run.start;
            while page < run.end() {
                let piece = PageRange::new(page, CHUNK_PAGES.min(PageCount(run.end().0 - page.0)));
                let offset = page.address().0;
                let bytes = buffer.get_mut(..piece.count.bytes() as usize).unwrap_or_default();
                file.read_exact_at(bytes, offset)
                    .map_err(|source| SnapshotError::io(OPERATION, path, source).at(offset))?;
                if let Some(at) = bytes.iter().position(|byte| *byte != 0) {
                    let detail = "there is data in a page that the snapshot says is zero";
                    return Err(SnapshotError::new(ErrorKind::Corrupt, OPERATION, path, detail)
                        .at(offset + at as u64));
                }
                page = piece.end();
            }
        }
        position = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_counted_once() {
        let set: PageSet = [(0, 1), (255, 2), (600, 1), (700, 1)]
            .map(|(start, count)| PageRange::new(PageIndex(start), PageCount(count)))
            .into_iter()
            .collect();
        assert_eq!(chunk_count(&set), 3);
        assert_eq!(chunk_count(&PageSet::new()), 0);
    }
}
