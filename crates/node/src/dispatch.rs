//! From an HTTP request to its operation, and from its outcome to a response.

use axum_core::body::Body;
use http::{Request, Response};
use lambda_api::{ErrorKind, LambdaError, Matched, Operation, query_pairs};

use crate::answer::{Answer, error_response};
use crate::node::Node;
use crate::request::ApiRequest;
use crate::watched::INVOKE_PATH;
use crate::{auth, body, internal};

/// Bytes of a request that creates or changes something: AWS's figure.
const REQUEST: usize = 70_167_211;
/// Bytes of an event.
const EVENT: usize = 6_291_456;

/// Answers a request. `trusted` requests need no signature: they came over the home's own socket.
pub(crate) async fn handle(node: &Node, request: Request<Body>, trusted: bool) -> Response<Body> {
    let id = uuid::Uuid::new_v4().to_string();
    match answered(node, request, trusted, &id).await {
        Ok(response) => response,
        Err(error) => error_response(&error, &id),
    }
}

async fn answered(
    node: &Node,
    request: Request<Body>,
    trusted: bool,
    id: &str,
) -> Result<Response<Body>, LambdaError> {
    let (head, body) = request.into_parts();
    let (method, path) = (head.method.as_str(), head.uri.path());
    let query = head.uri.query().unwrap_or("");
    if let Some(name) = path.strip_prefix(INVOKE_PATH).filter(|_| trusted && method == "POST") {
        let event = body::read(body, EVENT, Operation::Invoke, &node.bodies).await?;
        return node.invoke_watched(name, event, id).await;
    }
    if path.starts_with("/_/") {
        return Ok(internal::answer(node, method, path, query, &head.headers, id).await);
    }
    let pairs = query_pairs(query);
    let matched = Matched::find(method, path, &pairs)?;
    let operation = matched.operation;
    let limit = match operation {
        Operation::Invoke | Operation::InvokeWithResponseStream | Operation::InvokeAsync => EVENT,
        _ => REQUEST,
    };
    if !trusted {
        auth::check_key(node, query, &head.headers)?;
    }
    let body = body::read(body, limit, operation, &node.bodies).await?;
    if !trusted {
        auth::check(node, method, path, query, &head.headers, &body)?;
    }
    let request = ApiRequest { matched, query: pairs, headers: head.headers, body, id: id.to_owned() };
    request.check_headers()?;
    let answer = match operation {
        Operation::Invoke => node.invoke(request).await?,
        Operation::InvokeWithResponseStream => node.invoke_streaming(request).await?,
        _ => {
            let (node, runtime) = (node.clone(), tokio::runtime::Handle::current());
            let done = tokio::task::spawn_blocking(move || {
                let _entered = runtime.enter();
                perform(&node, &request)
            });
            done.await.unwrap_or_else(|error| {
                tracing::error!(operation = operation.name(), %error, "an operation failed (a defect)");
                Err(LambdaError::new(ErrorKind::Service, "The node failed (a defect)."))
            })?
        }
    };
    Ok(answer.response(operation.success(), id))
}

/// An operation that works on the disk.
fn perform(node: &Node, request: &ApiRequest) -> Result<Answer, LambdaError> {
    match request.matched.operation {
        Operation::CreateFunction => node.create_function(request),
        Operation::GetFunction => node.get_function(request),
        Operation::GetFunctionConfiguration => node.get_configuration(request),
        Operation::ListFunctions => node.list_functions(request),
        Operation::UpdateFunctionCode => node.update_code(request),
        Operation::UpdateFunctionConfiguration => node.update_configuration(request),
        Operation::DeleteFunction => node.delete_function(request),
        Operation::PublishVersion => node.publish_version(request),
        Operation::ListVersionsByFunction => node.list_versions(request),
        Operation::CreateAlias => node.create_alias(request),
        Operation::GetAlias => node.get_alias(request),
        Operation::UpdateAlias => node.update_alias(request),
        Operation::DeleteAlias => node.delete_alias(request),
        Operation::ListAliases => node.list_aliases(request),
        Operation::PutFunctionConcurrency => node.put_concurrency(request),
        Operation::GetFunctionConcurrency => node.get_concurrency(request),
        Operation::DeleteFunctionConcurrency => node.delete_concurrency(request),
        Operation::GetAccountSettings => node.account_settings(),
        Operation::ListTags => node.list_tags(request),
        Operation::TagResource => node.tag(request),
        Operation::UntagResource => node.untag(request),
        Operation::GetFunctionCodeSigningConfig => node.get_code_signing(request),
        Operation::GetRuntimeManagementConfig => node.get_runtime_management(request),
        Operation::GetFunctionRecursionConfig => node.get_recursion(request),
        Operation::PutFunctionEventInvokeConfig => node.put_event_config(request, false),
        Operation::UpdateFunctionEventInvokeConfig => node.put_event_config(request, true),
        Operation::GetFunctionEventInvokeConfig => node.get_event_config(request),
        Operation::DeleteFunctionEventInvokeConfig => node.delete_event_config(request),
        Operation::ListFunctionEventInvokeConfigs => node.list_event_configs(request),
        Operation::AddPermission => node.add_permission(request),
        Operation::GetPolicy => node.get_policy(request),
        Operation::RemovePermission => node.remove_permission(request),
        Operation::PublishLayerVersion => node.publish_layer(request),
        Operation::GetLayerVersion => node.get_layer(request),
        Operation::GetLayerVersionByArn => node.get_layer_by_arn(request),
        Operation::DeleteLayerVersion => node.delete_layer(request),
        Operation::ListLayerVersions => node.list_layer_versions(request),
        Operation::ListLayers => node.list_layers(request),
        other => Err(LambdaError::invalid(format!(
            "This node does not offer {}; docs/lambda-api.md lists what it offers.",
            other.name()
        ))),
    }
}
