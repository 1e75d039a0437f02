//! Ports of the guest's loopback interface that the worker serves itself (the Lambda Runtime API).
//!
//! The guest sees an ordinary TCP connection. What it sends is handed to the service at once, on the guest thread that
//! sent it; what the service answers waits in the connection until the guest reads it, and is part of a snapshot. The
//! connection's id is, too, so a service that saves its own state by ids goes on where it was.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::Network;
use super::socket::{Incoming, Outgoing, ReceiveFlags, Shutdown};
use super::transport::{SavedTransport, Transport};
use crate::file::{Destination, Origin, Readiness};
use crate::ipc::chunk_queue::{ChunkQueue, SavedChunk};
use crate::object::{SaveError, Saver};
use crate::wait::WaitQueue;

/// A connection to a service; the same before and after a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ConnectionId(pub u64);

/// A server inside the worker. The methods are called without any lock held, from guest threads, and may use the
/// [`ServiceHandle`] freely; they must not block.
pub trait LoopbackService: Send + Sync {
    /// The guest has connected.
    fn opened(&self, connection: ConnectionId);

    /// The guest has sent `bytes` (at most 64 KiB a call). Calls for one connection come in the order of the guest's
    /// sends, as far as the guest orders them itself.
    fn received(&self, connection: ConnectionId, bytes: &[u8]);

    /// The guest will send no more: it has closed its socket or shut it down for writing. Called once.
    fn guest_closed(&self, connection: ConnectionId);
}

/// Bytes that one call of [`LoopbackService::received`] brings at most.
const PIECE: usize = 64 << 10;

/// The service's side of its connections; usable from any thread.
#[derive(Clone)]
pub struct ServiceHandle {
    network: Weak<Network>,
}

impl ServiceHandle {
    pub(super) fn new(network: &Arc<Network>) -> Self {
        Self { network: Arc::downgrade(network) }
    }

    fn connection(&self, id: ConnectionId) -> Option<Arc<ServiceConnection>> {
        self.network.upgrade()?.service_connection(id)
    }

    /// Sends `bytes` to the guest. Returns whether the connection is there to take them. Nothing bounds what waits for a
    /// guest that doesn't read: the service sends only what was asked for.
    pub fn push(&self, id: ConnectionId, bytes: &[u8]) -> bool {
        let Some(connection) = self.connection(id) else { return false };
        let mut state = connection.state.lock();
        if state.ended {
            return false;
        }
        state.queue.push_unchecked(bytes.to_vec());
        drop(state);
        connection.notify();
        true
    }

    /// Ends the connection: the guest reads what was sent and then the end, and can send no more.
    pub fn close(&self, id: ConnectionId) {
        if let Some(connection) = self.connection(id) {
            connection.state.lock().ended = true;
            connection.notify();
        }
    }

    /// Whether the guest's socket is open and the service has not closed the connection.
    pub fn is_open(&self, id: ConnectionId) -> bool {
        self.connection(id).is_some_and(|connection| !connection.state.lock().ended)
    }

    /// Bytes sent to the guest that it has not read; 0 when the connection is gone.
    pub fn unread(&self, id: ConnectionId) -> usize {
        self.connection(id).map_or(0, |connection| connection.state.lock().queue.len())
    }
}

struct State {
    /// What the guest has yet to read.
    queue: ChunkQueue<()>,
    /// The service has closed the connection.
    ended: bool,
    /// The guest has stopped reading.
    stopped: bool,
    /// The guest will send no more, and the service knows.
    guest_closed: bool,
}

/// What both ends share.
pub(super) struct ServiceConnection {
    pub id: ConnectionId,
    port: u16,
    state: Mutex<State>,
    guest: Weak<WaitQueue>,
}

impl ServiceConnection {
    fn notify(&self) {
        if let Some(queue) = self.guest.upgrade() {
            queue.notify();
        }
    }
}

/// The guest's end; dropping it closes it.
pub(super) struct ServiceEnd {
    shared: Arc<ServiceConnection>,
    network: Weak<Network>,
}

/// Saved form.
#[derive(Serialize, Deserialize)]
pub(super) struct SavedServiceEnd {
    id: ConnectionId,
    port: u16,
    chunks: Vec<SavedChunk<()>>,
    ended: bool,
    stopped: bool,
    guest_closed: bool,
}

impl ServiceEnd {
    /// A new connection to the service at `port`; the service is told of it by [`ServiceEnd::announce`].
    pub fn open(network: &Arc<Network>, port: u16, queue: &Arc<WaitQueue>) -> Arc<Self> {
        let state = State {
            queue: ChunkQueue::new(&network.ipc.account),
            ended: false,
            stopped: false,
            guest_closed: false,
        };
        Self::with(network, network.new_connection_id(), port, state, queue)
    }

    fn with(
        network: &Arc<Network>,
        id: ConnectionId,
        port: u16,
        state: State,
        queue: &Arc<WaitQueue>,
    ) -> Arc<Self> {
        let guest = Arc::downgrade(queue);
        let shared = Arc::new(ServiceConnection { id, port, state: Mutex::new(state), guest });
        network.add_service_connection(&shared);
        Arc::new(Self { shared, network: Arc::downgrade(network) })
    }

    /// A saved connection again.
    pub fn restore(
        saved: SavedServiceEnd,
        network: &Arc<Network>,
        queue: &Arc<WaitQueue>,
    ) -> Arc<dyn Transport> {
        let SavedServiceEnd { id, port, chunks, ended, stopped, guest_closed } = saved;
        let Ok(unread) =
            ChunkQueue::restore(&network.ipc.account, chunks, Ok::<(), std::convert::Infallible>);
        Self::with(network, id, port, State { queue: unread, ended, stopped, guest_closed }, queue)
    }

    fn service(&self) -> Option<Arc<dyn LoopbackService>> {
        self.network.upgrade()?.service(self.shared.port)
    }

    /// Tells the service of the new connection.
    pub fn announce(&self) {
        if let Some(service) = self.service() {
            service.opened(self.shared.id);
        }
    }

    /// Tells the service, once, that the guest sends no more.
    fn tell_closed(&self) {
        let told = std::mem::replace(&mut self.shared.state.lock().guest_closed, true);
        if !told && let Some(service) = self.service() {
            service.guest_closed(self.shared.id);
        }
    }
}

impl Drop for ServiceEnd {
    fn drop(&mut self) {
        if let Some(network) = self.network.upgrade() {
            network.remove_service_connection(self.shared.id);
        }
        self.tell_closed();
    }
}

impl Transport for ServiceEnd {
    fn send(&self, from: &mut Origin<'_>, _: &mut Outgoing) -> Result<usize, Errno> {
        {
            let state = self.shared.state.lock();
            if state.ended || state.guest_closed {
                return Err(Errno::PIPE);
            }
        }
        let service = self.service().ok_or(Errno::PIPE)?;
        let bytes = from.take(PIECE)?;
        service.received(self.shared.id, &bytes);
        Ok(bytes.len())
    }

    fn receive(&self, into: &mut Destination<'_>, flags: ReceiveFlags) -> Result<Incoming, Errno> {
        let mut state = self.shared.state.lock();
        if state.queue.is_empty() {
            return if state.ended || state.stopped { Ok(Incoming::default()) } else { Err(Errno::AGAIN) };
        }
        let (count, _) = if flags.peek { state.queue.peek(into)? } else { state.queue.read(into)? };
        Ok(Incoming { count, message: count, ..Incoming::default() })
    }

    fn shutdown(&self, how: Shutdown) {
        if how.reads() {
            self.shared.state.lock().stopped = true;
        }
        if how.writes() {
            self.tell_closed();
        }
        self.shared.notify();
    }

    fn readiness(&self) -> Readiness {
        let state = self.shared.state.lock();
        let mut ready = Readiness::OUT | Readiness::WRNORM;
        let no_more_in = state.ended || state.stopped;
        if !state.queue.is_empty() || no_more_in {
            ready |= Readiness::IN | Readiness::RDNORM;
        }
        if no_more_in {
            ready |= Readiness::RDHUP;
        }
        if no_more_in && state.guest_closed {
            ready |= Readiness::HUP;
        }
        ready
    }

    fn readable_bytes(&self) -> usize {
        self.shared.state.lock().queue.len()
    }

    fn save(&self, _: &mut Saver) -> Result<SavedTransport, SaveError> {
        let state = self.shared.state.lock();
        Ok(SavedTransport::Service(SavedServiceEnd {
            id: self.shared.id,
            port: self.shared.port,
            chunks: state.queue.save(|()| Ok::<(), SaveError>(()))?,
            ended: state.ended,
            stopped: state.stopped,
            guest_closed: state.guest_closed,
        }))
    }
}

#[cfg(test)]
mod tests;
