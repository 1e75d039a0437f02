//! The loading set: which pages a restore brings in by itself, in what order, and the compact file that holds them.

mod disk;
mod file;
mod rule;

pub use disk::{DiskProfile, learn_disks};
pub(crate) use file::CHUNK;
pub use file::{LoadingSet, LoadingSetProblem, PlacedRegion};
pub use rule::{CostModel, LoadingRegion, LoadingSetRule, MergeRule, Order};
