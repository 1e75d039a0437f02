//! TCP connections.

use std::os::fd::OwnedFd;

use outbound::Greeting;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::OwnedReadHalf;
use tokio::net::{TcpStream, UnixStream};

/// Bytes carried at once, each way.
const PIECE: usize = 64 << 10;

/// A connection that is being made, and the guest's end.
pub(crate) struct Connection {
    pub guest: OwnedFd,
    pub host: OwnedFd,
}

/// Waits until it is made, says so, and carries bytes until both sides have ended or one is gone.
pub(crate) async fn carry(connection: Connection) {
    let Connection { guest, host } = connection;
    let Ok(mut guest) = UnixStream::from_std(guest.into()) else { return };
    let Ok(host) = TcpStream::from_std(host.into()) else { return };
    // The guest's program decides what is sent at once: nothing waits here for more.
    let _ = host.set_nodelay(true);
    let outcome = tokio::select! {
        outcome = connected(&host) => outcome,
        // The guest has given it up: its kernel sends nothing before the greeting.
        _ = guest.readable() => return,
    };
    let refused = outcome.is_err();
    if guest.write_all(&Greeting(outcome).encode()).await.is_err() || refused {
        return;
    }
    let (mut from_guest, mut to_guest) = guest.into_split();
    let (mut from_host, mut to_host) = host.into_split();
    let out = async {
        let mut buffer = vec![0; PIECE];
        loop {
            match from_guest.read(&mut buffer).await {
                Ok(0) => break,
                Ok(count) => to_host.write_all(buffer.get(..count).unwrap_or_default()).await?,
                Err(error) => return Err(error),
            }
        }
        // A guest that has closed its socket reads no more either; one that has only finished sending still does.
        if is_gone(&from_guest) {
            return Err(std::io::ErrorKind::BrokenPipe.into());
        }
        to_host.shutdown().await
    };
    let back = async {
        let mut buffer = vec![0; PIECE];
        loop {
            match from_host.read(&mut buffer).await {
                Ok(0) => return to_guest.shutdown().await,
                Ok(count) => to_guest.write_all(buffer.get(..count).unwrap_or_default()).await?,
                Err(error) => return Err(error),
            }
        }
    };
    // The first error ends both ways; each has nobody to be told but the guest, who sees its socket end.
    let _ = tokio::try_join!(out, back);
}

async fn connected(host: &TcpStream) -> Result<(), Errno> {
    let failed = |error: &std::io::Error| Errno::from_io_error(error).unwrap_or(Errno::IO);
    host.writable().await.map_err(|error| failed(&error))?;
    match host.take_error() {
        Ok(None) => Ok(()),
        Ok(Some(error)) | Err(error) => Err(failed(&error)),
    }
}

/// Whether the other end is closed, not only shut down for writing.
fn is_gone(guest: &OwnedReadHalf) -> bool {
    let mut fds = [PollFd::new(guest.as_ref(), PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok() && fds.iter().any(|fd| fd.revents().contains(PollFlags::HUP))
}
