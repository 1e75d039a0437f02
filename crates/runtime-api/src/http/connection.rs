//! One connection: where it is between requests, and its unsent output.
//!
//! ```text
//!            head              body's end            reply
//!   Head ────────────► Body ────────────► Answering ────────────► Head      (keep-alive)
//!     │                  │                                  └───► Closed    (close)
//!     └──── refusal ─────┴──────────────────────────────────────► Closed
//! ```

use serde::{Deserialize, Serialize};

use super::body::{BodyReader, BodyStep};
use super::head::{Fields, Method, RequestHead, Version};
use super::input::Input;
use super::response::Response;
use super::{Limits, Refusal};

/// What reading a connection gave.
#[derive(Debug)]
pub(crate) enum Step {
    /// Nothing more until further input, output or an answer.
    Wait,
    /// A request began.
    Head(RequestHead),
    /// A piece of the request's body.
    Body(Vec<u8>),
    /// The request is complete; an answer is due.
    End(Fields),
    /// The request was refused; the connection has answered and closes. Body bytes seen before don't make a request.
    Refused,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum Phase {
    Head,
    Body(BodyReader),
    Answering,
    Closed,
}

/// What of the request in progress matters to its answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Exchange {
    version: Version,
    keep_alive: bool,
    without_body: bool,
    expects_continue: bool,
}

/// A connection's whole state.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Connection {
    input: Input,
    #[serde(with = "serde_bytes")]
    output: Vec<u8>,
    /// Bytes of `output` already handed over.
    sent: usize,
    phase: Phase,
    exchange: Exchange,
    /// The peer sends nothing more; it may still read.
    peer_finished: bool,
}

impl Connection {
    pub(crate) fn new() -> Self {
        let exchange = Exchange {
            version: Version::Http11,
            keep_alive: false,
            without_body: false,
            expects_continue: false,
        };
        Self {
            input: Input::default(),
            output: Vec::new(),
            sent: 0,
            phase: Phase::Head,
            exchange,
            peer_finished: false,
        }
    }

    /// How many more bytes [`Self::push`] may be given now. A closed connection takes everything and drops it.
    pub(crate) fn room(&self, limits: &Limits) -> usize {
        let held = match self.phase {
            Phase::Closed => return usize::MAX,
            // One byte more than allowed proves that a head is too large.
            Phase::Head | Phase::Body(_) if !self.congested(limits) => limits.head + 1,
            Phase::Head | Phase::Body(_) | Phase::Answering => limits.ahead,
        };
        held.saturating_sub(self.input.len())
    }

    /// Whether unsent output holds back the next request.
    fn congested(&self, limits: &Limits) -> bool {
        self.phase == Phase::Head && self.unsent().len() > limits.output
    }

    /// Appends received bytes, at most [`Self::room`] of them.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        if self.phase != Phase::Closed && !self.peer_finished {
            self.input.push(bytes);
        }
    }

    /// The peer sends nothing more.
    pub(crate) fn finish(&mut self) {
        self.peer_finished = true;
    }

    /// Bytes held for this connection.
    pub(crate) fn held(&self) -> usize {
        self.input.len() + self.output.len()
    }

    /// Bytes of input held for this connection.
    pub(crate) fn held_input(&self) -> usize {
        self.input.len()
    }

    /// Advances; call again until it says [`Step::Wait`].
    pub(crate) fn step(&mut self, limits: &Limits) -> Step {
        match self.phase {
            Phase::Head if self.congested(limits) => Step::Wait,
            Phase::Head => self.step_head(limits),
            Phase::Body(mut reader) => match reader.step(&mut self.input, limits.head) {
                Err(refusal) => self.refuse(refusal),
                Ok(BodyStep::NeedMore) if self.peer_finished => self.refuse(Refusal::Truncated),
                Ok(step) => {
                    self.phase = Phase::Body(reader);
                    match step {
                        BodyStep::NeedMore => Step::Wait,
                        BodyStep::Piece(piece) => Step::Body(piece),
                        BodyStep::End(trailers) => {
                            self.phase = Phase::Answering;
                            Step::End(trailers)
                        }
                    }
                }
            },
            Phase::Answering | Phase::Closed => Step::Wait,
        }
    }

    fn step_head(&mut self, limits: &Limits) -> Step {
        self.input.skip_line_ends();
        let length = match self.input.field_section() {
            Some(length) if length <= limits.head => length,
            None if self.input.len() <= limits.head => {
                return match (self.peer_finished, self.input.is_empty()) {
                    (false, _) => Step::Wait,
                    (true, true) => {
                        self.close();
                        Step::Wait
                    }
                    (true, false) => self.refuse(Refusal::Truncated),
                };
            }
            _ => return self.refuse(Refusal::HeadTooLarge),
        };
        match RequestHead::parse(&self.input.take(length)) {
            Err(refusal) => self.refuse(refusal),
            Ok(head) => {
                self.exchange = Exchange {
                    version: head.version,
                    keep_alive: head.keep_alive,
                    without_body: head.method == Method::Head,
                    expects_continue: head.expects_continue,
                };
                self.phase = Phase::Body(BodyReader::new(head.framing));
                Step::Head(head)
            }
        }
    }

    /// Tells a client that waits for it to send the body.
    pub(crate) fn accept_body(&mut self) {
        if std::mem::take(&mut self.exchange.expects_continue) && self.input.is_empty() {
            self.output.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
    }

    /// Answers the request. Before its body was read the connection closes after the answer.
    pub(crate) fn answer(&mut self, response: &Response) {
        let read = self.phase == Phase::Answering;
        let keep_alive = read && self.exchange.keep_alive;
        let Exchange { version, without_body, .. } = self.exchange;
        response.write(&mut self.output, version, keep_alive, without_body);
        if keep_alive {
            self.phase = Phase::Head;
        } else {
            self.close();
        }
    }

    /// Refuses a request: answers, closes, and ends the exchange.
    pub(crate) fn refuse(&mut self, refusal: Refusal) -> Step {
        let response = Response::new(refusal.status(), "text/plain; charset=utf-8", refusal.to_string());
        response.write(&mut self.output, self.exchange.version, false, false);
        self.close();
        Step::Refused
    }

    fn close(&mut self) {
        self.phase = Phase::Closed;
        self.input.clear();
    }

    /// Output not handed over yet.
    pub(crate) fn unsent(&self) -> &[u8] {
        self.output.get(self.sent..).unwrap_or_default()
    }

    /// Marks the first `count` bytes of [`Self::unsent`] as handed over.
    pub(crate) fn sent(&mut self, count: usize) {
        self.sent = self.sent.saturating_add(count).min(self.output.len());
        if self.sent == self.output.len() {
            // An event of 6 MB shall not stay in memory, and in the snapshot, after it was sent.
            self.output = Vec::new();
            self.sent = 0;
        }
    }

    /// Whether the server's side ends behind [`Self::unsent`].
    pub(crate) fn closes(&self) -> bool {
        self.phase == Phase::Closed
    }
}
