//! What can go wrong in a benchmark.

use std::io;
use std::path::{Path, PathBuf};

use function_worker::WorkerError;
use restore::LoadingSetProblem;
use snapshot::SnapshotError;
use store::{FunctionName, StoreError};
use thiserror::Error;

/// A benchmark that can't go on.
#[derive(Debug, Error)]
pub enum BenchError {
    /// The home directory or a function can't be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file or folder.
    #[error("{operation} {}", path.display())]
    Io {
        /// `reading` or the like.
        operation: &'static str,
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Nothing was measured there.
    #[error("there is no run in {}: leave --report out to make one, or name its folder by --into", path.display())]
    NoRun {
        /// The folder.
        path: PathBuf,
    },
    /// A snapshot that was just made can't be read.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A recording that was just made can't be used.
    #[error("the recording of {function}, just made by {strategy}, can't be used")]
    Recording {
        /// The function.
        function: FunctionName,
        /// The strategy's name.
        strategy: &'static str,
        /// What is wrong with it.
        #[source]
        problem: LoadingSetProblem,
    },
    /// A worker failed.
    #[error("{function} by {mode}, input {input}: {log}")]
    Worker {
        /// The function.
        function: FunctionName,
        /// How it was to be run.
        mode: String,
        /// The input's label.
        input: String,
        /// The end of what function and worker logged.
        log: String,
        /// What happened.
        #[source]
        source: Box<WorkerError>,
    },
    /// The function answered something else than it has to.
    #[error(
        "{function} by {mode}, input {input}, answered wrongly: checksum {expected} was expected, the answer is {answer}"
    )]
    WrongAnswer {
        /// The function.
        function: FunctionName,
        /// How it was run.
        mode: String,
        /// The input's label.
        input: String,
        /// The checksum in `benchmark.json`.
        expected: String,
        /// The answer, shortened.
        answer: String,
    },
    /// A restore was not done as asked.
    #[error("{function} by {mode} was restored otherwise than asked: {reason}")]
    FellBack {
        /// The function.
        function: FunctionName,
        /// How it was to be run.
        mode: String,
        /// Why it fell back.
        reason: String,
    },
    /// A function without `benchmark.json` in its code.
    #[error(
        "function {0} has no benchmark.json in its code, which says its inputs and answers; `cargo xtask functions` makes \
         those of examples/functions"
    )]
    NotForBenchmarks(FunctionName),
    /// No function for benchmarks at all.
    #[error("there is no function for benchmarks in this home: run `cargo xtask functions`")]
    NoFunctions,
    /// A file that should hold JSON.
    #[error("{} is not what it should be", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// Pages stay in the page cache, so a run would not be cold.
    #[error("{pages} pages of {} can't be dropped from the page cache: something else uses the file", path.display())]
    StillCached {
        /// The file.
        path: PathBuf,
        /// How many.
        pages: u64,
    },
    /// The run folder belongs to a run with other settings or of another build.
    #[error("{} holds a run of other settings ({difference}): say --again to begin anew, or --into another folder", path.display())]
    AnotherRun {
        /// The folder.
        path: PathBuf,
        /// What differs.
        difference: String,
    },
    /// A program that measures failed.
    #[error("{program} failed: {reason}")]
    Program {
        /// Its name.
        program: &'static str,
        /// What it said.
        reason: String,
    },
    /// This machine can't do what the experiment needs.
    #[error("{what} is not possible here: {reason}")]
    Impossible {
        /// What was to be done.
        what: &'static str,
        /// Why not, and what to do.
        reason: String,
    },
    /// A plot can't be drawn.
    #[error("drawing {}: {reason}", path.display())]
    Plot {
        /// The file that was to be made.
        path: PathBuf,
        /// What the renderer said.
        reason: String,
    },
}

impl BenchError {
    /// For `map_err` on what the kernel said about `path`.
    pub(crate) fn io<E: Into<io::Error>>(operation: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        move |source| Self::Io { operation, path: path.to_owned(), source: source.into() }
    }
}
