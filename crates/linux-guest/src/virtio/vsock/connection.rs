//! One connection: a Unix socket on the host's side, counted bytes on the guest's.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};

use rustix::net::{Shutdown, shutdown};

use super::packet::{Head, NO_RECEIVE, NO_SEND};

/// Room for what a guest sends before the host's side has taken it.
pub(super) const BUFFER: u32 = 256 << 10;

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    stream: File,
    /// From the guest, not yet taken by the host's side.
    waiting: VecDeque<u8>,
    /// Bytes that the host's side has taken.
    forwarded: u32,
    /// `forwarded` as the guest last heard it.
    told: u32,
    /// What the guest said of its own buffer.
    guest_buffer: u32,
    guest_forwarded: u32,
    /// Bytes sent to the guest.
    sent: u32,
    /// The guest sends no more: the socket's writing side is closed once `waiting` is empty.
    guest_finished: bool,
    /// The host's side sends no more.
    pub host_finished: bool,
}

/// What a connection has for the guest.
pub(super) enum Taken {
    /// Nothing now.
    Nothing,
    /// Bytes.
    Data(Vec<u8>),
    /// No more bytes will come.
    Finished,
    /// The host's side is gone.
    Gone,
}

impl Connection {
    pub fn new(stream: File, request: &Head) -> Self {
        Self {
            stream,
            waiting: VecDeque::new(),
            forwarded: 0,
            told: 0,
            guest_buffer: request.buffer,
            guest_forwarded: request.forwarded,
            sent: 0,
            guest_finished: false,
            host_finished: false,
        }
    }

    /// Takes over what every packet says of the sender's buffer.
    pub fn note_credit(&mut self, head: &Head) {
        self.guest_buffer = head.buffer;
        self.guest_forwarded = head.forwarded;
    }

    /// Fills in what every packet to the guest says of this side's buffer.
    pub fn fill_credit(&mut self, head: &mut Head) {
        head.buffer = BUFFER;
        head.forwarded = self.forwarded;
        self.told = self.forwarded;
    }

    /// Whether the guest should hear that there is room again.
    pub fn has_news(&self) -> bool {
        self.forwarded.wrapping_sub(self.told) >= BUFFER / 2
    }

    /// Takes data from the guest; false when it sent more than it was told it may.
    pub fn push(&mut self, data: &[u8]) -> bool {
        if self.guest_finished || self.waiting.len() + data.len() > BUFFER as usize {
            return false;
        }
        self.waiting.extend(data);
        self.flush()
    }

    /// The guest shuts down one or both directions. False when that was the end of the connection.
    pub fn shut_down(&mut self, flags: u32) -> bool {
        self.guest_finished |= flags & NO_SEND != 0;
        self.flush() && flags & (NO_SEND | NO_RECEIVE) != NO_SEND | NO_RECEIVE
    }

    /// Hands on what is waiting; false when the host's side is gone.
    pub fn flush(&mut self) -> bool {
        while !self.waiting.is_empty() {
            let (piece, _) = self.waiting.as_slices();
            match self.stream.write(piece) {
                Ok(0) => return false,
                Ok(count) => {
                    self.waiting.drain(..count);
                    self.forwarded = self.forwarded.wrapping_add(count as u32);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            }
        }
        if self.guest_finished {
            // Fails when the other side is gone, which the next read shows.
            let _ = shutdown(&self.stream, Shutdown::Write);
        }
        true
    }

    /// Up to `room` bytes for the guest, as far as it has said that it can take them.
    pub fn take(&mut self, room: usize) -> Taken {
        if self.host_finished {
            return Taken::Nothing;
        }
        let under_way = self.sent.wrapping_sub(self.guest_forwarded);
        let credit = self.guest_buffer.saturating_sub(under_way) as usize;
        let mut bytes = vec![0; room.min(credit)];
        if bytes.is_empty() {
            return Taken::Nothing;
        }
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => {
                    self.host_finished = true;
                    return Taken::Finished;
                }
                Ok(count) => {
                    bytes.truncate(count);
                    self.sent = self.sent.wrapping_add(count as u32);
                    return Taken::Data(bytes);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Taken::Nothing,
                Err(_) => return Taken::Gone,
            }
        }
    }
}
