//! Who may ask: signatures of requests.

use http::HeaderMap;
use lambda_api::LambdaError;
use lambda_api::sigv4::SignedRequest;

use crate::node::{Node, now_seconds};

/// Headers as signatures are checked over them: names in lower case.
pub(crate) fn signed_headers(headers: &HeaderMap) -> Vec<(String, String)> {
    headers
        .iter()
        .map(|(name, value)| {
            (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        })
        .collect()
}

/// Checks a request's signature, when the node wants one.
pub(crate) fn check(
    node: &Node,
    method: &str,
    path: &str,
    query: &str,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<(), LambdaError> {
    let Some(credentials) = &node.settings.credentials else { return Ok(()) };
    let headers = signed_headers(headers);
    let request = SignedRequest { method, path, query, headers: &headers, body };
    request.verify(&node.settings.region, now_seconds(), |key| credentials.secret(key)).map(drop)
}

/// Checks that a request is said to be signed with a key that the node knows: nobody else's body is read, since the signature
/// can only be checked over all of it.
pub(crate) fn check_key(node: &Node, query: &str, headers: &HeaderMap) -> Result<(), LambdaError> {
    let Some(credentials) = &node.settings.credentials else { return Ok(()) };
    let headers = signed_headers(headers);
    let request = SignedRequest { method: "", path: "", query, headers: &headers, body: b"" };
    let known = |key: &str| credentials.secret(key).is_some();
    request.verify_key(&node.settings.region, now_seconds(), known)
}
