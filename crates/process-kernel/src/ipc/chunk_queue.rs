//! Bytes on their way from one thread to another: the buffer of pipes and sockets.
//!
//! Bytes lie in chunks. A chunk may carry an attachment (open files, a sender's address) that goes with its first byte,
//! and may end a message. Memory is charged per chunk as it is allocated, not per byte that happens to be left in it.

use std::collections::VecDeque;
use std::sync::Arc;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::account::{Charge, MemoryAccount};
use crate::file::{Destination, Origin};

/// Size of chunks that stream bytes are collected in.
const CHUNK: usize = 4096;

/// What a queue entry costs besides its bytes.
const OVERHEAD: usize = 128;

/// Some bytes in the queue.
struct Chunk<A> {
    bytes: Vec<u8>,
    /// Bytes already read.
    start: usize,
    /// No later byte belongs to the same message.
    ends_message: bool,
    attached: Option<A>,
}

impl<A> Chunk<A> {
    fn unread(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }

    fn cost(&self) -> usize {
        self.bytes.capacity() + OVERHEAD
    }
}

/// One chunk in a snapshot; the attachment in the form that its owner saves.
#[derive(Serialize, Deserialize)]
pub struct SavedChunk<S> {
    #[serde(with = "serde_bytes")]
    bytes: Vec<u8>,
    ends_message: bool,
    attached: Option<S>,
}

/// A queue of bytes and messages.
pub struct ChunkQueue<A> {
    chunks: VecDeque<Chunk<A>>,
    bytes: usize,
    charge: Charge,
}

impl<A: Clone> ChunkQueue<A> {
    /// An empty queue whose memory is charged to `account`.
    pub fn new(account: &Arc<MemoryAccount>) -> Self {
        Self { chunks: VecDeque::new(), bytes: 0, charge: account.empty_charge() }
    }

    /// Unread bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether there is neither a byte nor an empty message.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Chunks there are: messages, where every chunk is one. Stream bytes lie in chunks of up to 4096.
    pub fn chunk_count(&self) -> usize {
        self.chunks.len()
    }

    /// Unread bytes of the first chunk: the size of the first message, where every chunk is one.
    pub fn first_len(&self) -> usize {
        self.chunks.front().map_or(0, |chunk| chunk.unread().len())
    }

    /// Adds up to `limit` stream bytes, which join the bytes before them, and returns how many. 4096 bytes or fewer are
    /// added whole or not at all.
    ///
    /// # Errors
    /// ENOMEM when the account is exhausted, EFAULT when the origin gives nothing; nothing was added then, and no byte
    /// was taken.
    pub fn append(&mut self, from: &mut Origin<'_>, limit: usize) -> Result<usize, Errno> {
        let limit = limit.min(from.remaining());
        let mut added = 0;
        while added < limit {
            match self.append_some(from, limit - added) {
                Ok(0) => break,
                Ok(count) => added += count,
                Err(_) if added > 0 => break,
                Err(errno) => return Err(errno),
            }
        }
        Ok(added)
    }

    /// As [`ChunkQueue::append`], into one chunk.
    fn append_some(&mut self, from: &mut Origin<'_>, wanted: usize) -> Result<usize, Errno> {
        if let Some(last) = self.chunks.back_mut().filter(|chunk| !chunk.ends_message) {
            let room = last.bytes.capacity().saturating_sub(last.bytes.len());
            // What is short enough to be added whole starts a new chunk rather than being split.
            if room >= wanted || (room > 0 && wanted > CHUNK) {
                let bytes = from.take(wanted.min(room))?;
                last.bytes.extend_from_slice(&bytes);
                self.bytes += bytes.len();
                return Ok(bytes.len());
            }
        }
        self.charge.grow(CHUNK + OVERHEAD)?;
        match from.take(wanted.min(CHUNK)) {
            Ok(mut bytes) => {
                let count = bytes.len();
                bytes.reserve_exact(CHUNK - count);
                // The allocator may have given more than was charged.
                self.charge.grow_unchecked(bytes.capacity() - CHUNK);
                self.insert(bytes, false, None);
                Ok(count)
            }
            Err(errno) => {
                self.charge.shrink(CHUNK + OVERHEAD);
                Err(errno)
            }
        }
    }

    /// Adds one message, or stream bytes with an attachment (`ends_message` false).
    ///
    /// # Errors
    /// ENOMEM when the account is exhausted; nothing was added then.
    pub fn push(&mut self, bytes: Vec<u8>, ends_message: bool, attached: Option<A>) -> Result<(), Errno> {
        self.charge.grow(bytes.capacity() + OVERHEAD)?;
        self.insert(bytes, ends_message, attached);
        Ok(())
    }

    /// Adds stream bytes that the worker itself answers for: no limit holds.
    pub fn push_unchecked(&mut self, bytes: Vec<u8>) {
        self.charge.grow_unchecked(bytes.capacity() + OVERHEAD);
        self.insert(bytes, false, None);
    }

    fn insert(&mut self, bytes: Vec<u8>, ends_message: bool, attached: Option<A>) {
        self.bytes += bytes.len();
        self.chunks.push_back(Chunk { bytes, start: 0, ends_message, attached });
    }

    /// Reads stream bytes, up to the next attachment or end of a message, and the attachment of the first of them. What
    /// does not fit of a message (a chunk with `ends_message`) is dropped.
    ///
    /// # Errors
    /// EFAULT when the destination takes nothing; the bytes stay.
    pub fn read(&mut self, into: &mut Destination<'_>) -> Result<(usize, Option<A>), Errno> {
        let mut count = 0;
        let mut attached = None;
        let mut first = true;
        while let Some(chunk) = self.chunks.front_mut() {
            if !first && chunk.attached.is_some() {
                break;
            }
            let unread = chunk.unread().len();
            let copied = match into.put(chunk.unread()) {
                Ok(copied) => copied,
                Err(_) if count > 0 => break,
                Err(errno) => return Err(errno),
            };
            if first {
                attached = chunk.attached.take();
            }
            first = false;
            count += copied;
            let ends_message = chunk.ends_message;
            if copied < unread && !ends_message {
                chunk.start += copied;
                self.bytes -= copied;
                break;
            }
            self.bytes -= unread;
            self.drop_first();
            if ends_message || into.remaining() == 0 {
                break;
            }
        }
        Ok((count, attached))
    }

    /// As [`ChunkQueue::read`], leaving everything where it is.
    ///
    /// # Errors
    /// EFAULT when the destination takes nothing.
    pub fn peek(&self, into: &mut Destination<'_>) -> Result<(usize, Option<A>), Errno> {
        let mut count = 0;
        for (index, chunk) in self.chunks.iter().enumerate() {
            if index > 0 && chunk.attached.is_some() {
                break;
            }
            match into.put(chunk.unread()) {
                Ok(copied) => count += copied,
                Err(_) if count > 0 => break,
                Err(errno) => return Err(errno),
            }
            if chunk.ends_message || into.remaining() == 0 {
                break;
            }
        }
        Ok((count, self.chunks.front().and_then(|chunk| chunk.attached.clone())))
    }

    fn drop_first(&mut self) {
        if let Some(chunk) = self.chunks.pop_front() {
            self.charge.shrink(chunk.cost());
        }
    }

    /// Empties the queue and returns the attachments, which the caller drops without holding a lock.
    pub fn clear(&mut self) -> Vec<A> {
        let attached = self.chunks.drain(..).filter_map(|chunk| chunk.attached).collect();
        self.bytes = 0;
        self.charge.shrink(self.charge.bytes());
        attached
    }

    /// The queue's saved form; `save` turns attachments into theirs.
    ///
    /// # Errors
    /// Those of `save`.
    pub fn save<S, E>(&self, mut save: impl FnMut(&A) -> Result<S, E>) -> Result<Vec<SavedChunk<S>>, E> {
        let chunk = |chunk: &Chunk<A>| {
            let attached = chunk.attached.as_ref().map(&mut save).transpose()?;
            Ok(SavedChunk { bytes: chunk.unread().to_vec(), ends_message: chunk.ends_message, attached })
        };
        self.chunks.iter().map(chunk).collect()
    }

    /// Makes a queue again. No limit holds: what was saved was within it.
    ///
    /// # Errors
    /// Those of `restore`.
    pub fn restore<S, E>(
        account: &Arc<MemoryAccount>,
        saved: Vec<SavedChunk<S>>,
        mut restore: impl FnMut(S) -> Result<A, E>,
    ) -> Result<Self, E> {
        let mut queue = Self::new(account);
        for chunk in saved {
            let attached = chunk.attached.map(&mut restore).transpose()?;
            queue.charge.grow_unchecked(chunk.bytes.capacity() + OVERHEAD);
            queue.insert(chunk.bytes, chunk.ends_message, attached);
        }
        Ok(queue)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    fn queue() -> (Arc<MemoryAccount>, ChunkQueue<u8>) {
        let account = MemoryAccount::new(100_000);
        let queue = ChunkQueue::new(&account);
        (account, queue)
    }

    fn append(queue: &mut ChunkQueue<u8>, bytes: &[u8]) -> usize {
        queue.append(&mut Origin::Own(bytes), usize::MAX).unwrap_or(0)
    }

    fn read(queue: &mut ChunkQueue<u8>, count: usize) -> (Vec<u8>, Option<u8>) {
        let mut bytes = vec![0; count];
        let (got, attached) = queue.read(&mut Destination::Own(&mut bytes)).unwrap();
        bytes.truncate(got);
        (bytes, attached)
    }

    #[test]
    fn attachments_go_with_their_first_byte_and_stop_a_read() {
        let (_, mut queue) = queue();
        append(&mut queue, b"ab");
        queue.push(b"cd".to_vec(), false, Some(7)).unwrap();
        append(&mut queue, b"ef");
        assert_eq!(read(&mut queue, 10), (b"ab".to_vec(), None));
        assert_eq!(read(&mut queue, 1), (b"c".to_vec(), Some(7)));
        assert_eq!(read(&mut queue, 10), (b"def".to_vec(), None));
        assert!(queue.is_empty());
    }

    #[test]
    fn messages_are_read_one_by_one_and_cut_off() {
        let (account, mut queue) = queue();
        for message in ["one", "", "three"] {
            queue.push(message.as_bytes().to_vec(), true, None).unwrap();
        }
        assert_eq!(read(&mut queue, 2).0, b"on");
        assert_eq!(read(&mut queue, 2).0, b"");
        assert_eq!(queue.first_len(), 5);
        assert_eq!(read(&mut queue, 9).0, b"three");
        assert_eq!((queue.len(), account.used()), (0, 0));
    }

    proptest! {
        #[test]
        fn a_stream_comes_out_as_it_went_in(steps in prop::collection::vec((any::<bool>(), 0_usize..9000), 1..60)) {
            let (account, mut queue) = queue();
            let mut model = VecDeque::new();
            let mut next = 0_u8;
            for (write, count) in steps {
                if write {
                    let bytes: Vec<u8> = (0..count).map(|_| { next = next.wrapping_add(1); next }).collect();
                    let added = append(&mut queue, &bytes);
                    prop_assert!(added == count || count > CHUNK || added == 0);
                    model.extend(&bytes[..added]);
                } else {
                    let mut peeked = vec![0; count];
                    let (seen, _) = queue.peek(&mut Destination::Own(&mut peeked)).unwrap();
                    let (bytes, _) = read(&mut queue, count);
                    prop_assert_eq!(&peeked[..seen], &bytes[..]);
                    let expected: Vec<u8> = model.drain(..count.min(model.len())).collect();
                    prop_assert_eq!(bytes, expected);
                }
                prop_assert_eq!(queue.len(), model.len());
                prop_assert!(account.used() >= queue.len());
            }
            let saved = queue.save(|_| Ok::<u8, Infallible>(0)).unwrap();
            let mut again = ChunkQueue::restore(&account, saved, Ok::<u8, Infallible>).unwrap();
            prop_assert_eq!(read(&mut again, usize::from(u16::MAX) * 16).0, Vec::from(model));
            drop((queue, again));
            prop_assert_eq!(account.used(), 0);
        }
    }
}
