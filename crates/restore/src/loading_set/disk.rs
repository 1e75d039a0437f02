//! What the disk under a snapshot is good at, measured with the very pages of a loading set: it decides where they are read
//! from.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;
use std::time::Instant;

use pages::{PAGE_SIZE, PageCount};
use rustix::fs::{Advice, fadvise};
use serde::{Deserialize, Serialize};

/// Bytes that are asked for ahead of what is read, as the loader does.
const AHEAD: u64 = 2 << 20;
/// No larger gap is read with its neighbours: the paper's.
const MOST_BRIDGED: u64 = 32;
/// A readahead window from which on the kernel keeps the disk busy by itself.
const LARGE_WINDOW: u64 = 1 << 20;

/// How long the disk takes for a loading set, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DiskProfile {
    /// From where its pages lie in the memory file: a read for each region.
    pub scattered_ns: u64,
    /// From the compact file, start to end.
    pub compact_ns: u64,
    /// The device's readahead window in bytes; 0 where the kernel doesn't say.
    pub readahead_bytes: u64,
}

impl DiskProfile {
    /// A profile that takes as much room as any when it is stored.
    pub(crate) const LARGEST: Self =
        Self { scattered_ns: u64::MAX, compact_ns: u64::MAX, readahead_bytes: u64::MAX };

    /// Measures both ways, with pages dropped from the page cache first. It has to be the whole set: a short burst of reads
    /// passes many a limited disk at full speed. `scattered` are the (offset, length) runs in the memory file.
    pub(crate) fn measure(
        memory: &File,
        scattered: &[(u64, u64)],
        compact: &File,
        data: (u64, u64),
    ) -> io::Result<Self> {
        fadvise(memory, 0, None, Advice::Random)?;
        let scattered_ns = timed(memory, scattered)?;
        let compact_ns = timed(compact, &[data])?;
        Ok(Self { scattered_ns, compact_ns, readahead_bytes: readahead_bytes(compact)? })
    }

    /// The largest gap between two pieces of a set of `regions` and `pages` that is read with them from the memory file: half of
    /// what a read costs, in pages, since a disk that is limited in reads goes on moving pages between them. None where reads
    /// cost little.
    pub(crate) fn bridge(self, regions: usize, pages: PageCount) -> PageCount {
        let (read_ns, page_ns) = self.costs(regions, pages);
        PageCount((read_ns / page_ns / 2).min(MOST_BRIDGED))
    }

    /// How long the disk takes for `reads` reads of `read` pages in all, as measured with a set of `regions` and `pages`: what limits
    /// it is either the reads or the pages.
    pub(crate) fn reading_ns(
        self,
        (regions, pages): (usize, PageCount),
        (reads, read): (usize, PageCount),
    ) -> u64 {
        let (read_ns, page_ns) = self.costs(regions, pages);
        read_ns.saturating_mul(reads as u64).max(page_ns.saturating_mul(read.0))
    }

    /// Whether `reads` reads of `bytes` in all take the disk less than `pages` among others, as measured with a set of `regions` and
    /// `set` pages.
    pub(crate) fn is_less(
        self,
        (regions, set): (usize, PageCount),
        (reads, bytes): (usize, u64),
        pages: PageCount,
    ) -> bool {
        let (read_ns, page_ns) = self.costs(regions, set);
        let separately = read_ns.saturating_mul(reads as u64);
        separately.saturating_add(page_ns.saturating_mul(bytes / PAGE_SIZE)) < page_ns.saturating_mul(pages.0)
    }

    /// What a separate read, and what a page among others takes.
    fn costs(self, regions: usize, pages: PageCount) -> (u64, u64) {
        (self.scattered_ns / (regions as u64).max(1), (self.compact_ns / pages.0.max(1)).max(1))
    }

    /// Whether the kernel's own readahead, with its large folios, is faster than asking for pieces.
    pub(crate) fn has_large_window(self) -> bool {
        self.readahead_bytes >= LARGE_WINDOW
    }
}

/// The windows of this machine's disks as [`learn_disks`] found them, by major and minor number.
static LEARNED: OnceLock<BTreeMap<String, u64>> = OnceLock::new();

/// Learns the readahead windows of this machine's disks, for a process that is about to be jailed: it sees no /sys then. A
/// disk that comes later counts as one without readahead.
pub fn learn_disks() {
    LEARNED.get_or_init(|| {
        let disks = std::fs::read_dir("/sys/dev/block").into_iter().flatten();
        let named = disks.filter_map(|disk| disk.ok()?.file_name().into_string().ok());
        named.map(|name| (name.clone(), read_window(&name))).collect()
    });
}

/// The readahead window of the device that `file` is on.
fn readahead_bytes(file: &File) -> io::Result<u64> {
    let device = rustix::fs::fstat(file)?.st_dev;
    let name = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    Ok(match LEARNED.get() {
        Some(learned) => learned.get(&name).copied().unwrap_or(0),
        None => read_window(&name),
    })
}

/// The readahead window of a device in bytes; 0 for one that has none.
fn read_window(name: &str) -> u64 {
    let node = format!("/sys/dev/block/{name}");
    // A partition has its setting one level up, with the disk.
    let text = ["bdi/read_ahead_kb", "../bdi/read_ahead_kb"]
        .iter()
        .find_map(|place| std::fs::read_to_string(format!("{node}/{place}")).ok());
    text.and_then(|text| text.trim().parse::<u64>().ok()).map_or(0, |kib| kib << 10)
}

/// How long it takes to read `runs` from the disk. A single run is left to the kernel's readahead.
fn timed(file: &File, runs: &[(u64, u64)]) -> io::Result<u64> {
    let advise =
        |(offset, length): (u64, u64), advice| fadvise(file, offset, NonZeroU64::new(length), advice);
    for run in runs {
        advise(*run, Advice::DontNeed)?;
    }
    let begun = Instant::now();
    let mut buffer = vec![0; 256 << 10];
    let mut ahead = runs.iter().skip_while(|_| runs.len() == 1);
    let (mut asked, mut done) = (0, 0);
    for (offset, length) in runs {
        while asked < done + AHEAD
            && let Some(next) = ahead.next()
        {
            advise(*next, Advice::WillNeed)?;
            asked += next.1;
        }
        let mut position = *offset;
        while position < offset + length {
            let wanted = buffer.len().min((offset + length - position) as usize);
            file.read_exact_at(buffer.get_mut(..wanted).unwrap_or_default(), position)?;
            position += wanted as u64;
        }
        done += length;
    }
    Ok(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_bridged_where_reads_are_dear() {
        let profile = |scattered_ns, compact_ns| DiskProfile { scattered_ns, compact_ns, readahead_bytes: 0 };
        let bridge = |profile: DiskProfile| profile.bridge(800, PageCount(2400)).0;
        // 1,000 reads and 64 MiB a second; a local disk; one whose figures make no sense.
        assert_eq!(bridge(profile(800_000_000, 146_000_000)), 8);
        assert_eq!(bridge(profile(8_000_000, 8_000_000)), 1);
        assert_eq!((bridge(DiskProfile::LARGEST), bridge(profile(u64::MAX, 0))), (1, MOST_BRIDGED));
        let reading = |reads, pages| {
            profile(800_000_000, 144_000_000).reading_ns((800, PageCount(2400)), (reads, PageCount(pages)))
        };
        assert_eq!((reading(300, 2400), reading(100, 4000)), (300_000_000, 240_000_000));
    }
}
