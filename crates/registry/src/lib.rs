//! What a home knows of functions: one embedded store that survives every crash with all that it acknowledged.
//!
//! ```text
//! functions ──┬─ versions            number 0 is $LATEST; each with its configuration, code and state
//!             ├─ aliases             names for versions
//!             ├─ tags, settings      of the function as a whole
//!             ├─ event configs       per qualifier
//!             ├─ permissions, URLs   per qualifier
//! layers ─────┴─ layer versions
//! ```
//!
//! SQLite in write-ahead mode with `synchronous=FULL`: a commit is on disk when it returns. Several processes may have it
//! open at once. The schema has a number; an older one is migrated when it is opened, a newer one is refused.
//!
//! Architecture invariant: this crate knows no files but its own: trees and packages are digests here.
#![forbid(unsafe_code)]

mod aliases;
mod database;
mod environment;
mod error;
mod function;
mod functions;
mod layers;
mod names;
mod qualified;
mod schema;
mod settings;
mod state;
mod tags;

pub use aliases::{Alias, AliasName};
pub use database::{Page, Registry};
pub use environment::{ENVIRONMENT_BYTES, Environment, EnvironmentProblem};
pub use error::RegistryError;
pub use file_tree::{TreeDigest, TreeSummary};
pub use function::{
    Function, FunctionConfig, Guest, Handler, LayerUse, MAX_LAYERS, MemoryMegabytes, Package, SettingProblem,
    TimeoutSeconds, TmpMegabytes,
};
pub use layers::LayerVersion;
pub use names::{FunctionName, KernelName, LayerName, NameProblem, RuntimeName, SnapshotId, Version};
pub use qualified::{EventInvokeConfig, FunctionUrl, Permission};
pub use settings::{Logging, Settings, SnapStart};
pub use state::{State, Status, UpdateStatus};
