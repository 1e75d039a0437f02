//! The descriptors that a jailed process was started with.

use std::os::fd::{OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::JailError;
use crate::sys;

/// The argument that names the next descriptor, from [`FIRST_PASSED`] on.
pub(crate) const PASSED_ARGUMENT: &str = "--passed";
/// The first descriptor after standard input, output and error.
pub(crate) const FIRST_PASSED: RawFd = 3;

/// The socket and the descriptors passed with names.
#[derive(Debug)]
pub struct Inherited {
    socket: Option<OwnedFd>,
    passed: Vec<(String, Option<OwnedFd>)>,
}

impl Inherited {
    /// Takes them over; `names` are those that the command line has after `--passed`, in that order. Once per process, before
    /// anything is opened.
    ///
    /// # Errors
    /// [`JailError::NotInherited`] when they are not there, or for the second time.
    pub fn take(names: &[String]) -> Result<Self, JailError> {
        static TAKEN: AtomicBool = AtomicBool::new(false);
        if TAKEN.swap(true, Ordering::SeqCst) {
            return Err(JailError::NotInherited("what was taken before"));
        }
        let take = |number| {
            // SAFETY: a program's first act (once, by `TAKEN`): nobody has taken over or opened these numbers.
            unsafe { sys::take(number) }
        };
        let socket = take(0).map_err(|_| JailError::NotInherited("the node's socket"))?;
        let mut passed = Vec::new();
        for (number, name) in (FIRST_PASSED..).zip(names) {
            let descriptor = take(number).map_err(|_| JailError::NotInherited("a passed descriptor"))?;
            passed.push((name.clone(), Some(descriptor)));
        }
        Ok(Self { socket: Some(socket), passed })
    }

    /// The socket; `None` the second time.
    pub fn socket(&mut self) -> Option<OwnedFd> {
        self.socket.take()
    }

    /// The descriptor that was passed as `name`; `None` when none was.
    pub fn passed(&mut self, name: &str) -> Option<OwnedFd> {
        self.passed.iter_mut().find(|(found, _)| found == name)?.1.take()
    }
}
