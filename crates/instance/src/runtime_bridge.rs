//! The Runtime API behind the guest's loopback port: carries bytes between the guest's sockets and [`RuntimeApi`].
//!
//! Whatever the guest is: the process guest's own network calls it, a linux guest's first program does by its relay.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use process_kernel::net::{self, LoopbackService, ServiceHandle};
use runtime_api::{
    Config, ConnectionId, Credentials, DeliverError, Event, Invocation, ReleasedRuntime, ResumeError,
    RuntimeApi, SavedState,
};
use serde::{Deserialize, Serialize};

/// Where the Runtime API is inside the guest; see [`runtime_api::environment::RUNTIME_API_ADDRESS`].
pub(crate) const PORT: u16 = 9001;

/// Bytes of one connection that may wait until the Runtime API takes them. An orderly client sends nothing while a call of
/// its own is blocked; one that sends more than this loses its connection.
const MAX_WAITING: usize = 256 << 10;

/// Saved form: the Runtime API and what it had not taken yet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct SavedBridge {
    api: SavedState,
    connections: BTreeMap<u64, Vec<u8>>,
}

/// The way to the guest's sockets, which are known by number.
pub(crate) trait Sockets: Send + Sync {
    /// Sends bytes on a connection. One that is gone takes them nowhere.
    fn push(&self, connection: u64, bytes: &[u8]);
    /// Ends a connection: the guest reads what was sent and then the end.
    fn close(&self, connection: u64);
}

impl Sockets for ServiceHandle {
    fn push(&self, connection: u64, bytes: &[u8]) {
        ServiceHandle::push(self, net::ConnectionId(connection), bytes);
    }

    fn close(&self, connection: u64) {
        ServiceHandle::close(self, net::ConnectionId(connection));
    }
}

struct State {
    api: RuntimeApi,
    /// Open connections, and of each the bytes that the API has not taken.
    connections: BTreeMap<u64, Vec<u8>>,
}

/// What hears of the runtime's events; called with the bridge's lock held, so it only passes them on.
type Listener = Box<dyn Fn(Event) + Send + Sync>;

/// See above.
pub(crate) struct RuntimeBridge {
    state: Mutex<State>,
    sockets: Box<dyn Sockets>,
    listener: Listener,
}

impl RuntimeBridge {
    /// A fresh Runtime API; `listener` hears of its events.
    pub fn new(sockets: Box<dyn Sockets>, config: Config, listener: Listener) -> Arc<Self> {
        Self::with(sockets, RuntimeApi::new(config), BTreeMap::new(), listener)
    }

    /// A saved one, for a restored guest.
    ///
    /// # Errors
    /// [`ResumeError`] when the saved form contradicts itself.
    pub fn restore(
        sockets: Box<dyn Sockets>,
        saved: SavedBridge,
        listener: Listener,
    ) -> Result<Arc<Self>, ResumeError> {
        Ok(Self::with(sockets, RuntimeApi::resume(saved.api)?, saved.connections, listener))
    }

    fn with(
        sockets: Box<dyn Sockets>,
        api: RuntimeApi,
        connections: BTreeMap<u64, Vec<u8>>,
        listener: Listener,
    ) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State { api, connections }), sockets, listener })
    }

    /// The saved form. No guest thread may run.
    pub fn save(&self) -> SavedBridge {
        let state = self.state.lock();
        SavedBridge { api: state.api.save(), connections: state.connections.clone() }
    }

    /// Gives the runtime an invocation.
    ///
    /// # Errors
    /// [`DeliverError`].
    pub fn deliver(&self, invocation: Invocation) -> Result<(), DeliverError> {
        let mut state = self.state.lock();
        state.api.deliver(invocation)?;
        self.settle(&mut state);
        Ok(())
    }

    /// Lets a restored runtime go on that waits for that.
    pub fn release_restore(&self) -> ReleasedRuntime {
        let mut state = self.state.lock();
        let released = state.api.release_restore();
        self.settle(&mut state);
        released
    }

    /// Replaces the credentials that the function can fetch.
    pub fn set_credentials(&self, credentials: Option<Credentials>) {
        self.state.lock().api.set_credentials(credentials);
    }

    /// Moves everything that can be moved: bytes that wait into the API, its output to the guest, its events out.
    fn settle(&self, state: &mut State) {
        while self.move_once(state) {}
        while let Some(event) = state.api.next_event() {
            (self.listener)(event);
        }
    }

    fn move_once(&self, state: &mut State) -> bool {
        let mut moved = false;
        let ids: Vec<u64> = state.connections.keys().copied().collect();
        for id in ids {
            if let Some(waiting) = state.connections.get_mut(&id).filter(|waiting| !waiting.is_empty()) {
                let taken = state.api.received(ConnectionId(id), waiting);
                waiting.drain(..taken.min(waiting.len()));
                moved |= taken > 0;
            }
            // Taken at once: events that wait make the API take less.
            while let Some(event) = state.api.next_event() {
                (self.listener)(event);
            }
            let (bytes, ends) = state.api.take_output(ConnectionId(id));
            if !bytes.is_empty() {
                moved = true;
                self.sockets.push(id, &bytes);
            }
            if ends {
                self.forget(state, id);
            }
        }
        moved
    }

    fn forget(&self, state: &mut State, id: u64) {
        self.sockets.close(id);
        state.api.peer_closed(ConnectionId(id));
        state.connections.remove(&id);
    }

    /// The guest has connected.
    pub fn opened(&self, id: u64) {
        let mut state = self.state.lock();
        match state.api.connection_opened(ConnectionId(id)) {
            Ok(()) => drop(state.connections.insert(id, Vec::new())),
            Err(_) => self.sockets.close(id),
        }
    }

    /// The guest sends bytes.
    pub fn received(&self, id: u64, bytes: &[u8]) {
        let mut state = self.state.lock();
        // Bytes for a connection that was given up go nowhere.
        let Some(waiting) = state.connections.get_mut(&id) else { return };
        waiting.extend_from_slice(bytes);
        self.settle(&mut state);
        if state.connections.get(&id).is_some_and(|waiting| waiting.len() > MAX_WAITING) {
            self.forget(&mut state, id);
            self.settle(&mut state);
        }
    }

    /// The guest sends no more on a connection; it may still read the answer to what it sent.
    pub fn finished(&self, id: u64) {
        let mut state = self.state.lock();
        state.api.peer_finished(ConnectionId(id));
        self.settle(&mut state);
    }

    /// The guest has closed a connection.
    pub fn closed(&self, id: u64) {
        let mut state = self.state.lock();
        state.api.peer_closed(ConnectionId(id));
        state.connections.remove(&id);
        self.settle(&mut state);
    }
}

/// The Runtime API as a service in a process guest's network.
pub(crate) struct LoopbackBridge {
    pub bridge: Arc<RuntimeBridge>,
    pub handle: ServiceHandle,
}

impl LoopbackService for LoopbackBridge {
    fn opened(&self, connection: net::ConnectionId) {
        self.bridge.opened(connection.0);
    }

    fn received(&self, connection: net::ConnectionId, bytes: &[u8]) {
        self.bridge.received(connection.0, bytes);
    }

    fn guest_closed(&self, connection: net::ConnectionId) {
        // Shut down for writing only, or altogether.
        match self.handle.is_open(connection) {
            true => self.bridge.finished(connection.0),
            false => self.bridge.closed(connection.0),
        }
    }
}
