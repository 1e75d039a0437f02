//! Where a datagram socket receives.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::address::SocketAddress;
use super::attached::{Attached, SavedAttached};
use super::socket::{Incoming, Outgoing, ReceiveFlags};
use crate::file::{Destination, Origin};
use crate::ipc::MemoryAccount;
use crate::ipc::chunk_queue::{ChunkQueue, SavedChunk};
use crate::object::{Object, RestoreError, Restorer, SaveError, Saver};
use crate::wait::WaitQueue;

/// Messages that wait at most.
const MAX_MESSAGES: usize = 512;

struct State {
    queue: ChunkQueue<Attached>,
    capacity: usize,
    /// The socket is gone or takes no more.
    closed: bool,
    /// Where senders wait that found no room.
    starved: Vec<Weak<WaitQueue>>,
    /// Where the receiver waits.
    receiver: Weak<WaitQueue>,
}

impl State {
    fn has_room(&self, length: usize) -> bool {
        self.queue.chunk_count() < MAX_MESSAGES && self.queue.len().saturating_add(length) <= self.capacity
    }
}

/// A queue of datagrams. Snapshot rule: saved with them.
pub(super) struct Mailbox {
    state: Mutex<State>,
    account: Arc<MemoryAccount>,
}

#[derive(Serialize, Deserialize)]
struct SavedMailbox {
    chunks: Vec<SavedChunk<SavedAttached>>,
    capacity: usize,
    closed: bool,
}

impl Mailbox {
    /// Registry key.
    pub const KIND: &'static str = "mailbox";

    /// An empty mailbox of `capacity` bytes.
    pub fn new(account: &Arc<MemoryAccount>, capacity: usize) -> Arc<Self> {
        Self::with(account, ChunkQueue::new(account), capacity, false)
    }

    fn with(
        account: &Arc<MemoryAccount>,
        queue: ChunkQueue<Attached>,
        capacity: usize,
        closed: bool,
    ) -> Arc<Self> {
        let (starved, receiver) = (Vec::new(), Weak::new());
        let state = Mutex::new(State { queue, capacity, closed, starved, receiver });
        Arc::new(Self { state, account: account.clone() })
    }

    /// Sets where the receiver waits.
    pub fn attach(&self, queue: &Arc<WaitQueue>) {
        self.state.lock().receiver = Arc::downgrade(queue);
    }

    /// Sets the capacity, bytes (SO_RCVBUF).
    pub fn set_capacity(&self, capacity: usize) {
        self.state.lock().capacity = capacity;
    }

    /// Puts one message in. A sender without a queue to wait on (UDP) never waits: its message is lost when there is no
    /// room.
    ///
    /// # Errors
    /// EAGAIN, EMSGSIZE, ECONNREFUSED when nobody receives any more, ENOMEM.
    pub fn deliver(
        &self,
        from: &mut Origin<'_>,
        sender: Option<SocketAddress>,
        outgoing: &mut Outgoing,
        waits_on: Option<&Arc<WaitQueue>>,
    ) -> Result<usize, Errno> {
        let length = from.remaining();
        let mut state = self.state.lock();
        if state.closed {
            return Err(Errno::CONNREFUSED);
        }
        if length > state.capacity {
            return Err(Errno::MSGSIZE);
        }
        if !state.has_room(length) {
            let Some(queue) = waits_on else { return Ok(length) };
            state.add_starved(queue);
            return Err(Errno::AGAIN);
        }
        let bytes = from.take(length)?;
        let attached = Attached::take(&self.account, sender, outgoing)?;
        state.queue.push(bytes, true, Some(attached))?;
        let receiver = state.receiver.upgrade();
        drop(state);
        if let Some(receiver) = receiver {
            receiver.notify();
        }
        Ok(length)
    }

    /// Takes or peeks at the first message.
    ///
    /// # Errors
    /// EAGAIN when there is none.
    pub fn receive(&self, into: &mut Destination<'_>, flags: ReceiveFlags) -> Result<Incoming, Errno> {
        let mut state = self.state.lock();
        if state.queue.is_empty() {
            return Err(Errno::AGAIN);
        }
        let message = state.queue.first_len();
        let (count, attached) = if flags.peek { state.queue.peek(into)? } else { state.queue.read(into)? };
        let starved = if flags.peek { Vec::new() } else { std::mem::take(&mut state.starved) };
        drop(state);
        notify_all(&starved);
        let mut incoming = Incoming { count, message, ..Incoming::default() };
        if let Some(attached) = attached {
            incoming.from = attached.from;
            incoming.rights = attached.rights;
            incoming.credentials = Some(attached.credentials);
        }
        Ok(incoming)
    }

    /// Whether a message can be received.
    pub fn has_message(&self) -> bool {
        !self.state.lock().queue.is_empty()
    }

    /// Bytes of the first message.
    pub fn first_len(&self) -> usize {
        self.state.lock().queue.first_len()
    }

    /// Whether an ordinary message can be sent here now; if not, `queue` is notified when that may have changed.
    pub fn is_writable(&self, queue: &Arc<WaitQueue>) -> bool {
        let mut state = self.state.lock();
        let writable = state.closed || state.has_room(4096.min(state.capacity));
        if !writable {
            state.add_starved(queue);
        }
        writable
    }

    /// Takes no more; what is there is dropped when `discard`.
    pub fn close(&self, discard: bool) {
        let mut state = self.state.lock();
        state.closed = true;
        let lost = if discard { state.queue.clear() } else { Vec::new() };
        let starved = std::mem::take(&mut state.starved);
        drop(state);
        drop(lost);
        notify_all(&starved);
    }

    /// See [`crate::object::RestoreFn`].
    ///
    /// # Errors
    /// [`RestoreError`] when the payload is damaged.
    pub fn restore(payload: &[u8], restorer: &mut Restorer<'_>) -> Result<Arc<dyn Object>, RestoreError> {
        let saved: SavedMailbox = Restorer::decode(Self::KIND, payload)?;
        let account = restorer.context.ipc.account.clone();
        let queue =
            ChunkQueue::restore(&account, saved.chunks, |attached| Attached::restore(attached, restorer))?;
        Ok(Self::with(&account, queue, saved.capacity, saved.closed))
    }
}

impl State {
    fn add_starved(&mut self, queue: &Arc<WaitQueue>) {
        let new = Arc::downgrade(queue);
        self.starved.retain(|other| other.strong_count() > 0 && !other.ptr_eq(&new));
        self.starved.push(new);
    }
}

fn notify_all(queues: &[Weak<WaitQueue>]) {
    queues.iter().filter_map(Weak::upgrade).for_each(|queue| queue.notify());
}

impl Object for Mailbox {
    fn kind(&self) -> &'static str {
        Self::KIND
    }

    fn save(&self, saver: &mut Saver) -> Result<Vec<u8>, SaveError> {
        let state = self.state.lock();
        let chunks = state.queue.save(|attached| attached.save(saver))?;
        let saved = SavedMailbox { chunks, capacity: state.capacity, closed: state.closed };
        saver.encode(Self::KIND, &saved)
    }
}
