//! Every answer of the Runtime API that isn't an event, with its status and body, in one table.

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::MAX_PAYLOAD;
use crate::credentials::Credentials;
use crate::http::Response;
use crate::lifecycle::TransitionRefused;

/// An answer decided by the request's head alone; it waits for the end of the request's body.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    Accepted,
    Pong,
    /// The answer to `/runtime/restore/next`.
    Restored,
    InvalidRequestId,
    InvalidResponseMode,
    InvalidStateTransition(TransitionRefused),
    PayloadTooLarge,
    /// The subscription to logs (older) or telemetry: accepted and not done, as AWS's emulator answers.
    LogsNotSupported,
    TelemetryNotSupported,
    CredentialsNotFound,
    NotFound,
    MethodNotAllowed {
        allow: String,
    },
}

impl Reply {
    pub(crate) fn response(&self) -> Response {
        match self {
            Self::Accepted => status_json(202, &json!({ "status": "OK" })),
            Self::Pong => Response::new(200, PLAIN_TEXT, "pong"),
            Self::Restored => Response { status: 200, fields: Vec::new(), body: Vec::new() },
            Self::InvalidRequestId => error(400, "InvalidRequestID", "Invalid request ID"),
            Self::InvalidResponseMode => {
                error(400, "InvalidFunctionResponseMode", "Invalid function response mode")
            }
            Self::InvalidStateTransition(TransitionRefused { from, to }) => error(
                403,
                "InvalidStateTransition",
                &format!(
                    "State transition from {} to {} failed for runtime. Error: State transition is not allowed",
                    from.name(),
                    to.name()
                ),
            ),
            Self::PayloadTooLarge => error(
                413,
                "RequestEntityTooLarge",
                &format!("Exceeded maximum allowed payload size ({MAX_PAYLOAD} bytes)."),
            ),
            Self::LogsNotSupported => error(202, "Logs.NotSupported", "Logs API is not supported"),
            Self::TelemetryNotSupported => {
                error(202, "Telemetry.NotSupported", "Telemetry API is not supported")
            }
            Self::CredentialsNotFound => {
                Response::new(404, PLAIN_TEXT, "cannot get credentials for the provided token\n")
            }
            Self::NotFound => Response::new(404, PLAIN_TEXT, "404 page not found\n"),
            Self::MethodNotAllowed { allow } => {
                Response { status: 405, fields: vec![("Allow", allow.clone())], body: Vec::new() }
            }
        }
    }
}

const PLAIN_TEXT: &str = "text/plain; charset=utf-8";

/// The answer of the credentials endpoint.
pub(crate) fn credentials(credentials: &Credentials) -> Response {
    match serde_json::to_vec(credentials) {
        Ok(body) => Response::new(200, PLAIN_TEXT, body),
        Err(_) => Reply::CredentialsNotFound.response(),
    }
}

fn status_json(status: u16, body: &serde_json::Value) -> Response {
    // The line end is what Go's JSON encoder writes.
    Response::new(status, "application/json", format!("{body}\n"))
}

fn error(status: u16, error_type: &str, message: &str) -> Response {
    status_json(status, &json!({ "errorMessage": message, "errorType": error_type }))
}
