//! The FaaSnap core: how a guest's memory comes back from a snapshot.
//!
//! A [`RestoreStrategy`] and a [`GuestLayout`] give a [`RestorePlan`], plain data that one mapper applies; [`restore`] does
//! both, starts the loader where the strategy has one, and writes what happened into a [`Timeline`]. The mechanisms are
//! described in `docs/restore.md`.
//!
//! Architecture invariant: this crate knows no vCPU, no KVM and no kind of guest. It sees guest-physical pages, the files
//! behind them and a clock. Host operations on guest memory are asked of `guest-memory`, so there is no `unsafe` here.
#![forbid(unsafe_code)]

mod bring_in;
mod compare;
mod description;
mod engine;
mod error;
mod faasnap;
mod failure;
mod foresight;
mod fresh;
mod handle;
mod huge_blocks;
mod layout;
mod loader;
mod loading_set;
mod map_step;
mod mapper;
mod page_cache;
mod picture;
mod placement;
mod plan;
mod progress;
mod ready;
mod ready_threads;
mod reap;
mod recorder;
mod recording;
mod schedule;
mod sole_reader;
mod strategy;
#[cfg(test)]
mod tests;
mod timeline;

pub use compare::{Unwritten, wrong_pages, wrong_unwritten_pages};
pub use engine::{LateBlocks, Record, RestoreRequest, restore, restore_foreseen};
pub use error::RestoreError;
pub use failure::{FailureHook, LoadFailure};
pub use foresight::{Foreseen, foresee};
pub use handle::{Outcome, RestoreHandle, RestoreWarning};
pub use layout::{Access, Backing, FileIndex, GuestLayout, LayoutError, Region};
pub use loading_set::{
    CompressedBytes, Compression, CostModel, DiskProfile, LoadingRegion, LoadingSet, LoadingSetProblem,
    LoadingSetRule, MergeRule, Order, PlacedRegion, learn_disks,
};
pub use map_step::MapStep;
pub use page_cache::drop_cached;
pub use picture::MemoryPicture;
pub use plan::RestorePlan;
pub use ready::{ReadyPages, ReadyRule};
pub use ready_threads::{Planning, ReadyThreads};
pub use recorder::RecordError;
pub use recording::{PageClasses, Recording, RecordingError, RecordingOptions};
pub use strategy::{FileUse, RestoreStrategy, Technique, Techniques, UnknownStrategy, UnknownTechnique};
pub use timeline::{
    Ahead, ExitCounts, FaultCounts, LoadingSetUse, Phase, PhaseRecord, ReadyUse, Timeline, Verified,
    WaitCounts,
};
