//! TCP: a connection of the guest with our stack, and its bytes on the way to and from the relay.

use std::os::fd::OwnedFd;

use outbound::Greeting;
use rustix::event::PollFlags;
use rustix::io::{Errno, read, write};
use rustix::net::{Shutdown, shutdown};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{Socket, State};

/// A connection that the relay makes.
pub(crate) struct Connecting {
    pub relay: OwnedFd,
    /// The frame with which the guest began: the stack sees it when the other side has accepted.
    pub first: Vec<u8>,
    greeting: Vec<u8>,
}

impl Connecting {
    pub fn new(relay: OwnedFd, first: Vec<u8>) -> Self {
        Self { relay, first, greeting: Vec::new() }
    }

    /// What became of it; `None` as long as nothing has. A relay that says nonsense has refused.
    pub fn outcome(&mut self) -> Option<Result<(), Errno>> {
        let mut rest = [0; 4];
        let missing = rest.len().saturating_sub(self.greeting.len());
        match read(&self.relay, rest.get_mut(..missing).unwrap_or_default()) {
            Ok(0) => return Some(Err(Errno::CONNREFUSED)),
            Ok(count) => self.greeting.extend(rest.iter().take(count)),
            Err(Errno::AGAIN | Errno::INTR) => return None,
            Err(errno) => return Some(Err(errno)),
        }
        let greeting = <[u8; 4]>::try_from(&self.greeting[..]).ok()?;
        Some(Greeting::decode(greeting).map_or(Err(Errno::BADMSG), |greeting| greeting.0))
    }
}

/// A connection that is made.
pub(crate) struct Open {
    pub relay: OwnedFd,
    pub handle: SocketHandle,
    guest_finished: bool,
    host_finished: bool,
}

impl Open {
    pub fn new(relay: OwnedFd, handle: SocketHandle) -> Self {
        Self { relay, handle, guest_finished: false, host_finished: false }
    }

    /// What is waited for on the relay's side.
    pub fn wants(&self, socket: &Socket<'_>) -> PollFlags {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, !self.host_finished && socket.can_send());
        flags.set(PollFlags::OUT, socket.can_recv());
        flags
    }

    /// Carries what there is, both ways. False when the connection is over and the guest knows.
    pub fn carry(&mut self, socket: &mut Socket<'_>) -> bool {
        if matches!(socket.state(), State::Closed | State::TimeWait) {
            return false;
        }
        if self.out(socket).and_then(|()| self.back(socket)).is_err() {
            // The guest hears of it with the next frames.
            socket.abort();
        }
        true
    }

    fn out(&mut self, socket: &mut Socket<'_>) -> Result<(), Errno> {
        while socket.can_recv() {
            let written = socket.recv(|data| match write(&self.relay, data) {
                Ok(count) => (count, Ok(count)),
                Err(errno) => (0, Err(errno)),
            });
            match written {
                Ok(Ok(0)) => return Err(Errno::PIPE),
                Ok(Ok(_) | Err(Errno::INTR)) => {}
                Ok(Err(Errno::AGAIN)) | Err(_) => return Ok(()),
                Ok(Err(errno)) => return Err(errno),
            }
        }
        let finished = matches!(socket.state(), State::CloseWait | State::Closing | State::LastAck);
        if finished && !self.guest_finished {
            self.guest_finished = true;
            // Fails when the other side is gone, which the next read shows.
            let _ = shutdown(&self.relay, Shutdown::Write);
        }
        Ok(())
    }

    fn back(&mut self, socket: &mut Socket<'_>) -> Result<(), Errno> {
        while socket.can_send() && !self.host_finished {
            let taken = socket.send(|room| match read(&self.relay, &mut *room) {
                Ok(count) => (count, Ok(count)),
                Err(errno) => (0, Err(errno)),
            });
            match taken {
                Ok(Ok(0)) => {
                    self.host_finished = true;
                    socket.close();
                }
                Ok(Ok(_) | Err(Errno::INTR)) => {}
                Ok(Err(Errno::AGAIN)) | Err(_) => return Ok(()),
                Ok(Err(errno)) => return Err(errno),
            }
        }
        Ok(())
    }
}
