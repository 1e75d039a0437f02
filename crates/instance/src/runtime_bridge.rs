//! The Runtime API behind the guest's loopback port: carries bytes between the guest's sockets and [`RuntimeApi`].

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use process_kernel::net::{self, LoopbackService, Network, ServiceHandle};
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
    handle: ServiceHandle,
    listener: Listener,
}

impl RuntimeBridge {
    /// A fresh Runtime API on `network`; `listener` hears of its events.
    pub fn new(network: &Arc<Network>, config: Config, listener: Listener) -> Arc<Self> {
        Self::with(network, RuntimeApi::new(config), BTreeMap::new(), listener)
    }

    /// A saved one, on the network of a restored guest.
    ///
    /// # Errors
    /// [`ResumeError`] when the saved form contradicts itself.
    pub fn restore(
        network: &Arc<Network>,
        saved: SavedBridge,
        listener: Listener,
    ) -> Result<Arc<Self>, ResumeError> {
        Ok(Self::with(network, RuntimeApi::resume(saved.api)?, saved.connections, listener))
    }

    fn with(
        network: &Arc<Network>,
        api: RuntimeApi,
        connections: BTreeMap<u64, Vec<u8>>,
        listener: Listener,
    ) -> Arc<Self> {
        let state = Mutex::new(State { api, connections });
        let bridge = Arc::new(Self { state, handle: network.service_handle(), listener });
        network.add_service(PORT, bridge.clone());
        bridge
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
                self.handle.push(net::ConnectionId(id), &bytes);
            }
            if ends {
                self.forget(state, net::ConnectionId(id));
            }
        }
        moved
    }

    fn forget(&self, state: &mut State, id: net::ConnectionId) {
        self.handle.close(id);
        state.api.peer_closed(ConnectionId(id.0));
        state.connections.remove(&id.0);
    }
}

impl LoopbackService for RuntimeBridge {
    fn opened(&self, connection: net::ConnectionId) {
        let mut state = self.state.lock();
        match state.api.connection_opened(ConnectionId(connection.0)) {
            Ok(()) => drop(state.connections.insert(connection.0, Vec::new())),
            Err(_) => self.handle.close(connection),
        }
    }

    fn received(&self, connection: net::ConnectionId, bytes: &[u8]) {
        let mut state = self.state.lock();
        // Bytes for a connection that was given up go nowhere.
        let Some(waiting) = state.connections.get_mut(&connection.0) else { return };
        waiting.extend_from_slice(bytes);
        self.settle(&mut state);
        if state.connections.get(&connection.0).is_some_and(|waiting| waiting.len() > MAX_WAITING) {
            self.forget(&mut state, connection);
            self.settle(&mut state);
        }
    }

    fn guest_closed(&self, connection: net::ConnectionId) {
        let mut state = self.state.lock();
        if self.handle.is_open(connection) {
            // Shut down for writing only: it may still read the answer to what it sent.
            state.api.peer_finished(ConnectionId(connection.0));
        } else {
            state.api.peer_closed(ConnectionId(connection.0));
            state.connections.remove(&connection.0);
        }
        self.settle(&mut state);
    }
}
