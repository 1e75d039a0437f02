//! The loading set: which pages a restore brings in by itself, in what order, and the compact file that holds them.

mod ask;
mod chunks;
mod compressed;
mod costs;
mod disk;
mod file;
mod rule;
mod writer;

pub(crate) use chunks::{CHUNK, Piece, chunks, extents, page_count, unplaced};
pub use compressed::CompressedBytes;
pub(crate) use compressed::{Compressed, Decoder};
pub use costs::CostModel;
pub use disk::{DiskProfile, learn_disks};
pub use file::{LoadingSet, LoadingSetProblem, PlacedRegion};
pub use rule::{Compression, LoadingRegion, LoadingSetRule, MergeRule, Order};
