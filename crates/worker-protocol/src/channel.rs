//! The socket: frames out, frames in, descriptors beside them.

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::descriptors::{Attached, Descriptors};
use crate::frame::{self, Decoder, FrameError, MAX_DESCRIPTORS};
use crate::messages::{FromWorker, ToWorker};

/// Bytes read from the socket at once.
const READ: usize = 128 * 1024;

/// Descriptors that came ahead of their frames' ends; the kernel passes a frame's descriptors with its first byte.
const MAX_WAITING: usize = 2 * MAX_DESCRIPTORS;

/// The channel failed. None of these passes by itself: give the other side up.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// What came is not a message, or what was to be sent is too large to be one.
    #[error("exchanging messages between node and worker")]
    Frame(#[from] FrameError),
    /// The socket failed.
    #[error("{operation} the socket between node and worker")]
    Socket {
        /// `reading`, `writing` or the like.
        operation: &'static str,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// The other side ended within a message.
    #[error("the other side ended within a message")]
    Truncated,
    /// A message announces more descriptors than came with it.
    #[error("a message announces {announced} descriptors, {arrived} came")]
    MissingDescriptors {
        /// In the frame's header.
        announced: usize,
        /// In the socket.
        arrived: usize,
    },
    /// More descriptors came than any message may have, or the kernel had to drop some.
    #[error("more descriptors came than messages account for")]
    SurplusDescriptors,
    /// The time to wait was up.
    #[error("no message within {0:?}")]
    TimedOut(Duration),
}

/// The node's side.
pub type NodeChannel = Channel<ToWorker, FromWorker>;

/// The worker's side.
pub type WorkerChannel = Channel<FromWorker, ToWorker>;

/// A message with its descriptors.
#[derive(Debug)]
pub struct Received<M> {
    /// The message.
    pub message: M,
    /// What came beside it.
    pub descriptors: Descriptors,
}

/// What [`Receiver::try_receive`] found.
#[derive(Debug)]
pub enum Polled<M> {
    /// A message.
    Message(Received<M>),
    /// No message yet.
    Nothing,
    /// The other side has ended: there will be none any more.
    Ended,
}

/// Both directions. Split it to send and receive from different threads.
#[derive(Debug)]
pub struct Channel<Out, In> {
    /// The outgoing direction.
    pub sender: Sender<Out>,
    /// The incoming direction.
    pub receiver: Receiver<In>,
}

/// A connected pair: the node's side, and the socket to start a worker with (as its standard input, say).
///
/// # Errors
/// [`ChannelError::Socket`] when no socket can be made.
pub fn pair() -> Result<(NodeChannel, OwnedFd), ChannelError> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(|source| ChannelError::Socket { operation: "creating", source })?;
    Ok((Channel::new(ours), theirs))
}

impl<Out: Serialize, In: DeserializeOwned> Channel<Out, In> {
    /// A channel over a connected Unix stream socket. The preface goes out ahead of the first message.
    pub fn new(socket: OwnedFd) -> Self {
        let socket = Arc::new(socket);
        let preface = Outgoing { bytes: frame::preface().to_vec(), sent: 0, descriptors: Vec::new() };
        Self {
            sender: Sender {
                socket: Arc::clone(&socket),
                queue: VecDeque::from([preface]),
                message: PhantomData,
            },
            receiver: Receiver {
                socket,
                decoder: Decoder::default(),
                waiting: VecDeque::new(),
                buffer: vec![0; READ],
                message: PhantomData,
            },
        }
    }
}

#[derive(Debug)]
struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    /// Until the first byte is sent.
    descriptors: Vec<OwnedFd>,
}

/// The outgoing direction of a channel.
///
/// A side that only sends can make both wait for each other for ever once the socket is full. Either receive in another
/// thread, or [`Self::enqueue`] and [`Self::flush`] when the socket is writable.
#[derive(Debug)]
pub struct Sender<Out> {
    socket: Arc<OwnedFd>,
    queue: VecDeque<Outgoing>,
    message: PhantomData<fn(Out)>,
}

impl<Out: Serialize> Sender<Out> {
    /// Sends a message and waits until the socket has taken all of it.
    ///
    /// # Errors
    /// [`ChannelError`] when the message is too large or the other side is gone.
    pub fn send(&mut self, message: &Out, attached: Attached) -> Result<(), ChannelError> {
        self.enqueue(message, attached)?;
        self.send_queued()
    }

    /// Waits until the socket has taken every message that was put into the queue.
    ///
    /// # Errors
    /// [`ChannelError::Socket`] when the other side is gone.
    pub fn send_queued(&mut self) -> Result<(), ChannelError> {
        while !self.flush()? {
            wait(self.socket.as_fd(), PollFlags::OUT, None)?;
        }
        Ok(())
    }

    /// Puts a message behind those not sent yet.
    ///
    /// # Errors
    /// [`ChannelError::Frame`] when the message is too large.
    pub fn enqueue(&mut self, message: &Out, attached: Attached) -> Result<(), ChannelError> {
        let descriptors = attached.into_inner();
        let bytes = frame::encode(message, descriptors.len())?;
        self.queue.push_back(Outgoing { bytes, sent: 0, descriptors });
        Ok(())
    }

    /// Sends what the socket takes without waiting; `true` when nothing is left.
    ///
    /// # Errors
    /// [`ChannelError::Socket`] when the other side is gone.
    pub fn flush(&mut self) -> Result<bool, ChannelError> {
        while let Some(outgoing) = self.queue.front_mut() {
            match outgoing.send(self.socket.as_fd()) {
                Ok(()) if outgoing.sent == outgoing.bytes.len() => drop(self.queue.pop_front()),
                Ok(()) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(false),
                Err(source) => return Err(ChannelError::Socket { operation: "writing to", source }),
            }
        }
        Ok(true)
    }
}

impl<Out> AsFd for Sender<Out> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Outgoing {
    fn send(&mut self, socket: BorrowedFd<'_>) -> Result<(), Errno> {
        let rest = self.bytes.get(self.sent..).unwrap_or_default();
        let borrowed: Vec<BorrowedFd<'_>> = self.descriptors.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !borrowed.is_empty() {
            // The space is for as many as `encode` lets pass.
            ancillary.push(SendAncillaryMessage::ScmRights(&borrowed));
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        self.sent += sendmsg(socket, &[IoSlice::new(rest)], &mut ancillary, flags)?;
        // They went with the first byte. Ours are closed: the other side has its own now.
        self.descriptors.clear();
        Ok(())
    }
}

/// The incoming direction of a channel.
#[derive(Debug)]
pub struct Receiver<In> {
    socket: Arc<OwnedFd>,
    decoder: Decoder,
    /// Descriptors that came and belong to the next frames.
    waiting: VecDeque<OwnedFd>,
    buffer: Vec<u8>,
    message: PhantomData<fn() -> In>,
}

/// What one read of the socket gave.
enum Read {
    Some,
    WouldBlock,
    End,
}

impl<In: DeserializeOwned> Receiver<In> {
    /// Waits for the next message; `None` when the other side has ended.
    ///
    /// # Errors
    /// [`ChannelError`].
    pub fn receive(&mut self) -> Result<Option<Received<In>>, ChannelError> {
        self.receive_until(None)
    }

    /// Waits for the next message at most for `timeout`.
    ///
    /// # Errors
    /// [`ChannelError::TimedOut`], which leaves the channel usable, and the others.
    pub fn receive_within(&mut self, timeout: Duration) -> Result<Option<Received<In>>, ChannelError> {
        self.receive_until(Some(timeout))
    }

    /// The next message, if it is there without waiting.
    ///
    /// # Errors
    /// [`ChannelError`].
    pub fn try_receive(&mut self) -> Result<Polled<In>, ChannelError> {
        loop {
            if let Some(received) = self.next_decoded()? {
                return Ok(Polled::Message(received));
            }
            match self.read()? {
                Read::Some => {}
                Read::WouldBlock => return Ok(Polled::Nothing),
                Read::End if self.decoder.is_empty() => return Ok(Polled::Ended),
                Read::End => return Err(ChannelError::Truncated),
            }
        }
    }

    fn receive_until(&mut self, timeout: Option<Duration>) -> Result<Option<Received<In>>, ChannelError> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            match self.try_receive()? {
                Polled::Message(received) => return Ok(Some(received)),
                Polled::Ended => return Ok(None),
                Polled::Nothing => {}
            }
            let remaining = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if !wait(self.socket.as_fd(), PollFlags::IN, remaining)? {
                return Err(ChannelError::TimedOut(timeout.unwrap_or_default()));
            }
        }
    }

    fn next_decoded(&mut self) -> Result<Option<Received<In>>, ChannelError> {
        let Some((message, announced)) = self.decoder.next_message()? else { return Ok(None) };
        let arrived = self.waiting.len();
        if announced > arrived {
            return Err(ChannelError::MissingDescriptors { announced, arrived });
        }
        let descriptors = Descriptors::new(self.waiting.drain(..announced));
        // One read gives the descriptors of one frame at most, with its first byte: none can belong to a frame not begun.
        if self.decoder.is_empty() && !self.waiting.is_empty() {
            return Err(ChannelError::SurplusDescriptors);
        }
        Ok(Some(Received { message, descriptors }))
    }

    fn read(&mut self) -> Result<Read, ChannelError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut self.buffer)];
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let received = match recvmsg(&*self.socket, &mut slices, &mut ancillary, flags) {
            Ok(received) => received,
            Err(Errno::AGAIN) => return Ok(Read::WouldBlock),
            Err(Errno::INTR) => return Ok(Read::Some),
            // The other side died with bytes of ours unread: an end like any other.
            Err(Errno::CONNRESET) => return Ok(Read::End),
            Err(source) => return Err(ChannelError::Socket { operation: "reading from", source }),
        };
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.waiting.extend(descriptors);
            }
        }
        if received.flags.contains(ReturnFlags::CTRUNC) || self.waiting.len() > MAX_WAITING {
            return Err(ChannelError::SurplusDescriptors);
        }
        if received.bytes == 0 {
            return Ok(Read::End);
        }
        self.decoder.push(self.buffer.get(..received.bytes).unwrap_or_default());
        Ok(Read::Some)
    }
}

impl<In> AsFd for Receiver<In> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Waits until the socket is ready or has failed; `false` when the time is up.
fn wait(socket: BorrowedFd<'_>, flags: PollFlags, timeout: Option<Duration>) -> Result<bool, ChannelError> {
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    match poll(&mut [PollFd::new(&socket, flags)], timeout.as_ref()) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(true),
        Err(source) => Err(ChannelError::Socket { operation: "waiting for", source }),
    }
}

#[cfg(test)]
mod tests;
