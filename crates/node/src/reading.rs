//! GetFunction, GetFunctionConfiguration, ListFunctions, ListVersionsByFunction, GetAccountSettings and small readers.

use lambda_api::{CodeLocation, LambdaError, validation};
use registry::{Function, Version};
use serde_json::{Map, Value, json};

use crate::answer::{Answer, Failed};
use crate::node::Node;
use crate::request::{ApiRequest, Target};

/// Functions on a page: AWS's figure.
const PAGE: usize = 50;

impl Node {
    /// The version that a target means, through its alias if it has one.
    pub(crate) fn version_of(&self, target: &Target) -> Result<Version, LambdaError> {
        let failed = |error: registry::RegistryError| Failed::from(error).into_error(&target.arn(self));
        let Some(qualifier) = &target.qualifier else { return Ok(Version::Latest) };
        if let Ok(version) = qualifier.parse() {
            return Ok(version);
        }
        let alias = self.store.registry().alias(&target.name, qualifier).map_err(failed)?;
        alias.map(|alias| alias.version).ok_or_else(|| target.not_found(self))
    }

    /// The record that a target means.
    pub(crate) fn record_of(&self, target: &Target) -> Result<Function, LambdaError> {
        let version = self.version_of(target)?;
        let found = self.store.registry().function(&target.name, version);
        found.map_err(|error| Failed::from(error).into_error(&target.arn(self)))
    }

    /// That the function is there.
    pub(crate) fn must_exist(&self, target: &Target) -> Result<(), LambdaError> {
        let exists = self.store.registry().exists(&target.name);
        match exists.map_err(|error| Failed::from(error).into_error(&target.arn(self)))? {
            true => Ok(()),
            false => Err(LambdaError::function_not_found(&target.plain_arn(self))),
        }
    }

    pub(crate) fn get_function(&self, request: &ApiRequest) -> Result<Answer, LambdaError> {
        let target = request.target(self)?;
        let function = self.record_of(&target)?;
        let failed = |error: registry::RegistryError| Failed::from(error).into_error(&target.arn(self));
        let registry = self.store.registry();
        let mut answer = Map::new();
        let configuration = self.configuration(&function, target.qualifier.as_deref());
        answer.insert("Configuration".to_owned(), json!(configuration));
        let location =
            function.package.kept.then(|| self.code_urls.url(self, request.host(), &function.package.sha256));
        answer.insert("Code".to_owned(), json!(CodeLocation { repository_type: "S3", location }));
        let tags = registry.tags(&target.name).map_err(failed)?;
        if !tags.is_empty() {
            answer.insert("Tags".to_owned(), json!(tags));
        }
        if let Some(reserved) = registry.reserved_concurrency(&target.name).map_err(failed)? {
            answer.insert("Concurrency".to_owned(), json!({"ReservedConcurrentExecutions": reserved}));
        }
        Answer::json(&answer)
    }

    pub(crate) fn get_configuration(&self, request: &ApiRequest) -> Result<Answer, LambdaError> {
        let target = request.target(self)?;
        let function = self.record_of(&target)?;
        Answer::json(&self.configuration(&function, target.qualifier.as_deref()))
    }

    pub(crate) fn list_functions(&self, request: &ApiRequest) -> Result<Answer, LambdaError> {
        let all = match request.query("FunctionVersion") {
            None => false,
            Some("ALL") => true,
            Some(other) => return Err(validation::enum_error(other, "functionVersion", &["ALL"])),
        };
        let limit = request.page_size(PAGE)?;
        let registry = self.store.registry();
        let page = if all {
            registry.all_versions_page(request.marker(), limit)
        } else {
            registry.functions_page(request.marker(), limit)
        };
        let page = page.map_err(|error| Failed::from(error).into_error(""))?;
        let shown = |function: &Function| {
            let qualifier = all.then(|| function.version.to_string());
            self.listed(function, qualifier.as_deref())
        };
        let functions: Vec<_> = page.items.iter().map(shown).collect();
        Answer::json(&with_next("Functions", json!(functions), page.next))
    }

    pub(crate) fn list_versions(&self, request: &ApiRequest) -> Result<Answer, LambdaError> {
        let target = request.target(self)?;
        self.must_exist(&target)?;
        let page = self
            .store
            .registry()
            .versions_page(&target.name, request.marker(), request.page_size(PAGE)?)
            .map_err(|error| Failed::from(error).into_error(&target.arn(self)))?;
        let versions: Vec<_> = page
            .items
            .iter()
            .map(|function| self.listed(function, Some(&function.version.to_string())))
            .collect();
        Answer::json(&with_next("Versions", json!(versions), page.next))
    }

    pub(crate) fn account_settings(&self) -> Result<Answer, LambdaError> {
        let failed = |error: registry::RegistryError| Failed::from(error).into_error("");
        let (functions, bytes) = self.store.registry().usage().map_err(failed)?;
        let reserved = self.store.registry().reserved_by_others("").map_err(failed)?;
        let concurrency = u64::from(self.settings.concurrency);
        Answer::json(&json!({
            "AccountLimit": {
                "TotalCodeSize": 80_530_636_800_u64,
                "CodeSizeUnzipped": 262_144_000,
                "CodeSizeZipped": 52_428_800,
                "ConcurrentExecutions": concurrency,
                "UnreservedConcurrentExecutions": concurrency.saturating_sub(reserved),
            },
            "AccountUsage": {"TotalCodeSize": bytes, "FunctionCount": functions},
        }))
    }

    /// Terraform asks for it with every function and fails without an answer.
    pub(crate) fn get_code_signing(&self, request: &ApiRequest) -> Result<Answer, LambdaError> {
        let target = request.target(self)?;
        self.must_exist(&target)?;
        Answer::json(&json!({"CodeSigningConfigArn": "", "FunctionName": target.name.as_str()}))
    }

    pub(crate) fn get_runtime_management(&self, request: &ApiRequest) -> Result<Answer, LambdaError> {
        let target = request.target(self)?;
        self.record_of(&target)?;
        Answer::json(&json!({"UpdateRuntimeOn": "Manual", "FunctionArn": target.arn(self)}))
    }

    pub(crate) fn get_recursion(&self, request: &ApiRequest) -> Result<Answer, LambdaError> {
        let target = request.target(self)?;
        self.must_exist(&target)?;
        Answer::json(&json!({"RecursiveLoop": "Allow"}))
    }
}

/// A page of a list: the items below their name, and where the next page begins.
pub(crate) fn with_next(name: &str, items: Value, next: Option<String>) -> Map<String, Value> {
    let mut answer = Map::new();
    answer.insert(name.to_owned(), items);
    if let Some(next) = next {
        answer.insert("NextMarker".to_owned(), next.into());
    }
    answer
}
