//! The home directory: what this machine knows of runtimes, functions, code and snapshots.
//!
//! ```text
//! HOME/                             0700, as is every folder below
//!   home.json                       schema of the whole
//!   lock                            flock: one writer at a time, for the moment of publishing
//!   runtimes/NAME/manifest.json     where the root file system came from, its digest, its environment
//!   runtimes/NAME/root              the root file system
//!   trees/DIGEST/manifest.json      a function's code, a layer, or the layers of a function merged
//!   trees/DIGEST/tree/
//!   functions/NAME.json             configuration and the digests of code and layers
//!   snapshots/FUNCTION/ID/          one snapshot; its content belongs to the snapshot crate
//!   cache/                          downloads of the runtime builder; may be deleted at any time
//!   staging/                        what is being made; gone after a crash
//!   trash/                          what was removed and may still be in use
//! ```
//!
//! Three rules hold everywhere:
//! 1. **Published by rename.** A thing is made below `staging/`, synced to disk, and renamed to its place. A crash leaves
//!    the last good state; readers see the old or the new, never a mixture.
//! 2. **Removed by rename.** A removed thing goes to `trash/` first and is deleted when nobody holds a [`Lease`] on it:
//!    an instance that runs from it is not disturbed.
//! 3. **Checked when read.** Manifests carry a schema version and a checksum of their body; trees have a digest.
//!
//! Architecture invariant: this crate runs nothing and downloads nothing, and knows no section of a snapshot.
#![forbid(unsafe_code)]

mod environment;
mod error;
mod function;
mod functions;
mod home;
mod lease;
mod manifest;
mod names;
mod runtimes;
mod snapshots;
mod staging;
mod trees;

pub use environment::{ENVIRONMENT_BYTES, Environment, EnvironmentProblem};
pub use error::StoreError;
pub use file_tree::{TreeDigest, TreeSummary};
pub use function::{
    Function, FunctionConfig, Handler, MAX_LAYERS, MemoryMegabytes, SettingProblem, TimeoutSeconds,
};
pub use functions::{NewFunction, OpenFunction, WhenPresent};
pub use home::{HOME_VARIABLE, Listing, Store, default_home};
pub use lease::Lease;
pub use names::{FunctionName, NameProblem, RuntimeName, SnapshotId};
pub use runtimes::{OpenRuntime, Package, Runtime, RuntimeOrigin, RuntimeStaging};
pub use snapshots::{Revision, SnapshotEntry, SnapshotStaging};
pub use trees::{CodeSource, OpenTree};
