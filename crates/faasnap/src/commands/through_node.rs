//! A call over the socket of the node that serves this home, when one does.

use std::fs::File;
use std::io::{Read, Write, stderr, stdout};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use store::{FunctionName, Store};

use super::Outcome;

/// A node's answer.
struct Answered {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answered {
    fn header(&self, wanted: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
            .map(|(_, value)| value.as_str())
    }
}

/// The socket of the node that serves this home; `None` when none does.
pub(super) fn connect(store: &Store) -> Option<UnixStream> {
    // A socket's path may have 107 bytes and a home's any number: the way there leads over a descriptor.
    let home = File::open(store.path()).ok()?;
    UnixStream::connect(PathBuf::from(format!("/proc/self/fd/{}/node.sock", home.as_raw_fd()))).ok()
}

/// Invokes a function by way of a node: its answer goes to standard output, the end of its log to standard error when `log`
/// says so.
pub(super) fn invoke(
    mut node: UnixStream,
    function: &FunctionName,
    payload: &[u8],
    log: bool,
) -> Result<Outcome> {
    let tail = if log { "Tail" } else { "None" };
    let head = format!(
        "POST /2015-03-31/functions/{function}/invocations HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\
         X-Amz-Log-Type: {tail}\r\nContent-Length: {}\r\n\r\n",
        payload.len()
    );
    let asked = node.write_all(head.as_bytes()).and_then(|()| node.write_all(payload));
    let mut bytes = Vec::new();
    // As text: an error of this pipe is none of standard output's, at which a command ends in silence.
    asked
        .and_then(|()| node.read_to_end(&mut bytes))
        .map_err(|error| anyhow!("talking to the node that serves this home: {error}"))?;
    let answer = parse(&bytes).context("the node's answer is no HTTP (a defect)")?;
    if answer.status != 200 {
        bail!("the node answered {}: {}", answer.status, String::from_utf8_lossy(&answer.body));
    }
    if let Some(log) = answer.header("x-amz-log-result").and_then(|log| STANDARD.decode(log).ok()) {
        // The answer is what matters.
        let _ = stderr().write_all(&log);
    }
    let mut out = stdout().lock();
    let newline: &[u8] = if answer.body.ends_with(b"\n") { b"" } else { b"\n" };
    let written =
        out.write_all(&answer.body).and_then(|()| out.write_all(newline)).and_then(|()| out.flush());
    written.context("writing the answer")?;
    Ok(if answer.header("x-amz-function-error").is_some() { Outcome::Negative } else { Outcome::Good })
}

/// An answer that ended with its connection.
fn parse(bytes: &[u8]) -> Option<Answered> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(length) = response.parse(bytes).ok()? else { return None };
    let status = response.code?;
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let headers: Vec<_> =
        response.headers.iter().map(|header| (header.name.to_owned(), text(header.value))).collect();
    let answer = Answered { status, headers, body: bytes.get(length..)?.to_vec() };
    // One that was cut short is none.
    let expected = answer.header("content-length").and_then(|length| length.parse().ok());
    (expected == Some(answer.body.len())).then_some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_cut_short_is_none() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Amz-Function-Error: Unhandled\r\n\r\n{}";
        let answer = parse(whole).unwrap();
        assert_eq!((answer.status, answer.body.as_slice()), (200, &b"{}"[..]));
        assert_eq!(answer.header("x-amz-function-error"), Some("Unhandled"));
        assert!((0..whole.len()).all(|length| parse(&whole[..length]).is_none()));
    }
}
