//! Tags of functions.

use std::collections::BTreeMap;

use lambda_api::{LambdaError, TagRequest, parse, validation};
use serde_json::json;
use store::{NETWORK_NONE, NETWORK_OUTBOUND, NETWORK_TAG};

use crate::answer::{Answer, Failed};
use crate::node::Node;
use crate::request::{ApiRequest, Target, parse_target};

/// Tags that a function may have.
const MOST: usize = 50;

/// Keys and values within AWS's bounds.
pub(crate) fn check_tags(tags: &BTreeMap<String, String>) -> Result<(), LambdaError> {
    if tags.len() > MOST {
        return Err(too_many());
    }
    for (key, value) in tags {
        if key.is_empty() || key.chars().count() > 128 || key.to_ascii_lowercase().starts_with("aws:") {
            return Err(LambdaError::invalid(format!(
                "Tag keys have 1 to 128 characters and don't begin with aws: {key:.80}"
            )));
        }
        if key == NETWORK_TAG && value != NETWORK_OUTBOUND && value != NETWORK_NONE {
            return Err(LambdaError::invalid(format!(
                "The tag {NETWORK_TAG} is {NETWORK_OUTBOUND} or {NETWORK_NONE}: {value:.80}"
            )));
        }
        if value.chars().count() > 256 {
            return Err(LambdaError::invalid(format!(
                "The value of the tag {key} has more than 256 characters."
            )));
        }
    }
    Ok(())
}

fn too_many() -> LambdaError {
    LambdaError::invalid("Number of tags exceeds resource tag limit.")
}

impl Node {
    /// The function of a tag operation: an ARN, without a qualifier.
    fn tagged(&self, request: &ApiRequest) -> Result<Target, LambdaError> {
        let arn = request.matched.parameter("Resource");
        if !arn.starts_with("arn:") {
            return Err(validation::pattern_error(
                arn,
                "resource",
                r"arn:(aws[a-zA-Z-]*):lambda:[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:\d{12}:(function:[a-zA-Z0-9-_]+(:(\$LATEST|[a-zA-Z0-9-_]+))?|layer:([a-zA-Z0-9-_]+)|code-signing-config:csc-[a-z0-9]{17}|event-source-mapping:[a-f0-9]{8}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{12})",
            ));
        }
        let target = parse_target(self, arn, None)?;
        if target.qualifier.is_some() {
            return Err(LambdaError::invalid(
                "Tags on function aliases and versions are not supported. Please specify a function ARN.",
            ));
        }
        self.must_exist(&target)?;
        Ok(target)
    }

    pub(crate) fn list_tags(&self, request: &ApiRequest) -> Result<Answer, LambdaError> {
        let target = self.tagged(request)?;
        let tags = self.store.registry().tags(&target.name);
        let tags = tags.map_err(|error| Failed::from(error).into_error(&target.arn(self)))?;
        Answer::json(&json!({"Tags": tags}))
    }

    pub(crate) fn tag(&self, request: &ApiRequest) -> Result<Answer, LambdaError> {
        let body: TagRequest = parse(&request.body)?;
        let target = self.tagged(request)?;
        let tags = body.tags.ok_or_else(|| validation::missing("tags"))?;
        check_tags(&tags)?;
        let failed = |error: registry::RegistryError| Failed::from(error).into_error(&target.arn(self));
        let registry = self.store.registry();
        let mut all = registry.tags(&target.name).map_err(failed)?;
        all.extend(tags.clone());
        if all.len() > MOST {
            return Err(too_many());
        }
        registry.change_tags(&target.name, &tags, &[]).map_err(failed)?;
        self.network_may_have_changed(&target, tags.keys());
        Ok(Answer::empty())
    }

    pub(crate) fn untag(&self, request: &ApiRequest) -> Result<Answer, LambdaError> {
        let target = self.tagged(request)?;
        let keys = request.query.iter().filter(|(name, _)| name == "tagKeys").map(|(_, key)| key.clone());
        let keys: Vec<String> = keys.collect();
        if keys.is_empty() {
            return Err(validation::missing("tagKeys"));
        }
        let changed = self.store.registry().change_tags(&target.name, &BTreeMap::new(), &keys);
        changed.map_err(|error| Failed::from(error).into_error(&target.arn(self)))?;
        self.network_may_have_changed(&target, keys.iter());
        Ok(Answer::empty())
    }

    /// Instances that began under another tag end when they are done.
    fn network_may_have_changed<'a>(&self, target: &Target, mut keys: impl Iterator<Item = &'a String>) {
        if keys.any(|key| key == NETWORK_TAG) {
            self.forget(&target.name, None);
        }
    }
}
