//! What is to be said to the guest: queued by whoever has something to say, written by one thread.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::Arc;

use guest_init::wire::{self, Kind};
use parking_lot::{Condvar, Mutex};
use rustix::net::{Shutdown, shutdown};

/// Bytes that may wait for a guest that does not read: several of the largest events.
const MOST: usize = 32 << 20;
/// Above this, who can wait does.
const COMFORTABLE: usize = 1 << 20;
/// Bytes in one message; the device passes on no more at once either.
const PIECE: usize = 64 << 10;

#[derive(Default)]
struct State {
    messages: VecDeque<(Kind, Vec<u8>)>,
    bytes: usize,
    /// None until there is a connection, and while the guest rests.
    stream: Option<Arc<File>>,
    closed: bool,
}

/// The way to the guest. Cheap to clone; what is said before there is a connection waits for it.
#[derive(Clone, Default)]
pub struct Line(Arc<Inner>);

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    changed: Condvar,
}

impl Line {
    /// A line without a guest at its other end yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says something without waiting. False when the guest has not read what was said before, or has ended.
    pub fn say(&self, kind: Kind, body: &[u8]) -> bool {
        let mut state = self.0.state.lock();
        if state.closed || state.bytes + body.len() > MOST {
            return false;
        }
        self.put(&mut state, kind, body.to_vec());
        true
    }

    /// Sends bytes on a connection of the served port, in pieces. False as for [`Self::say`].
    pub fn send(&self, connection: u64, bytes: &[u8]) -> bool {
        bytes.chunks(PIECE).all(|piece| self.say(Kind::Bytes, &wire::about(connection, piece)))
    }

    /// Gives the program input, as fast as it reads; nothing means the input's end. False when the guest has ended.
    pub fn input(&self, bytes: &[u8]) -> bool {
        let mut state = self.0.state.lock();
        while state.bytes > COMFORTABLE && !state.closed {
            self.0.changed.wait(&mut state);
        }
        if !state.closed {
            let pieces = bytes.chunks(PIECE).map(<[u8]>::to_vec);
            let end = bytes.is_empty().then(Vec::new);
            pieces.chain(end).for_each(|piece| self.put(&mut state, Kind::Input, piece));
        }
        !state.closed
    }

    fn put(&self, state: &mut State, kind: Kind, body: Vec<u8>) {
        state.bytes += body.len();
        state.messages.push_back((kind, body));
        self.0.changed.notify_all();
    }

    /// There is a connection: what waits is said on it.
    pub(super) fn connect(&self, stream: Arc<File>) {
        self.0.state.lock().stream = Some(stream);
        self.0.changed.notify_all();
    }

    /// Nothing more is said; who is being written to is not waited for.
    pub(super) fn close(&self) {
        let mut state = self.0.state.lock();
        state.closed = true;
        if let Some(stream) = &state.stream {
            let _ = shutdown(stream, Shutdown::Both);
        }
        self.0.changed.notify_all();
    }

    /// Writes what is said, until the line is closed.
    pub(super) fn write(&self) {
        while let Some((stream, kind, body)) = self.next() {
            let failed = wire::write(&mut &*stream, kind, &body).is_err();
            // Told to rest, the guest closes the connection; what is said from here on waits for another. One that fails is
            // over, too: its reader notices.
            if failed || kind == Kind::Rest {
                let mut state = self.0.state.lock();
                if state.stream.as_ref().is_some_and(|current| Arc::ptr_eq(current, &stream)) {
                    state.stream = None;
                }
            }
        }
    }

    fn next(&self) -> Option<(Arc<File>, Kind, Vec<u8>)> {
        let mut state = self.0.state.lock();
        loop {
            if state.closed {
                return None;
            }
            if let Some(stream) = state.stream.clone()
                && let Some((kind, body)) = state.messages.pop_front()
            {
                state.bytes = state.bytes.saturating_sub(body.len());
                self.0.changed.notify_all();
                return Some((stream, kind, body));
            }
            self.0.changed.wait(&mut state);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::virtio::stream;

    #[test]
    fn what_was_said_early_waits_and_what_follows_a_rest_goes_to_the_next_connection() {
        let line = Line::new();
        assert!(line.send(7, b"early") && line.say(Kind::Rest, &[]) && line.input(b"later"));
        let writer = thread::spawn({
            let line = line.clone();
            move || line.write()
        });
        let [first, second] = [stream().unwrap(), stream().unwrap()];
        line.connect(Arc::new(first.0));
        let read = |stream: &File| wire::read(&mut &*stream).unwrap().unwrap();
        assert_eq!(read(&first.1), (Kind::Bytes, wire::about(7, b"early")));
        assert_eq!(read(&first.1), (Kind::Rest, Vec::new()));
        line.connect(Arc::new(second.0));
        assert_eq!(read(&second.1), (Kind::Input, b"later".to_vec()));
        line.close();
        writer.join().unwrap();
        assert!(!line.say(Kind::Input, &[]) && !line.input(&[]));
    }

    #[test]
    fn a_guest_that_does_not_read_can_not_make_the_line_grow() {
        let line = Line::new();
        let accepted = (0..10_000).take_while(|_| line.send(1, &[0; 8 << 10])).count();
        assert_eq!(accepted, MOST / ((8 << 10) + 8));
    }
}
