//! A call over the socket of the node that serves this home, when one does.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write, stderr};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use node::{INVOKE_PATH, Invocation, Origin, Told};
use restore::{Phase, Timeline};
use store::{FunctionName, Store};

use super::invoke::Shown;
use crate::output::note;

/// The socket of the node that serves this home; `None` when none does.
pub(super) fn connect(store: &Store) -> Option<UnixStream> {
    // A socket's path may have 107 bytes and a home's any number: the way there leads over a descriptor.
    let home = File::open(store.path()).ok()?;
    UnixStream::connect(PathBuf::from(format!("/proc/self/fd/{}/node.sock", home.as_raw_fd()))).ok()
}

/// Invokes a function by way of a node. Its log goes to standard error as it comes when `log` says so.
pub(super) fn invoke(
    mut node: UnixStream,
    function: &FunctionName,
    payload: &[u8],
    log: bool,
) -> Result<Shown> {
    let timeline = Timeline::start();
    // By the older protocol an answer of unknown length ends with its connection.
    let head = format!(
        "POST {INVOKE_PATH}{function} HTTP/1.0\r\nHost: node\r\nContent-Length: {}\r\n\r\n",
        payload.len()
    );
    // As text: an error of this pipe is none of standard output's, at which a command ends in silence.
    let lost = |error: std::io::Error| anyhow!("talking to the node that serves this home: {error}");
    node.write_all(head.as_bytes()).and_then(|()| node.write_all(payload)).map_err(lost)?;
    let mut answer = BufReader::new(node);
    let status = status(&mut answer).map_err(lost)?.context("the node's answer is no HTTP (a defect)")?;
    if status != 200 {
        let mut body = Vec::new();
        answer.read_to_end(&mut body).map_err(lost)?;
        return Err(refused(status, &String::from_utf8_lossy(&body)));
    }
    for line in answer.split(b'\n') {
        match read(&line.map_err(lost)?)? {
            Told::Log(piece) if log => {
                // The answer is what matters.
                let _ = stderr().write_all(&bytes(&piece)?);
            }
            Told::Log(_) => {}
            Told::Refused { status, body } => return Err(refused(status, &body)),
            Told::Answered(invocation) => return shown(*invocation, timeline, log),
        }
    }
    bail!("the node was stopped before it answered; whether the function ran is not known")
}

fn refused(status: u16, body: &str) -> anyhow::Error {
    anyhow!("the node answered {status}: {body}")
}

fn read(line: &[u8]) -> Result<Told> {
    serde_json::from_slice(line)
        .context("the node said something else than was asked (another version of faasnap?)")
}

fn bytes(base64: &str) -> Result<Vec<u8>> {
    STANDARD.decode(base64).context("the node's answer is no base64 (a defect)")
}

fn shown(invocation: Invocation, mut own: Timeline, log: bool) -> Result<Shown> {
    let Invocation {
        request_id,
        failed,
        payload,
        from,
        duration_ms,
        max_memory_bytes,
        timeline,
        log_left_out,
    } = invocation;
    if log && log_left_out > 0 {
        note(&format!("{log_left_out} bytes of the log were left out: it came faster than it was read"));
    }
    // Of a warm call only the way there and back is known.
    own.reached(Phase::Returned);
    let timeline = timeline.map(serde_json::from_value).transpose().context("reading the node's timeline")?;
    Ok(Shown {
        request_id,
        failed,
        payload: bytes(&payload)?,
        from: match from {
            Origin::Warm => "warm",
            Origin::Cold => "cold",
            Origin::Snapshot => "snapshot",
        },
        duration: Duration::try_from_secs_f64(duration_ms / 1e3).unwrap_or_default(),
        max_memory: max_memory_bytes,
        timeline: timeline.or_else(|| (from == Origin::Warm).then_some(own)),
    })
}

/// The status of an answer, read up to its body; `None` for what is no HTTP.
fn status(answer: &mut impl BufRead) -> std::io::Result<Option<u16>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if answer.read_until(b'\n', &mut head)? == 0 {
            return Ok(None);
        }
    }
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    Ok(response.parse(&head).ok().and(response.code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_that_of_a_whole_head() {
        let whole = b"HTTP/1.0 404 Not Found\r\nContent-Type: application/json\r\n\r\nbody";
        let mut rest = &whole[..];
        assert_eq!(status(&mut rest).unwrap(), Some(404));
        assert_eq!(rest, b"body");
        assert!((0..whole.len() - 4).all(|length| status(&mut &whole[..length]).unwrap().is_none()));
        assert_eq!(status(&mut &b"SSH-2.0-x\r\n\r\n"[..]).unwrap(), None);
    }
}
