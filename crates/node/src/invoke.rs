//! Invoke.

use axum_core::body::Body;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use instance_pool::{Call, Refused, Reply};
use lambda_api::{ErrorKind, LambdaError, Operation, validation};
use serde::de::IgnoredAny;

use crate::answer::Answer;
use crate::node::Node;
use crate::request::{ApiRequest, Target};

/// Bytes of a client context.
const CLIENT_CONTEXT: usize = 3583;

/// How a function is to be called.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    RequestResponse,
    Event,
    DryRun,
}

/// A call, checked.
pub(crate) struct Checked {
    pub target: Target,
    pub call: Call,
    /// Whether the end of the log is wanted.
    pub tail: bool,
}

impl Node {
    /// Invoke.
    pub(crate) async fn invoke(&self, request: ApiRequest) -> Result<Answer, LambdaError> {
        let kind = match request.header("x-amz-invocation-type") {
            None | Some("RequestResponse") => Kind::RequestResponse,
            Some("Event") => Kind::Event,
            Some("DryRun") => Kind::DryRun,
            Some(other) => {
                let allowed = ["Event", "RequestResponse", "DryRun"];
                return Err(validation::enum_error(other, "invocationType", &allowed));
            }
        };
        let checked = self.checked_call(&request)?;
        match kind {
            Kind::RequestResponse => {
                let Checked { target, call, tail } = checked;
                let deployed = self.deployment(&target).await?;
                self.ready_for(&deployed)?;
                let reply = self.run(deployed, call, None).await.map_err(refused)?;
                Ok(answer(reply, tail))
            }
            Kind::DryRun => {
                let deployed = self.deployment(&checked.target).await?;
                let headers = vec![("x-amz-executed-version", deployed.version.clone())];
                Ok(Answer { status: Some(204), headers, ..Answer::empty() })
            }
            Kind::Event => self.invoke_event(checked).await,
        }
    }

    /// Checks what a call brings, before anything runs.
    pub(crate) fn checked_call(&self, request: &ApiRequest) -> Result<Checked, LambdaError> {
        let target = request.target(self)?;
        let tail = match request.header("x-amz-log-type") {
            None | Some("None") => false,
            Some("Tail") => true,
            Some(other) => return Err(validation::enum_error(other, "logType", &["None", "Tail"])),
        };
        let payload: Vec<u8> = match request.body.trim_ascii() {
            [] => b"{}".to_vec(),
            _ => request.body.to_vec(),
        };
        check_event(&payload)?;
        let call = Call {
            request_id: request.id.clone(),
            payload,
            invoked_function_arn: target.arn(self),
            trace_id: request.header("x-amzn-trace-id").map(str::to_owned),
            client_context: request.header("x-amz-client-context").map(client_context).transpose()?,
            tenant_id: None,
        };
        if request.header("x-amz-tenant-id").is_some() {
            return Err(LambdaError::invalid(
                "The invoked function is not enabled with tenancy configuration. Remove the tenant ID from your request and try again.",
            ));
        }
        if request.header("x-amz-durable-execution-name").is_some() {
            return Err(LambdaError::invalid("Durable executions are not offered by this node."));
        }
        Ok(Checked { target, call, tail })
    }

    /// A version whose snapshot is being made can't be called yet.
    pub(crate) fn ready_for(&self, deployed: &instance_pool::Deployed) -> Result<(), LambdaError> {
        if crate::lifecycle::is_pending(&deployed.function.function) && deployed.snap_start {
            let message = "Lambda is initializing your function. It will be ready to invoke once your function state becomes ACTIVE.";
            return Err(LambdaError::new(ErrorKind::SnapStartNotReady, message));
        }
        Ok(())
    }
}

/// An event is JSON.
pub(crate) fn check_event(event: &[u8]) -> Result<(), LambdaError> {
    serde_json::from_slice::<IgnoredAny>(event).map(drop).map_err(|error| {
        let message =
            format!("Could not parse request body into json: Could not parse payload into json: {error}");
        LambdaError::new(ErrorKind::InvalidRequestContent, message)
    })
}

/// The answer of a function that ran.
fn answer(reply: Reply, tail: bool) -> Answer {
    let mut headers = vec![("x-amz-executed-version", reply.version)];
    if reply.function_error.is_some() {
        headers.push(("x-amz-function-error", "Unhandled".to_owned()));
    }
    if tail {
        headers.push(("x-amz-log-result", STANDARD.encode(&reply.log_tail)));
    }
    Answer { headers, body: Body::from(reply.payload), ..Answer::empty() }
}

/// Base64 of a JSON object, as text.
fn client_context(header: &str) -> Result<String, LambdaError> {
    let invalid = |message: &str| LambdaError::new(ErrorKind::InvalidRequestContent, message);
    if header.len() > CLIENT_CONTEXT {
        return Err(invalid("Client context must be no longer than 3583 bytes."));
    }
    let wrong = || invalid("Client context must be a valid Base64-encoded JSON object.");
    let bytes = STANDARD.decode(header).map_err(|_| wrong())?;
    let text = String::from_utf8(bytes).map_err(|_| wrong())?;
    serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&text).map_err(|_| wrong())?;
    Ok(text)
}

/// A request whose body is too large, in AWS's words.
pub(crate) fn too_large(limit: usize, operation: Operation) -> LambdaError {
    let name = match operation {
        Operation::Invoke | Operation::InvokeAsync => "InvokeFunction",
        other => other.name(),
    };
    let message = format!("Request must be smaller than {limit} bytes for the {name} operation");
    LambdaError::new(ErrorKind::RequestEntityTooLarge, message)
}

/// A call that surely did not run.
pub(crate) fn refused(refused: Refused) -> LambdaError {
    match refused {
        Refused::Throttled(throttle) => LambdaError::throttled(throttle.aws_reason()),
        Refused::RestoreHook { error_type, payload } => {
            let report = String::from_utf8_lossy(&payload);
            LambdaError::new(
                ErrorKind::SnapStart,
                format!("An after-restore hook failed ({error_type}): {report}"),
            )
        }
        Refused::RestoreTimeout => LambdaError::new(ErrorKind::SnapStartTimeout, refused.to_string()),
        other => LambdaError::new(ErrorKind::Service, other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_contexts_are_json_objects_in_base64() {
        let encode = |text: &str| STANDARD.encode(text);
        assert_eq!(client_context(&encode(r#"{"a":1}"#)).unwrap(), r#"{"a":1}"#);
        for bad in ["%", &encode("[1]"), &encode("{"), &"A".repeat(4000)] {
            assert_eq!(client_context(bad).unwrap_err().kind, ErrorKind::InvalidRequestContent);
        }
    }
}
