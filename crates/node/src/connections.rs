//! Connections: how many there may be, how long they may do nothing, and how they end.
//!
//! A request's head must come within [`IDLE`], which is also what a connection may wait between two requests; a body has a
//! deadline that moves with what has come ([`crate::body`]); what the client does not read is given up by the kernel after
//! [`UNREAD`]. When there are as many connections as there may be, the one that has been without a request for the longest
//! makes room for the next.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum_core::body::Body;
use http::{Request, Response};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use lambda_api::{ErrorKind, LambdaError};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Notify, Semaphore, watch};

use crate::answer::error_response;
use crate::dispatch::handle;
use crate::node::Node;

/// How long a connection may be without a complete head of a request.
const IDLE: Duration = Duration::from_secs(60);
/// How long what was sent may stay unacknowledged or unread, until the kernel gives the connection up.
const UNREAD: Duration = Duration::from_secs(120);
/// After how much silence the kernel asks whether the client is still there. A caller may wait for 15 minutes for its answer.
const PROBE: Duration = Duration::from_secs(30);
/// Bytes of a request's head: a client context, a trace and a long path fit many times.
const HEAD: usize = 64 << 10;
/// Fields of a request's head.
const FIELDS: usize = 100;
/// How often a connection that is to end is looked at while it is in a request.
const GRACE: Duration = Duration::from_millis(100);
/// Bytes of an answer that a socket takes at once.
const SMALL: u64 = 64 << 10;
/// Connections at once that are told that the node ends, and how long each may take.
const ASKING: usize = 64;
const LAST: Duration = Duration::from_secs(2);
/// How long accepting waits after it failed: there are no descriptors left.
const PAUSE: Duration = Duration::from_millis(50);

/// A socket that connections come from.
pub(crate) trait Listen {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection, prepared.
    fn next(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Listen for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<TcpStream> {
        let (stream, _) = self.accept().await?;
        // An answer is small and complete: it must not wait for the client's acknowledgement of the one before.
        stream.set_nodelay(true)?;
        rustix::net::sockopt::set_tcp_user_timeout(&stream, UNREAD.as_millis() as u32)?;
        rustix::net::sockopt::set_tcp_keepidle(&stream, PROBE)?;
        rustix::net::sockopt::set_tcp_keepintvl(&stream, PROBE)?;
        rustix::net::sockopt::set_socket_keepalive(&stream, true)?;
        Ok(stream)
    }
}

impl Listen for UnixListener {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<UnixStream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

/// Takes connections until `stop` says so, at most `limit` at once, and returns when all have ended. `trusted` ones need no
/// signature.
pub(crate) async fn serve(
    listener: impl Listen,
    node: Node,
    trusted: bool,
    limit: u32,
    mut stop: watch::Receiver<bool>,
) {
    let (room, table) = (Arc::new(Semaphore::new(limit as usize)), Arc::new(Table::default()));
    loop {
        let accepted = tokio::select! {
            accepted = listener.next() => accepted,
            () = stopped(&mut stop) => break,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                // Of one connection (it was reset meanwhile), or of all: then it is asked again soon.
                tracing::debug!(%error, "a connection could not be accepted");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let permit = match room.clone().try_acquire_owned() {
            Ok(permit) => Some(permit),
            Err(_) => {
                table.end_oldest();
                tokio::select! {
                    // Never closed.
                    permit = room.clone().acquire_owned() => permit.ok(),
                    () = stopped(&mut stop) => break,
                }
            }
        };
        let (node, member, stop) = (node.clone(), table.join(), stop.clone());
        tokio::spawn(async move {
            live(stream, &node, trusted, &member.state, stop).await;
            drop((member, permit));
        });
    }
    // Whoever is in the middle of a request ends it. Never closed.
    let mut ended = pin!(room.acquire_many(limit));
    let asking = Arc::new(Semaphore::new(ASKING));
    loop {
        let accepted = tokio::select! {
            _ = ended.as_mut() => return,
            accepted = listener.next() => accepted,
        };
        match (accepted, asking.clone().try_acquire_owned()) {
            (Ok(stream), Ok(permit)) => {
                let node = node.clone();
                tokio::spawn(async move {
                    tell_the_end(stream, &node, trusted).await;
                    drop(permit);
                });
            }
            (Ok(_), Err(_)) => {}
            (Err(_), _) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Answers one request while the node ends: how it is, or that it takes no calls any more.
async fn tell_the_end(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    node: &Node,
    trusted: bool,
) {
    let service = service_fn(async |request: Request<Incoming>| {
        Ok::<_, Infallible>(if request.uri().path().starts_with("/_/") {
            handle(node, request.map(Body::new), trusted).await
        } else {
            let error = LambdaError::new(ErrorKind::Service, "The node is being shut down.");
            error_response(&error, &uuid::Uuid::new_v4().to_string())
        })
    });
    let connection = builder().keep_alive(false).serve_connection(TokioIo::new(stream), service);
    // What a client breaks off or leaves out concerns nobody else.
    let _ = tokio::time::timeout(LAST, connection).await;
}

/// Waits until the node stops. A sender that is gone means the same.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stopped| *stopped).await;
}

/// A connection's life.
async fn live(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    node: &Node,
    trusted: bool,
    state: &State,
    mut stop: watch::Receiver<bool>,
) {
    let service = service_fn(|request| answered(node, request, trusted, state));
    let mut connection = pin!(builder().serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        // What a client breaks off concerns nobody else.
        _ = connection.as_mut() => return,
        () = state.make_room.notified() => {}
        () = stopped(&mut stop) => {
            // One that came a moment ago may have its request on the way.
            if !state.asked.load(Ordering::Relaxed)
                && tokio::time::timeout(GRACE, connection.as_mut()).await.is_ok()
            {
                return;
            }
        }
    }
    connection.as_mut().graceful_shutdown();
    // A request under way is answered; one whose head has not come is not waited for.
    while state.is_busy() {
        if tokio::time::timeout(GRACE, connection.as_mut()).await.is_ok() {
            return;
        }
    }
}

fn builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        // A client may say that it sends nothing more and still wait for its answer.
        .half_close(true)
        .max_header_size(HEAD)
        .max_headers(FIELDS);
    builder
}

async fn answered(
    node: &Node,
    request: Request<Incoming>,
    trusted: bool,
    state: &State,
) -> Result<Response<Body>, Infallible> {
    state.idle_since.store(BUSY, Ordering::Relaxed);
    state.asked.store(true, Ordering::Relaxed);
    let response = handle(node, request.map(Body::new), trusted).await;
    // A small answer is the kernel's from here on. What is larger has to be read by its client first.
    if response.body().size_hint().exact().is_some_and(|bytes| bytes <= SMALL) {
        state.idle_since.store(state.began.elapsed().as_millis() as u64, Ordering::Relaxed);
    }
    Ok(response)
}

/// [`State::idle_since`] within a request.
const BUSY: u64 = u64::MAX;

/// A connection's state.
#[derive(Debug)]
struct State {
    began: Instant,
    /// Milliseconds since `began`; [`BUSY`] within a request.
    idle_since: AtomicU64,
    /// Whether there was a request.
    asked: AtomicBool,
    make_room: Notify,
}

impl State {
    fn is_busy(&self) -> bool {
        self.idle_since.load(Ordering::Relaxed) == BUSY
    }
}

/// The connections, to find the one that has done nothing for the longest.
#[derive(Debug)]
struct Table {
    began: Instant,
    next: AtomicU64,
    states: Mutex<HashMap<u64, Arc<State>>>,
}

impl Default for Table {
    fn default() -> Self {
        Self { began: Instant::now(), next: AtomicU64::new(0), states: Mutex::default() }
    }
}

impl Table {
    fn join(self: &Arc<Self>) -> Member {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let since = AtomicU64::new(self.began.elapsed().as_millis() as u64);
        let state = Arc::new(State {
            began: self.began,
            idle_since: since,
            asked: AtomicBool::new(false),
            make_room: Notify::new(),
        });
        self.states.lock().insert(number, state.clone());
        Member { table: self.clone(), number, state }
    }

    /// Ends the connection that has been without a request for the longest, if any is without; of two since the same
    /// millisecond the one that came first.
    fn end_oldest(&self) {
        let states = self.states.lock();
        let since = states.iter().map(|(number, state)| (state.idle_since.load(Ordering::Relaxed), *number));
        let oldest = since.filter(|(since, _)| *since != BUSY).min();
        if let Some(state) = oldest.and_then(|(_, number)| states.get(&number)) {
            state.make_room.notify_one();
        }
    }
}

/// A connection's place in the table.
struct Member {
    table: Arc<Table>,
    number: u64,
    state: Arc<State>,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.table.states.lock().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn of_connections_of_one_moment_the_first_makes_room() {
        let table = Arc::new(Table::default());
        let members: Vec<Member> = (0..32).map(|_| table.join()).collect();
        members.iter().for_each(|member| member.state.idle_since.store(7, Ordering::Relaxed));
        table.end_oldest();
        members[0].state.make_room.notified().await;
    }

    // The clock stands still, and jumps to whatever is waited for.
    #[tokio::test(start_paused = true)]
    async fn a_head_that_does_not_come_ends_its_connection() {
        let answered = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
        for beginning in ["", "GET /_/health HT", "GET / HTTP/1.1\r\nHost: x\r\nA: ", answered] {
            let (mut client, server) = tokio::io::duplex(1024);
            client.write_all(beginning.as_bytes()).await.unwrap();
            let service = service_fn(async |_| Ok::<_, Infallible>(Response::new(Body::empty())));
            let served = builder().serve_connection(TokioIo::new(server), service).await;
            assert!(served.is_err_and(|error| error.is_timeout()), "{beginning:?}");
        }
    }
}
