//! Every operation of AWS Lambda's API: its name, method, path and the status of its success.
//!
//! The table is botocore's model of 2026-11 (`lambda/2015-03-31`); a test of the suite in Python compares the two.

use std::borrow::Cow;

use crate::error::{ErrorKind, LambdaError};
use crate::percent;

macro_rules! operations {
    ($($name:ident, $method:literal, $path:literal, $status:literal;)*) => {
        /// An operation.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[expect(missing_docs, reason = "AWS's own names")]
        pub enum Operation { $($name,)* }

        impl Operation {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// AWS's name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// The HTTP method.
            pub const fn method(self) -> &'static str {
                match self { $(Self::$name => $method,)* }
            }

            /// The path with its parameters in braces, and what must stand in the query.
            pub const fn template(self) -> &'static str {
                match self { $(Self::$name => $path,)* }
            }

            /// The HTTP status of success. DeleteFunction's is what AWS sends; its model says otherwise.
            pub const fn success(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }
        }
    };
}

operations! {
    AddLayerVersionPermission, "POST", "/2018-10-31/layers/{LayerName}/versions/{VersionNumber}/policy", 201;
    AddPermission, "POST", "/2015-03-31/functions/{FunctionName}/policy", 201;
    CheckpointDurableExecution, "POST", "/2025-12-01/durable-executions/{DurableExecutionArn}/checkpoint", 200;
    CreateAlias, "POST", "/2015-03-31/functions/{FunctionName}/aliases", 201;
    CreateCapacityProvider, "POST", "/2025-11-30/capacity-providers", 202;
    CreateCodeSigningConfig, "POST", "/2020-04-22/code-signing-configs", 201;
    CreateEventSourceMapping, "POST", "/2015-03-31/event-source-mappings", 202;
    CreateFunction, "POST", "/2015-03-31/functions", 201;
    CreateFunctionUrlConfig, "POST", "/2021-10-31/functions/{FunctionName}/url", 201;
    DeleteAlias, "DELETE", "/2015-03-31/functions/{FunctionName}/aliases/{Name}", 204;
    DeleteCapacityProvider, "DELETE", "/2025-11-30/capacity-providers/{CapacityProviderName}", 202;
    DeleteCodeSigningConfig, "DELETE", "/2020-04-22/code-signing-configs/{CodeSigningConfigArn}", 204;
    DeleteDurableExecution, "DELETE", "/2025-12-01/durable-executions/{DurableExecutionArn}", 202;
    DeleteEventSourceMapping, "DELETE", "/2015-03-31/event-source-mappings/{UUID}", 202;
    DeleteFunction, "DELETE", "/2015-03-31/functions/{FunctionName}", 204;
    DeleteFunctionCodeSigningConfig, "DELETE", "/2020-06-30/functions/{FunctionName}/code-signing-config", 204;
    DeleteFunctionConcurrency, "DELETE", "/2017-10-31/functions/{FunctionName}/concurrency", 204;
    DeleteFunctionEventInvokeConfig, "DELETE", "/2019-09-25/functions/{FunctionName}/event-invoke-config", 204;
    DeleteFunctionUrlConfig, "DELETE", "/2021-10-31/functions/{FunctionName}/url", 204;
    DeleteLayerVersion, "DELETE", "/2018-10-31/layers/{LayerName}/versions/{VersionNumber}", 204;
    DeleteProvisionedConcurrencyConfig, "DELETE", "/2019-09-30/functions/{FunctionName}/provisioned-concurrency", 204;
    DeleteResourcePolicy, "DELETE", "/2026-07-09/resource-policy/{ResourceArn}", 204;
    GetAccountSettings, "GET", "/2016-08-19/account-settings", 200;
    GetAlias, "GET", "/2015-03-31/functions/{FunctionName}/aliases/{Name}", 200;
    GetCapacityProvider, "GET", "/2025-11-30/capacity-providers/{CapacityProviderName}", 200;
    GetCodeSigningConfig, "GET", "/2020-04-22/code-signing-configs/{CodeSigningConfigArn}", 200;
    GetDurableExecution, "GET", "/2025-12-01/durable-executions/{DurableExecutionArn}", 200;
    GetDurableExecutionHistory, "GET", "/2025-12-01/durable-executions/{DurableExecutionArn}/history", 200;
    GetDurableExecutionState, "GET", "/2025-12-01/durable-executions/{DurableExecutionArn}/state", 200;
    GetEventSourceMapping, "GET", "/2015-03-31/event-source-mappings/{UUID}", 200;
    GetFunction, "GET", "/2015-03-31/functions/{FunctionName}", 200;
    GetFunctionCodeSigningConfig, "GET", "/2020-06-30/functions/{FunctionName}/code-signing-config", 200;
    GetFunctionConcurrency, "GET", "/2019-09-30/functions/{FunctionName}/concurrency", 200;
    GetFunctionConfiguration, "GET", "/2015-03-31/functions/{FunctionName}/configuration", 200;
    GetFunctionEventInvokeConfig, "GET", "/2019-09-25/functions/{FunctionName}/event-invoke-config", 200;
    GetFunctionRecursionConfig, "GET", "/2024-08-31/functions/{FunctionName}/recursion-config", 200;
    GetFunctionScalingConfig, "GET", "/2025-11-30/functions/{FunctionName}/function-scaling-config", 200;
    GetFunctionUrlConfig, "GET", "/2021-10-31/functions/{FunctionName}/url", 200;
    GetLayerVersion, "GET", "/2018-10-31/layers/{LayerName}/versions/{VersionNumber}", 200;
    GetLayerVersionByArn, "GET", "/2018-10-31/layers?find=LayerVersion", 200;
    GetLayerVersionPolicy, "GET", "/2018-10-31/layers/{LayerName}/versions/{VersionNumber}/policy", 200;
    GetPolicy, "GET", "/2015-03-31/functions/{FunctionName}/policy", 200;
    GetProvisionedConcurrencyConfig, "GET", "/2019-09-30/functions/{FunctionName}/provisioned-concurrency", 200;
    GetResourcePolicy, "GET", "/2026-07-09/resource-policy/{ResourceArn}", 200;
    GetRuntimeManagementConfig, "GET", "/2021-07-20/functions/{FunctionName}/runtime-management-config", 200;
    Invoke, "POST", "/2015-03-31/functions/{FunctionName}/invocations", 200;
    InvokeAsync, "POST", "/2014-11-13/functions/{FunctionName}/invoke-async", 202;
    InvokeWithResponseStream, "POST", "/2021-11-15/functions/{FunctionName}/response-streaming-invocations", 200;
    ListAliases, "GET", "/2015-03-31/functions/{FunctionName}/aliases", 200;
    ListCapacityProviders, "GET", "/2025-11-30/capacity-providers", 200;
    ListCodeSigningConfigs, "GET", "/2020-04-22/code-signing-configs", 200;
    ListDurableExecutionsByFunction, "GET", "/2025-12-01/functions/{FunctionName}/durable-executions", 200;
    ListEventSourceMappings, "GET", "/2015-03-31/event-source-mappings", 200;
    ListFunctionEventInvokeConfigs, "GET", "/2019-09-25/functions/{FunctionName}/event-invoke-config/list", 200;
    ListFunctionUrlConfigs, "GET", "/2021-10-31/functions/{FunctionName}/urls", 200;
    ListFunctionVersionsByCapacityProvider, "GET", "/2025-11-30/capacity-providers/{CapacityProviderName}/function-versions", 200;
    ListFunctions, "GET", "/2015-03-31/functions", 200;
    ListFunctionsByCodeSigningConfig, "GET", "/2020-04-22/code-signing-configs/{CodeSigningConfigArn}/functions", 200;
    ListLayerVersions, "GET", "/2018-10-31/layers/{LayerName}/versions", 200;
    ListLayers, "GET", "/2018-10-31/layers", 200;
    ListProvisionedConcurrencyConfigs, "GET", "/2019-09-30/functions/{FunctionName}/provisioned-concurrency?List=ALL", 200;
    ListTags, "GET", "/2017-03-31/tags/{Resource}", 200;
    ListVersionsByFunction, "GET", "/2015-03-31/functions/{FunctionName}/versions", 200;
    PauseDurableExecution, "POST", "/2025-12-01/durable-executions/{DurableExecutionArn}/pause", 202;
    PublishLayerVersion, "POST", "/2018-10-31/layers/{LayerName}/versions", 201;
    PublishVersion, "POST", "/2015-03-31/functions/{FunctionName}/versions", 201;
    PutFunctionCodeSigningConfig, "PUT", "/2020-06-30/functions/{FunctionName}/code-signing-config", 200;
    PutFunctionConcurrency, "PUT", "/2017-10-31/functions/{FunctionName}/concurrency", 200;
    PutFunctionEventInvokeConfig, "PUT", "/2019-09-25/functions/{FunctionName}/event-invoke-config", 200;
    PutFunctionRecursionConfig, "PUT", "/2024-08-31/functions/{FunctionName}/recursion-config", 200;
    PutFunctionScalingConfig, "PUT", "/2025-11-30/functions/{FunctionName}/function-scaling-config", 202;
    PutProvisionedConcurrencyConfig, "PUT", "/2019-09-30/functions/{FunctionName}/provisioned-concurrency", 202;
    PutResourcePolicy, "PUT", "/2026-07-09/resource-policy/{ResourceArn}", 200;
    PutRuntimeManagementConfig, "PUT", "/2021-07-20/functions/{FunctionName}/runtime-management-config", 200;
    RemoveLayerVersionPermission, "DELETE", "/2018-10-31/layers/{LayerName}/versions/{VersionNumber}/policy/{StatementId}", 204;
    RemovePermission, "DELETE", "/2015-03-31/functions/{FunctionName}/policy/{StatementId}", 204;
    ResumeDurableExecution, "POST", "/2025-12-01/durable-executions/{DurableExecutionArn}/resume", 202;
    SendDurableExecutionCallbackFailure, "POST", "/2025-12-01/durable-execution-callbacks/{CallbackId}/fail", 200;
    SendDurableExecutionCallbackHeartbeat, "POST", "/2025-12-01/durable-execution-callbacks/{CallbackId}/heartbeat", 200;
    SendDurableExecutionCallbackSuccess, "POST", "/2025-12-01/durable-execution-callbacks/{CallbackId}/succeed", 200;
    StopDurableExecution, "POST", "/2025-12-01/durable-executions/{DurableExecutionArn}/stop", 200;
    TagResource, "POST", "/2017-03-31/tags/{Resource}", 204;
    UntagResource, "DELETE", "/2017-03-31/tags/{Resource}", 204;
    UpdateAlias, "PUT", "/2015-03-31/functions/{FunctionName}/aliases/{Name}", 200;
    UpdateCapacityProvider, "PUT", "/2025-11-30/capacity-providers/{CapacityProviderName}", 202;
    UpdateCodeSigningConfig, "PUT", "/2020-04-22/code-signing-configs/{CodeSigningConfigArn}", 200;
    UpdateEventSourceMapping, "PUT", "/2015-03-31/event-source-mappings/{UUID}", 202;
    UpdateFunctionCode, "PUT", "/2015-03-31/functions/{FunctionName}/code", 200;
    UpdateFunctionConfiguration, "PUT", "/2015-03-31/functions/{FunctionName}/configuration", 200;
    UpdateFunctionEventInvokeConfig, "POST", "/2019-09-25/functions/{FunctionName}/event-invoke-config", 200;
    UpdateFunctionUrlConfig, "PUT", "/2021-10-31/functions/{FunctionName}/url", 200;
}

/// A request's operation with the parameters of its path, decoded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Matched {
    /// The operation.
    pub operation: Operation,
    parameters: Vec<(&'static str, String)>,
}

impl Matched {
    /// Finds the operation of a request.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownOperation`] for a path that no operation has, with AWS's text.
    pub fn find(method: &str, path: &str, query: &[(String, String)]) -> Result<Self, LambdaError> {
        let mut found: Option<Self> = None;
        for operation in Operation::ALL.iter().copied().filter(|operation| operation.method() == method) {
            let (template, wanted) =
                operation.template().split_once('?').unwrap_or((operation.template(), ""));
            let Some(parameters) = parameters(template, path) else { continue };
            let fits = wanted.is_empty()
                || wanted.split_once('=').is_some_and(|(key, value)| {
                    query.iter().any(|(name, text)| name == key && text == value)
                });
            // One with a wish about the query goes before one without.
            if fits && (found.is_none() || !wanted.is_empty()) {
                found = Some(Self { operation, parameters });
            }
        }
        found.ok_or_else(|| {
            LambdaError::new(ErrorKind::UnknownOperation, format!("Unable to determine service/operation name to be authorized: no operation of AWS Lambda has {method} {path}"))
        })
    }

    /// A parameter of the path.
    pub fn parameter(&self, name: &str) -> &str {
        self.parameters.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value)
    }
}

/// The parameters of `path`, when it has the form of `template`.
fn parameters(template: &'static str, path: &str) -> Option<Vec<(&'static str, String)>> {
    let mut parameters = Vec::new();
    let mut given = path.strip_suffix('/').unwrap_or(path).split('/');
    for part in template.split('/') {
        let text = given.next()?;
        match part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
            Some(name) => {
                let value = percent::decode(text)?;
                if value.is_empty() {
                    return None;
                }
                parameters.push((name, value));
            }
            None if part == text => {}
            None => return None,
        }
    }
    given.next().is_none().then_some(parameters)
}

/// The pairs of a query string, decoded; what does not decode stays as it is.
pub fn query_pairs(query: &str) -> Vec<(String, String)> {
    let decode = |text: &str| {
        let text: Cow<'_, str> = if text.contains('+') { text.replace('+', " ").into() } else { text.into() };
        percent::decode(&text).unwrap_or_else(|| text.into_owned())
    };
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decode(name), decode(value)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(method: &str, path: &str, query: &str) -> Option<Matched> {
        Matched::find(method, path, &query_pairs(query)).ok()
    }

    #[test]
    fn every_operation_is_found_by_its_own_path() {
        for operation in Operation::ALL.iter().copied() {
            let (path, query) = operation.template().split_once('?').unwrap_or((operation.template(), ""));
            let path: Vec<&str> =
                path.split('/').map(|part| if part.starts_with('{') { "x" } else { part }).collect();
            let found = find(operation.method(), &path.join("/"), query).unwrap();
            assert_eq!(found.operation, operation);
        }
    }

    #[test]
    fn names_in_paths_are_decoded_once() {
        let path = "/2015-03-31/functions/arn%3Aaws%3Alambda%3Aus-east-1%3A000000000000%3Afunction%3Af%253A/invocations";
        let found = find("POST", path, "").unwrap();
        assert_eq!(found.parameter("FunctionName"), "arn:aws:lambda:us-east-1:000000000000:function:f%3A");
        for (method, path) in [
            ("GET", "/"),
            ("PATCH", "/2015-03-31/functions"),
            ("POST", "/2015-03-31/functions//invocations"),
            ("POST", "/2015-03-31/functions/%zz/invocations"),
            ("GET", "/2015-03-31/functions/f/g/h"),
        ] {
            assert!(find(method, path, "").is_none(), "{method} {path}");
        }
    }

    #[test]
    fn queries_decide_between_operations_of_one_path() {
        let operation = |query| find("GET", "/2018-10-31/layers", query).unwrap().operation;
        assert_eq!(operation(""), Operation::ListLayers);
        assert_eq!(operation("find=LayerVersion&Arn=x"), Operation::GetLayerVersionByArn);
        assert_eq!(
            query_pairs("a=%24LATEST&b&c=x+y"),
            [("a", "$LATEST"), ("b", ""), ("c", "x y")].map(|(a, b)| (a.to_owned(), b.to_owned()))
        );
    }
}
