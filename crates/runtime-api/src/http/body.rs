//! Reading a request's body, by length or chunked (RFC 9112 section 7.1).

use serde::{Deserialize, Serialize};

use super::Refusal;
use super::head::{Fields, Framing};
use super::input::Input;

/// Longest accepted line that gives a chunk's size, extensions included, in bytes.
const MAX_CHUNK_LINE: usize = 256;

/// Most body bytes handed out in one piece.
const MAX_PIECE: u64 = 64 * 1024;

/// Where in the body the connection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum BodyReader {
    /// So many bytes remain of a body of known length.
    Length(u64),
    /// The line with a chunk's size comes next.
    ChunkSize,
    /// So many bytes remain of a chunk.
    Chunk(u64),
    /// The line end behind a chunk's data comes next.
    ChunkEnd,
    /// The trailers and the empty line that ends the body come next.
    Trailers,
}

/// What the body gave.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum BodyStep {
    /// More input is needed.
    NeedMore,
    /// A piece of the body, never empty.
    Piece(Vec<u8>),
    /// The body is complete; its trailers.
    End(Fields),
}

impl BodyReader {
    pub(crate) const fn new(framing: Framing) -> Self {
        match framing {
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::ChunkSize,
        }
    }

    /// Advances over `input`. `limit` bounds the trailers, in bytes.
    pub(crate) fn step(&mut self, input: &mut Input, limit: usize) -> Result<BodyStep, Refusal> {
        loop {
            match *self {
                Self::Length(0) => return Ok(BodyStep::End(Fields::default())),
                Self::Length(remaining) => {
                    let piece = piece(input, remaining);
                    *self = Self::Length(remaining.saturating_sub(piece.len() as u64));
                    return Ok(piece_or_wait(piece));
                }
                Self::ChunkSize => match chunk_size(input)? {
                    None => return Ok(BodyStep::NeedMore),
                    Some(0) => *self = Self::Trailers,
                    Some(size) => *self = Self::Chunk(size),
                },
                Self::Chunk(0) => *self = Self::ChunkEnd,
                Self::Chunk(remaining) => {
                    let piece = piece(input, remaining);
                    *self = Self::Chunk(remaining.saturating_sub(piece.len() as u64));
                    return Ok(piece_or_wait(piece));
                }
                Self::ChunkEnd => match input.as_slice() {
                    [b'\r', b'\n', ..] => {
                        input.consume(2);
                        *self = Self::ChunkSize;
                    }
                    [] | [b'\r'] => return Ok(BodyStep::NeedMore),
                    _ => return Err(Refusal::Malformed("a chunk is longer than its size")),
                },
                Self::Trailers => return trailers(input, limit),
            }
        }
    }
}

fn piece(input: &mut Input, remaining: u64) -> Vec<u8> {
    // Bounded by MAX_PIECE, so the conversion never saturates.
    input.take(usize::try_from(remaining.min(MAX_PIECE)).unwrap_or(usize::MAX))
}

fn piece_or_wait(piece: Vec<u8>) -> BodyStep {
    if piece.is_empty() { BodyStep::NeedMore } else { BodyStep::Piece(piece) }
}

/// Uses up the line with a chunk's size; `None` while it is incomplete.
fn chunk_size(input: &mut Input) -> Result<Option<u64>, Refusal> {
    let Some((line, length)) = input.line() else {
        if input.len() > MAX_CHUNK_LINE {
            return Err(Refusal::Malformed("a chunk size line is too long"));
        }
        return Ok(None);
    };
    if length > MAX_CHUNK_LINE {
        return Err(Refusal::Malformed("a chunk size line is too long"));
    }
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii_end();
    // 15 digits can't overflow, and no body has 2^60 bytes.
    if digits.is_empty() || digits.len() > 15 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(Refusal::Malformed("invalid chunk size"));
    }
    let size = digits
        .iter()
        .fold(0u64, |size, digit| size << 4 | u64::from(char::from(*digit).to_digit(16).unwrap_or_default()));
    input.consume(length);
    Ok(Some(size))
}

fn trailers(input: &mut Input, limit: usize) -> Result<BodyStep, Refusal> {
    let empty = match input.as_slice() {
        [b'\r', b'\n', ..] => Some(2),
        [b'\n', ..] => Some(1),
        _ => None,
    };
    if let Some(length) = empty {
        input.consume(length);
        return Ok(BodyStep::End(Fields::default()));
    }
    match input.field_section() {
        Some(length) if length <= limit => {
            let fields = Fields::parse(&input.take(length))?;
            Ok(BodyStep::End(fields))
        }
        None if input.len() <= limit => Ok(BodyStep::NeedMore),
        _ => Err(Refusal::HeadTooLarge),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<(Vec<u8>, Option<Fields>), Refusal> {
        let mut reader = BodyReader::ChunkSize;
        let mut input = Input::default();
        let mut body = Vec::new();
        for byte in bytes {
            input.push(&[*byte]);
            loop {
                match reader.step(&mut input, 100)? {
                    BodyStep::NeedMore => break,
                    BodyStep::Piece(piece) => body.extend(piece),
                    BodyStep::End(fields) => return Ok((body, Some(fields))),
                }
            }
        }
        Ok((body, None))
    }

    #[test]
    fn chunks_extensions_and_trailers() {
        let (body, fields) = read(b"3;a=b\r\nabc\r\nA \r\n0123456789\r\n0\r\nX-Y: z\r\n\r\n").unwrap();
        assert_eq!(body, b"abc0123456789");
        assert_eq!(fields.unwrap().get("x-y"), Some("z"));
        assert_eq!(read(b"0\r\n\r\n").unwrap().1, Some(Fields::default()));
        assert_eq!(read(b"5\r\nab").unwrap(), (b"ab".to_vec(), None));
    }

    #[test]
    fn refuses_bad_chunks() {
        assert!(read(b"\r\n").is_err());
        assert!(read(b"-1\r\n").is_err());
        assert!(read(b"0x1\r\n").is_err());
        assert!(read(b"ffffffffffffffff\r\n").is_err());
        assert!(read(b"1\r\nabc").is_err());
        assert!(read(&[b'1'; 300]).is_err());
        let long = [b"0\r\n".as_slice(), &[b'a'; 200]].concat();
        assert_eq!(read(&long), Err(Refusal::HeadTooLarge));
    }
}
