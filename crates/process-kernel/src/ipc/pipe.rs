//! Pipes and FIFOs.
//!
//! A [`Pipe`] is the buffer; a [`PipeEnd`] is one opening of it. Ends count themselves while they live, so a restored
//! pipe knows its readers and writers without having saved them.

use std::sync::Arc;

use parking_lot::Mutex;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::Ipc;
use super::chunk_queue::{ChunkQueue, SavedChunk};
use crate::file::{AccessMode, Destination, FileObject, Origin, Readiness, Stat};
use crate::object::{Object, ObjectId, RestoreError, Restorer, SaveError, Saver};
use crate::syscall::Cx;
use crate::wait::WaitQueue;

/// Writes up to this many bytes are never interleaved with others.
pub const PIPE_BUF: usize = 4096;

/// Capacity of a new pipe, bytes.
pub const DEFAULT_CAPACITY: usize = 64 << 10;

/// Largest capacity that F_SETPIPE_SZ gives, bytes (fs.pipe-max-size).
const MAX_CAPACITY: usize = 1 << 20;

struct State {
    queue: ChunkQueue<()>,
    capacity: usize,
    readers: usize,
    writers: usize,
    /// Ends ever opened, so that opening a FIFO notices a peer that came and went.
    readers_ever: u64,
    writers_ever: u64,
    /// A writer found no room and wants to hear of it.
    starved: bool,
}

impl State {
    fn room(&self) -> usize {
        self.capacity.saturating_sub(self.queue.len())
    }
}

/// The buffer of a pipe or FIFO. Snapshot rule: saved with its buffered bytes.
pub struct Pipe {
    state: Mutex<State>,
    /// Notified when reading may have become possible; ends open for both wait here too.
    readable: WaitQueue,
    /// Notified when writing may have become possible.
    writable: WaitQueue,
    /// O_DIRECT: each write is a message.
    packets: bool,
    inode: u64,
}

/// The saved form of a buffer.
#[derive(Serialize, Deserialize)]
struct SavedPipe {
    chunks: Vec<SavedChunk<()>>,
    capacity: usize,
    packets: bool,
    inode: u64,
}

impl Pipe {
    /// Registry key.
    pub const KIND: &'static str = "pipe";

    /// An empty buffer without ends. `packets` is pipe2's O_DIRECT.
    pub fn new(ipc: &Ipc, packets: bool) -> Arc<Self> {
        let queue = ChunkQueue::new(&ipc.account);
        Self::with(queue, DEFAULT_CAPACITY, packets, ipc.inode())
    }

    fn with(queue: ChunkQueue<()>, capacity: usize, packets: bool, inode: u64) -> Arc<Self> {
        let state = State {
            queue,
            capacity,
            readers: 0,
            writers: 0,
            readers_ever: 0,
            writers_ever: 0,
            starved: false,
        };
        let (readable, writable) = Default::default();
        Arc::new(Self { state: Mutex::new(state), readable, writable, packets, inode })
    }

    /// An end of the pipe; for a FIFO, `access` is as it was opened.
    pub fn end(self: &Arc<Self>, access: AccessMode) -> Arc<PipeEnd> {
        let mut state = self.state.lock();
        if access.reads() {
            state.readers += 1;
            state.readers_ever += 1;
        }
        if access.writes() {
            state.writers += 1;
            state.writers_ever += 1;
        }
        drop(state);
        self.notify_both();
        Arc::new(PipeEnd { pipe: self.clone(), access })
    }

    /// How many readers and writers have ever opened it; opening a FIFO waits for the other number to grow, on
    /// [`Pipe::queue_of`].
    pub fn opened(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.readers_ever, state.writers_ever)
    }

    /// Readers and writers there are now.
    pub fn ends(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.readers, state.writers)
    }

    /// Where an end opened for `access` waits.
    pub fn queue_of(&self, access: AccessMode) -> &WaitQueue {
        if access.reads() { &self.readable } else { &self.writable }
    }

    fn notify_both(&self) {
        self.readable.notify();
        self.writable.notify();
    }

    /// Tells writers of room, if any of them missed it.
    fn room_made(&self, starved: bool) {
        if starved {
            self.writable.notify();
            // Ends open for reading and writing wait with the readers.
            self.readable.notify();
        }
    }

    fn read(&self, into: &mut Destination<'_>) -> Result<usize, Errno> {
        if into.remaining() == 0 {
            return Ok(0);
        }
        let mut state = self.state.lock();
        if state.queue.is_empty() {
            return if state.writers == 0 { Ok(0) } else { Err(Errno::AGAIN) };
        }
        let (count, _) = state.queue.read(into)?;
        let starved = std::mem::take(&mut state.starved);
        drop(state);
        self.room_made(starved);
        Ok(count)
    }

    fn write(&self, from: &mut Origin<'_>) -> Result<usize, Errno> {
        let wanted = from.remaining();
        if wanted == 0 {
            return Ok(0);
        }
        let mut state = self.state.lock();
        if state.readers == 0 {
            return Err(Errno::PIPE);
        }
        let room = state.room();
        if room == 0 || (wanted <= PIPE_BUF && room < wanted) {
            state.starved = true;
            return Err(Errno::AGAIN);
        }
        let count = if self.packets {
            let bytes = from.take(PIPE_BUF.min(room))?;
            let count = bytes.len();
            state.queue.push(bytes, true, None)?;
            count
        } else {
            state.queue.append(from, room)?
        };
        if count < wanted {
            state.starved = true;
        }
        drop(state);
        self.readable.notify();
        Ok(count)
    }

    fn readiness(&self, access: AccessMode) -> Readiness {
        let mut state = self.state.lock();
        let mut ready = Readiness::empty();
        if access.reads() {
            if !state.queue.is_empty() {
                ready |= Readiness::IN | Readiness::RDNORM;
            }
            // A FIFO that no writer has opened yet is quiet, not hung up.
            if state.writers == 0 && state.writers_ever > 0 {
                ready |= Readiness::HUP;
            }
        }
        if access.writes() {
            if state.room() >= PIPE_BUF {
                ready |= Readiness::OUT | Readiness::WRNORM;
            } else {
                state.starved = true;
            }
            if state.readers == 0 {
                ready |= Readiness::ERR;
            }
        }
        ready
    }

    /// Unread bytes (FIONREAD).
    pub fn len(&self) -> usize {
        self.state.lock().queue.len()
    }

    /// Whether nothing is buffered.
    pub fn is_empty(&self) -> bool {
        self.state.lock().queue.is_empty()
    }

    /// Bytes it holds at most (F_GETPIPE_SZ).
    pub fn capacity(&self) -> usize {
        self.state.lock().capacity
    }

    /// Sets the capacity to at least `bytes` (F_SETPIPE_SZ) and returns it.
    ///
    /// # Errors
    /// EINVAL for 0 or too much for a pipe, EPERM beyond fs.pipe-max-size, EBUSY when more bytes are buffered.
    pub fn set_capacity(&self, bytes: usize) -> Result<usize, Errno> {
        if bytes == 0 || bytes > 1 << 31 {
            return Err(Errno::INVAL);
        }
        let capacity = bytes.next_power_of_two().max(PIPE_BUF);
        if capacity > MAX_CAPACITY {
            return Err(Errno::PERM);
        }
        let mut state = self.state.lock();
        if capacity < state.queue.len() {
            return Err(Errno::BUSY);
        }
        state.capacity = capacity;
        let starved = std::mem::take(&mut state.starved);
        drop(state);
        self.room_made(starved);
        Ok(capacity)
    }

    /// See [`crate::object::RestoreFn`].
    ///
    /// # Errors
    /// [`RestoreError::Decode`].
    pub fn restore(payload: &[u8], restorer: &mut Restorer<'_>) -> Result<Arc<dyn Object>, RestoreError> {
        let saved: SavedPipe = Restorer::decode(Self::KIND, payload)?;
        let ipc = &restorer.context.ipc;
        ipc.reserve_inode(saved.inode);
        let queue = ChunkQueue::restore(&ipc.account, saved.chunks, Ok::<(), RestoreError>)?;
        Ok(Self::with(queue, saved.capacity.clamp(PIPE_BUF, MAX_CAPACITY), saved.packets, saved.inode))
    }
}

impl Object for Pipe {
    fn kind(&self) -> &'static str {
        Self::KIND
    }

    fn save(&self, saver: &mut Saver) -> Result<Vec<u8>, SaveError> {
        let state = self.state.lock();
        let chunks = state.queue.save(|()| Ok::<(), SaveError>(()))?;
        let saved = SavedPipe { chunks, capacity: state.capacity, packets: self.packets, inode: self.inode };
        saver.encode(Self::KIND, &saved)
    }
}

/// One opening of a pipe or FIFO. Snapshot rule: saved as its access mode and its pipe.
pub struct PipeEnd {
    pipe: Arc<Pipe>,
    access: AccessMode,
}

impl PipeEnd {
    /// Registry key.
    pub const KIND: &'static str = "pipe-end";

    /// The two ends of a new pipe: for reading, for writing.
    pub fn pair(ipc: &Ipc, packets: bool) -> (Arc<Self>, Arc<Self>) {
        let pipe = Pipe::new(ipc, packets);
        (pipe.end(AccessMode::Read), pipe.end(AccessMode::Write))
    }

    /// The pipe.
    pub fn pipe(&self) -> &Arc<Pipe> {
        &self.pipe
    }

    /// See [`crate::object::RestoreFn`].
    ///
    /// # Errors
    /// [`RestoreError`] when the payload is damaged.
    pub fn restore(payload: &[u8], restorer: &mut Restorer<'_>) -> Result<Arc<dyn Object>, RestoreError> {
        let (pipe, access): (ObjectId, AccessMode) = Restorer::decode(Self::KIND, payload)?;
        Ok(restorer.concrete::<Pipe>(pipe, Pipe::KIND)?.end(access))
    }
}

impl Drop for PipeEnd {
    fn drop(&mut self) {
        let mut state = self.pipe.state.lock();
        if self.access.reads() {
            state.readers -= 1;
        }
        if self.access.writes() {
            state.writers -= 1;
        }
        drop(state);
        self.pipe.notify_both();
    }
}

impl Object for PipeEnd {
    fn kind(&self) -> &'static str {
        Self::KIND
    }

    fn save(&self, saver: &mut Saver) -> Result<Vec<u8>, SaveError> {
        let pipe = saver.save(self.pipe.clone())?;
        saver.encode(Self::KIND, &(pipe, self.access))
    }

    fn as_file(self: Arc<Self>) -> Option<Arc<dyn FileObject>> {
        Some(self)
    }
}

impl FileObject for PipeEnd {
    fn stat(&self) -> Result<Stat, Errno> {
        let mode = libc::S_IFIFO | 0o600;
        Ok(Stat { ino: self.pipe.inode, mode, nlink: 1, blksize: 4096, ..Stat::default() })
    }

    fn read(&self, _: Option<u64>, into: &mut Destination<'_>) -> Result<usize, Errno> {
        self.pipe.read(into)
    }

    fn write(&self, _: Option<u64>, from: &mut Origin<'_>) -> Result<usize, Errno> {
        self.pipe.write(from)
    }

    fn writes_fully(&self) -> bool {
        true
    }

    fn readiness(&self) -> Readiness {
        self.pipe.readiness(self.access)
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(self.pipe.queue_of(self.access))
    }

    fn ioctl(&self, cx: &mut Cx<'_>, request: u32, argument: u64) -> Result<u64, Errno> {
        if u64::from(request) != libc::FIONREAD {
            return Err(Errno::NOTTY);
        }
        cx.mm().write_value(argument, &(self.pipe.len() as i32))?;
        Ok(0)
    }

    fn describe(&self) -> String {
        format!("pipe:[{}]", self.pipe.inode)
    }
}

#[cfg(test)]
mod tests;
