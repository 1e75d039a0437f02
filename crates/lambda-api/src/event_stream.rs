//! Frames of `application/vnd.amazon.eventstream`, in which InvokeWithResponseStream answers.
//!
//! A frame is: u32 total length, u32 length of headers, u32 CRC-32 of these eight bytes, headers, payload, u32 CRC-32 of all
//! before. A header is: u8 length, name, 7 for a string, u16 length, value. All numbers are big-endian.

use serde::Serialize;

use crate::error::{LambdaError, to_json};

/// The media type.
pub const CONTENT_TYPE: &str = "application/vnd.amazon.eventstream";
/// The most that a frame carries here; a longer piece becomes several.
const PIECE: usize = 1 << 20;

/// How a stream ended; all members may be missing.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Completion {
    /// The error's type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_code: Option<String>,
    /// The error's report.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_details: Option<String>,
    /// The end of the log in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_result: Option<String>,
}

/// The frames of a piece of the answer.
pub fn payload_chunk(piece: &[u8]) -> Vec<u8> {
    let headers = event("PayloadChunk", "application/octet-stream");
    piece.chunks(PIECE).flat_map(|piece| frame(&headers, piece)).collect()
}

/// The last frame.
pub fn invoke_complete(completion: &Completion) -> Vec<u8> {
    frame(&event("InvokeComplete", "application/json"), &to_json(completion))
}

/// A frame that ends the stream with an error.
pub fn exception(error: &LambdaError) -> Vec<u8> {
    let headers = [
        (":message-type", "exception"),
        (":exception-type", error.kind.code()),
        (":content-type", "application/json"),
    ];
    frame(&headers, &error.body())
}

fn event(kind: &'static str, content_type: &'static str) -> [(&'static str, &'static str); 3] {
    [(":message-type", "event"), (":event-type", kind), (":content-type", content_type)]
}

fn frame(headers: &[(&str, &str)], payload: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::new();
    for (name, value) in headers {
        // Names and values are the few of this file, far below the limits of their lengths.
        encoded.push(name.len() as u8);
        encoded.extend_from_slice(name.as_bytes());
        encoded.push(7);
        encoded.extend_from_slice(&(value.len() as u16).to_be_bytes());
        encoded.extend_from_slice(value.as_bytes());
    }
    let mut frame = Vec::with_capacity(16 + encoded.len() + payload.len());
    frame.extend_from_slice(&((16 + encoded.len() + payload.len()) as u32).to_be_bytes());
    frame.extend_from_slice(&(encoded.len() as u32).to_be_bytes());
    frame.extend_from_slice(&crc32fast::hash(&frame).to_be_bytes());
    frame.extend_from_slice(&encoded);
    frame.extend_from_slice(payload);
    frame.extend_from_slice(&crc32fast::hash(&frame).to_be_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Header names and values, and the payload.
    fn parse(frame: &[u8]) -> (Vec<(String, String)>, Vec<u8>) {
        let number = |at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().unwrap()) as usize;
        assert_eq!(number(0), frame.len());
        assert_eq!(number(8), crc32fast::hash(&frame[..8]) as usize);
        assert_eq!(number(frame.len() - 4), crc32fast::hash(&frame[..frame.len() - 4]) as usize);
        let mut headers = Vec::new();
        let mut rest = &frame[12..12 + number(4)];
        while let Some((length, after)) = rest.split_first() {
            let (name, after) = after.split_at(*length as usize);
            assert_eq!(after[0], 7);
            let length = u16::from_be_bytes([after[1], after[2]]) as usize;
            let (value, after) = after[3..].split_at(length);
            headers.push((
                String::from_utf8(name.to_vec()).unwrap(),
                String::from_utf8(value.to_vec()).unwrap(),
            ));
            rest = after;
        }
        (headers, frame[12 + number(4)..frame.len() - 4].to_vec())
    }

    #[test]
    fn frames_can_be_parsed() {
        let (headers, payload) = parse(&payload_chunk(b"hello"));
        assert_eq!(headers[1], (":event-type".to_owned(), "PayloadChunk".to_owned()));
        assert_eq!(payload, b"hello");
        let (headers, payload) = parse(&invoke_complete(&Completion::default()));
        assert_eq!((headers[1].1.as_str(), payload.as_slice()), ("InvokeComplete", &b"{}"[..]));
        assert_eq!(payload_chunk(b""), b"");
        let long = payload_chunk(&vec![1; PIECE + 1]);
        let first = u32::from_be_bytes(long[..4].try_into().unwrap()) as usize;
        assert_eq!(parse(&long[..first]).1.len(), PIECE);
        assert_eq!(parse(&long[first..]).1, [1]);
    }
}
