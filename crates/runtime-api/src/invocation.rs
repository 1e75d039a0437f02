//! An invocation as the runtime gets it from `/runtime/invocation/next`.

use serde::{Deserialize, Serialize};

use crate::http::Response;

/// One call of the function.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Invocation {
    /// Identifies the invocation; a UUID with AWS. ASCII letters, digits, `-` and `_`.
    pub request_id: String,
    /// When the function is ended, in milliseconds since the Unix epoch. Runtimes compute the remaining time from it.
    pub deadline_ms: u64,
    /// The function's ARN, with the qualifier only when the caller gave one.
    pub invoked_function_arn: String,
    /// The X-Ray trace header.
    pub trace_id: Option<String>,
    /// The client context as JSON text, decoded from the caller's base64.
    pub client_context: Option<String>,
    /// The identity of a caller through Cognito.
    pub cognito_identity: Option<CognitoIdentity>,
    /// The tenant on whose behalf the call is made.
    pub tenant_id: Option<String>,
    /// The event, at most [`MAX_PAYLOAD`](crate::MAX_PAYLOAD) bytes.
    #[serde(with = "serde_bytes")]
    pub payload: Vec<u8>,
    /// The event's media type; `application/json` unless the node has a reason.
    pub content_type: Option<String>,
    /// How the caller wants the response.
    pub response_mode: ResponseMode,
}

/// How the caller wants the response.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum ResponseMode {
    /// In one piece (Invoke): limited to [`MAX_PAYLOAD`](crate::MAX_PAYLOAD) even when the function streams.
    #[default]
    Buffered,
    /// As it comes (InvokeWithResponseStream), if the function streams.
    Streaming,
}

/// Who called through Amazon Cognito.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CognitoIdentity {
    /// The identity's id.
    #[serde(rename = "cognitoIdentityId")]
    pub identity_id: String,
    /// The id of its pool.
    #[serde(rename = "cognitoIdentityPoolId")]
    pub identity_pool_id: String,
}

impl Invocation {
    /// The answer to `/runtime/invocation/next`.
    pub(crate) fn response(&self) -> Response {
        let mut fields = vec![
            ("Lambda-Runtime-Aws-Request-Id", self.request_id.clone()),
            ("Lambda-Runtime-Deadline-Ms", self.deadline_ms.to_string()),
            ("Lambda-Runtime-Invoked-Function-Arn", self.invoked_function_arn.clone()),
        ];
        let cognito =
            self.cognito_identity.as_ref().and_then(|identity| serde_json::to_string(identity).ok());
        let optional = [
            ("Lambda-Runtime-Trace-Id", &self.trace_id),
            ("Lambda-Runtime-Client-Context", &self.client_context),
            ("Lambda-Runtime-Cognito-Identity", &cognito),
            ("Lambda-Runtime-Aws-Tenant-Id", &self.tenant_id),
        ];
        for (name, value) in optional {
            if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
                fields.push((name, value.to_owned()));
            }
        }
        // awslambdaric hands the handler raw bytes under any other type, so it is never left out.
        let content_type = self.content_type.clone().unwrap_or_else(|| "application/json".to_owned());
        fields.push(("Content-Type", content_type));
        Response { status: 200, fields, body: self.payload.clone() }
    }
}
