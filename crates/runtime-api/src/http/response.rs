//! Responses and their bytes.

use super::head::Version;

/// A response, complete when it is made. The length and the connection's fate are added when it is written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) fields: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    /// A response with only a content type.
    pub(crate) fn new(status: u16, content_type: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Self { status, fields: vec![("Content-Type", content_type.to_owned())], body: body.into() }
    }

    /// Appends the response's bytes to `output`. `without_body` is for answers to HEAD, which announce a length only.
    pub(crate) fn write(&self, output: &mut Vec<u8>, version: Version, keep_alive: bool, without_body: bool) {
        output.reserve(256 + self.body.len());
        let (name, connection) = match (version, keep_alive) {
            (Version::Http10, true) => ("HTTP/1.0", "Connection: keep-alive\r\n"),
            (Version::Http10, false) => ("HTTP/1.0", ""),
            (Version::Http11, true) => ("HTTP/1.1", ""),
            (Version::Http11, false) => ("HTTP/1.1", "Connection: close\r\n"),
        };
        output.extend_from_slice(format!("{name} {} {}\r\n", self.status, reason(self.status)).as_bytes());
        for (key, value) in &self.fields {
            output.extend_from_slice(key.as_bytes());
            output.extend_from_slice(b": ");
            // Values come from callers of the function: a control character would forge a field of its own. Go's
            // net/http, and thus AWS, writes a space too.
            output.extend(value.bytes().map(|byte| if byte < b' ' || byte == 0x7f { b' ' } else { byte }));
            output.extend_from_slice(b"\r\n");
        }
        output
            .extend_from_slice(format!("Content-Length: {}\r\n{connection}\r\n", self.body.len()).as_bytes());
        if !without_body {
            output.extend_from_slice(&self.body);
        }
    }
}

const fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        202 => "Accepted",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        413 => "Request Entity Too Large",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        505 => "HTTP Version Not Supported",
        _ => "Internal Server Error",
    }
}
