//! What can go wrong in making a jail.

use std::io;

use thiserror::Error;

/// A jail that can't be made. Nothing runs outside of it then.
#[derive(Debug, Error)]
pub enum JailError {
    /// A process can't be started.
    #[error("starting a jailed process: {step}")]
    Launch {
        /// What was being done.
        step: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A process can't shut itself in.
    #[error("entering the jail: {step}")]
    Enter {
        /// What was being done.
        step: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A directory can't be handed to a jailed process.
    #[error("handing a directory to a jailed process")]
    Passage(#[source] io::Error),
    /// A tap device can't be had.
    #[error("opening the tap device {name}")]
    Tap {
        /// Its name.
        name: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The worker was started by hand.
    #[error("{0} is missing: a worker is started by its node, not by hand")]
    NotInherited(&'static str),
    /// `enter` must be called while there is one thread.
    #[error("the process has {0} threads already; a jail is entered by the first one alone")]
    Threads(usize),
}

/// A failed step of starting a process.
pub(crate) fn launching<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> JailError {
    move |source| JailError::Launch { step, source: source.into() }
}

/// A failed step of entering.
pub(crate) fn entering<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> JailError {
    move |source| JailError::Enter { step, source: source.into() }
}
