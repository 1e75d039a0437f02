//! `POST /_/invoke/NAME`, on the home's own socket only: an invocation for the command line, which shows all of the log as it
//! comes and what is known of how the answer came about. Each line of the answer is a [`Told`] as JSON; the last one says
//! how the invocation ended.

use axum_core::body::Body;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Response;
use instance_pool::{Call, LogTap, Refused, Reply, Start};
use lambda_api::LambdaError;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::invoke::{check_event, refused};
use crate::node::Node;
use crate::request::parse_target;

/// The path, before the function's name.
pub const INVOKE_PATH: &str = "/_/invoke/";
/// Lines that may wait for their reader.
const LINES: usize = 64;

/// One line of the answer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// A piece of the log, in base64.
    Log(String),
    /// The function ran, or failed to.
    Answered(Box<Invocation>),
    /// It surely did not run.
    Refused {
        /// What the API would answer.
        status: u16,
        /// With this body.
        body: String,
    },
}

/// An invocation that came to an end.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Invocation {
    /// Identifies it.
    pub request_id: String,
    /// Whether the function failed.
    pub failed: bool,
    /// Its answer in base64.
    pub payload: String,
    /// Where its instance came from.
    pub from: Origin,
    /// From the event's delivery to the end.
    pub duration_ms: f64,
    /// The most memory that the instance had in use.
    pub max_memory_bytes: u64,
    /// What was measured of a start, a `restore::Timeline`.
    pub timeline: Option<serde_json::Value>,
    /// Bytes of the log that are missing, since nobody read them.
    pub log_left_out: u64,
}

/// Where an instance came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// It had answered before, or waited.
    Warm,
    /// A boot.
    Cold,
    /// A snapshot.
    Snapshot,
}

impl Node {
    /// Invokes `$LATEST` of a function, and tells of it.
    pub(crate) async fn invoke_watched(
        &self,
        name: &str,
        event: Bytes,
        id: &str,
    ) -> Result<Response<Body>, LambdaError> {
        let target = parse_target(self, name, None)?;
        check_event(&event)?;
        let call = Call {
            request_id: id.to_owned(),
            payload: event.to_vec(),
            invoked_function_arn: target.arn(self),
            trace_id: None,
            client_context: None,
            tenant_id: None,
        };
        let deployed = self.deployment(&target).await?;
        self.ready_for(&deployed)?;
        let (lines, receiver) = mpsc::channel(LINES);
        let (node, id) = (self.clone(), id.to_owned());
        tokio::spawn(async move {
            let (tap, mut log) = LogTap::new();
            let run = node.run(deployed, call, Some(tap.clone()));
            tokio::pin!(run);
            let outcome = loop {
                tokio::select! {
                    outcome = &mut run => break outcome,
                    Some(piece) = log.recv() => tell(&lines, &Told::Log(STANDARD.encode(piece))).await,
                }
            };
            while let Ok(piece) = log.try_recv() {
                tell(&lines, &Told::Log(STANDARD.encode(piece))).await;
            }
            tell(&lines, &last(outcome, &id, tap.left_out())).await;
        });
        Ok(Response::new(Body::from_stream(ReceiverStream::new(receiver))))
    }
}

async fn tell(lines: &mpsc::Sender<Result<Bytes, std::convert::Infallible>>, told: &Told) {
    let Ok(mut line) = serde_json::to_vec(told) else { return };
    line.push(b'\n');
    // Whoever is gone needs no answer.
    let _ = lines.send(Ok(line.into())).await;
}

fn last(outcome: Result<Reply, Refused>, id: &str, log_left_out: u64) -> Told {
    let outcome = outcome.or_else(|why| why.function_error(id).ok_or(why));
    match outcome {
        Ok(reply) => Told::Answered(Box::new(Invocation {
            failed: reply.function_error.is_some(),
            payload: STANDARD.encode(reply.payload),
            from: match reply.start {
                Start::Warm => Origin::Warm,
                Start::Restored { .. } => Origin::Snapshot,
                Start::Booted { .. } | Start::Failed => Origin::Cold,
            },
            duration_ms: reply.duration.as_secs_f64() * 1e3,
            max_memory_bytes: reply.max_memory,
            timeline: reply.timeline.and_then(|timeline| serde_json::to_value(timeline).ok()),
            request_id: reply.request_id,
            log_left_out,
        })),
        Err(why) => {
            let error = refused(why);
            let body = String::from_utf8_lossy(&error.body()).into_owned();
            Told::Refused { status: error.kind.status(), body }
        }
    }
}
