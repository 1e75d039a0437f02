//! Received bytes that are not used up yet.

use serde::{Deserialize, Serialize};

/// A queue of bytes that remembers how far it was searched, so that a head that arrives byte by byte costs linear time.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Input {
    #[serde(with = "serde_bytes")]
    bytes: Vec<u8>,
    /// Bytes before this position are used up; they are dropped in bulk.
    start: usize,
    /// Bytes from `start` that hold no empty line's end.
    searched: usize,
}

impl Input {
    /// The bytes not used up.
    pub(crate) fn as_slice(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }

    /// Number of bytes not used up.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len().saturating_sub(self.start)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends received bytes.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.bytes.drain(..self.start.min(self.bytes.len()));
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Uses up the first `count` bytes.
    pub(crate) fn consume(&mut self, count: usize) {
        self.start = self.start.saturating_add(count).min(self.bytes.len());
        self.searched = 0;
        if self.is_empty() {
            self.clear();
        }
    }

    /// Drops everything, and the memory with it when it was much.
    pub(crate) fn clear(&mut self) {
        const KEEP: usize = 16 * 1024;
        self.bytes.clear();
        self.bytes.shrink_to(KEEP);
        self.start = 0;
        self.searched = 0;
    }

    /// Takes the first `count` bytes out, or all when there are fewer.
    pub(crate) fn take(&mut self, count: usize) -> Vec<u8> {
        let taken = self.as_slice().get(..count).unwrap_or(self.as_slice()).to_vec();
        self.consume(taken.len());
        taken
    }

    /// Uses up line ends at the front: RFC 9112 section 2.2 lets a server ignore empty lines ahead of a request.
    pub(crate) fn skip_line_ends(&mut self) {
        let count = self.as_slice().iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        if count > 0 {
            self.consume(count);
        }
    }

    /// Length of the field section at the front, its empty line included, once that line is there.
    pub(crate) fn field_section(&mut self) -> Option<usize> {
        let bytes = self.as_slice();
        // The empty line may have begun in what was searched: look again from two bytes earlier.
        let from = self.searched.saturating_sub(2);
        let found =
            bytes.iter().enumerate().skip(from).filter(|(_, byte)| **byte == b'\n').find_map(|(at, _)| {
                match bytes.get(at + 1..)? {
                    [b'\n', ..] => Some(at + 2),
                    [b'\r', b'\n', ..] => Some(at + 3),
                    _ => None,
                }
            });
        if found.is_none() {
            self.searched = bytes.len();
        }
        found
    }

    /// The line at the front without its end and the length with it; `None` while its end is missing.
    pub(crate) fn line(&self) -> Option<(&[u8], usize)> {
        let bytes = self.as_slice();
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        let line = bytes.get(..end)?;
        Some((line.strip_suffix(b"\r").unwrap_or(line), end + 1))
    }
}
