//! A tap device of the machine's, in a network namespace that somebody has made ready for a guest.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketType, socket};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::error::JailError;
use crate::sys;

/// Opens the tap device `name`, of this process's network namespace or of the one that the file `namespace` stands for (as in /run/netns,
/// or /proc/PID/ns/net). Each read and write of it is one frame, and none waits.
///
/// # Errors
/// [`JailError::Tap`] when there is no such device, it is in use, or this user may not have it.
pub fn tap(name: &str, namespace: Option<&Path>) -> Result<OwnedFd, JailError> {
    // On a thread of its own, which ends in the other namespace.
    let opened = std::thread::scope(|scope| scope.spawn(|| opened(name, namespace)).join());
    let opened = opened.unwrap_or_else(|_| Err(io::Error::other("a thread panicked")));
    opened.map_err(|source| JailError::Tap { name: name.to_owned(), source })
}

fn opened(name: &str, namespace: Option<&Path>) -> io::Result<OwnedFd> {
    if let Some(namespace) = namespace {
        move_into_link_name_space(File::open(namespace)?.as_fd(), Some(LinkNameSpaceType::Network))?;
    }
    // Attaching would make one that is not there.
    name_to_index(socket(AddressFamily::INET, SocketType::DGRAM, None)?, name)?;
    let device = open("/dev/net/tun", OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
    sys::attach_tap(device.as_fd(), name)?;
    Ok(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_not_made() {
        let error = tap("no-such-tap", None).unwrap_err();
        assert!(
            matches!(&error, JailError::Tap { name, source } if name == "no-such-tap"
            && source.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error())),
            "{error:?}"
        );
        assert!(tap("tap0", Some(Path::new("/no/such/namespace"))).is_err());
        // The loopback is no tap device.
        assert!(tap("lo", None).is_err());
    }
}
