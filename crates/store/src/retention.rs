//! What is kept on disk and for how long: snapshots that nobody uses go, and those that a quota has no room for.
//!
//! When the home takes more than its quota, things go in this order until it fits:
//! 1. what was removed and is no longer in use, code that nothing names any more, and downloads in the cache;
//! 2. snapshots that a newer one of the same version has replaced;
//! 3. snapshots that nobody asked for, the least recently used first;
//! 4. snapshots of SnapStart versions, the least recently used first.
//!
//! Code, layers and archives that a record names, runtimes and records never go. A snapshot that was made or used within the grace period stays: it
//! would only be made again. A function whose snapshot went boots at its next call and is snapshotted anew.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use registry::{FunctionName, SnapStart, SnapshotId};
use walkdir::WalkDir;

use crate::error::StoreError;
use crate::home::{Store, names, now};
use crate::snapshots::{Revision, SnapshotEntry};
use crate::staging::{discard, sweep};

/// A use is noted at most this often.
const NOTED: Duration = Duration::from_secs(600);

/// What is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Retention {
    /// Bytes on disk that the home may take; `None`: no limit.
    pub quota: Option<u64>,
    /// A snapshot that was not used for this long goes: 14 days, as AWS has it.
    pub unused: Duration,
    /// A snapshot that was made or used within this time stays, whatever the quota says.
    pub grace: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        Self { quota: None, unused: Duration::from_secs(14 * 86_400), grace: Duration::from_secs(600) }
    }
}

/// What was found and done.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Retained {
    /// Bytes that the home takes now.
    pub bytes: u64,
    /// The snapshots that went.
    pub removed: Vec<(FunctionName, SnapshotId)>,
    /// Whether the home still takes more than its quota, with nothing left that may go.
    pub over_quota: bool,
}

/// A snapshot as the rule sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Kept {
    bytes: u64,
    /// Seconds since 1970.
    last_use: u64,
    rank: Rank,
}

/// How soon a snapshot goes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Rank {
    Replaced,
    Automatic,
    SnapStart,
}

/// Which of the snapshots go, and the bytes that are left.
fn leaving(kept: &[Kept], others: u64, retention: &Retention, now: u64) -> (Vec<usize>, u64) {
    let age = |snapshot: &Kept| Duration::from_secs(now.saturating_sub(snapshot.last_use));
    let mut bytes = kept.iter().fold(others, |all, snapshot| all.saturating_add(snapshot.bytes));
    let mut order: Vec<(usize, &Kept)> = kept.iter().enumerate().collect();
    order.sort_by_key(|(_, snapshot)| (snapshot.rank, snapshot.last_use));
    let mut gone = Vec::new();
    for (index, snapshot) in order {
        let over = retention.quota.is_some_and(|quota| bytes > quota);
        if age(snapshot) >= retention.unused || (over && age(snapshot) >= retention.grace) {
            bytes = bytes.saturating_sub(snapshot.bytes);
            gone.push(index);
        }
    }
    (gone, bytes)
}

impl Store {
    /// Takes note that a snapshot is used now.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn note_use(&self, function: &FunctionName, id: &SnapshotId) -> Result<(), StoreError> {
        let mark = self.mark(function, id);
        let noted = |path: &Path| fs::metadata(path).and_then(|found| found.modified()).ok();
        if noted(&mark).is_some_and(|at| at.elapsed().is_ok_and(|since| since < NOTED)) {
            return Ok(());
        }
        let write = || File::create(&mark)?.set_modified(SystemTime::now());
        write().map_err(StoreError::io("noting a use in", &mark))
    }

    /// When a snapshot was last used, as far as it was noted, or made: in seconds since 1970.
    pub fn last_use(&self, function: &FunctionName, snapshot: &SnapshotEntry) -> u64 {
        let noted = fs::metadata(self.mark(function, &snapshot.id)).and_then(|found| found.modified()).ok();
        let since = |at: SystemTime| at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        noted.map_or(0, since).max(snapshot.created)
    }

    /// A file beside the snapshot whose time is that of the last use: the snapshot itself is never written.
    fn mark(&self, function: &FunctionName, id: &SnapshotId) -> PathBuf {
        self.snapshots_folder().join(function.as_str()).join(format!("{id}.used"))
    }

    /// Removes the snapshots that `retention` has no place for, code whose grace period is over, and sweeps the trash.
    ///
    /// # Errors
    /// [`StoreError`] when the home can't be read.
    pub fn retain(&self, retention: &Retention) -> Result<Retained, StoreError> {
        self.tidy()?;
        let (mut snapshots, mut kept) = (Vec::new(), Vec::new());
        for function in names(&self.snapshots_folder(), |name| name.parse::<FunctionName>().ok())? {
            for (id, snapshot) in self.kept(&function)? {
                snapshots.push((function.clone(), id));
                kept.push(snapshot);
            }
        }
        let mut others = disk_usage(self.path()).saturating_sub(disk_usage(&self.snapshots_folder()));
        let all = kept.iter().fold(others, |all, snapshot| all.saturating_add(snapshot.bytes));
        if retention.quota.is_some_and(|quota| all > quota) {
            clear(&self.cache())?;
            let lock = self.lock()?;
            self.collect_older(Duration::ZERO)?;
            sweep(self);
            drop(lock);
            others = disk_usage(self.path()).saturating_sub(disk_usage(&self.snapshots_folder()));
        }
        let (gone, bytes) = leaving(&kept, others, retention, now());
        let mut removed = Vec::new();
        for index in gone {
            let Some((function, id)) = snapshots.get(index) else { continue };
            let _lock = self.lock()?;
            let path = self.snapshots_folder().join(function.as_str()).join(id.as_str());
            // It may have gone meanwhile.
            if path.exists() {
                discard(self, &path)?;
                removed.push((function.clone(), id.clone()));
            }
            // Without a snapshot it means nothing; it is looked for again when it can't be removed.
            let _ = fs::remove_file(self.mark(function, id));
            sweep(self);
        }
        Ok(Retained { bytes, removed, over_quota: retention.quota.is_some_and(|quota| bytes > quota) })
    }

    fn kept(&self, function: &FunctionName) -> Result<Vec<(SnapshotId, Kept)>, StoreError> {
        let mut asked_for = HashMap::new();
        let network = self.has_network(function)?;
        for version in self.registry().versions(function)? {
            if let Ok(runtime) = self.runtime(&version.config.runtime) {
                let asked = version.settings.snap_start == SnapStart::PublishedVersions
                    && version.version != registry::Version::Latest;
                asked_for.insert(Revision::of(&version, &runtime, network).short(), asked);
            }
        }
        let all = self.snapshots(function)?;
        let newest = |revision: &str| {
            all.iter().filter(|other| other.id.revision() == revision).map(|other| other.id.number()).max()
        };
        let kept = |entry: &SnapshotEntry| {
            let rank = if newest(entry.id.revision()) != Some(entry.id.number()) {
                Rank::Replaced
            } else if asked_for.get(entry.id.revision()) == Some(&true) {
                Rank::SnapStart
            } else {
                Rank::Automatic
            };
            let last_use = self.last_use(function, entry);
            (entry.id.clone(), Kept { bytes: entry.bytes_on_disk, last_use, rank })
        };
        Ok(all.iter().map(kept).collect())
    }
}

/// Blocks of everything below `folder`; a file with several names counts once for each. What vanishes meanwhile counts nothing.
fn disk_usage(folder: &Path) -> u64 {
    let files = WalkDir::new(folder).into_iter().filter_map(Result::ok);
    files.filter_map(|entry| entry.metadata().ok()).map(|found| found.blocks() * 512).sum()
}

fn clear(folder: &Path) -> Result<(), StoreError> {
    for entry in fs::read_dir(folder).map_err(StoreError::io("reading", folder))?.flatten() {
        let path = entry.path();
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(StoreError::io("removing", &path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 100 * 86_400;

    fn kept(rank: Rank, bytes: u64, hours: u64) -> Kept {
        Kept { bytes, last_use: NOW - 3600 * hours, rank }
    }

    fn retention(quota: u64) -> Retention {
        Retention { quota: Some(quota), ..Retention::default() }
    }

    #[test]
    fn the_order_is_replaced_automatic_snap_start_and_the_oldest_first_in_each() {
        let all = [
            kept(Rank::SnapStart, 10, 100),
            kept(Rank::Automatic, 10, 2),
            kept(Rank::Automatic, 10, 3),
            kept(Rank::Replaced, 10, 1),
        ];
        assert_eq!(leaving(&all, 100, &retention(140), NOW), (vec![], 140));
        assert_eq!(leaving(&all, 100, &retention(139), NOW), (vec![3], 130));
        assert_eq!(leaving(&all, 100, &retention(120), NOW), (vec![3, 2], 120));
        assert_eq!(leaving(&all, 100, &retention(0), NOW), (vec![3, 2, 1, 0], 100));
    }

    #[test]
    fn the_grace_period_holds_and_two_weeks_do_not_need_a_quota() {
        let fresh = Kept { bytes: 10, last_use: NOW - 30, rank: Rank::Automatic };
        assert_eq!(leaving(&[fresh], 100, &retention(0), NOW), (vec![], 110));
        let old = [kept(Rank::SnapStart, 10, 14 * 24), kept(Rank::SnapStart, 10, 14 * 24 - 1)];
        assert_eq!(leaving(&old, 0, &Retention::default(), NOW), (vec![0], 10));
    }
}
