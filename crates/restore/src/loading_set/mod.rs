//! The loading set: which pages a restore brings in by itself, in what order, and the compact file that holds them.

mod chunks;
mod costs;
mod disk;
mod file;
mod rule;

pub(crate) use chunks::{CHUNK, Piece, chunks, extents};
pub use costs::CostModel;
pub use disk::{DiskProfile, learn_disks};
pub use file::{LoadingSet, LoadingSetProblem, PlacedRegion};
pub use rule::{LoadingRegion, LoadingSetRule, MergeRule, Order};
