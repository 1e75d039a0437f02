//! Where a function's snapshots are. What is in them is the snapshot crate's business.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use file_tree::TreeDigest;
use registry::{Function, FunctionName, Guest, SnapshotId};

use crate::error::StoreError;
use crate::functions::OpenFunction;
use crate::home::{Store, names};
use crate::lease::Lease;
use crate::runtimes::Runtime;
use crate::staging::{Staging, discard, make_folder, sweep};

const STAGED: &str = "snapshot";
/// Digits of a revision that a snapshot's identifier carries.
const REVISION_DIGITS: usize = 8;

/// The identity of everything that a snapshot of a function depends on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Revision(TreeDigest);

/// A snapshot that is there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotEntry {
    /// Its identifier, unique for the function.
    pub id: SnapshotId,
    /// Its folder.
    pub path: PathBuf,
    /// Bytes on disk: holes of sparse files do not count.
    pub bytes_on_disk: u64,
    /// When it was published, in seconds since 1970.
    pub created: u64,
}

/// A snapshot in the making; dropped without [`Self::publish`], it is deleted.
#[derive(Debug)]
pub struct SnapshotStaging {
    store: Store,
    staging: Staging,
}

impl Revision {
    /// The version's number, which the function sees, its settings, code, layers and the runtime's very files: a snapshot
    /// of another revision is of no use. The machine of a linux guest has a network card or has none, which its `network` decides;
    /// a process guest's snapshot fits both.
    pub(crate) fn of(function: &Function, runtime: &Runtime, network: bool) -> Self {
        let has_card = network && matches!(function.config.guest, Guest::Linux { .. });
        let parts = (
            &function.name,
            function.version,
            &function.config,
            function.code.digest,
            function.merged_layers.map(|tree| tree.digest),
            runtime.root.digest,
            &runtime.environment,
        );
        // Encoding plain data as JSON can't fail; the fallback would only make the revision unlike any other.
        let bytes = if has_card { serde_json::to_vec(&(parts, "card")) } else { serde_json::to_vec(&parts) };
        Self(TreeDigest::of_bytes(&bytes.unwrap_or_default()))
    }

    /// The digits that identifiers of its snapshots start with.
    pub fn short(&self) -> String {
        self.0.short(REVISION_DIGITS)
    }

    /// All digits.
    pub fn digest(&self) -> TreeDigest {
        self.0
    }
}

impl SnapshotStaging {
    /// Where the snapshot's folder has to be made. It does not exist yet; whoever makes it syncs it to disk.
    pub fn path(&self) -> PathBuf {
        self.staging.path().join(STAGED)
    }

    /// Gives the finished snapshot its place among those of `function`, a version of which must still have that revision.
    ///
    /// # Errors
    /// [`StoreError::NoFunction`] when the function was removed meanwhile: its secrets must not come back.
    /// [`StoreError::Outdated`] when it was changed.
    pub fn publish(self, function: &FunctionName, revision: Revision) -> Result<SnapshotEntry, StoreError> {
        let _lock = self.store.lock()?;
        if !self.store.registry().exists(function)? {
            return Err(StoreError::NoFunction(function.clone()));
        }
        if !self.store.revisions(function)?.contains(&revision.short()) {
            return Err(StoreError::Outdated(function.clone()));
        }
        let folder = self.store.snapshots_folder().join(function.as_str());
        make_folder(&folder)?;
        let last = self.store.snapshot_ids(function)?.iter().map(SnapshotId::number).max();
        let id = SnapshotId::new(&revision.short(), last.unwrap_or(0) + 1)?;
        let path = folder.join(id.as_str());
        self.staging.publish_new(STAGED, &path)?;
        sweep(&self.store);
        entry(id, path)
    }
}

impl Store {
    /// Starts a new snapshot.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the home can't be written.
    pub fn stage_snapshot(&self) -> Result<SnapshotStaging, StoreError> {
        Ok(SnapshotStaging { store: self.clone(), staging: Staging::new(self)? })
    }

    /// The snapshots of a function, oldest first.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the home can't be read.
    pub fn snapshots(&self, function: &FunctionName) -> Result<Vec<SnapshotEntry>, StoreError> {
        let folder = self.snapshots_folder().join(function.as_str());
        let mut ids = self.snapshot_ids(function)?;
        ids.sort_by_key(SnapshotId::number);
        ids.into_iter()
            .map(|id| {
                let path = folder.join(id.as_str());
                entry(id, path)
            })
            .collect()
    }

    /// The latest snapshot that fits the function as it is now.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the home can't be read.
    pub fn current_snapshot(&self, function: &OpenFunction) -> Result<Option<SnapshotEntry>, StoreError> {
        let revision = function.revision().short();
        let mut all = self.snapshots(&function.function.name)?;
        all.retain(|snapshot| snapshot.id.revision() == revision);
        Ok(all.pop())
    }

    /// One snapshot, kept on disk as long as the lease lives.
    ///
    /// # Errors
    /// [`StoreError::NoSnapshot`].
    pub fn open_snapshot(
        &self,
        function: &FunctionName,
        id: &SnapshotId,
    ) -> Result<(SnapshotEntry, Lease), StoreError> {
        let path = self.snapshots_folder().join(function.as_str()).join(id.as_str());
        let missing = || StoreError::NoSnapshot { function: function.clone(), id: id.clone() };
        let lease = Lease::take(&path)?.ok_or_else(missing)?;
        Ok((entry(id.clone(), path)?, lease))
    }

    /// Removes a snapshot. Instances restored from it are not disturbed.
    ///
    /// # Errors
    /// [`StoreError::NoSnapshot`].
    pub fn remove_snapshot(&self, function: &FunctionName, id: &SnapshotId) -> Result<(), StoreError> {
        let _lock = self.lock()?;
        let path = self.snapshots_folder().join(function.as_str()).join(id.as_str());
        if !path.exists() {
            return Err(StoreError::NoSnapshot { function: function.clone(), id: id.clone() });
        }
        discard(self, &path)?;
        sweep(self);
        Ok(())
    }

    /// The revisions, shortened, that versions of a function have now. What can't be read has none.
    fn revisions(&self, name: &FunctionName) -> Result<HashSet<String>, StoreError> {
        let mut revisions = HashSet::new();
        let network = self.has_network(name)?;
        for function in self.registry().versions(name)? {
            if let Ok(runtime) = self.runtime(&function.config.runtime) {
                revisions.insert(Revision::of(&function, &runtime, network).short());
            }
        }
        Ok(revisions)
    }

    /// Discards snapshots that fit no version of their function any more. The caller holds the home's lock.
    pub(crate) fn discard_stale_snapshots(&self, name: &FunctionName) -> Result<(), StoreError> {
        let ids = self.snapshot_ids(name)?;
        if ids.is_empty() {
            return Ok(());
        }
        let revisions = self.revisions(name)?;
        for id in ids.iter().filter(|id| !revisions.contains(id.revision())) {
            discard(self, &self.snapshots_folder().join(name.as_str()).join(id.as_str()))?;
        }
        Ok(())
    }

    fn snapshot_ids(&self, function: &FunctionName) -> Result<Vec<SnapshotId>, StoreError> {
        let folder = self.snapshots_folder().join(function.as_str());
        if folder.exists() { names(&folder, |name| name.parse().ok()) } else { Ok(Vec::new()) }
    }
}

fn entry(id: SnapshotId, path: PathBuf) -> Result<SnapshotEntry, StoreError> {
    let (bytes_on_disk, created) = measure(&path).map_err(StoreError::io("reading", &path))?;
    Ok(SnapshotEntry { id, path, bytes_on_disk, created })
}

/// Blocks of the folder's files, and the folder's own time.
fn measure(folder: &Path) -> std::io::Result<(u64, u64)> {
    let mut bytes = 0;
    for file in fs::read_dir(folder)? {
        // st_blocks counts units of 512 bytes whatever the file system's block size is (stat(2)).
        bytes += file?.metadata()?.blocks() * 512;
    }
    let modified = fs::metadata(folder)?.modified()?;
    Ok((bytes, modified.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())))
}
