//! A connection between two sockets of the guest: two bounded queues, one per direction. It serves loopback TCP, Unix
//! stream sockets and Unix sequenced-packet sockets.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::attached::{Attached, SavedAttached};
use super::socket::{Credentials, Incoming, Outgoing, ReceiveFlags, Shutdown};
use super::transport::{SavedTransport, Transport};
use crate::file::{Destination, Origin, Readiness};
use crate::ipc::MemoryAccount;
use crate::ipc::chunk_queue::{ChunkQueue, SavedChunk};
use crate::object::{Object, ObjectId, RestoreError, Restorer, SaveError, Saver};
use crate::wait::WaitQueue;

/// Which end of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Side {
    /// The end that called connect, or the first of a socketpair.
    First,
    /// The end that was accepted, or the second of a socketpair.
    Second,
}

impl Side {
    pub const fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }

    const fn index(self) -> usize {
        self as usize
    }
}

/// What a connection carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Carries {
    /// TCP: bytes.
    Bytes,
    /// Unix stream: bytes, and open files with them.
    BytesAndFiles,
    /// Unix sequenced packets: messages, and open files with them.
    Packets,
}

/// What one side receives.
struct Direction {
    queue: ChunkQueue<Attached>,
    capacity: usize,
    /// The sender will send no more.
    ended: bool,
    /// The receiver takes no more: sending is a broken pipe.
    refused: bool,
    /// The receiver has stopped reading: it finds the end when the queue is empty. (TCP's sender doesn't notice.)
    stopped: bool,
    /// The sender went away with bytes of its own unread, or by a reset: ECONNRESET, once.
    reset: bool,
    /// The sender found no room and wants to hear of it.
    starved: bool,
}

#[derive(Serialize, Deserialize)]
struct SavedDirection {
    chunks: Vec<SavedChunk<SavedAttached>>,
    capacity: usize,
    ended: bool,
    refused: bool,
    stopped: bool,
    reset: bool,
}

impl Direction {
    fn new(account: &Arc<MemoryAccount>, capacity: usize) -> Self {
        let queue = ChunkQueue::new(account);
        Self { queue, capacity, ended: false, refused: false, stopped: false, reset: false, starved: false }
    }

    fn room(&self) -> usize {
        self.capacity.saturating_sub(self.queue.len())
    }
}

/// Messages that wait in one direction at most, so that empty ones have a bound, too.
const MAX_MESSAGES: usize = 512;

/// Room from which a socket counts as writable.
const WRITABLE_ROOM: usize = 4096;

/// Bytes that are sent in one piece when files go with them.
const PIECE: usize = 32 << 10;

/// A connection. Snapshot rule: saved with the bytes and files on their way.
pub(super) struct Connection {
    carries: Carries,
    /// Indexed by the side that receives.
    directions: Mutex<[Direction; 2]>,
    /// Where each side's socket waits; empty until there is one.
    queues: [Mutex<Weak<WaitQueue>>; 2],
    /// Who made each end.
    credentials: [Credentials; 2],
    account: Arc<MemoryAccount>,
}

#[derive(Serialize, Deserialize)]
struct SavedConnection {
    carries: Carries,
    directions: [SavedDirection; 2],
    credentials: [Credentials; 2],
}

/// One end of a connection; dropping it closes that end.
pub(super) struct Endpoint {
    connection: Arc<Connection>,
    side: Side,
}

impl Connection {
    /// Registry key.
    pub const KIND: &'static str = "connection";

    /// A new connection's two ends. `capacities` are what each side can receive before its peer has to wait.
    pub fn pair(
        account: &Arc<MemoryAccount>,
        carries: Carries,
        capacities: [usize; 2],
        credentials: [Credentials; 2],
    ) -> (Endpoint, Endpoint) {
        let connection = Arc::new(Self {
            carries,
            directions: Mutex::new(capacities.map(|capacity| Direction::new(account, capacity))),
            queues: Default::default(),
            credentials,
            account: account.clone(),
        });
        let end = |side| Endpoint { connection: connection.clone(), side };
        (end(Side::First), end(Side::Second))
    }

    fn notify(&self, side: Side) {
        let queue = self.queues[side.index()].lock().upgrade();
        if let Some(queue) = queue {
            queue.notify();
        }
    }

    /// See [`crate::object::RestoreFn`].
    ///
    /// # Errors
    /// [`RestoreError`] when the payload is damaged.
    pub fn restore(payload: &[u8], restorer: &mut Restorer<'_>) -> Result<Arc<dyn Object>, RestoreError> {
        let saved: SavedConnection = Restorer::decode(Self::KIND, payload)?;
        let account = restorer.context.ipc.account.clone();
        let mut direction = |saved: SavedDirection| {
            let queue = ChunkQueue::restore(&account, saved.chunks, |attached| {
                Attached::restore(attached, restorer)
            })?;
            let SavedDirection { capacity, ended, refused, stopped, reset, .. } = saved;
            Ok::<_, RestoreError>(Direction {
                queue,
                capacity,
                ended,
                refused,
                stopped,
                reset,
                starved: false,
            })
        };
        let [first, second] = saved.directions;
        let directions = Mutex::new([direction(first)?, direction(second)?]);
        let SavedConnection { carries, credentials, .. } = saved;
        Ok(Arc::new(Self { carries, directions, queues: Default::default(), credentials, account }))
    }
}

impl Object for Connection {
    fn kind(&self) -> &'static str {
        Self::KIND
    }

    fn save(&self, saver: &mut Saver) -> Result<Vec<u8>, SaveError> {
        let directions = self.directions.lock();
        let mut direction = |direction: &Direction| {
            let chunks = direction.queue.save(|attached| attached.save(saver))?;
            let Direction { capacity, ended, refused, stopped, reset, .. } = *direction;
            Ok::<_, SaveError>(SavedDirection { chunks, capacity, ended, refused, stopped, reset })
        };
        let directions = [direction(&directions[0])?, direction(&directions[1])?];
        let saved = SavedConnection { carries: self.carries, directions, credentials: self.credentials };
        saver.encode(Self::KIND, &saved)
    }
}

impl Endpoint {
    /// Makes this end notify `queue`.
    pub fn attach(&self, queue: &Arc<WaitQueue>) {
        *self.connection.queues[self.side.index()].lock() = Arc::downgrade(queue);
    }

    /// Who made the other end.
    pub fn peer_credentials(&self) -> Credentials {
        self.connection.credentials[self.side.other().index()]
    }

    /// The end `side` of a saved connection.
    ///
    /// # Errors
    /// [`RestoreError`] when the reference is bad.
    pub fn restore(
        connection: ObjectId,
        side: Side,
        restorer: &mut Restorer<'_>,
        queue: &Arc<WaitQueue>,
    ) -> Result<Self, RestoreError> {
        let connection = restorer.concrete::<Connection>(connection, Connection::KIND)?;
        let end = Self { connection, side };
        end.attach(queue);
        Ok(end)
    }

    /// The saved form: the connection and the side.
    ///
    /// # Errors
    /// As [`Object::save`].
    pub fn save_end(&self, saver: &mut Saver) -> Result<(ObjectId, Side), SaveError> {
        Ok((saver.save(self.connection.clone())?, self.side))
    }

    fn send_bytes(
        &self,
        to: &mut Direction,
        from: &mut Origin<'_>,
        outgoing: &mut Outgoing,
    ) -> Result<usize, Errno> {
        if from.remaining() == 0 {
            return Ok(0);
        }
        let room = to.room();
        if room == 0 {
            to.starved = true;
            return Err(Errno::AGAIN);
        }
        let plain = outgoing.rights.is_empty() || self.connection.carries == Carries::Bytes;
        let count = if plain {
            to.queue.append(from, room)?
        } else {
            let bytes = from.take(room.min(PIECE))?;
            let count = bytes.len();
            let attached = Attached::take(&self.connection.account, None, outgoing)?;
            to.queue.push(bytes, false, Some(attached))?;
            count
        };
        if from.remaining() > 0 {
            to.starved = true;
        }
        Ok(count)
    }

    fn send_packet(
        &self,
        to: &mut Direction,
        from: &mut Origin<'_>,
        outgoing: &mut Outgoing,
    ) -> Result<usize, Errno> {
        let length = from.remaining();
        if length > to.capacity {
            return Err(Errno::MSGSIZE);
        }
        if to.room() < length || to.queue.chunk_count() >= MAX_MESSAGES {
            to.starved = true;
            return Err(Errno::AGAIN);
        }
        let bytes = from.take(length)?;
        let attached = Attached::take(&self.connection.account, None, outgoing)?;
        to.queue.push(bytes, true, Some(attached))?;
        Ok(length)
    }

    /// Closes this end: the peer finds the end of what was sent, and can send no more.
    fn close(&self) {
        let mut directions = self.connection.directions.lock();
        let own = &mut directions[self.side.index()];
        let unread = !own.queue.is_empty();
        own.refused = true;
        // Open files on their way to nobody are closed, without the lock.
        let lost = own.queue.clear();
        let peers = &mut directions[self.side.other().index()];
        peers.ended = true;
        peers.reset |= unread;
        // After a reset the peer's first send fails already.
        let is_reset = peers.reset;
        directions[self.side.index()].ended |= is_reset;
        drop(directions);
        drop(lost);
        self.connection.notify(self.side.other());
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.close();
    }
}

impl Transport for Endpoint {
    fn send(&self, from: &mut Origin<'_>, outgoing: &mut Outgoing) -> Result<usize, Errno> {
        let mut directions = self.connection.directions.lock();
        let own = &mut directions[self.side.index()];
        if std::mem::take(&mut own.reset) {
            return Err(if self.connection.carries == Carries::Bytes {
                Errno::CONNRESET
            } else {
                Errno::PIPE
            });
        }
        let to = &mut directions[self.side.other().index()];
        if to.refused && !to.ended && self.connection.carries == Carries::Bytes {
            // The peer's TCP is gone, but only its answer to this segment will say so (RFC 9293, 3.10.7.4).
            to.ended = true;
            let count = from.take(from.remaining().min(PIECE))?.len();
            drop(directions);
            self.connection.notify(self.side);
            return Ok(count);
        }
        if to.ended || to.refused {
            return Err(Errno::PIPE);
        }
        let count = match self.connection.carries {
            Carries::Packets => self.send_packet(to, from, outgoing)?,
            Carries::Bytes | Carries::BytesAndFiles => self.send_bytes(to, from, outgoing)?,
        };
        drop(directions);
        self.connection.notify(self.side.other());
        Ok(count)
    }

    fn receive(&self, into: &mut Destination<'_>, flags: ReceiveFlags) -> Result<Incoming, Errno> {
        let packets = self.connection.carries == Carries::Packets;
        let mut directions = self.connection.directions.lock();
        let own = &mut directions[self.side.index()];
        if own.queue.is_empty() {
            if std::mem::take(&mut own.reset) {
                return Err(Errno::CONNRESET);
            }
            return if own.ended || own.stopped { Ok(Incoming::default()) } else { Err(Errno::AGAIN) };
        }
        if into.remaining() == 0 && !packets {
            return Ok(Incoming::default());
        }
        let message = own.queue.first_len();
        let (count, attached) = if flags.peek { own.queue.peek(into)? } else { own.queue.read(into)? };
        let starved = !flags.peek && std::mem::take(&mut own.starved);
        drop(directions);
        if starved {
            self.connection.notify(self.side.other());
        }
        let mut incoming = Incoming { count, message: count, ..Incoming::default() };
        if packets {
            incoming.message = message;
        }
        if self.connection.carries != Carries::Bytes {
            incoming.credentials = Some(self.peer_credentials());
        }
        if let Some(attached) = attached {
            incoming.credentials = Some(attached.credentials);
            incoming.rights = attached.rights;
        }
        Ok(incoming)
    }

    fn shutdown(&self, how: Shutdown) {
        let mut directions = self.connection.directions.lock();
        if how.reads() {
            let own = &mut directions[self.side.index()];
            own.stopped = true;
            own.refused |= self.connection.carries != Carries::Bytes;
        }
        if how.writes() {
            directions[self.side.other().index()].ended = true;
        }
        drop(directions);
        self.connection.notify(self.side);
        self.connection.notify(self.side.other());
    }

    fn abort(&self) {
        self.connection.directions.lock()[self.side.other().index()].reset = true;
    }

    fn is_over(&self) -> bool {
        self.connection.directions.lock().iter().all(|direction| direction.ended)
    }

    fn take_error(&self) -> Option<Errno> {
        let reset = &mut self.connection.directions.lock()[self.side.index()].reset;
        std::mem::take(reset).then_some(Errno::CONNRESET)
    }

    fn readiness(&self) -> Readiness {
        let mut directions = self.connection.directions.lock();
        let own = &directions[self.side.index()];
        let mut ready = Readiness::empty();
        let (peer_ended, no_more_in) = (own.ended, own.ended || own.stopped);
        if !own.queue.is_empty() || no_more_in || own.reset {
            ready |= Readiness::IN | Readiness::RDNORM;
        }
        if no_more_in {
            ready |= Readiness::RDHUP;
        }
        if own.reset {
            ready |= Readiness::ERR;
        }
        let to = &mut directions[self.side.other().index()];
        let crowded = self.connection.carries == Carries::Packets && to.queue.chunk_count() >= MAX_MESSAGES;
        let room = to.room() >= WRITABLE_ROOM.min(to.capacity) && !crowded;
        if room || to.ended || to.refused {
            ready |= Readiness::OUT | Readiness::WRNORM;
        } else {
            to.starved = true;
        }
        // Both directions are over, or the peer is gone altogether.
        if (no_more_in && to.ended) || (peer_ended && to.refused) {
            ready |= Readiness::HUP;
        }
        ready
    }

    fn readable_bytes(&self) -> usize {
        let directions = self.connection.directions.lock();
        let queue = &directions[self.side.index()].queue;
        if self.connection.carries == Carries::Packets { queue.first_len() } else { queue.len() }
    }

    fn save(&self, saver: &mut Saver) -> Result<SavedTransport, SaveError> {
        let (connection, side) = self.save_end(saver)?;
        Ok(SavedTransport::Guest(connection, side))
    }
}

#[cfg(test)]
mod tests;
