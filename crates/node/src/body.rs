//! Bodies of requests: read whole, within a size, a time, and the memory that all of them together may take.

use std::sync::Arc;
use std::time::Duration;

use axum_core::body::Body;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Body as _;
use lambda_api::{ErrorKind, LambdaError, Operation};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::invoke::too_large;

/// What is read and dropped of a body that is too large, so that its sender hears why.
const DROPPED: usize = 256 << 20;
/// How long a body may take, whatever its size.
const PATIENCE: Duration = Duration::from_secs(30);
/// The slowest that a body may come: what each byte adds to that time.
const SLOWEST: usize = 64 << 10;
/// Bodies up to this size are not counted.
const SMALL: usize = 1 << 20;
/// MiB that larger bodies may take together while they are read.
const MEBIBYTES: usize = 1024;

/// The memory that bodies may take.
#[derive(Clone, Debug)]
pub(crate) struct Bodies(Arc<Semaphore>);

impl Bodies {
    pub fn new() -> Self {
        Self(Arc::new(Semaphore::new(MEBIBYTES)))
    }

    /// Room for a body that says that it has up to `bytes`; it is refused rather than held up by others.
    fn room(&self, bytes: usize) -> Result<Option<OwnedSemaphorePermit>, LambdaError> {
        if bytes <= SMALL {
            return Ok(None);
        }
        let mebibytes = u32::try_from(bytes.div_ceil(1 << 20)).unwrap_or(u32::MAX);
        match self.0.clone().try_acquire_many_owned(mebibytes) {
            Ok(room) => Ok(Some(room)),
            Err(_) => Err(LambdaError::throttled("CallerRateLimitExceeded")),
        }
    }
}

/// Reads a body of up to `limit` bytes.
pub(crate) async fn read(
    mut body: Body,
    limit: usize,
    operation: Operation,
    bodies: &Bodies,
) -> Result<Bytes, LambdaError> {
    // What gives no length is taken for as long as it may be.
    let claimed = body.size_hint().exact().map_or(limit, |bytes| usize::try_from(bytes).unwrap_or(limit));
    let _room = bodies.room(claimed.min(limit))?;
    let mut first: Option<Bytes> = None;
    let mut whole: Vec<u8> = Vec::new();
    let mut dropped = 0;
    let mut deadline = Instant::now() + PATIENCE;
    loop {
        let frame = timeout_at(deadline, body.frame()).await.map_err(|_| {
            let message = format!(
                "The request's body did not come in time: it must take less than {} s and one more for each {} KiB.",
                PATIENCE.as_secs(),
                SLOWEST >> 10
            );
            LambdaError::new(ErrorKind::InvalidRequestContent, message)
        })?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|error| {
            let message = format!("The request's body broke off: {error}");
            LambdaError::new(ErrorKind::InvalidRequestContent, message)
        })?;
        let Ok(piece) = frame.into_data() else { continue };
        deadline += Duration::from_secs_f64(piece.len() as f64 / SLOWEST as f64);
        let length = first.as_ref().map_or(0, Bytes::len) + whole.len();
        if dropped > 0 || length + piece.len() > limit {
            dropped += piece.len();
            first = None;
            whole = Vec::new();
            if dropped > DROPPED {
                break;
            }
            continue;
        }
        // Most bodies come in one piece, which need not be copied.
        match (first.take(), whole.is_empty()) {
            (None, true) => first = Some(piece),
            (Some(before), _) => {
                whole.extend_from_slice(&before);
                whole.extend_from_slice(&piece);
            }
            (None, false) => whole.extend_from_slice(&piece),
        }
    }
    if dropped > 0 {
        return Err(too_large(limit, operation));
    }
    Ok(first.unwrap_or_else(|| whole.into()))
}

#[cfg(test)]
mod tests {
    use std::io;

    use tokio::sync::mpsc;
    use tokio_stream::wrappers::ReceiverStream;

    use super::*;

    type Pieces = mpsc::Sender<Result<Bytes, io::Error>>;

    fn body() -> (Pieces, Body) {
        let (pieces, receiver) = mpsc::channel(1);
        (pieces, Body::from_stream(ReceiverStream::new(receiver)))
    }

    async fn read(body: Body) -> Result<Bytes, LambdaError> {
        super::read(body, 8 << 20, Operation::CreateFunction, &Bodies::new()).await
    }

    // The clock of these tests stands still, and jumps to whatever is waited for.
    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_given_up() {
        let (pieces, body) = body();
        pieces.try_send(Ok(Bytes::from_static(b"{"))).unwrap();
        let error = read(body).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidRequestContent);
        assert!(error.message.contains("did not come in time"), "{}", error.message);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_trickles_is_given_up_and_one_that_keeps_its_pace_is_not() {
        for (piece, good) in [(SLOWEST + 1, true), (100, false)] {
            let (pieces, body) = body();
            tokio::spawn(async move {
                for _ in 0..2 * PATIENCE.as_secs() {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    if pieces.send(Ok(vec![b' '; piece].into())).await.is_err() {
                        return;
                    }
                }
            });
            let read = read(body).await.map(|whole| whole.len());
            assert_eq!(read.ok(), good.then_some(2 * piece * PATIENCE.as_secs() as usize));
        }
    }
}
