//! What a node has learnt of its functions' idle times, kept for the next node of the home. Losing it costs some cold starts.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::StoreError;
use crate::home::Store;
use crate::manifest;

const KIND: &str = "idle-times";

/// How long a version was idle, how often.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct IdleTimes {
    /// The function.
    pub function: String,
    /// `$LATEST` or a number.
    pub version: String,
    /// The digest of all that a snapshot of the version depends on.
    pub revision: String,
    /// Bins of the histogram that are not empty: number and count.
    pub bins: Vec<(u32, u32)>,
    /// Idle times beyond the last bin.
    pub out_of_bounds: u32,
}

impl Store {
    fn idle_times_path(&self) -> PathBuf {
        self.path().join("idle-times.json")
    }

    /// Keeps idle times in the place of those that were kept.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn keep_idle_times(&self, times: &[IdleTimes]) -> Result<(), StoreError> {
        manifest::write(&self.idle_times_path(), KIND, &times)
    }

    /// The idle times that were kept; none when there are none.
    ///
    /// # Errors
    /// [`StoreError`] when the file is damaged or from a newer program.
    pub fn kept_idle_times(&self) -> Result<Vec<IdleTimes>, StoreError> {
        match manifest::read(&self.idle_times_path(), KIND) {
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            other => other,
        }
    }
}
