//! What an instance costs in memory: its own share and what it keeps in the page cache.

use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::BenchError;
use crate::page_cache::SnapshotFiles;

/// Memory of one instance, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct MemoryUse {
    /// Proportional set size of its worker without pages of the snapshot's files.
    pub own: u64,
    /// Page cache of the snapshot's files. All of it is this instance's doing when the files were dropped before.
    pub snapshot_cache: u64,
}

impl MemoryUse {
    pub fn total(self) -> u64 {
        self.own + self.snapshot_cache
    }

    /// Of the worker with that process number, restored from the snapshot in `files`.
    pub fn of(process: u32, files: &SnapshotFiles) -> Result<Self, BenchError> {
        let path = PathBuf::from(format!("/proc/{process}/smaps"));
        let text = fs::read_to_string(&path).map_err(BenchError::io("reading", &path))?;
        let own = own_bytes(&text, |inode| files.has_inode(inode));
        Ok(Self { own, snapshot_cache: files.cached_bytes()? })
    }
}

/// Sums an smaps file (proc(5)): all of a mapping's Pss, but of a snapshot file's mapping the private copies only.
fn own_bytes(smaps: &str, is_snapshot: impl Fn(u64) -> bool) -> u64 {
    let mut of_snapshot = false;
    let mut kibibytes = 0;
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        let Some(first) = words.next() else { continue };
        if !first.ends_with(':') {
            // "start-end perms offset device inode path"
            of_snapshot = words.nth(3).and_then(|inode| inode.parse().ok()).is_some_and(&is_snapshot);
        } else if first == if of_snapshot { "Anonymous:" } else { "Pss:" } {
            kibibytes += words.next().and_then(|number| number.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    kibibytes << 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_the_snapshot_count_once() {
        let smaps = "\
7f00-7f01 rw-p 00000000 00:00 0 \nRss: 12 kB\nPss: 12 kB\nAnonymous: 12 kB\nVmFlags: rd wr
7f01-7f02 rw-p 00001000 fe:00 77   /snapshots/x/memory\nRss: 40 kB\nPss: 40 kB\nAnonymous: 8 kB
7f02-7f03 r-xp 00000000 fe:00 5   /usr/bin/faasnap\nPss: 3 kB\nAnonymous: 0 kB\n";
        assert_eq!(own_bytes(smaps, |inode| inode == 77), (12 + 8 + 3) << 10);
        assert_eq!(own_bytes(smaps, |_| false), (12 + 40 + 3) << 10);
    }
}
