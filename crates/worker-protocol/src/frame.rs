//! Frames: where a message begins and ends. Pure; the socket is in `channel`.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Version of the messages and of their framing. Raised with every change to either.
pub const VERSION: u16 = 4;

/// Largest message in bytes: the largest event or response (6 MiB and 100 bytes), with room for what surrounds it.
pub const MAX_FRAME: usize = 8 * 1024 * 1024;

/// Most descriptors beside one message; the kernel's own limit is 253.
pub const MAX_DESCRIPTORS: usize = 128;

const MAGIC: [u8; 4] = *b"FSNW";
const PREFACE: usize = 8;
const HEADER: usize = 5;

/// What arrived is not a frame, or a message is too large to be one.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameError {
    /// The first bytes are not this protocol's.
    #[error("the other side does not speak the worker protocol")]
    NotTheProtocol,
    /// The other side has another version.
    #[error("the other side speaks version {theirs} of the worker protocol, this side {VERSION}")]
    Version {
        /// The version in the other side's preface.
        theirs: u16,
    },
    /// The message is larger than [`MAX_FRAME`].
    #[error("a message of {0} bytes, more than the {MAX_FRAME} allowed")]
    TooLarge(usize),
    /// More than [`MAX_DESCRIPTORS`].
    #[error("{0} descriptors beside one message, more than the {MAX_DESCRIPTORS} allowed")]
    TooManyDescriptors(usize),
    /// The bytes are not a message.
    #[error("a message can't be encoded or decoded")]
    Encoding(#[from] postcard::Error),
    /// There are bytes behind the message.
    #[error("{0} bytes follow a message in its frame")]
    TrailingBytes(usize),
}

/// What each side sends first.
pub(crate) fn preface() -> [u8; PREFACE] {
    let [low, high] = VERSION.to_le_bytes();
    let [a, b, c, d] = MAGIC;
    [a, b, c, d, low, high, 0, 0]
}

/// A message as a frame with `descriptors` descriptors beside it.
pub(crate) fn encode<M: Serialize>(message: &M, descriptors: usize) -> Result<Vec<u8>, FrameError> {
    let count = u8::try_from(descriptors)
        .ok()
        .filter(|_| descriptors <= MAX_DESCRIPTORS)
        .ok_or(FrameError::TooManyDescriptors(descriptors))?;
    let body = postcard::to_allocvec(message)?;
    let length = u32::try_from(body.len())
        .ok()
        .filter(|_| body.len() <= MAX_FRAME)
        .ok_or(FrameError::TooLarge(body.len()))?;
    let mut frame = Vec::with_capacity(HEADER + body.len());
    frame.extend_from_slice(&length.to_le_bytes());
    frame.push(count);
    frame.extend_from_slice(&body);
    Ok(frame)
}

/// Finds messages in a stream of bytes.
#[derive(Clone, Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    /// Bytes before this position are used up.
    start: usize,
    prefaced: bool,
}

impl Decoder {
    /// Appends received bytes. Memory stays bounded if [`Self::next_message`] is called until it gives nothing in between.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.bytes.drain(..self.start.min(self.bytes.len()));
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The next message and the number of descriptors that belong to it; `None` while it is incomplete.
    ///
    /// # Errors
    /// [`FrameError`]. The stream is of no use any more: there is no telling where the next message starts.
    pub fn next_message<M: DeserializeOwned>(&mut self) -> Result<Option<(M, usize)>, FrameError> {
        if !self.check_preface()? {
            return Ok(None);
        }
        let Some((&[a, b, c, d, count], rest)) = self.unused().split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if length > MAX_FRAME {
            return Err(FrameError::TooLarge(length));
        }
        let descriptors = usize::from(count);
        if descriptors > MAX_DESCRIPTORS {
            return Err(FrameError::TooManyDescriptors(descriptors));
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let (message, trailing) = postcard::take_from_bytes(body)?;
        if !trailing.is_empty() {
            return Err(FrameError::TrailingBytes(trailing.len()));
        }
        self.consume(HEADER + length);
        Ok(Some((message, descriptors)))
    }

    /// Whether the stream could end here without cutting anything off.
    pub fn is_empty(&self) -> bool {
        self.unused().is_empty()
    }

    fn check_preface(&mut self) -> Result<bool, FrameError> {
        if self.prefaced {
            return Ok(true);
        }
        let unused = self.unused();
        // A stranger is told apart by its first byte, without waiting for a whole preface.
        if unused.iter().zip(MAGIC).any(|(theirs, ours)| *theirs != ours) {
            return Err(FrameError::NotTheProtocol);
        }
        let Some(([_, _, _, _, low, high, _, _], _)) = unused.split_first_chunk::<PREFACE>() else {
            return Ok(false);
        };
        let theirs = u16::from_le_bytes([*low, *high]);
        if theirs != VERSION {
            return Err(FrameError::Version { theirs });
        }
        self.consume(PREFACE);
        self.prefaced = true;
        Ok(true)
    }

    fn unused(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }

    fn consume(&mut self, count: usize) {
        const KEEP: usize = 64 * 1024;
        self.start = self.start.saturating_add(count).min(self.bytes.len());
        if self.start == self.bytes.len() {
            self.bytes.clear();
            self.bytes.shrink_to(KEEP);
            self.start = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{FromWorker, LogStream, ToWorker};

    fn log(length: usize) -> FromWorker {
        FromWorker::Log { stream: LogStream::Output, bytes: vec![7; length].into() }
    }

    fn stream(messages: &[FromWorker]) -> Vec<u8> {
        let mut bytes = preface().to_vec();
        for message in messages {
            bytes.extend(encode(message, 0).unwrap());
        }
        bytes
    }

    #[test]
    fn strangers_and_other_versions_are_told_apart() {
        let mut decoder = Decoder::default();
        decoder.push(b"G");
        assert_eq!(decoder.next_message::<ToWorker>(), Err(FrameError::NotTheProtocol));
        let mut decoder = Decoder::default();
        decoder.push(b"FSNW\x02\x01\0\0");
        assert_eq!(decoder.next_message::<ToWorker>(), Err(FrameError::Version { theirs: 0x102 }));
    }

    #[test]
    fn sizes_are_checked_before_anything_is_awaited() {
        let with_header = |length: usize, count: u8| {
            let mut decoder = Decoder::default();
            decoder.push(&preface());
            decoder.push(&u32::try_from(length).unwrap().to_le_bytes());
            decoder.push(&[count]);
            decoder.next_message::<FromWorker>()
        };
        assert_eq!(with_header(MAX_FRAME, 0), Ok(None));
        assert_eq!(with_header(MAX_FRAME + 1, 0), Err(FrameError::TooLarge(MAX_FRAME + 1)));
        assert_eq!(with_header(1, 129), Err(FrameError::TooManyDescriptors(129)));
        assert!(matches!(encode(&log(MAX_FRAME), 0), Err(FrameError::TooLarge(_))));
        assert!(matches!(encode(&log(1), 129), Err(FrameError::TooManyDescriptors(129))));
    }

    #[test]
    fn bytes_behind_a_message_are_refused() {
        let mut frame = encode(&log(1), 0).unwrap();
        frame.push(0);
        let length = u32::from_le_bytes([frame[0], frame[1], frame[2], frame[3]]) + 1;
        frame[..4].copy_from_slice(&length.to_le_bytes());
        let mut decoder = Decoder::default();
        decoder.push(&preface());
        decoder.push(&frame);
        assert_eq!(decoder.next_message::<FromWorker>(), Err(FrameError::TrailingBytes(1)));
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_messages(
            lengths in prop::collection::vec(0usize..300, 0..8),
            sizes in prop::collection::vec(1usize..64, 1..8),
        ) {
            let messages: Vec<_> = lengths.into_iter().map(log).collect();
            let bytes = stream(&messages);
            let mut decoder = Decoder::default();
            let (mut decoded, mut rest) = (Vec::new(), bytes.as_slice());
            for size in sizes.iter().copied().cycle() {
                let (piece, later) = rest.split_at(size.min(rest.len()));
                decoder.push(piece);
                while let Some((message, 0)) = decoder.next_message::<FromWorker>().unwrap() {
                    decoded.push(message);
                }
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(decoded, messages);
            prop_assert!(decoder.is_empty());
        }

        #[test]
        fn arbitrary_bytes_neither_panic_nor_loop(bytes in prop::collection::vec(any::<u8>(), 0..400), framed: bool) {
            let mut decoder = Decoder::default();
            decoder.push(&preface());
            if framed {
                decoder.push(&u32::try_from(bytes.len()).unwrap().to_le_bytes());
                decoder.push(&[0]);
            }
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.next_message::<ToWorker>() {}
            while let Ok(Some(_)) = decoder.next_message::<FromWorker>() {}
        }

        #[test]
        fn a_flipped_bit_neither_panics_nor_loops(at: prop::sample::Index, bit in 0u8..8) {
            let mut bytes = stream(&[log(40), log(0), log(3)]);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let mut decoder = Decoder::default();
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.next_message::<FromWorker>() {}
        }
    }
}
