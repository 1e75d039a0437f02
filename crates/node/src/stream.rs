//! InvokeWithResponseStream: the answer as it comes, in frames.

use axum_core::body::Body;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use instance_pool::{Reply, StreamingReply};
use lambda_api::LambdaError;
use lambda_api::event_stream::{CONTENT_TYPE, Completion, invoke_complete, payload_chunk};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::answer::Answer;
use crate::invoke::{Checked, refused};
use crate::node::Node;
use crate::request::ApiRequest;

/// Pieces that wait for a slow client; then the function waits.
const WAITING: usize = 4;

type Frames = mpsc::Sender<Result<Bytes, std::convert::Infallible>>;

impl Node {
    /// InvokeWithResponseStream.
    pub(crate) async fn invoke_streaming(&self, request: ApiRequest) -> Result<Answer, LambdaError> {
        match request.header("x-amz-invocation-type") {
            None | Some("RequestResponse") => {}
            Some("DryRun") => {
                self.deployment(&self.checked_call(&request)?.target).await?;
                return Ok(Answer { status: Some(204), ..Answer::empty() });
            }
            Some(other) => {
                let allowed = ["RequestResponse", "DryRun"];
                return Err(lambda_api::validation::enum_error(other, "invocationType", &allowed));
            }
        }
        let Checked { target, call, tail } = self.checked_call(&request)?;
        let deployed = self.deployment(&target).await?;
        self.ready_for(&deployed)?;
        let version = deployed.version.clone();
        let reply = self.pool.invoke_streaming(deployed, call).await.map_err(|why| {
            self.metrics.refused(&why);
            refused(why)
        })?;
        let (sender, receiver) = mpsc::channel(WAITING);
        tokio::spawn(send(self.clone(), target.name.to_string(), reply, sender, tail));
        Ok(Answer {
            headers: vec![("content-type", CONTENT_TYPE.to_owned()), ("x-amz-executed-version", version)],
            body: Body::from_stream(ReceiverStream::new(receiver)),
            json: false,
            ..Answer::empty()
        })
    }
}

/// Passes the answer on. A client that goes away does not stop the function.
async fn send(node: Node, function: String, mut reply: StreamingReply, frames: Frames, tail: bool) {
    while let Some(piece) = reply.pieces.recv().await {
        if frames.send(Ok(payload_chunk(&piece).into())).await.is_err() {
            break;
        }
    }
    drop(reply.pieces);
    let end = match reply.end.await {
        Ok(end) => {
            node.metrics.replied(&function, &end);
            last_frames(end, tail)
        }
        Err(_) => invoke_complete(&Completion {
            error_code: Some("Sandbox.Failure".to_owned()),
            error_details: Some("The node was shut down.".to_owned()),
            log_result: None,
        }),
    };
    // Whoever is gone needs no end.
    let _ = frames.send(Ok(end.into())).await;
}

/// What was not streamed, and how it ended.
fn last_frames(end: Reply, tail: bool) -> Vec<u8> {
    let log_result = tail.then(|| STANDARD.encode(&end.log_tail));
    match end.function_error {
        None => {
            let mut frames = payload_chunk(&end.payload);
            frames.extend(invoke_complete(&Completion { log_result, ..Completion::default() }));
            frames
        }
        Some(error) => invoke_complete(&Completion {
            error_code: Some(error),
            error_details: Some(String::from_utf8_lossy(&end.payload).into_owned()),
            log_result,
        }),
    }
}
