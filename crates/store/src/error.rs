//! What can go wrong with the home directory.

use std::io;
use std::path::PathBuf;

use file_tree::{TreeDigest, TreeError};

use registry::{
    FunctionName, KernelName, NameProblem, RegistryError, RuntimeName, SettingProblem, SnapshotId, Version,
};

/// An operation on the home directory failed; nothing was changed unless said otherwise.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A tree can't be made an image of.
    #[error("making a file system for linux guests failed")]
    Image(#[source] erofs_image::ImageError),
    /// No place for the home directory is known.
    #[error("don't know where to keep state: set FAASNAP_HOME, or HOME, or give --home DIR")]
    NoHome,
    /// The home was made by another version.
    #[error(
        "{path:?} has schema {found}, this faasnap knows schema {known}: use the faasnap that made it, or another --home"
    )]
    Schema {
        /// The manifest.
        path: PathBuf,
        /// What it says.
        found: u32,
        /// What this program knows.
        known: u32,
    },
    /// A manifest is damaged.
    #[error("{path:?} is damaged ({problem}): remove what it belongs to and make it again")]
    Damaged {
        /// The manifest.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A tree on disk is not what its digest says.
    #[error(
        "the files below {path:?} have changed: their digest is {found}, recorded is {recorded}; remove and make them again"
    )]
    Changed {
        /// The tree.
        path: PathBuf,
        /// What was recorded.
        recorded: TreeDigest,
        /// What the files have now.
        found: TreeDigest,
    },
    /// There is no such runtime.
    #[error(
        "there is no runtime {0}: `faasnap runtime list` shows what there is, `faasnap runtime build` makes one"
    )]
    NoRuntime(RuntimeName),
    /// There is no such kernel.
    #[error(
        "there is no kernel {0}: `faasnap kernel build-from-debian` makes one, `faasnap kernel import` takes one of yours"
    )]
    NoKernel(KernelName),
    /// A kernel of that name is there.
    #[error("there is a kernel {0} already: choose another --name, or --replace it")]
    KernelExists(KernelName),
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
    /// The function changed while its snapshot was taken.
    #[error("no version of function {0} is any longer as it was when this snapshot was taken: take it again")]
    Outdated(FunctionName),
    /// The registry failed.
    #[error(transparent)]
    Registry(RegistryError),
    /// There is no such snapshot.
    #[error(
        "function {function} has no snapshot {id}: `faasnap snapshot list {function}` shows what there is"
    )]
    NoSnapshot {
        /// The function.
        function: FunctionName,
        /// The snapshot asked for.
        id: SnapshotId,
    },
    /// The function exists.
    #[error("function {0} exists already: choose another name, or --replace it")]
    FunctionExists(FunctionName),
    /// The runtime exists.
    #[error("runtime {0} exists already: choose another name, or --replace it")]
    RuntimeExists(RuntimeName),
    /// The runtime is used.
    #[error("runtime {runtime} is used by {}: remove them first, or use --force", list(functions))]
    RuntimeInUse {
        /// The runtime.
        runtime: RuntimeName,
        /// Who uses it.
        functions: Vec<FunctionName>,
    },
    /// A setting is out of range.
    #[error("the function's settings are refused")]
    Setting(#[from] SettingProblem),
    /// A name that was computed is no name.
    #[error("a name is refused")]
    Name(#[from] NameProblem),
    /// Code or a layer can't be stored.
    #[error("can't store {path:?}")]
    Code {
        /// The zip or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: TreeError,
    },
    /// A tree can't be read or written.
    #[error("can't process the files below {path:?}")]
    Tree {
        /// The tree.
        path: PathBuf,
        /// Why.
        #[source]
        source: TreeError,
    },
    /// The file system refused.
    #[error("{operation} {path:?} failed")]
    Io {
        /// What was tried, as in "creating".
        operation: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl From<RegistryError> for StoreError {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::NoFunction(name) => Self::NoFunction(name),
            RegistryError::NoVersion { name, version } => Self::NoVersion { name, version },
            RegistryError::FunctionExists(name) => Self::FunctionExists(name),
            other => Self::Registry(other),
        }
    }
}

impl StoreError {
    /// A closure that wraps an I/O error with what was tried on which path.
    pub(crate) fn io(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { operation, path, source }
    }

    /// A closure that wraps a tree's error with the tree's path.
    pub(crate) fn tree(path: impl Into<PathBuf>) -> impl FnOnce(TreeError) -> Self {
        let path = path.into();
        move |source| Self::Tree { path, source }
    }
}

fn list(functions: &[FunctionName]) -> String {
    functions.iter().map(FunctionName::as_str).collect::<Vec<_>>().join(", ")
}
