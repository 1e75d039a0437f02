//! Answers, and errors of the parts below as errors of the API.

use axum_core::body::Body;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use lambda_api::{ErrorKind, LambdaError};
use registry::RegistryError;
use serde::Serialize;
use store::{SettingProblem, StoreError, TreeError};

/// An answer of an operation.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The status; `None` for the operation's own.
    pub status: Option<u16>,
    /// Headers beside the usual ones.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Body,
    /// Whether the body is JSON (or empty).
    pub json: bool,
}

impl Answer {
    /// Nothing but the status.
    pub fn empty() -> Self {
        Self { status: None, headers: Vec::new(), body: Body::empty(), json: true }
    }

    /// A value as JSON.
    pub fn json(value: &impl Serialize) -> Result<Self, LambdaError> {
        let body = serde_json::to_vec(value)
            .map_err(|error| LambdaError::new(ErrorKind::Service, format!("encoding the answer: {error}")))?;
        Ok(Self { body: Body::from(body), ..Self::empty() })
    }

    /// The response.
    pub fn response(self, success: u16, request_id: &str) -> Response<Body> {
        let status = StatusCode::from_u16(self.status.unwrap_or(success)).unwrap_or(StatusCode::OK);
        let mut response = Response::new(self.body);
        *response.status_mut() = status;
        let headers = response.headers_mut();
        for (name, value) in self.headers {
            // Text that no header can hold (it came from a function) is left out.
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        if self.json && status != StatusCode::NO_CONTENT {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        identify(headers, request_id);
        response
    }
}

/// The response of an error.
pub(crate) fn error_response(error: &LambdaError, request_id: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(error.body()));
    *response.status_mut() =
        StatusCode::from_u16(error.kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("x-amzn-errortype", HeaderValue::from_static(error.kind.code()));
    identify(headers, request_id);
    response
}

fn identify(headers: &mut http::HeaderMap, request_id: &str) {
    if let Ok(value) = HeaderValue::from_str(request_id) {
        headers.insert("x-amzn-requestid", value);
    }
}

/// An error of the store that is no answer of its own to the caller.
#[derive(Debug)]
pub(crate) enum Failed {
    /// For the caller as it is.
    Api(LambdaError),
    /// From the home directory.
    Store(StoreError),
}

impl From<LambdaError> for Failed {
    fn from(error: LambdaError) -> Self {
        Self::Api(error)
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<RegistryError> for Failed {
    fn from(error: RegistryError) -> Self {
        Self::Store(error.into())
    }
}

impl Failed {
    /// As an answer. `arn` is the function's, as the caller named it.
    pub fn into_error(self, arn: &str) -> LambdaError {
        match self {
            Self::Api(error) => error,
            Self::Store(StoreError::NoFunction(_) | StoreError::NoVersion { .. }) => {
                LambdaError::function_not_found(arn)
            }
            Self::Store(StoreError::FunctionExists(name)) => {
                LambdaError::new(ErrorKind::ResourceConflict, format!("Function already exist: {name}"))
            }
            Self::Store(StoreError::Code { source, .. }) => archive_error(&source),
            Self::Store(StoreError::Setting(SettingProblem::Unpacked { .. })) => {
                LambdaError::invalid("Unzipped size must be smaller than 262144000 bytes")
            }
            Self::Store(StoreError::Setting(problem)) => LambdaError::invalid(problem.to_string()),
            Self::Store(StoreError::NoRuntime(runtime)) => LambdaError::invalid(format!(
                "The runtime {runtime} is not on this node any more: `faasnap runtime list` shows what there is."
            )),
            Self::Store(other) => {
                let error = chain(&other);
                tracing::error!(error, arn, "the home directory failed");
                LambdaError::new(ErrorKind::Service, format!("The node's home directory failed: {error}"))
            }
        }
    }
}

/// AWS's texts for archives that are refused; what AWS does not say follows in parentheses.
pub(crate) fn archive_error(error: &TreeError) -> LambdaError {
    match error {
        TreeError::TooLarge { .. } => {
            LambdaError::invalid("Unzipped size must be smaller than 262144000 bytes")
        }
        TreeError::Zip(_) => LambdaError::invalid(COULD_NOT_UNZIP),
        other => LambdaError::invalid(format!("{COULD_NOT_UNZIP} ({})", chain(other))),
    }
}

const COULD_NOT_UNZIP: &str =
    "Could not unzip uploaded file. Please check your file, then try to upload again.";

/// An error with its causes on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text.push_str(": ");
        text.push_str(&source.to_string());
        cause = source.source();
    }
    text
}
