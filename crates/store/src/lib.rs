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
//!   images/DIGEST                   a tree or root as a file system that a linux guest mounts; made when needed
//!   kernels/NAME/                   a kernel for linux guests, the modules that they load, its record
//!   registry.sqlite                 functions, versions, aliases, layers: records, with the digests of code and layers
//!   packages/SHA256.zip             the archives that code and layers came in
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
//! Records of functions are in the registry; a tree or package has its place before a record names it, and loses it ten
//! minutes after the last record that did (`NAME.unused` beside it has the time). Both happen under the home's lock.
//!
//! Architecture invariant: this crate runs nothing and downloads nothing, and knows no section of a snapshot.
#![forbid(unsafe_code)]

mod collect;
mod error;
mod functions;
mod home;
mod idle_times;
mod images;
mod kernels;
mod layers;
mod lease;
mod manifest;
mod packages;
mod retention;
mod runtimes;
mod snapshots;
mod staging;
mod trees;

pub use error::StoreError;
pub use file_tree::{TreeDigest, TreeError, TreeSummary};
pub use functions::{
    NETWORK_NONE, NETWORK_OUTBOUND, NETWORK_TAG, NewCode, NewFunction, NewLayer, OpenFunction, WhenPresent,
};
pub use home::{HOME_VARIABLE, Listing, Store, default_home};
pub use idle_times::IdleTimes;
pub use images::{KernelSource, LinuxFiles};
pub use kernels::{Kernel, KernelModule, KernelOrigin, NewKernel, OpenKernel};
pub use layers::NewLayerVersion;
pub use lease::Lease;
pub use registry::{
    ENVIRONMENT_BYTES, Environment, EnvironmentProblem, Function, FunctionConfig, FunctionName, Guest,
    Handler, KernelName, LayerUse, MAX_LAYERS, MemoryMegabytes, NameProblem, Package as CodePackage,
    Registry, RegistryError, RuntimeName, SettingProblem, Settings, SnapshotId, TimeoutSeconds, TmpMegabytes,
    Version,
};
pub use retention::{Retained, Retention};
pub use runtimes::{OpenRuntime, Package, Runtime, RuntimeOrigin, RuntimeStaging};
pub use snapshots::{Revision, SnapshotEntry, SnapshotStaging};
pub use trees::{CodeSource, OpenTree};
