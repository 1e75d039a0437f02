//! A request as handlers see it: its operation found, its body read, its caller known.

use bytes::Bytes;
use http::HeaderMap;
use lambda_api::{FunctionReference, LambdaError, Matched, validation};
use registry::FunctionName;

use crate::node::Node;

/// A request to Lambda's API.
#[derive(Debug)]
pub(crate) struct ApiRequest {
    /// The operation with the parameters of its path.
    pub matched: Matched,
    /// The query, decoded.
    pub query: Vec<(String, String)>,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// Its identifier, a UUID: the invocation's too.
    pub id: String,
}

/// A function and what the request says of its version.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub name: FunctionName,
    /// As the caller gave it.
    pub qualifier: Option<String>,
}

impl ApiRequest {
    /// A value of the query.
    pub fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// That AWS's headers are text: what can't be read must not count as absent.
    pub fn check_headers(&self) -> Result<(), LambdaError> {
        let unreadable = |(name, value): &(&http::HeaderName, &http::HeaderValue)| {
            name.as_str().starts_with("x-amz") && value.to_str().is_err()
        };
        match self.headers.iter().find(unreadable) {
            None => Ok(()),
            Some((name, value)) => {
                let shown = String::from_utf8_lossy(value.as_bytes());
                Err(validation::pattern_error(&shown, name.as_str(), r"[\x20-\x7e\t]*"))
            }
        }
    }

    /// A header that is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The host and port that the client used.
    pub fn host(&self) -> &str {
        self.header("host").unwrap_or("localhost")
    }

    /// The function of the path, with the query's qualifier.
    pub fn target(&self, node: &Node) -> Result<Target, LambdaError> {
        let text = self.matched.parameter("FunctionName");
        parse_target(node, text, self.query("Qualifier"))
    }

    /// `MaxItems`, 1 to 10000, 50 when there is none, never more than `most`.
    pub fn page_size(&self, most: usize) -> Result<usize, LambdaError> {
        let Some(text) = self.query("MaxItems") else { return Ok(most) };
        let number: i64 = text.parse().map_err(|_| {
            LambdaError::new(
                lambda_api::ErrorKind::Serialization,
                format!("{text:?} can not be converted to an Integer"),
            )
        })?;
        let number = validation::in_range(number, "maxItems", 1, 10_000)?;
        Ok(most.min(usize::try_from(number).unwrap_or(most)))
    }

    /// `Marker`.
    pub fn marker(&self) -> &str {
        self.query("Marker").unwrap_or("")
    }
}

/// Reads a function's name in any form.
pub(crate) fn parse_target(node: &Node, text: &str, qualifier: Option<&str>) -> Result<Target, LambdaError> {
    let FunctionReference { name, qualifier } = FunctionReference::parse(text, qualifier, &node.account)?;
    let name =
        name.parse().map_err(|problem: registry::NameProblem| LambdaError::invalid(problem.to_string()))?;
    Ok(Target { name, qualifier })
}

impl Target {
    /// The ARN as the request named it.
    pub fn arn(&self, node: &Node) -> String {
        match &self.qualifier {
            None => node.account.function(self.name.as_str()),
            Some(qualifier) => node.account.qualified(self.name.as_str(), qualifier),
        }
    }

    /// The function's ARN without a qualifier.
    pub fn plain_arn(&self, node: &Node) -> String {
        node.account.function(self.name.as_str())
    }

    /// `Function not found`, in AWS's words.
    pub fn not_found(&self, node: &Node) -> LambdaError {
        LambdaError::function_not_found(&self.arn(node))
    }
}
