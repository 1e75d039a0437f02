//! Aliases.

use std::collections::BTreeMap;

use lambda_api::{AliasConfiguration, AliasRequest, ErrorKind, LambdaError, Routing, parse, validation};
use registry::{Alias, AliasName, Version};
use serde_json::json;

use crate::answer::{Answer, Failed};
use crate::functions::check_revision;
use crate::node::Node;
use crate::reading::with_next;
use crate::request::{ApiRequest, Target};
use crate::settings::description;

const ALIAS_PATTERN: &str = "(?!^[0-9]+$)([a-zA-Z0-9-_]+)";
const VERSION_PATTERN: &str = r"(\$LATEST|[0-9]+)";

impl Node {
    fn alias_answer(&self, target: &Target, alias: &Alias) -> Result<Answer, LambdaError> {
        Answer::json(&self.alias_configuration(target, alias))
    }

    fn alias_configuration(&self, target: &Target, alias: &Alias) -> AliasConfiguration {
        let weights = alias.routing.iter().map(|(version, weight)| (version.to_string(), *weight)).collect();
        AliasConfiguration {
            alias_arn: self.account.qualified(target.name.as_str(), alias.name.as_str()),
            name: alias.name.to_string(),
            function_version: alias.version.to_string(),
            description: alias.description.clone(),
            routing_config: (!alias.routing.is_empty())
                .then_some(Routing { additional_version_weights: weights }),
            revision_id: alias.revision_id.clone(),
        }
    }

    fn no_alias(&self, target: &Target, name: &str) -> LambdaError {
        let arn = self.account.qualified(target.name.as_str(), name);
        LambdaError::new(ErrorKind::ResourceNotFound, format!("Cannot find alias arn: {arn}"))
    }

    /// A version that an alias may stand for.
    fn alias_version(&self, target: &Target, text: &str) -> Result<Version, Failed> {
        let version: Version =
            text.parse().map_err(|_| validation::pattern_error(text, "functionVersion", VERSION_PATTERN))?;
        match self.store.registry().function(&target.name, version) {
            Ok(_) => Ok(version),
            Err(registry::RegistryError::NoVersion { .. }) => {
                let arn = self.account.qualified(target.name.as_str(), text);
                Err(LambdaError::function_not_found(&arn).into())
            }
            Err(other) => Err(other.into()),
        }
    }

    /// The shares of an alias: one more version at most, none with `$LATEST`.
    fn routing(
        &self,
        target: &Target,
        main: Version,
        routing: Option<&Routing>,
    ) -> Result<BTreeMap<Version, f64>, Failed> {
        let mut checked = BTreeMap::new();
        for (text, weight) in routing.iter().flat_map(|routing| &routing.additional_version_weights) {
            if !(0.0..=1.0).contains(weight) {
                return Err(LambdaError::new(
                    ErrorKind::Validation,
                    format!("1 validation error detected: Value '{{{text}={weight}}}' at 'routingConfig.additionalVersionWeights' failed to satisfy constraint: Map value must satisfy constraint: [Member must have value less than or equal to 1.0, Member must have value greater than or equal to 0.0]"),
                ).into());
            }
            if text == "$LATEST" {
                return Err(LambdaError::invalid("Invalid function version $LATEST. Function version $LATEST is not supported for routing configuration.").into());
            }
            let version = self.alias_version(target, text)?;
            if version == main {
                return Err(LambdaError::invalid(format!("Invalid function version {version}. Function version {version} is already included in routing configuration.")).into());
            }
            checked.insert(version, *weight);
        }
        if checked.len() > 1 {
            return Err(LambdaError::invalid(
                "Number of items in AdditionalVersionWeights cannot be greater than 1",
            )
            .into());
        }
        if !checked.is_empty() && main == Version::Latest {
            return Err(LambdaError::invalid(
                "$LATEST is not supported for an alias pointing to more than 1 version",
            )
            .into());
        }
        Ok(checked)
    }

    pub(crate) fn create_alias(&self, request: &ApiRequest) -> Result<Answer, LambdaError> {
        let body: AliasRequest = parse(&request.body)?;
        let target = request.target(self)?;
        self.must_exist(&target)?;
        let text = body.name.as_deref().ok_or_else(|| validation::missing("name"))?;
        let name: AliasName =
            text.parse().map_err(|_| validation::pattern_error(text, "name", ALIAS_PATTERN))?;
        let arn = self.account.qualified(target.name.as_str(), text);
        let failed = |failed: Failed| failed.into_error(&target.plain_arn(self));
        let version =
            body.function_version.as_deref().ok_or_else(|| validation::missing("functionVersion"))?;
        let version = self.alias_version(&target, version).map_err(failed)?;
        let routing = self.routing(&target, version, body.routing_config.as_ref()).map_err(failed)?;
        let alias = Alias {
            name,
            version,
            description: description(body.description.as_deref().unwrap_or_default())?,
            routing,
            revision_id: uuid::Uuid::new_v4().to_string(),
        };
        match self
            .store
            .registry()
            .insert_alias(&target.name, &alias)
            .map_err(|error| failed(error.into()))?
        {
            true => self.alias_answer(&target, &alias),
            false => {
                Err(LambdaError::new(ErrorKind::ResourceConflict, format!("Alias already exists: {arn}")))
            }
        }
    }

    pub(crate) fn get_alias(&self, request: &ApiRequest) -> Result<Answer, LambdaError> {
        let target = request.target(self)?;
        self.must_exist(&target)?;
        let name = request.matched.parameter("Name");
        let found = self.store.registry().alias(&target.name, name);
        let found = found.map_err(|error| Failed::from(error).into_error(&target.arn(self)))?;
        self.alias_answer(&target, &found.ok_or_else(|| self.no_alias(&target, name))?)
    }

    pub(crate) fn update_alias(&self, request: &ApiRequest) -> Result<Answer, LambdaError> {
        let body: AliasRequest = parse(&request.body)?;
        let target = request.target(self)?;
        self.must_exist(&target)?;
        let name = request.matched.parameter("Name");
        let failed = |failed: Failed| failed.into_error(&target.plain_arn(self));
        let version = body.function_version.as_deref();
        let version = version.map(|text| self.alias_version(&target, text)).transpose().map_err(failed)?;
        let before = self.store.registry().alias(&target.name, name).map_err(|error| failed(error.into()))?;
        let before = before.ok_or_else(|| self.no_alias(&target, name))?;
        let main = version.unwrap_or(before.version);
        let routing = match &body.routing_config {
            Some(routing) => self.routing(&target, main, Some(routing)).map_err(failed)?,
            None => before.routing,
        };
        let text = body.description.as_deref().map(description).transpose()?;
        let changed = self.store.registry().update_alias(&target.name, name, |alias| {
            check_revision(body.revision_id.as_deref(), &alias.revision_id)?;
            alias.version = main;
            alias.routing = routing;
            if let Some(text) = text {
                alias.description = text;
            }
            Ok::<_, Failed>(())
        });
        self.alias_answer(&target, &changed.map_err(failed)?.ok_or_else(|| self.no_alias(&target, name))?)
    }

    pub(crate) fn delete_alias(&self, request: &ApiRequest) -> Result<Answer, LambdaError> {
        let target = request.target(self)?;
        self.must_exist(&target)?;
        // AWS answers the same whether it was there or not.
        let removed = self.store.registry().remove_alias(&target.name, request.matched.parameter("Name"));
        removed.map_err(|error| Failed::from(error).into_error(&target.arn(self)))?;
        Ok(Answer::empty())
    }

    pub(crate) fn list_aliases(&self, request: &ApiRequest) -> Result<Answer, LambdaError> {
        let target = request.target(self)?;
        self.must_exist(&target)?;
        let failed = |error: registry::RegistryError| Failed::from(error).into_error(&target.arn(self));
        let limit = request.page_size(50)?;
        let mut page =
            self.store.registry().aliases_page(&target.name, request.marker(), limit).map_err(failed)?;
        if let Some(version) = request.query("FunctionVersion") {
            page.items.retain(|alias| {
                alias.version.to_string() == version
                    || alias.routing.keys().any(|other| other.to_string() == version)
            });
        }
        let aliases: Vec<_> =
            page.items.iter().map(|alias| self.alias_configuration(&target, alias)).collect();
        Answer::json(&with_next("Aliases", json!(aliases), page.next))
    }
}
