//! What can go wrong with the registry.

use std::path::PathBuf;

use crate::names::{FunctionName, Version};

/// An operation on the registry failed; nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The file is from a newer version of this program.
    #[error(
        "{path:?} has schema {found}, this faasnap knows schemas up to {known}: use the faasnap that wrote it"
    )]
    Schema {
        /// The file.
        path: PathBuf,
        /// What it says.
        found: u32,
        /// The newest that this program knows.
        known: u32,
    },
    /// The file is something else.
    #[error("{path:?} is no registry of faasnap: move it away")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The file is damaged.
    #[error(
        "{path:?} is damaged: {problem}. Put a copy of it from before in its place, or move it away and create the functions again"
    )]
    Unsound {
        /// The file.
        path: PathBuf,
        /// What SQLite found first.
        problem: String,
    },
    /// SQLite refused: the disk is full, or the file is damaged.
    #[error("{operation} in the registry {path:?} failed")]
    Database {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// A record does not decode.
    #[error("the record of {what} is damaged: remove it and make it again")]
    Damaged {
        /// Whose.
        what: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The registry's file can't be made.
    #[error("creating {path:?} failed")]
    Create {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// There is no such function.
    #[error("there is no function {0}: `faasnap function list` shows what there is")]
    NoFunction(FunctionName),
    /// There is no such version.
    #[error("function {name} has no version {version}")]
    NoVersion {
        /// The function.
        name: FunctionName,
        /// The version.
        version: Version,
    },
    /// The function exists.
    #[error("function {0} exists already: choose another name, or --replace it")]
    FunctionExists(FunctionName),
}
