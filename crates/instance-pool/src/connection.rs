//! A worker's socket in the event loop.

use std::time::{Duration, SystemTime};

use function_worker::{FunctionWorker, Heard, Keeping, WorkerError};
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;
use worker_protocol::ChannelError;

use crate::start::chain;

/// A worker that is waited for without a thread.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: Option<AsyncFd<FunctionWorker>>,
    /// When the credentials that its function was given expire.
    pub expires: Option<SystemTime>,
}

impl Connection {
    /// Watches the worker's socket.
    pub fn new(worker: FunctionWorker, expires: Option<SystemTime>) -> Result<Self, WorkerError> {
        // `new` is deprecated because a safe function can't be sure of the descriptor. Here it is the socket that the worker
        // owns as long as it lives, and there is no other way without `unsafe`.
        #[expect(deprecated, reason = "its replacement is unsafe; see above")]
        AsyncFd::new(worker).map(|socket| Self { socket: Some(socket), expires }).map_err(WorkerError::Start)
    }

    /// Puts a message on its way and waits until the socket has taken it.
    pub async fn ask(
        &mut self,
        message: impl FnOnce(&mut FunctionWorker) -> Result<(), WorkerError>,
    ) -> Result<(), WorkerError> {
        let socket = self.socket()?;
        message(socket.get_mut())?;
        while !socket.get_mut().send_more()? {
            socket.writable_mut().await.map_err(WorkerError::Wait)?.clear_ready();
        }
        Ok(())
    }

    /// What the worker says next, within `limit`. May be given up at any time without losing anything.
    pub async fn hear_within(&mut self, limit: Duration) -> Result<Heard, WorkerError> {
        match tokio::time::timeout(limit, self.hear()).await {
            Ok(heard) => heard,
            Err(_) => Err(ChannelError::TimedOut(limit).into()),
        }
    }

    /// What the worker says next. May be given up at any time without losing anything. What it says of its snapshot has been
    /// kept when this gives what comes behind it.
    pub async fn hear(&mut self) -> Result<Heard, WorkerError> {
        loop {
            match self.next().await? {
                Heard::Learned(keeping) => keep(keeping).await,
                heard => return Ok(heard),
            }
        }
    }

    async fn next(&mut self) -> Result<Heard, WorkerError> {
        let socket = self.socket()?;
        loop {
            if let Some(heard) = socket.get_mut().hear()? {
                return Ok(heard);
            }
            let mut ready = socket.readable_mut().await.map_err(WorkerError::Wait)?;
            match ready.get_inner_mut().hear()? {
                Some(heard) => return Ok(heard),
                None => ready.clear_ready(),
            }
        }
    }

    /// What the worker has said already, if anything.
    pub fn heard(&mut self) -> Result<Option<Heard>, WorkerError> {
        self.socket()?.get_mut().hear()
    }

    /// The worker, to read its records.
    pub fn worker(&self) -> Option<&FunctionWorker> {
        self.socket.as_ref().map(AsyncFd::get_ref)
    }

    fn socket(&mut self) -> Result<&mut AsyncFd<FunctionWorker>, WorkerError> {
        // Only taken in drop.
        self.socket.as_mut().ok_or(WorkerError::OutOfTurn)
    }
}

/// Keeps what a worker said of its snapshot. Goes on by itself when nobody waits for it any more.
async fn keep(keeping: Keeping) {
    let kept = tokio::task::spawn_blocking(move || keeping.keep()).await;
    if let Ok(Err(error)) = kept {
        let error = chain(&error);
        tracing::warn!(error, "what an invocation taught about its snapshot is not kept");
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let Some(worker) = self.socket.take().map(AsyncFd::into_inner) else { return };
        // Dropping it kills the process and waits until its memory is given back: not for the event loop.
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || drop(worker))),
            Err(_) => drop(worker),
        }
    }
}
