//! Shutting this process in.

use std::fs;
use std::str::FromStr;

use crate::error::{JailError, entering};
use crate::{filter, privileges, root, sys};

/// What a process was started with, as its command line says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Confinement {
    /// In namespaces of its own.
    Namespaces,
    /// In none.
    Weak,
}

impl Confinement {
    /// The argument before the name.
    pub(crate) const ARGUMENT: &'static str = "--jail";

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Namespaces => "namespaces",
            Self::Weak => "weak",
        }
    }
}

impl FromStr for Confinement {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Namespaces, Self::Weak]
            .into_iter()
            .find(|known| known.name() == text)
            .ok_or_else(|| format!("no jail is called {text}"))
    }
}

/// Shuts this process in. It must have one thread; what it needs of the host's files it has read before.
///
/// # Errors
/// [`JailError`]: end the process then.
pub fn enter(confinement: Confinement) -> Result<(), JailError> {
    enter_without_filter(confinement)?;
    filter::start()
}

/// [`enter`] without the system call filter: for the tests that show what the rest of the jail stops by itself.
///
/// # Errors
/// As [`enter`].
#[doc(hidden)]
pub fn enter_without_filter(confinement: Confinement) -> Result<(), JailError> {
    let threads = fs::read_dir("/proc/self/task").map_err(entering("counting threads"))?.count();
    if threads != 1 {
        return Err(JailError::Threads(threads));
    }
    // What follows has to be undone by nobody: the order is from what needs a privilege to what needs none.
    privileges::limit_resources()?;
    match confinement {
        Confinement::Namespaces => {
            root::change()?;
            privileges::drop_capabilities()?;
        }
        Confinement::Weak => privileges::drop_held_capabilities()?,
    }
    privileges::seal()?;
    // A descriptor that a program would inherit is none that this process knows of; it runs no program anyway.
    sys::close_on_exec_from(3).map_err(entering("marking descriptors"))
}
