//! What can go wrong while a runtime is built.

use std::io;
use std::path::PathBuf;

use file_tree::TreeError;

/// A runtime can't be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A tool of the host is missing.
    #[error(
        "{program} is missing: install it with `apt-get install {package}` (runtimes are built on Debian or Ubuntu)"
    )]
    ToolMissing {
        /// The program.
        program: &'static str,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// A tool could not be started or talked to.
    #[error("running {program} failed")]
    Run {
        /// The program.
        program: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A tool failed.
    #[error("{program} ended with {status}:\n{output}")]
    Failed {
        /// The program with its arguments.
        program: String,
        /// Its exit status in words.
        status: String,
        /// The last lines it wrote.
        output: String,
    },
    /// apt does not know a package.
    #[error(
        "apt offers no package {name}{}: this recipe is for Debian 12, see /etc/apt/sources.list",
        needed(needed_by)
    )]
    NoPackage {
        /// The package.
        name: String,
        /// Which package depends on it; `None` for one that the recipe names.
        needed_by: Option<String>,
    },
    /// A downloaded package is not what the archive announced.
    #[error("{path:?} has not the checksum that apt announced: delete it and try again")]
    Checksum {
        /// The file.
        path: PathBuf,
    },
    /// A package can't be unpacked.
    #[error("can't unpack {what}")]
    Unpack {
        /// The package or folder.
        what: String,
        /// Why.
        #[source]
        source: TreeError,
    },
    /// The recipe has no Python, so it can't have Python packages.
    #[error("{recipe} has no Python: --package works with a Python runtime")]
    NoPython {
        /// The recipe.
        recipe: &'static str,
    },
    /// What can't be a Debian package's name.
    #[error("{0:?} is no Debian package: write its name, such as libgomp1")]
    DebianName(String),
    /// A Python package's name that pip would take for something else.
    #[error(
        "{0:?} is no Python package: write a name or a name with a version, such as numpy or numpy==2.1.0"
    )]
    Requirement(String),
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

fn needed(by: &Option<String>) -> String {
    by.as_ref().map(|package| format!(", which {package} needs")).unwrap_or_default()
}

impl BuildError {
    pub(crate) fn io(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { operation, path, source }
    }

    pub(crate) fn unpack(what: impl Into<String>) -> impl FnOnce(TreeError) -> Self {
        let what = what.into();
        move |source| Self::Unpack { what, source }
    }
}
