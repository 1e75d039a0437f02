//! The snapshot container.
//!
//! A snapshot is a directory with two files: `state` (header, section table, sections) and `memory` (guest memory, sparse), and a
//! third, `disk`, when its guest has a disk of its own.
//! It is written under a temporary name and published by rename, so that a reader sees all of it or nothing, and it is
//! never changed afterwards; files that other crates derive from it (a loading-set file) are put beside them with
//! [`PendingFile`] and carry the snapshot's id. The layout is described in `docs/snapshot-format.md`.
//!
//! Architecture invariant: the container knows no section's content but its own (manifest, stored pages, checksums); every producer owns its payload and its version. Sizes and checksums are verified before anything is
//! decoded. Nothing here reads the whole memory file except [`Snapshot::verify`].
#![forbid(unsafe_code)]

mod builder;
mod error;
mod header;
mod manifest;
mod memory_file;
mod publish;
mod reader;
mod section;
#[cfg(test)]
mod tests;
mod tripwires;

pub use builder::SnapshotBuilder;
pub use error::{ErrorKind, SnapshotError};
pub use header::{FORMAT_VERSION, SnapshotId};
pub use manifest::{MachineIdentity, Manifest};
pub use memory_file::{CHUNK_PAGES, MemorySink};
pub use publish::{PendingFile, remove_abandoned};
pub use reader::{DISK_FILE, MEMORY_FILE, STATE_FILE, Section, Snapshot, VerifyReport};
pub use section::SectionKind;
