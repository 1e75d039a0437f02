//! The one table of errors: each with its code, HTTP status, type, and the name of the member that holds its text.

use serde::Serialize;
use serde_json::{Map, Value};

macro_rules! errors {
    ($($(#[$about:meta])* $kind:ident, $status:literal, $code:literal, $fault:expr, $member:literal;)*) => {
        /// Every error that this API answers.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum ErrorKind { $($(#[$about])* $kind,)* }

        impl ErrorKind {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$kind,)*];

            /// The code, sent as `x-amzn-ErrorType`.
            pub const fn code(self) -> &'static str {
                match self { $(Self::$kind => $code,)* }
            }

            /// The HTTP status.
            pub const fn status(self) -> u16 {
                match self { $(Self::$kind => $status,)* }
            }

            /// The member `Type` of the body.
            const fn fault(self) -> Option<&'static str> {
                match self { $(Self::$kind => $fault,)* }
            }

            /// The member of the body that holds the text.
            const fn member(self) -> &'static str {
                match self { $(Self::$kind => $member,)* }
            }
        }
    };
}

const USER: Option<&str> = Some("User");
const SERVICE: Option<&str> = Some("Service");
/// Errors that AWS's front answers have no `Type`.
const FRONT: Option<&str> = None;

errors! {
    /// A value that the operation refuses.
    InvalidParameterValue, 400, "InvalidParameterValueException", USER, "message";
    /// The event is no JSON, or a header is wrong.
    InvalidRequestContent, 400, "InvalidRequestContentException", USER, "message";
    /// A value that the model refuses.
    Validation, 400, "ValidationException", FRONT, "message";
    /// The body is no JSON of the right shape.
    Serialization, 400, "SerializationException", FRONT, "Message";
    /// A path that no operation has.
    UnknownOperation, 404, "UnknownOperationException", FRONT, "message";
    /// There is no such function, version, alias, layer or setting.
    ResourceNotFound, 404, "ResourceNotFoundException", USER, "Message";
    /// It is there already, or being changed.
    ResourceConflict, 409, "ResourceConflictException", USER, "message";
    /// The revision identifier is another one.
    PreconditionFailed, 412, "PreconditionFailedException", USER, "message";
    /// An event is too large.
    RequestTooLarge, 413, "RequestTooLargeException", USER, "message";
    /// A request is too large.
    RequestEntityTooLarge, 413, "RequestEntityTooLargeException", FRONT, "message";
    /// Code is too large.
    CodeStorageExceeded, 400, "CodeStorageExceededException", USER, "message";
    /// A limit of concurrency.
    TooManyRequests, 429, "TooManyRequestsException", USER, "message";
    /// A policy is too long.
    PolicyLengthExceeded, 400, "PolicyLengthExceededException", USER, "message";
    /// There is no provisioned concurrency.
    ProvisionedConcurrencyNotFound, 404, "ProvisionedConcurrencyConfigNotFoundException", USER, "message";
    /// A hook of SnapStart failed.
    SnapStart, 400, "SnapStartException", USER, "Message";
    /// The snapshot is still being made.
    SnapStartNotReady, 409, "SnapStartNotReadyException", USER, "Message";
    /// The restore took too long.
    SnapStartTimeout, 408, "SnapStartTimeoutException", USER, "Message";
    /// The function can't be invoked in its state.
    ResourceNotReady, 502, "ResourceNotReadyException", SERVICE, "message";
    /// The node's own fault: the function surely did not run.
    Service, 500, "ServiceException", SERVICE, "Message";
    /// No signature.
    MissingAuthenticationToken, 403, "MissingAuthenticationTokenException", FRONT, "message";
    /// A signature lacks a part.
    IncompleteSignature, 403, "IncompleteSignatureException", FRONT, "message";
    /// The signature is wrong, or the clocks disagree.
    InvalidSignature, 403, "InvalidSignatureException", FRONT, "message";
    /// The access key is unknown.
    UnrecognizedClient, 403, "UnrecognizedClientException", FRONT, "message";
    /// A presigned URL has run out.
    ExpiredToken, 403, "ExpiredTokenException", FRONT, "message";
    /// Not allowed.
    AccessDenied, 403, "AccessDeniedException", FRONT, "Message";
}

/// An error with its text.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{}: {message}", kind.code())]
pub struct LambdaError {
    /// Which.
    pub kind: ErrorKind,
    /// Its text for people.
    pub message: String,
    /// The member `Reason` of a [`ErrorKind::TooManyRequests`].
    pub reason: Option<&'static str>,
}

impl LambdaError {
    /// An error.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), reason: None }
    }

    /// A value that the operation refuses.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidParameterValue, message)
    }

    /// `Function not found: ARN`.
    pub fn function_not_found(arn: &str) -> Self {
        Self::new(ErrorKind::ResourceNotFound, format!("Function not found: {arn}"))
    }

    /// A limit of concurrency, with AWS's reason.
    pub fn throttled(reason: &'static str) -> Self {
        Self { kind: ErrorKind::TooManyRequests, message: "Rate Exceeded.".to_owned(), reason: Some(reason) }
    }

    /// The body, JSON.
    pub fn body(&self) -> Vec<u8> {
        let mut body = Map::new();
        if let Some(fault) = self.kind.fault() {
            body.insert("Type".to_owned(), fault.into());
        }
        if let Some(reason) = self.reason {
            body.insert("Reason".to_owned(), reason.into());
        }
        body.insert(self.kind.member().to_owned(), self.message.as_str().into());
        to_json(&Value::Object(body))
    }
}

/// Plain data as JSON. Encoding it can't fail: all keys are text.
pub(crate) fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_have_the_recorded_shapes() {
        let text = |error: LambdaError| String::from_utf8(error.body()).unwrap();
        assert_eq!(
            text(LambdaError::function_not_found("arn:aws:lambda:us-east-1:000000000000:function:f")),
            r#"{"Message":"Function not found: arn:aws:lambda:us-east-1:000000000000:function:f","Type":"User"}"#
        );
        assert_eq!(
            text(LambdaError::throttled("ReservedFunctionConcurrentInvocationLimitExceeded")),
            r#"{"Reason":"ReservedFunctionConcurrentInvocationLimitExceeded","Type":"User","message":"Rate Exceeded."}"#
        );
        assert_eq!(text(LambdaError::new(ErrorKind::Validation, "x")), r#"{"message":"x"}"#);
    }

    #[test]
    fn codes_are_unique() {
        let codes: std::collections::HashSet<_> = ErrorKind::ALL.iter().map(|kind| kind.code()).collect();
        assert_eq!(codes.len(), ErrorKind::ALL.len());
    }
}
