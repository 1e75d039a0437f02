//! Where a function's log goes: all of it to the node, its end into the reply.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use function_worker::LogSink;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use worker_protocol::LogStream;

use crate::deployed::Deployed;

/// Bytes of the log that a reply carries: AWS's figure for `LogType=Tail`.
pub const LOG_TAIL: usize = 4096;

/// Bytes that are kept of what an instance writes before its first invocation.
const START_LOG: usize = 1 << 20;
/// Pieces that may wait for whoever reads one invocation's log.
const PIECES: usize = 1024;

/// Where the whole log of one invocation goes while it is written; of an instance's first invocation, with what its start wrote.
#[derive(Clone, Debug)]
pub struct LogTap {
    pieces: mpsc::Sender<Vec<u8>>,
    left_out: Arc<AtomicU64>,
}

impl LogTap {
    /// A tap, and the pieces as they come.
    pub fn new() -> (Self, mpsc::Receiver<Vec<u8>>) {
        let (pieces, receiver) = mpsc::channel(PIECES);
        (Self { pieces, left_out: Arc::default() }, receiver)
    }

    /// Bytes that were left out because nobody read.
    pub fn left_out(&self) -> u64 {
        self.left_out.load(Ordering::Relaxed)
    }

    fn send(&self, bytes: &[u8]) {
        if !bytes.is_empty() && self.pieces.try_send(bytes.to_vec()).is_err() {
            self.left_out.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
    }
}

/// Takes what functions and the platform write to the log. Called from the pool's event loop: it must not wait.
pub trait LogReceiver: Send + Sync {
    /// Takes some bytes, not cut at line ends. `instance` names the instance: AWS's log stream.
    fn receive(&self, function: &Deployed, instance: &str, stream: LogStream, bytes: &[u8]);

    /// Takes note that nothing more comes from an instance.
    fn ended(&self, _function: &Deployed, _instance: &str) {}

    /// Calls `then` once all that was received before is where it is found again, though this process be killed.
    fn when_kept(&self, then: Box<dyn FnOnce() + Send>) {
        then();
    }
}

/// Drops everything.
impl LogReceiver for () {
    fn receive(&self, _: &Deployed, _: &str, _: LogStream, _: &[u8]) {}
}

/// What of an instance's log belongs to the invocation under way.
#[derive(Debug, Default)]
struct Tail {
    bytes: Vec<u8>,
    /// Whether the invocation's START line has come: the event may have been delivered.
    started: bool,
    /// Whether there was an invocation: until then all is the start's.
    begun: bool,
    /// Who wants all of it.
    tap: Option<LogTap>,
}

/// The log of one instance.
#[derive(Clone)]
pub(crate) struct InstanceLog {
    tail: Arc<Mutex<Tail>>,
    receiver: Arc<dyn LogReceiver>,
    deployed: Arc<Deployed>,
    stream_name: Arc<str>,
}

impl InstanceLog {
    pub fn new(receiver: Arc<dyn LogReceiver>, deployed: Arc<Deployed>) -> Self {
        let stream_name = uuid::Uuid::new_v4().simple().to_string().into();
        Self { tail: Arc::default(), receiver, deployed, stream_name }
    }

    /// The sink for the worker.
    pub fn sink(&self) -> LogSink {
        let log = self.clone();
        Box::new(move |stream, bytes| {
            log.write(stream, bytes);
            if stream == LogStream::Platform && bytes.starts_with(b"START ") {
                log.tail.lock().started = true;
            }
        })
    }

    /// Adds to the log.
    pub fn write(&self, stream: LogStream, bytes: &[u8]) {
        self.receiver.receive(&self.deployed, &self.stream_name, stream, bytes);
        let mut tail = self.tail.lock();
        if let Some(tap) = &tail.tap {
            tap.send(bytes);
        }
        let limit = if tail.begun { LOG_TAIL } else { START_LOG };
        let kept = bytes.get(bytes.len().saturating_sub(limit)..).unwrap_or_default();
        tail.bytes.extend_from_slice(kept);
        let surplus = tail.bytes.len().saturating_sub(limit);
        // Cut in large steps: a function that logs byte by byte must not cost the square of its log.
        if surplus >= limit {
            tail.bytes.drain(..surplus);
        }
    }

    /// Says that the instance has ended.
    pub fn end(&self) {
        self.receiver.ended(&self.deployed, &self.stream_name);
    }

    /// Forgets what came before the invocation that begins now. All of it goes to `tap`, if there is one, with what the start
    /// wrote when this is the first invocation.
    pub fn begin(&self, tap: Option<LogTap>) {
        let mut tail = self.tail.lock();
        if let Some(tap) = tap.as_ref().filter(|_| !tail.begun) {
            tap.send(&tail.bytes);
        }
        *tail = Tail { tap, begun: true, ..Tail::default() };
    }

    /// Whether the invocation's event may have reached the function.
    pub fn has_started(&self) -> bool {
        self.tail.lock().started
    }

    /// The end of the invocation's log, once it is complete.
    pub fn take(&self) -> Vec<u8> {
        let mut tail = self.tail.lock();
        tail.tap = None;
        let mut bytes = std::mem::take(&mut tail.bytes);
        drop(tail);
        bytes.drain(..bytes.len().saturating_sub(LOG_TAIL));
        bytes
    }
}
