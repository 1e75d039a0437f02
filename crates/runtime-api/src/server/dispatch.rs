//! What each request does.

use base64::Engine as _;
use serde::{Deserialize, Serialize};

use super::exchange::{Collected, Exchange, Purpose};
use super::{After, ConnectionId, ErrorType, Event, MAX_PAYLOAD, Reply, RuntimeApi, RuntimeState};
use crate::event::StreamError;
use crate::http::{Fields, Framing, RequestHead, Response};
use crate::invocation::ResponseMode;
use crate::lifecycle::TransitionRefused;
use crate::outcome;
use crate::reply;
use crate::route::Route;

const ERROR_TYPE: &str = "Lambda-Runtime-Function-Error-Type";
const ERROR_BODY: &str = "Lambda-Runtime-Function-Error-Body";
const RESPONSE_MODE: &str = "Lambda-Runtime-Function-Response-Mode";
const CONTENT_TYPE: &str = "Content-Type";
const ERROR_WITH_CAUSE: &str = "application/vnd.aws.lambda.error.cause+json";

/// Chunks are joined in the queue up to this size, so that tiny ones don't cost an event each.
const JOIN_CHUNKS: usize = 64 * 1024;

/// Unread output of all connections above which an event is not given again: a guest could ask for it on every connection
/// and read none.
const MAX_REPEATED_OUTPUT: usize = 4 * 1024 * 1024;

impl RuntimeApi {
    /// A request's head has come: checks it, makes the state transition, decides what becomes of the body. Validation comes
    /// before the transition, since transitions can't be taken back.
    pub(super) fn begin(&mut self, id: ConnectionId, head: &RequestHead) {
        let exchange = match Route::find(head.method, &head.path, self.state.config.snap_start) {
            Err(reply) => Exchange::Answer(reply),
            Ok(route) => self.start(route, head).unwrap_or_else(Exchange::Answer),
        };
        let refused = match &exchange {
            Exchange::Answer(_) => true,
            Exchange::Collect(collected) => collected.excess,
            _ => false,
        };
        let Some(served) = self.state.connections.get_mut(&id) else { return };
        served.exchange = exchange;
        if !refused {
            served.http.accept_body();
        } else if head.expects_continue {
            // The client asked whether to send the body. It needn't.
            self.conclude(id, &Fields::default());
        }
    }

    fn start(&mut self, route: Route, head: &RequestHead) -> Result<Exchange, Reply> {
        let error_type = || ErrorType::from_header(head.fields.get(ERROR_TYPE));
        let content_type = || head.fields.get(CONTENT_TYPE).map(str::to_owned);
        let excess = matches!(head.framing, Framing::Length(length) if length > MAX_PAYLOAD as u64);
        let collect = |purpose| Ok(Exchange::collect(purpose, excess));
        match route {
            Route::Fixed(reply) => Err(reply),
            Route::NextInvocation => Ok(Exchange::AskInvocation),
            Route::NextRestore => Ok(Exchange::AskRestore),
            Route::Credentials => {
                let token = self.state.config.authorization_token.as_deref();
                let authorized = token.is_some() && token == head.fields.get("Authorization");
                Ok(Exchange::AskCredentials { authorized })
            }
            Route::Response { request_id } => {
                self.check_request_id(&request_id)?;
                self.state.runtime.respond().map_err(refused)?;
                self.start_response(request_id, head.fields.get(RESPONSE_MODE), content_type(), excess)
            }
            Route::Error { request_id } => {
                self.check_request_id(&request_id)?;
                self.state.runtime.respond_error().map_err(refused)?;
                let (error_type, content_type) = (error_type(), content_type());
                collect(Purpose::Error { request_id, error_type, content_type })
            }
            Route::InitError => match self.state.runtime.init_error().map_err(refused)? {
                RuntimeState::RestoreError => collect(Purpose::RestoreError { error_type: error_type() }),
                _ => collect(Purpose::InitError { error_type: error_type() }),
            },
            Route::RestoreError => {
                self.state.runtime.restore_error().map_err(refused)?;
                collect(Purpose::RestoreError { error_type: error_type() })
            }
        }
    }

    fn start_response(
        &mut self,
        request_id: String,
        function_mode: Option<&str>,
        content_type: Option<String>,
        excess: bool,
    ) -> Result<Exchange, Reply> {
        let function_streams = match function_mode {
            None => false,
            Some("streaming") => true,
            Some(_) => {
                self.state.runtime.responded();
                self.drop_payload();
                self.state.events.push_back(Event::FunctionError {
                    request_id,
                    error_type: ErrorType::named("Runtime.InvalidResponseModeHeader"),
                    payload: Vec::new(),
                    content_type,
                });
                return Err(Reply::InvalidResponseMode);
            }
        };
        let caller_streams = self
            .state
            .current
            .as_ref()
            .is_some_and(|current| current.response_mode == ResponseMode::Streaming);
        if !(function_streams && caller_streams) {
            return Ok(Exchange::collect(Purpose::Response { request_id, content_type }, excess));
        }
        self.state.events.push_back(Event::ResponseStarted { request_id: request_id.clone(), content_type });
        Ok(Exchange::Stream { request_id, length: 0, excess: false })
    }

    fn check_request_id(&self, request_id: &str) -> Result<(), Reply> {
        match &self.state.current {
            Some(current) if current.request_id == request_id => Ok(()),
            _ => Err(Reply::InvalidRequestId),
        }
    }

    /// A piece of a request's body has come.
    pub(super) fn body(&mut self, id: ConnectionId, piece: Vec<u8>) {
        let limit = self.state.config.max_streamed_response;
        let Some(served) = self.state.connections.get_mut(&id) else { return };
        match &mut served.exchange {
            Exchange::Collect(Collected { body, excess, .. }) => {
                if body.len() + piece.len() > MAX_PAYLOAD {
                    *excess = true;
                    *body = Vec::new();
                }
                if !*excess {
                    body.extend_from_slice(&piece);
                }
            }
            Exchange::Stream { request_id, length, excess } => {
                let mut piece = piece;
                if let Some(limit) = limit {
                    let room = usize::try_from(limit.saturating_sub(*length)).unwrap_or(usize::MAX);
                    *excess |= piece.len() > room;
                    piece.truncate(room);
                }
                *length += piece.len() as u64;
                match self.state.events.back_mut() {
                    _ if piece.is_empty() => {}
                    Some(Event::ResponseChunk { bytes, .. }) if bytes.len() + piece.len() <= JOIN_CHUNKS => {
                        bytes.append(&mut piece);
                    }
                    _ => {
                        let request_id = request_id.clone();
                        self.state.events.push_back(Event::ResponseChunk { request_id, bytes: piece });
                    }
                }
            }
            _ => {}
        }
    }

    /// A request is complete: acts on it and answers, or lets it wait.
    pub(super) fn conclude(&mut self, id: ConnectionId, trailers: &Fields) {
        let Some(served) = self.state.connections.get_mut(&id) else { return };
        let response = match std::mem::replace(&mut served.exchange, Exchange::None) {
            Exchange::None | Exchange::WaitingForInvocation | Exchange::WaitingForRestore => return,
            Exchange::Answer(reply) => reply.response(),
            Exchange::AskInvocation => match self.ask_invocation(id) {
                Ok(Some(response)) => response,
                Ok(None) => return,
                Err(reply) => reply.response(),
            },
            Exchange::AskRestore => match self.state.runtime.ask_restore() {
                Err(refusal) => refused(refusal).response(),
                Ok(()) => {
                    served.exchange = Exchange::WaitingForRestore;
                    self.state.waiting_for_restore = Some(id);
                    self.state.events.push_back(Event::WaitingForRestore);
                    return;
                }
            },
            Exchange::AskCredentials { authorized } => match &self.credentials {
                Some(credentials) if authorized => reply::credentials(credentials),
                _ => Reply::CredentialsNotFound.response(),
            },
            Exchange::Collect(collected) => {
                let reply = if collected.excess { Reply::PayloadTooLarge } else { Reply::Accepted };
                self.report(collected, stream_error(trailers));
                reply.response()
            }
            Exchange::Stream { request_id, excess, .. } => {
                let too_large = || StreamError {
                    error_type: ErrorType::named(ErrorType::RESPONSE_SIZE_TOO_LARGE),
                    body: outcome::response_too_large(),
                };
                let error = if excess { Some(too_large()) } else { stream_error(trailers) };
                self.state.events.push_back(Event::ResponseFinished { request_id, error });
                self.answered();
                if excess { Reply::PayloadTooLarge.response() } else { Reply::Accepted.response() }
            }
        };
        self.answer(id, &response);
    }

    /// The runtime asks for an invocation: `None` when it has to wait.
    fn ask_invocation(&mut self, id: ConnectionId) -> Result<Option<Response>, Reply> {
        let after = match self.state.runtime.ask_next().map_err(refused)? {
            // Given again, as AWS's daemon does: the runtime may have lost the connection it got the event on.
            RuntimeState::Running if self.held_output() > MAX_REPEATED_OUTPUT => {
                let again = TransitionRefused { from: RuntimeState::Running, to: RuntimeState::Ready };
                return Err(refused(again));
            }
            RuntimeState::Running => {
                return Ok(self.state.current.as_ref().map(|current| current.response()));
            }
            RuntimeState::Started => Some(After::Init),
            RuntimeState::Restoring => Some(After::Restore),
            RuntimeState::ResponseSent => Some(After::Invocation),
            _ => None,
        };
        if let Some(after) = after {
            self.state.events.push_back(Event::WaitingForInvocation { after });
        }
        if let Some(response) = self.fetch_pending() {
            return Ok(Some(response));
        }
        if let Some(served) = self.state.connections.get_mut(&id) {
            served.exchange = Exchange::WaitingForInvocation;
            self.state.waiting.push_back(id);
        }
        Ok(None)
    }

    /// Gives the pending invocation to the call that has waited longest, when both exist.
    pub(super) fn hand_over(&mut self) {
        let Some(id) = self.state.waiting.front().copied() else { return };
        if let Some(response) = self.fetch_pending() {
            self.state.waiting.pop_front();
            self.answer(id, &response);
            self.advance(id);
        }
    }

    fn fetch_pending(&mut self) -> Option<Response> {
        let invocation = self.state.pending.take_if(|_| self.state.runtime == RuntimeState::Ready)?;
        self.state.runtime.delivered().ok()?;
        let response = invocation.response();
        self.state.current = Some(invocation);
        Some(response)
    }

    /// Answers the request on `id`.
    pub(super) fn answer(&mut self, id: ConnectionId, response: &Response) {
        if let Some(served) = self.state.connections.get_mut(&id) {
            served.exchange = Exchange::None;
            served.http.answer(response);
        }
    }

    /// Turns a collected body into its event.
    fn report(&mut self, collected: Collected, error: Option<StreamError>) {
        let Collected { purpose, body, excess } = collected;
        let event = match purpose {
            Purpose::Response { request_id, .. } | Purpose::Error { request_id, .. } if excess => {
                Event::ResponseTooLarge { request_id }
            }
            Purpose::Response { request_id, content_type } => {
                Event::Responded { request_id, payload: body, content_type, error }
            }
            Purpose::Error { request_id, error_type, content_type } => {
                let (payload, content_type) = match content_type.as_deref() {
                    Some(ERROR_WITH_CAUSE) => without_cause(&body),
                    _ => (body, content_type),
                };
                Event::FunctionError { request_id, error_type, payload, content_type }
            }
            Purpose::InitError { error_type } => {
                let payload = if excess { outcome::response_too_large() } else { body };
                Event::InitError { error_type, payload }
            }
            Purpose::RestoreError { error_type } => {
                let payload = if excess { outcome::response_too_large() } else { body };
                Event::RestoreError { error_type, payload }
            }
        };
        self.state.events.push_back(event);
        self.answered();
    }

    /// A request will never be complete: its connection broke off, or what it sent is not HTTP.
    pub(super) fn give_up(&mut self, exchange: Exchange) {
        match exchange {
            Exchange::Collect(Collected { purpose: Purpose::Response { request_id, .. }, .. })
            | Exchange::Stream { request_id, .. } => {
                self.state.events.push_back(Event::ResponseTruncated { request_id });
                self.answered();
            }
            // That it failed is known; of the report, what came has to do.
            Exchange::Collect(collected) => self.report(collected, None),
            _ => {}
        }
    }

    fn answered(&mut self) {
        self.state.runtime.responded();
        self.drop_payload();
    }

    fn held_output(&self) -> usize {
        self.state.connections.values().map(|served| served.http.unsent().len()).sum()
    }

    fn drop_payload(&mut self) {
        if let Some(current) = &mut self.state.current {
            current.payload = Vec::new();
        }
    }
}

fn refused(refused: TransitionRefused) -> Reply {
    Reply::InvalidStateTransition(refused)
}

fn stream_error(trailers: &Fields) -> Option<StreamError> {
    let error_type = trailers.get(ERROR_TYPE)?;
    let body = trailers.get(ERROR_BODY).unwrap_or_default();
    let decoded = base64::engine::general_purpose::STANDARD.decode(body);
    Some(StreamError {
        error_type: ErrorType::from_header(Some(error_type)),
        body: decoded.unwrap_or_else(|_| body.as_bytes().to_vec()),
    })
}

/// What callers see of an error report that also carries its cause for tracing.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct ErrorReport {
    error_message: String,
    error_type: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    stack_trace: Vec<String>,
}

fn without_cause(body: &[u8]) -> (Vec<u8>, Option<String>) {
    let filtered = serde_json::from_slice::<ErrorReport>(body).and_then(|report| serde_json::to_vec(&report));
    match filtered {
        Ok(filtered) => (filtered, Some("application/json".to_owned())),
        Err(_) => (b"\"Invalid error body\"".to_vec(), Some("application/octet-stream".to_owned())),
    }
}
