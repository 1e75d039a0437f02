//! What mappings and pages cost, for weighing one against the other: known figures, or those of this machine.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use guest_memory::{GuestMemory, MapError, Protection, Source};
use pages::{PAGE_SIZE, PageCount, PageIndex, PageRange};

/// How many mappings and pages are made to measure one.
const SAMPLES: u64 = 32;
/// How often; the least counts, since whatever else the machine does only adds.
const ROUNDS: usize = 3;
/// No mapping is taken to cost more (1 ms): a machine that is stalled while it is measured says nothing about itself.
const MOST_NS: u64 = 1_000_000;

/// What a region and a page cost, in nanoseconds, for weighing one against the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CostModel {
    /// One more region: its mapping and unmapping, and those of the piece of memory file behind it.
    pub region_ns: u64,
    /// One more page in the file: reading, checking and mapping it.
    pub page_ns: u64,
    /// Bringing a page of another group in at a wrong time.
    pub misplaced_page_ns: u64,
}

impl Default for CostModel {
    /// Measured on the development machine: `mmap` 4.2 us, `munmap` 1.0 us, twice; 1.2 GiB/s from disk.
    fn default() -> Self {
        Self { region_ns: 10_400, page_ns: 3_300, misplaced_page_ns: 300 }
    }
}

impl CostModel {
    /// What they cost on this machine, where that is more than [`Self::default`]: in an emulated one a mapping takes twenty
    /// times as long. Maps and reads the beginning of `file`; one that can't be mapped or is empty leaves the known figures.
    pub fn measured(file: &File) -> Self {
        let known = Self::default();
        let rounds = (0..ROUNDS).filter_map(|_| Some((mapping_ns(file).ok()?, page_ns(file)?)));
        let least = rounds.reduce(|one, other| (one.0.min(other.0), one.1.min(other.1)));
        let (mapping, page) = least.unwrap_or_default();
        let bounded = |measured: u64, known: u64| measured.clamp(known, MOST_NS);
        // A region is two mappings: its own, and one more of the memory file that it cuts in two.
        Self {
            region_ns: bounded(mapping * 2, known.region_ns),
            page_ns: bounded(page, known.page_ns),
            ..known
        }
    }
}

/// What it takes to map a page of `file` between others and to unmap it.
fn mapping_ns(file: &File) -> Result<u64, MapError> {
    let memory = GuestMemory::reserve(PageCount(2 * SAMPLES))?;
    let page = |number: u64| PageRange::new(PageIndex(number), PageCount(1));
    memory.map(
        PageRange::new(PageIndex(0), PageCount(2 * SAMPLES)),
        Source::Anonymous,
        Protection::ReadWrite,
    )?;
    let begun = Instant::now();
    for number in 0..SAMPLES {
        let source = Source::PrivateFile { file: file.as_fd(), offset: number * PAGE_SIZE };
        memory.map(page(2 * number), source, Protection::ReadWrite)?;
    }
    drop(memory);
    Ok(begun.elapsed().as_nanos() as u64 / SAMPLES)
}

/// What it takes to read a page of `file` from the page cache, check it and put it into memory that was not there.
fn page_ns(file: &File) -> Option<u64> {
    let memory = GuestMemory::reserve(PageCount(SAMPLES)).ok()?;
    let range = PageRange::new(PageIndex(0), PageCount(SAMPLES));
    memory.map(range, Source::Anonymous, Protection::ReadWrite).ok()?;
    let mut page = vec![0; PAGE_SIZE as usize];
    // It is in the page cache from here on.
    file.read_exact_at(&mut page, 0).ok()?;
    let begun = Instant::now();
    let mut sum = 0;
    for number in 0..SAMPLES {
        file.read_exact_at(&mut page, 0).ok()?;
        sum = crc32c::crc32c_append(sum, &page);
        memory.write(PageIndex(number).address(), &page).ok()?;
    }
    std::hint::black_box(sum);
    Some(begun.elapsed().as_nanos() as u64 / SAMPLES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_measured_is_never_less_than_what_is_known_and_bounded() {
        let known = CostModel::default();
        let file = tempfile::tempfile().unwrap();
        // An empty file says nothing.
        assert_eq!(CostModel::measured(&file), known);
        file.set_len(64 * PAGE_SIZE).unwrap();
        let measured = CostModel::measured(&file);
        assert!((known.region_ns..=MOST_NS).contains(&measured.region_ns), "{measured:?}");
        assert!((known.page_ns..=MOST_NS).contains(&measured.page_ns), "{measured:?}");
        assert_eq!(measured.misplaced_page_ns, known.misplaced_page_ns);
        assert!(mapping_ns(&file).unwrap() > 0 && page_ns(&file).unwrap() > 0);
    }
}
