//! What the disk under a snapshot is good at, which decides where a loading set is read from.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use pages::{PAGE_SIZE, PageCount, PageIndex, PageRange, PageSet};
use rustix::fs::{Advice, fadvise};
use serde::{Deserialize, Serialize};

/// Single pages that the probe reads.
const SINGLE: u64 = 64;
/// Pages that the probe reads in one piece (4 MiB).
const PIECE: PageCount = PageCount(1024);

/// Measured costs of reading, in nanoseconds, with many reads under way at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DiskProfile {
    /// One more separate read.
    pub request_ns: u64,
    /// One more page in a read.
    pub page_ns: u64,
    /// The device's readahead window in bytes; 0 where the kernel doesn't say.
    pub readahead_bytes: u64,
}

impl DiskProfile {
    /// Measures the disk under `file` with some of its `stored` pages: a few milliseconds and megabytes, through the page
    /// cache as the loader reads. Those pages are dropped from the page cache first.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn probe(file: &File, stored: &PageSet) -> io::Result<Self> {
        let longest = stored.runs().iter().max_by_key(|run| run.count).copied().unwrap_or_default();
        let piece = PageRange::new(longest.start, longest.count.min(PIECE));
        let page_ns = timed(file, &[piece])? / piece.count.0.max(1);
        let step = (stored.count().0 / SINGLE).max(1) as usize;
        let singles: Vec<PageRange> = stored
            .pages()
            .step_by(step)
            .filter(|page| !piece.contains(*page))
            .take(SINGLE as usize)
            .map(|page: PageIndex| PageRange::new(page, PageCount(1)))
            .collect();
        let single_ns = timed(file, &singles)? / (singles.len() as u64).max(1);
        Ok(Self {
            request_ns: single_ns.saturating_sub(page_ns),
            page_ns,
            readahead_bytes: readahead_bytes(file)?,
        })
    }
}

/// The readahead window of the device that `file` is on.
fn readahead_bytes(file: &File) -> io::Result<u64> {
    let device = rustix::fs::fstat(file)?.st_dev;
    let node = format!("/sys/dev/block/{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    // A partition has its setting one level up, with the disk.
    let text = ["bdi/read_ahead_kb", "../bdi/read_ahead_kb"]
        .iter()
        .find_map(|place| std::fs::read_to_string(format!("{node}/{place}")).ok());
    Ok(text.and_then(|text| text.trim().parse::<u64>().ok()).map_or(0, |kib| kib << 10))
}

/// How long it takes to read `runs` from the disk, all asked for at once.
fn timed(file: &File, runs: &[PageRange]) -> io::Result<u64> {
    let advise = |run: &PageRange, advice| {
        fadvise(file, run.start.address().0, NonZeroU64::new(run.count.bytes()), advice)
    };
    for run in runs {
        advise(run, Advice::DontNeed)?;
    }
    let begun = Instant::now();
    for run in runs {
        advise(run, Advice::WillNeed)?;
    }
    let mut page = [0; PAGE_SIZE as usize];
    for run in runs {
        for index in run.iter() {
            file.read_exact_at(&mut page, index.address().0)?;
        }
    }
    Ok(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX))
}
