//! Packets over a Unix socket, in the event loop.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::io::unix::AsyncFd;

/// A socket that keeps packets apart (SOCK_SEQPACKET).
pub(crate) struct PacketSocket(AsyncFd<OwnedFd>);

impl PacketSocket {
    pub fn new(socket: OwnedFd) -> std::io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        // `new` is deprecated because a safe function can't be sure of any descriptor; of an owned one it is.
        #[expect(deprecated, reason = "its replacement is unsafe; see above")]
        AsyncFd::new(socket).map(Self)
    }

    /// The next packet's length in `buffer`; `None` at the end. Descriptors that came along are closed.
    pub async fn receive(&self, buffer: &mut [u8]) -> Option<usize> {
        loop {
            let mut ready = self.0.readable().await.ok()?;
            let mut ancillary = RecvAncillaryBuffer::default();
            let parts = &mut [IoSliceMut::new(buffer)];
            match recvmsg(self.0.get_ref(), parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
                Ok(received) if received.bytes > 0 => return Some(received.bytes),
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Ok(_) | Err(_) => return None,
            }
        }
    }

    /// Sends a packet with a descriptor, if there is room for it.
    pub fn send(&self, bytes: &[u8], descriptor: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let handed = descriptor.map(|descriptor| [descriptor]);
        if let Some(handed) = &handed {
            ancillary.push(SendAncillaryMessage::ScmRights(handed));
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        sendmsg(self.0.get_ref().as_fd(), &[IoSlice::new(bytes)], &mut ancillary, flags).map(drop)
    }
}
