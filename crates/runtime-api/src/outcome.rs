//! How an invocation ended, and what its caller gets to see of it.
//!
//! Payload texts and shapes are AWS's own, as recorded from the service; member order included.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error_type::ErrorType;
use crate::event::StreamError;
use crate::{MAX_PAYLOAD, log_line::Status};

/// How an invocation ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Outcome {
    /// The function answered.
    Response {
        /// The response body; empty when it was streamed.
        #[serde(with = "serde_bytes")]
        payload: Vec<u8>,
        /// Its media type, if the runtime gave one.
        content_type: Option<String>,
    },
    /// The handler failed and the runtime reported it.
    HandlerError {
        /// The type the runtime gave in the header.
        error_type: ErrorType,
        /// The report, passed on byte for byte.
        #[serde(with = "serde_bytes")]
        payload: Vec<u8>,
    },
    /// A streaming function failed behind its first bytes.
    StreamError(StreamError),
    /// The function's timeout passed.
    TimedOut {
        /// The timeout.
        limit: Duration,
    },
    /// The runtime exited without answering.
    Exited(ExitReason),
    /// The instance exceeded its memory and was killed.
    OutOfMemory,
    /// The response was larger than [`MAX_PAYLOAD`].
    ResponseTooLarge,
    /// The runtime broke off its response.
    ResponseTruncated,
    /// The runtime reported that it could not initialise.
    InitFailed {
        /// The type the runtime gave in the header.
        error_type: ErrorType,
        /// The report, passed on byte for byte.
        #[serde(with = "serde_bytes")]
        payload: Vec<u8>,
    },
    /// An after-restore hook failed. To the caller of the Lambda API this is a `SnapStartException`, not a function error.
    RestoreFailed {
        /// The type the runtime gave in the header.
        error_type: ErrorType,
        /// The report.
        #[serde(with = "serde_bytes")]
        payload: Vec<u8>,
    },
    /// The worker itself failed, not the function: a 5xx answer, and surely no sign that the function ran to its end.
    Sandbox {
        /// What happened, for the log.
        message: String,
    },
}

/// How a program ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ExitReason {
    /// It called exit with this status, 0 to 255.
    Status(u8),
    /// It was killed by this signal.
    Signal(u8),
}

impl Outcome {
    /// Whether the answer carries `X-Amz-Function-Error: Unhandled`. AWS sends no other value today.
    pub const fn is_function_error(&self) -> bool {
        !matches!(self, Self::Response { .. })
    }

    /// The body that the caller gets, JSON except for a function's own answer.
    pub fn payload(&self, request_id: &str) -> Vec<u8> {
        let report = |error_type: &str, error: &str| {
            failure(error_type, &format!("RequestId: {request_id} Error: {error}"))
        };
        match self {
            Self::Response { payload, .. }
            | Self::HandlerError { payload, .. }
            | Self::InitFailed { payload, .. }
            | Self::RestoreFailed { payload, .. }
            | Self::StreamError(StreamError { body: payload, .. }) => payload.clone(),
            Self::TimedOut { limit } => report("Sandbox.Timedout", &timed_out(*limit)),
            Self::Exited(reason) => report("Runtime.ExitError", &reason.describe()),
            // The caller sees the kill; only the REPORT line names the memory.
            Self::OutOfMemory => report("Runtime.ExitError", &ExitReason::Signal(SIGKILL).describe()),
            Self::ResponseTooLarge => response_too_large(),
            Self::ResponseTruncated => {
                report("Runtime.TruncatedResponse", "Runtime sent a truncated response")
            }
            Self::Sandbox { message } => report("Sandbox.Failure", message),
        }
    }

    /// What the REPORT line says behind the figures.
    pub fn status(&self) -> Status {
        match self {
            Self::Response { .. } | Self::HandlerError { .. } | Self::StreamError(_) => Status::Success,
            Self::TimedOut { .. } => Status::Timeout,
            Self::Exited(_) => Status::Error("Runtime.ExitError".to_owned()),
            Self::OutOfMemory => Status::Error("Runtime.OutOfMemory".to_owned()),
            Self::ResponseTooLarge => Status::Error(ErrorType::RESPONSE_SIZE_TOO_LARGE.to_owned()),
            Self::ResponseTruncated => Status::Error("Runtime.TruncatedResponse".to_owned()),
            Self::InitFailed { error_type, .. } | Self::RestoreFailed { error_type, .. } => {
                Status::Error(error_type.as_str().to_owned())
            }
            Self::Sandbox { .. } => Status::Error("Sandbox.Failure".to_owned()),
        }
    }
}

const SIGKILL: u8 = 9;

/// `Task timed out after 1.00 seconds`: the text in the payload and in the log.
pub(crate) fn timed_out(limit: Duration) -> String {
    format!("Task timed out after {:.2} seconds", limit.as_secs_f64())
}

/// The report about a response larger than [`MAX_PAYLOAD`].
pub(crate) fn response_too_large() -> Vec<u8> {
    failure(
        ErrorType::RESPONSE_SIZE_TOO_LARGE,
        &format!("Response payload size exceeded maximum allowed payload size ({MAX_PAYLOAD} bytes)."),
    )
}

fn failure(error_type: &str, error_message: &str) -> Vec<u8> {
    // A JSON object has no order, but byte comparisons in people's tests do.
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    format!(r#"{{"errorType":{},"errorMessage":{}}}"#, quoted(error_type), quoted(error_message)).into_bytes()
}

impl ExitReason {
    /// AWS's words, which are Go's: `Runtime exited with error: signal: killed`.
    pub fn describe(self) -> String {
        match self {
            Self::Status(0) => "Runtime exited without providing a reason".to_owned(),
            Self::Status(status) => format!("Runtime exited with error: exit status {status}"),
            Self::Signal(number) => format!("Runtime exited with error: signal: {}", signal_name(number)),
        }
    }
}

/// The name that Go's `syscall.Signal` gives on Linux for x86-64.
fn signal_name(number: u8) -> String {
    let name = match number {
        1 => "hangup",
        2 => "interrupt",
        3 => "quit",
        4 => "illegal instruction",
        5 => "trace/breakpoint trap",
        6 => "aborted",
        7 => "bus error",
        8 => "floating point exception",
        9 => "killed",
        10 => "user defined signal 1",
        11 => "segmentation fault",
        12 => "user defined signal 2",
        13 => "broken pipe",
        14 => "alarm clock",
        15 => "terminated",
        16 => "stack fault",
        24 => "CPU time limit exceeded",
        25 => "file size limit exceeded",
        31 => "bad system call",
        _ => return format!("signal {number}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(outcome: &Outcome) -> String {
        String::from_utf8(outcome.payload("6bc28136")).unwrap()
    }

    #[test]
    fn failures_have_the_recorded_texts() {
        for (outcome, expected) in [
            (
                Outcome::TimedOut { limit: Duration::from_secs(1) },
                r#"{"errorType":"Sandbox.Timedout","errorMessage":"RequestId: 6bc28136 Error: Task timed out after 1.00 seconds"}"#,
            ),
            (
                Outcome::Exited(ExitReason::Status(0)),
                r#"{"errorType":"Runtime.ExitError","errorMessage":"RequestId: 6bc28136 Error: Runtime exited without providing a reason"}"#,
            ),
            (
                Outcome::Exited(ExitReason::Status(127)),
                r#"{"errorType":"Runtime.ExitError","errorMessage":"RequestId: 6bc28136 Error: Runtime exited with error: exit status 127"}"#,
            ),
            (
                Outcome::Exited(ExitReason::Signal(11)),
                r#"{"errorType":"Runtime.ExitError","errorMessage":"RequestId: 6bc28136 Error: Runtime exited with error: signal: segmentation fault"}"#,
            ),
            (
                Outcome::OutOfMemory,
                r#"{"errorType":"Runtime.ExitError","errorMessage":"RequestId: 6bc28136 Error: Runtime exited with error: signal: killed"}"#,
            ),
            (
                Outcome::ResponseTooLarge,
                r#"{"errorType":"Function.ResponseSizeTooLarge","errorMessage":"Response payload size exceeded maximum allowed payload size (6291556 bytes)."}"#,
            ),
        ] {
            assert_eq!(text(&outcome), expected);
            assert!(outcome.is_function_error());
        }
    }

    #[test]
    fn reports_pass_byte_for_byte() {
        let payload = br#"{"errorMessage": "x",  "errorType":"Y"}"#.to_vec();
        let error_type = ErrorType::from_header(None);
        let outcome = Outcome::HandlerError { error_type, payload: payload.clone() };
        assert_eq!(outcome.payload("id"), payload);
        assert_eq!(outcome.status(), Status::Success);
    }

    #[test]
    fn messages_are_escaped() {
        let outcome = Outcome::Sandbox { message: "a \"b\"\n".to_owned() };
        let value: serde_json::Value = serde_json::from_slice(&outcome.payload("id")).unwrap();
        assert_eq!(value["errorMessage"], "RequestId: id Error: a \"b\"\n");
    }
}
