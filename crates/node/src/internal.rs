//! Paths of the node's own, below `/_/`: health, and the archives that GetFunction points to.

use axum_core::body::Body;
use http::{HeaderMap, HeaderValue, Response, header};
use lambda_api::sigv4::{Presign, SignedRequest};
use lambda_api::{ErrorKind, LambdaError, percent};
use tokio::io::AsyncReadExt;
use tokio_stream::wrappers::ReceiverStream;

use crate::answer::error_response;
use crate::auth::signed_headers;
use crate::node::{Node, now_seconds};
use crate::readiness;

/// How long a URL of code lives, in seconds: AWS's figure.
const CODE_LIFETIME: i64 = 600;
/// The access key that URLs of our own are signed with.
const OWN_KEY: &str = "faasnap-node";
/// What is read from an archive at once.
const PIECE: usize = 256 << 10;

/// Makes and checks URLs of code. The secret lives as long as the node.
#[derive(Debug)]
pub(crate) struct CodeUrls {
    secret: String,
}

impl CodeUrls {
    pub fn new() -> Self {
        let random = || uuid::Uuid::new_v4().simple().to_string();
        Self { secret: format!("{}{}", random(), random()) }
    }

    /// The URL of an archive with this digest (base64).
    pub fn url(&self, node: &Node, host: &str, sha256: &str) -> String {
        // Base64's own characters need escapes in a path; its URL-safe relatives don't.
        let name = sha256.replace('+', "-").replace('/', "_").replace('=', "");
        let presign = Presign {
            host,
            path: &format!("/_/code/{name}"),
            region: &node.settings.region,
            access_key: OWN_KEY,
            secret: &self.secret,
            now: now_seconds(),
            lifetime: CODE_LIFETIME,
        };
        format!("http://{host}{}", presign.url())
    }
}

/// Answers a path below `/_/`.
pub(crate) async fn answer(
    node: &Node,
    method: &str,
    path: &str,
    query: &str,
    headers: &HeaderMap,
    id: &str,
) -> Response<Body> {
    let answered = match (method, path) {
        ("GET" | "HEAD", "/_/health") => Ok(Response::new(Body::from("{\"status\":\"ok\"}"))),
        ("GET" | "HEAD", "/_/ready") => Ok(readiness::answer(node).await),
        ("GET", "/_/metrics") => Ok(metrics(node)),
        ("GET", path) if path.starts_with("/_/code/") => code(node, path, query, headers).await,
        _ => Err(LambdaError::new(
            ErrorKind::UnknownOperation,
            format!("The node has no {}", percent::decode(path).unwrap_or_default()),
        )),
    };
    match answered {
        Err(error) => error_response(&error, id),
        Ok(mut response) => {
            let json = HeaderValue::from_static("application/json");
            response.headers_mut().entry(header::CONTENT_TYPE).or_insert(json);
            response
        }
    }
}

/// What the node measures, as Prometheus reads it.
fn metrics(node: &Node) -> Response<Body> {
    let text = node.metrics.render(&node.pool.statistics(), Some(&node.events.statistics()));
    let mut response = Response::new(Body::from(text));
    let kind = HeaderValue::from_static(node_metrics::CONTENT_TYPE);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

async fn code(
    node: &Node,
    path: &str,
    query: &str,
    headers: &HeaderMap,
) -> Result<Response<Body>, LambdaError> {
    let headers = signed_headers(headers);
    let request = SignedRequest { method: "GET", path, query, headers: &headers, body: b"" };
    let secret = |key: &str| (key == OWN_KEY).then(|| node.code_urls.secret.clone());
    request.verify(&node.settings.region, now_seconds(), secret)?;
    let name = path.strip_prefix("/_/code/").unwrap_or_default();
    let sha256 = format!("{}=", name.replace('-', "+").replace('_', "/"));
    let gone = || LambdaError::new(ErrorKind::ResourceNotFound, "The code is not there any more.");
    let file = node.store.open_package(&sha256).map_err(|_| gone())?;
    let length = file.metadata().map_err(|_| gone())?.len();
    let (sender, receiver) = tokio::sync::mpsc::channel(2);
    tokio::spawn(async move {
        let mut file = tokio::fs::File::from_std(file);
        loop {
            let mut piece = Vec::with_capacity(PIECE);
            let sent = match file.read_buf(&mut piece).await {
                Ok(0) => return,
                Ok(_) => sender.send(Ok(bytes::Bytes::from(piece))).await,
                Err(error) => {
                    // The connection breaks off: the client must not take what it has for all.
                    let _ = sender.send(Err(error)).await;
                    return;
                }
            };
            if sent.is_err() {
                return;
            }
        }
    });
    let mut response = Response::new(Body::from_stream(ReceiverStream::new(receiver)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/zip"));
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    Ok(response)
}
