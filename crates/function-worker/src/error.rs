//! What can go wrong between a worker and whoever drives it.

use std::io;
use std::path::PathBuf;

use store::{FunctionName, RuntimeName};
use thiserror::Error;
use worker_protocol::{ChannelError, Exit, Failure};

/// A worker that can't be started, or that did not do what it was asked.
#[derive(Debug, Error)]
pub enum WorkerError {
    /// Its socket can't be watched.
    #[error("starting a worker")]
    Start(#[source] io::Error),
    /// The process can't be started, or a directory not be handed to it.
    #[error(transparent)]
    Jail(#[from] jail::JailError),
    /// Its socket failed or it did not answer in time.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// It could not do what it was asked: what it said.
    #[error("the instance failed: {}", .0.message)]
    Failed(Failure),
    /// It ended instead of answering.
    #[error("the worker ended without an answer: {status}")]
    Ended {
        /// How the process ended.
        status: String,
    },
    /// The function's program ended while nothing was asked of it.
    #[error("the function's program ended while it waited: {0:?}")]
    ProgramEnded(Exit),
    /// It answered something else than what was asked.
    #[error("the worker answered out of turn (a defect)")]
    OutOfTurn,
    /// A directory or device that the instance needs can't be opened.
    #[error("opening {}", path.display())]
    Open {
        /// The directory or device.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// An image of a file system, or a kernel, can't be handed on.
    #[error("handing the worker an image or a kernel")]
    Image(#[source] io::Error),
    /// The kernel can't be read, or no file for the instance's own disk be made.
    #[error(transparent)]
    Store(#[from] store::StoreError),
    /// There is no program to start.
    #[error(
        "function {function} has nothing to run: neither its runtime {runtime} nor its code nor a layer has a bootstrap"
    )]
    NothingToRun {
        /// The function.
        function: FunctionName,
        /// Its runtime.
        runtime: RuntimeName,
    },
    /// What a worker measured can't be read.
    #[error("reading a worker's timeline")]
    Timeline(#[source] postcard::Error),
    /// There is no way out of it for a function that asks for one.
    #[error(transparent)]
    Relay(#[from] outbound_relay::RelayError),
    /// The function's credentials can't be had.
    #[error(transparent)]
    Credentials(#[from] crate::CredentialsFileError),
    /// What it wrote is no snapshot that can be used.
    #[error(transparent)]
    Written(#[from] crate::keeping::WrittenError),
    /// The process can't be limited.
    #[error("limiting what a worker may use")]
    Limit(#[source] io::Error),
    /// Waiting for the process to be gone failed.
    #[error("waiting for the worker's end")]
    Wait(#[source] io::Error),
}

impl WorkerError {
    /// Whether the worker's process is gone, whoever ended it: another one may well do what was asked.
    pub fn is_lost(&self) -> bool {
        let gone =
            |error: &ChannelError| matches!(error, ChannelError::Socket { .. } | ChannelError::Truncated);
        matches!(self, Self::Ended { .. }) || matches!(self, Self::Channel(error) if gone(error))
    }
}
