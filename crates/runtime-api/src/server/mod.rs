//! The server: connections, who waits for what, and the runtime's state.
//!
//! What the instance calls is here; what requests do is in `dispatch`.

mod dispatch;
mod exchange;

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::credentials::Credentials;
use crate::event::{After, Event};
use crate::http::{Connection, Limits, Step};
use crate::invocation::Invocation;
use crate::lifecycle::RuntimeState;
use crate::reply::Reply;
use crate::{MAX_PAYLOAD, error_type::ErrorType};

use exchange::Exchange;

/// `Lambda-Runtime-Function-XRay-Error-Cause` alone may have 1 MiB.
const LIMITS: Limits = Limits { head: 1280 * 1024, ahead: 64 * 1024, output: 64 * 1024 };

/// All connections together may hold this much input: three of the largest heads. More is refused, so that a guest can't
/// take the largest head times the number of connections.
const MAX_INPUT: usize = 4 * 1024 * 1024;

/// Queued bytes of a streamed answer above which no more of it is taken in.
const MAX_QUEUED_CHUNKS: usize = 1024 * 1024;

/// Input is worked on in pieces of this size, so that what a call leaves behind doesn't depend on how much it was given.
const PIECE: usize = 64 * 1024;

/// Names a connection. Chosen by the worker, kept across snapshot and restore.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ConnectionId(pub u64);

/// What stays the same for the life of an instance, its snapshot included.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Config {
    /// Whether the calls around a snapshot (`/runtime/restore/*`, credentials) exist: initialisation type `snap-start`.
    pub snap_start: bool,
    /// `AWS_CONTAINER_AUTHORIZATION_TOKEN`: what a request for credentials must carry. It lives in the guest's environment,
    /// so it is the same in every restored instance.
    pub authorization_token: Option<String>,
    /// Largest streamed response in bytes; `None`: no limit.
    pub max_streamed_response: Option<u64>,
    /// Most connections open at once; more are refused.
    pub max_connections: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            snap_start: false,
            authorization_token: None,
            max_streamed_response: None,
            max_connections: 128,
        }
    }
}

/// A connection could not be opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpenError {
    /// [`Config::max_connections`] are open.
    #[error("{0} connections to the Runtime API are open already")]
    TooMany(usize),
    /// The worker used an id twice.
    #[error("connection {} is open already", .0.0)]
    AlreadyOpen(ConnectionId),
}

/// An invocation could not be delivered.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DeliverError {
    /// The runtime has one already.
    #[error("the runtime is still busy with invocation {request_id}")]
    Busy {
        /// The invocation in progress or waiting to be fetched.
        request_id: String,
    },
    /// The runtime reported that it can't go on.
    #[error("the runtime has failed (state {})", .0.name())]
    Failed(RuntimeState),
    /// The request id can't stand in a path.
    #[error("request id {0:?} has characters other than letters, digits, '-' and '_', or none")]
    InvalidRequestId(String),
    /// The event is larger than [`MAX_PAYLOAD`].
    #[error("the event has {0} bytes, more than the {MAX_PAYLOAD} allowed")]
    PayloadTooLarge(usize),
}

/// A saved state contradicts itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ResumeError {
    /// A call is said to be waiting on a connection that has no such call.
    #[error("connection {} is said to wait, but does not", .0.0)]
    NotWaiting(ConnectionId),
    /// The runtime's state says that a call waits for the restore, or that none does; the connections say otherwise.
    #[error("the runtime's state {} does not agree with its connections", .0.name())]
    Contradiction(RuntimeState),
}

/// What [`RuntimeApi::release_restore`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReleasedRuntime {
    /// The runtime was waiting in `/runtime/restore/next` and goes on; [`Event::WaitingForInvocation`] with
    /// [`After::Restore`] or [`Event::RestoreError`] follows.
    Released,
    /// The runtime never asks for restores: nothing to wait for, deliver at once.
    NothingToRelease,
}

/// One open connection and the request that occupies it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Served {
    http: Connection,
    exchange: Exchange,
}

/// Everything that a snapshot has to keep. Credentials are not part of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SavedState {
    config: Config,
    runtime: RuntimeState,
    connections: BTreeMap<ConnectionId, Served>,
    /// Connections blocked in `/runtime/invocation/next`, the longest wait first.
    waiting: VecDeque<ConnectionId>,
    /// The connection blocked in `/runtime/restore/next`.
    waiting_for_restore: Option<ConnectionId>,
    /// Delivered by the instance, not fetched by the runtime yet.
    pending: Option<Invocation>,
    /// Fetched by the runtime. Its payload is dropped with the answer; its id stays, so that a second answer is told apart
    /// from an answer to nothing.
    current: Option<Invocation>,
    events: VecDeque<Event>,
}

/// The Runtime API of one instance. See the crate's documentation.
///
/// ```
/// use runtime_api::{After, Config, ConnectionId, Event, RuntimeApi};
///
/// let mut api = RuntimeApi::new(Config::default());
/// let connection = ConnectionId(1);
/// api.connection_opened(connection)?;
/// api.received(connection, b"GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: localhost\r\n\r\n");
/// assert_eq!(api.next_event(), Some(Event::WaitingForInvocation { after: After::Init }));
/// assert!(api.output(connection).is_empty(), "the call blocks");
/// # Ok::<(), runtime_api::OpenError>(())
/// ```
#[derive(Clone, Debug)]
pub struct RuntimeApi {
    state: SavedState,
    credentials: Option<Credentials>,
}

impl RuntimeApi {
    /// The Runtime API for a runtime that has not started yet.
    pub fn new(config: Config) -> Self {
        let state = SavedState {
            config,
            runtime: RuntimeState::Started,
            connections: BTreeMap::new(),
            waiting: VecDeque::new(),
            waiting_for_restore: None,
            pending: None,
            current: None,
            events: VecDeque::new(),
        };
        Self { state, credentials: None }
    }

    /// Goes on from a saved state. Credentials have to be set anew.
    ///
    /// # Errors
    /// [`ResumeError`] when the state contradicts itself, as a damaged or forged one may.
    pub fn resume(state: SavedState) -> Result<Self, ResumeError> {
        let waits = |id: &ConnectionId, exchange: &Exchange| {
            if state.connections.get(id).is_some_and(|served| served.exchange == *exchange) {
                Ok(())
            } else {
                Err(ResumeError::NotWaiting(*id))
            }
        };
        state.waiting.iter().try_for_each(|id| waits(id, &Exchange::WaitingForInvocation))?;
        state.waiting_for_restore.iter().try_for_each(|id| waits(id, &Exchange::WaitingForRestore))?;
        let blocked = |exchange: &Exchange| {
            matches!(exchange, Exchange::WaitingForRestore | Exchange::WaitingForInvocation)
        };
        let count = state.connections.values().filter(|served| blocked(&served.exchange)).count();
        let known = state.waiting.len() + usize::from(state.waiting_for_restore.is_some());
        let may_wait_for_restore =
            state.waiting_for_restore.is_none() || state.runtime == RuntimeState::RestoreReady;
        if count != known || !may_wait_for_restore {
            return Err(ResumeError::Contradiction(state.runtime));
        }
        Ok(Self { state, credentials: None })
    }

    /// The state for a snapshot. Between two of the guest's system calls it is complete.
    pub fn save(&self) -> SavedState {
        self.state.clone()
    }

    /// What [`Self::new`] was given, here or before the snapshot.
    pub fn config(&self) -> &Config {
        &self.state.config
    }

    /// Where the runtime is.
    pub fn runtime_state(&self) -> RuntimeState {
        self.state.runtime
    }

    /// The oldest event not taken yet. Take them after every call that passes in bytes.
    pub fn next_event(&mut self) -> Option<Event> {
        self.state.events.pop_front()
    }

    /// Replaces the credentials that the function can fetch; `None`: it is answered that there are none.
    pub fn set_credentials(&mut self, credentials: Option<Credentials>) {
        self.credentials = credentials;
    }

    /// The guest connected.
    ///
    /// # Errors
    /// [`OpenError`]: refuse the connection.
    pub fn connection_opened(&mut self, id: ConnectionId) -> Result<(), OpenError> {
        if self.state.connections.contains_key(&id) {
            return Err(OpenError::AlreadyOpen(id));
        }
        if self.state.connections.len() >= self.state.config.max_connections {
            return Err(OpenError::TooMany(self.state.connections.len()));
        }
        self.state.connections.insert(id, Served { http: Connection::new(), exchange: Exchange::None });
        Ok(())
    }

    /// The guest sent `bytes`. Gives how many were taken; the socket keeps the others and offers them again when
    /// [`Self::accepts_input`]. An unknown or closing connection takes all and drops them, as a socket does whose other side
    /// no longer reads.
    pub fn received(&mut self, id: ConnectionId, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while let Some(rest) = bytes.get(taken..).filter(|rest| !rest.is_empty()) {
            let count = self.room(id).min(rest.len()).min(PIECE);
            let Some((piece, served)) = rest.get(..count).zip(self.state.connections.get_mut(&id)) else {
                return bytes.len();
            };
            if piece.is_empty() {
                break;
            }
            served.http.push(piece);
            taken += count;
            self.advance(id);
            self.bound_input(id);
        }
        taken
    }

    /// Whether [`Self::received`] would take at least one byte: the guest's socket is writable.
    pub fn accepts_input(&self, id: ConnectionId) -> bool {
        self.room(id) > 0
    }

    /// The guest ended its side (shutdown for writing) and may still read.
    pub fn peer_finished(&mut self, id: ConnectionId) {
        if let Some(served) = self.state.connections.get_mut(&id) {
            served.http.finish();
            self.advance(id);
        }
    }

    /// The guest closed the connection. A response that was not complete is given up; a blocked call is forgotten.
    pub fn peer_closed(&mut self, id: ConnectionId) {
        if let Some(served) = self.state.connections.remove(&id) {
            self.forget_waiting(id);
            self.give_up(served.exchange);
        }
    }

    /// What the guest can read now. Empty with [`Self::output_ends`]: end of file. Empty without: it has to wait.
    pub fn output(&self, id: ConnectionId) -> &[u8] {
        self.state.connections.get(&id).map(|served| served.http.unsent()).unwrap_or_default()
    }

    /// Whether nothing follows what [`Self::output`] gives, so also for an unknown connection.
    pub fn output_ends(&self, id: ConnectionId) -> bool {
        self.state.connections.get(&id).is_none_or(|served| served.http.closes())
    }

    /// The guest read the first `count` bytes of [`Self::output`].
    pub fn output_sent(&mut self, id: ConnectionId, count: usize) {
        if let Some(served) = self.state.connections.get_mut(&id) {
            served.http.sent(count);
            // A request may have been held back until the answers before it were read.
            self.advance(id);
        }
    }

    /// Takes all output at once: the bytes, and whether the server's side ends behind them.
    pub fn take_output(&mut self, id: ConnectionId) -> (Vec<u8>, bool) {
        let mut bytes = Vec::new();
        loop {
            let unsent = self.output(id);
            if unsent.is_empty() {
                return (bytes, self.output_ends(id));
            }
            bytes.extend_from_slice(unsent);
            let count = unsent.len();
            self.output_sent(id, count);
        }
    }

    /// Gives the runtime an invocation: at once if it waits for one, else as soon as it asks.
    ///
    /// # Errors
    /// [`DeliverError`] while there is one already, when the runtime has failed, or when the invocation can't be expressed.
    pub fn deliver(&mut self, invocation: Invocation) -> Result<(), DeliverError> {
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if invocation.request_id.is_empty() || !invocation.request_id.bytes().all(valid) {
            return Err(DeliverError::InvalidRequestId(invocation.request_id));
        }
        if invocation.payload.len() > MAX_PAYLOAD {
            return Err(DeliverError::PayloadTooLarge(invocation.payload.len()));
        }
        let busy = match self.state.runtime {
            failed @ (RuntimeState::InitError | RuntimeState::RestoreError) => {
                return Err(DeliverError::Failed(failed));
            }
            RuntimeState::Running
            | RuntimeState::InvocationResponse
            | RuntimeState::InvocationErrorResponse => self.state.current.as_ref(),
            _ => self.state.pending.as_ref(),
        };
        if let Some(busy) = busy {
            return Err(DeliverError::Busy { request_id: busy.request_id.clone() });
        }
        self.state.pending = Some(invocation);
        self.hand_over();
        Ok(())
    }

    /// Lets a restored runtime go on. Set clock, randomness and credentials before.
    pub fn release_restore(&mut self) -> ReleasedRuntime {
        if self.state.runtime.restore_released().is_err() {
            return ReleasedRuntime::NothingToRelease;
        }
        if let Some(id) = self.state.waiting_for_restore.take() {
            self.answer(id, &Reply::Restored.response());
            self.advance(id);
        }
        ReleasedRuntime::Released
    }

    /// Bytes held on behalf of the guest: input, output, bodies, events not taken. With the default number of connections
    /// and events taken after each call it stays under 48 MiB whatever the guest sends; an orderly client needs an event's
    /// size and a response's.
    pub fn held(&self) -> usize {
        let served = |served: &Served| served.http.held() + served.exchange.held();
        let connections: usize = self.state.connections.values().map(served).sum();
        connections + self.state.events.iter().map(held_by_event).sum::<usize>()
    }

    fn room(&self, id: ConnectionId) -> usize {
        match self.state.connections.get(&id) {
            None => usize::MAX,
            Some(served) if served.exchange.streams() && self.queued_chunks() >= MAX_QUEUED_CHUNKS => 0,
            Some(served) => served.http.room(&LIMITS),
        }
    }

    fn queued_chunks(&self) -> usize {
        let chunk = |event: &Event| match event {
            Event::ResponseChunk { bytes, .. } => bytes.len(),
            _ => 0,
        };
        self.state.events.iter().map(chunk).sum()
    }

    /// Refuses the request on `id` when all connections together hold too much unfinished input.
    fn bound_input(&mut self, id: ConnectionId) {
        let held: usize = self.state.connections.values().map(|served| served.http.held_input()).sum();
        if held > MAX_INPUT
            && let Some(served) = self.state.connections.get_mut(&id)
            && served.exchange == Exchange::None
        {
            served.http.refuse(crate::http::Refusal::HeadTooLarge);
        }
    }

    /// Works through what a connection can do now.
    fn advance(&mut self, id: ConnectionId) {
        while let Some(served) = self.state.connections.get_mut(&id) {
            match served.http.step(&LIMITS) {
                Step::Wait => return,
                Step::Head(head) => self.begin(id, &head),
                Step::Body(piece) => self.body(id, piece),
                Step::End(trailers) => self.conclude(id, &trailers),
                Step::Refused => {
                    let exchange = std::mem::replace(&mut served.exchange, Exchange::None);
                    self.give_up(exchange);
                }
            }
        }
    }

    fn forget_waiting(&mut self, id: ConnectionId) {
        self.state.waiting.retain(|waiting| *waiting != id);
        if self.state.waiting_for_restore == Some(id) {
            self.state.waiting_for_restore = None;
        }
    }
}

fn held_by_event(event: &Event) -> usize {
    match event {
        Event::Responded { payload, .. }
        | Event::FunctionError { payload, .. }
        | Event::InitError { payload, .. }
        | Event::RestoreError { payload, .. } => payload.len(),
        Event::ResponseChunk { bytes, .. } => bytes.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
