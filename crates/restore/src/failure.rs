//! Why memory that comes in while the guest runs can't be trusted.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use guest_memory::AccessError;
use pages::PageRange;
use thiserror::Error;

use crate::error::RestoreError;

/// Why the loading set can't be trusted. The guest may have seen wrong bytes: stop it and discard it.
#[derive(Debug, Error)]
pub enum LoadFailure {
    /// A chunk isn't what it was when it was written.
    #[error("a chunk of {} at byte {offset} doesn't match its checksum; {}", name(path), next_time(*is_recording))]
    Checksum {
        /// The loading-set file.
        path: PathBuf,
        /// Where the chunk starts.
        offset: u64,
        /// Whether the file is a recording, which can be set aside: the next restore does without it.
        is_recording: bool,
    },
    /// The disk failed.
    #[error("reading {} at byte {offset} failed; {}", name(path), next_time(*is_recording))]
    Read {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// Whether the file is a recording, which can be set aside: the next restore does without it.
        is_recording: bool,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A piece of memory can't be put in place.
    #[error("{range:?} of guest memory can't be put in place")]
    NotPlaced {
        /// The pages of the block.
        range: PageRange,
        /// What failed.
        #[source]
        source: Box<RestoreError>,
    },
    /// Memory that was made ready isn't.
    #[error("the memory that was made ready for {range:?} can't be written")]
    NotWritable {
        /// The pages.
        range: PageRange,
        /// Which of them.
        #[source]
        source: AccessError,
    },
}

impl LoadFailure {
    /// Whether a recording is at fault: whoever keeps the snapshot should have it checked ([`LoadingSet::set_aside_if_damaged`]).
    pub fn is_of_recording(&self) -> bool {
        matches!(self, Self::Checksum { is_recording: true, .. } | Self::Read { is_recording: true, .. })
    }
}

/// A worker knows the directory by a descriptor only: its path would tell nobody anything.
fn name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

fn next_time(is_recording: bool) -> &'static str {
    if is_recording {
        "the file is quarantined, the next restore does without it"
    } else {
        "remove it and create it again"
    }
}

/// Called from a thread of the restore's own when the guest must be stopped, with the reason.
pub type FailureHook = Arc<dyn Fn(&LoadFailure) + Send + Sync>;
