//! Control messages: open files and credentials that go along with bytes.

use std::sync::Arc;

use rustix::io::Errno;

use super::Cx;
use crate::file::{Fd, OpenFile};
use crate::net::Credentials;

/// Bytes of `struct cmsghdr`: length (8), level (4), type (4).
const HEADER: usize = 16;
/// Most control bytes taken from a guest (net.core.optmem_max).
const MAX_CONTROL: u64 = 20_480;
/// Most files in one message (SCM_MAX_FD).
const MAX_FILES: usize = 253;

/// A parsed control message.
#[derive(Debug, PartialEq, Eq)]
struct ControlMessage<'a> {
    level: i32,
    kind: i32,
    data: &'a [u8],
}

/// Splits a control buffer into its messages.
///
/// # Errors
/// EINVAL for a length that is too small or reaches beyond the buffer.
fn parse(mut bytes: &[u8]) -> Result<Vec<ControlMessage<'_>>, Errno> {
    let mut messages = Vec::new();
    while let Some((header, _)) = bytes.split_first_chunk::<HEADER>() {
        let number =
            |at: usize| header.get(at..at + 4).and_then(|word| word.try_into().ok()).map(i32::from_ne_bytes);
        let length = header.first_chunk::<8>().map(|word| u64::from_ne_bytes(*word)).ok_or(Errno::INVAL)?;
        let length = usize::try_from(length).map_err(|_| Errno::INVAL)?;
        let data = bytes.get(HEADER..length).ok_or(Errno::INVAL)?;
        let (level, kind) = (number(8).ok_or(Errno::INVAL)?, number(12).ok_or(Errno::INVAL)?);
        messages.push(ControlMessage { level, kind, data });
        bytes = bytes.get(length.next_multiple_of(8)..).unwrap_or_default();
    }
    Ok(messages)
}

/// Reads the control messages of a send: the files that are passed. Credentials must be the sender's own; other messages
/// (packet information) change nothing inside a guest.
///
/// # Errors
/// EINVAL, EBADF, EPERM, ENOBUFS, EFAULT.
pub(super) fn read_control(cx: &Cx<'_>, address: u64, length: u64) -> Result<Vec<Arc<OpenFile>>, Errno> {
    if address == 0 || length == 0 {
        return Ok(Vec::new());
    }
    if length > MAX_CONTROL {
        return Err(Errno::NOBUFS);
    }
    let mut bytes = vec![0; length as usize];
    cx.mm().read(address, &mut bytes)?;
    let mut files = Vec::new();
    for message in parse(&bytes)? {
        match (message.level, message.kind) {
            (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                for fd in message.data.as_chunks::<4>().0 {
                    files.push(cx.file(Fd::from_ne_bytes(*fd))?);
                }
            }
            (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) => {
                let pid = message.data.first_chunk::<4>().map(|pid| i32::from_ne_bytes(*pid));
                if !cx.process.has_pid(pid.ok_or(Errno::INVAL)?) {
                    return Err(Errno::PERM);
                }
            }
            _ => {}
        }
    }
    if files.len() > MAX_FILES { Err(Errno::INVAL) } else { Ok(files) }
}

fn header(data: usize, kind: i32) -> Vec<u8> {
    let mut bytes = ((HEADER + data) as u64).to_ne_bytes().to_vec();
    bytes.extend(libc::SOL_SOCKET.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes
}

/// Writes the control messages of a receive into `space` (address, length), giving received files descriptors. Returns
/// the bytes used and whether something did not fit; files that don't fit are closed.
///
/// # Errors
/// EFAULT.
pub(super) fn write_control(
    cx: &Cx<'_>,
    (address, length): (u64, u64),
    credentials: Option<Credentials>,
    rights: Vec<Arc<OpenFile>>,
    close_on_exec: bool,
) -> Result<(u64, bool), Errno> {
    let space = usize::try_from(length).unwrap_or(usize::MAX);
    let mut bytes = Vec::new();
    let mut cut = false;
    if let Some(Credentials { pid, uid, gid }) = credentials {
        if space >= HEADER + 12 {
            bytes = header(12, libc::SCM_CREDENTIALS);
            bytes.extend([pid.to_ne_bytes(), uid.to_ne_bytes(), gid.to_ne_bytes()].concat());
            bytes.resize(bytes.len().next_multiple_of(8).min(space), 0);
        } else {
            cut = true;
        }
    }
    if !rights.is_empty() {
        let fitting = space.saturating_sub(bytes.len() + HEADER) / 4;
        cut |= fitting < rights.len();
        let mut installed = Vec::new();
        for file in rights.into_iter().take(fitting) {
            match cx.install(file, close_on_exec) {
                Ok(fd) => installed.extend((fd as Fd).to_ne_bytes()),
                // No descriptor is left: the rest is lost, as it is in Linux.
                Err(_) => {
                    cut = true;
                    break;
                }
            }
        }
        if !installed.is_empty() {
            bytes.extend(header(installed.len(), libc::SCM_RIGHTS));
            bytes.extend(installed);
            bytes.resize(bytes.len().next_multiple_of(8).min(space), 0);
        }
    }
    cx.mm().write(address, &bytes)?;
    Ok((bytes.len() as u64, cut))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_are_found_and_bad_lengths_refused() {
        let mut bytes = header(4, libc::SCM_RIGHTS);
        bytes.extend([7, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend(header(0, 9));
        let messages = parse(&bytes).unwrap();
        assert_eq!(messages.len(), 2);
        let expected =
            ControlMessage { level: libc::SOL_SOCKET, kind: libc::SCM_RIGHTS, data: &[7, 0, 0, 0] };
        assert_eq!(messages[0], expected);
        bytes[0] = 15;
        assert_eq!(parse(&bytes), Err(Errno::INVAL));
        bytes[0] = 200;
        assert_eq!(parse(&bytes), Err(Errno::INVAL));
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_fail(bytes: Vec<u8>) {
            let total: usize = parse(&bytes).map_or(0, |all| all.iter().map(|one| one.data.len() + HEADER).sum());
            prop_assert!(total <= bytes.len() + 8);
        }
    }
}
