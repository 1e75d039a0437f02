//! Why a restore fails.

use guest_memory::MapError;
use pages::{PageRange, PageSet};
use snapshot::SnapshotError;
use thiserror::Error;

use crate::failure::LoadFailure;
use crate::layout::LayoutError;

/// A restore that can't be done or was broken off. The guest must not run.
#[derive(Debug, Error)]
pub enum RestoreError {
    /// The snapshot is damaged, missing or from elsewhere.
    #[error("the snapshot can't be used")]
    Snapshot(#[from] SnapshotError),
    /// The guest layout makes no sense or doesn't fit the snapshot.
    #[error("the guest layout can't be used")]
    Layout(#[from] LayoutError),
    /// The host refused a mapping.
    #[error("guest memory can't be mapped")]
    Map(#[from] MapError),
    /// The guest's memory is reserved for fewer pages than the layout has.
    #[error("the guest has {needed} pages, its reservation {reserved}")]
    ReservationTooSmall {
        /// Pages in the layout.
        needed: u64,
        /// Pages reserved.
        reserved: u64,
    },
    /// The layout names a file that wasn't supplied.
    #[error("the guest layout uses file number {index}, {supplied} were supplied")]
    MissingFile {
        /// The number in the layout.
        index: u32,
        /// How many the caller gave.
        supplied: usize,
    },
    /// Reading guest memory's content failed.
    #[error("reading {range:?} from the snapshot failed")]
    Read {
        /// The guest pages.
        range: PageRange,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// The strategy can't run here at all. It is never replaced by another.
    #[error("the {strategy} strategy can't run here: {reason}")]
    Unavailable {
        /// The strategy.
        strategy: crate::strategy::RestoreStrategy,
        /// What is missing and how to get it.
        reason: String,
    },
    /// The full-memory comparison found pages that are not what they were.
    #[error("{} pages of guest memory are not what the snapshot says: {pages:?}", pages.count().0)]
    WrongPages {
        /// The pages.
        pages: PageSet,
    },
    /// The loading set that the guest had to wait for can't be trusted.
    #[error("the loading set can't be used")]
    Load(#[from] LoadFailure),
    /// The loader or another thread could not be started.
    #[error("a thread for the restore can't be started")]
    Thread(#[source] std::io::Error),
}

impl RestoreError {
    /// Whether a recording is at fault: the snapshot is sound, and a restore without the recording would do.
    pub fn is_of_recording(&self) -> bool {
        matches!(self, Self::Load(failure) if failure.is_of_recording())
    }
}
