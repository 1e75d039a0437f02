//! Layers.

use lambda_api::{CodeSha, ErrorKind, LambdaError, LayerRequest, LayerVersionAnswer, parse, validation};
use registry::{LayerName, LayerVersion};
use serde_json::{Value, json};
use store::NewLayerVersion;

use crate::answer::{Answer, Failed};
use crate::code::CodeArguments;
use crate::configuration::timestamp;
use crate::node::Node;
use crate::reading::with_next;
use crate::request::ApiRequest;
use crate::settings::description;

const LAYER_PATTERN: &str =
    r"(arn:[a-zA-Z0-9-]+:lambda:[a-zA-Z0-9-]+:\d{12}:layer:[a-zA-Z0-9-_]+)|[a-zA-Z0-9-_]+";

impl Node {
    fn layer_name(&self, request: &ApiRequest) -> Result<LayerName, LambdaError> {
        let text = request.matched.parameter("LayerName");
        let name = text.strip_prefix(&self.account.layer("")).unwrap_or(text);
        name.parse().map_err(|_| validation::pattern_error(text, "layerName", LAYER_PATTERN))
    }

    fn layer_version_number(request: &ApiRequest) -> Result<u64, LambdaError> {
        let text = request.matched.parameter("VersionNumber");
        text.parse().ok().filter(|number| *number > 0).ok_or_else(|| {
            LambdaError::new(ErrorKind::Validation, format!("1 validation error detected: Value '{text:.40}' at 'versionNumber' failed to satisfy constraint: Member must be a positive number"))
        })
    }

    /// As AWS shows it: `content` with the place of the archive, for the answers that have one.
    fn layer_answer(&self, layer: &LayerVersion, content_for: Option<&str>) -> LayerVersionAnswer {
        let arn = self.account.layer(layer.name.as_str());
        LayerVersionAnswer {
            layer_version_arn: format!("{arn}:{}", layer.number),
            layer_arn: content_for.map(|_| arn),
            version: layer.number,
            description: layer.description.clone(),
            created_date: timestamp(layer.created_ms),
            compatible_runtimes: layer.runtimes.clone(),
            compatible_architectures: layer.architectures.clone(),
            license_info: layer.license.clone(),
            content: content_for.map(|host| CodeSha {
                code_sha256: layer.package.sha256.clone(),
                code_size: layer.package.bytes,
                location: Some(self.code_urls.url(self, host, &layer.package.sha256)),
            }),
        }
    }

    pub(crate) fn publish_layer(&self, request: &ApiRequest) -> Result<Answer, LambdaError> {
        let body: LayerRequest<'_> = parse(&request.body)?;
        let name = self.layer_name(request)?;
        let content = body.content.as_ref().ok_or_else(|| validation::missing("content"))?;
        let arguments = CodeArguments {
            zip_file: content.zip_file.as_deref(),
            bucket: content.s3_bucket.as_deref(),
            image: None,
        };
        let source = arguments
            .source()?
            .ok_or_else(|| LambdaError::invalid("Please provide a source for layer content."))?;
        let new = NewLayerVersion {
            name,
            description: description(body.description.as_deref().unwrap_or_default())?,
            license: body.license_info,
            runtimes: body.compatible_runtimes.unwrap_or_default(),
            architectures: body.compatible_architectures.unwrap_or_default(),
            source,
        };
        let layer = self.store.publish_layer(&new).map_err(|error| Failed::from(error).into_error(""))?;
        Answer::json(&self.layer_answer(&layer, Some(request.host())))
    }

    fn one_layer(&self, name: &str, number: u64, host: &str) -> Result<Answer, LambdaError> {
        let found = self.store.registry().layer_version(name, number);
        let found = found.map_err(|error| Failed::from(error).into_error(""))?;
        let missing =
            || LambdaError::new(ErrorKind::ResourceNotFound, "The resource you requested does not exist.");
        Answer::json(&self.layer_answer(&found.ok_or_else(missing)?, Some(host)))
    }

    pub(crate) fn get_layer(&self, request: &ApiRequest) -> Result<Answer, LambdaError> {
        let name = self.layer_name(request)?;
        self.one_layer(name.as_str(), Self::layer_version_number(request)?, request.host())
    }

    pub(crate) fn get_layer_by_arn(&self, request: &ApiRequest) -> Result<Answer, LambdaError> {
        let arn = request.query("Arn").unwrap_or("");
        let (name, number) = self.account.parse_layer_version(arn).ok_or_else(|| {
            validation::pattern_error(arn, "arn", r"arn:(aws[a-zA-Z-]*)?:lambda:[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:\d{12}:layer:[a-zA-Z0-9-_]+:[0-9]+")
        })?;
        self.one_layer(&name, number, request.host())
    }

    pub(crate) fn delete_layer(&self, request: &ApiRequest) -> Result<Answer, LambdaError> {
        let name = self.layer_name(request)?;
        // AWS answers the same whether it was there or not.
        let removed = self.store.remove_layer_version(name.as_str(), Self::layer_version_number(request)?);
        removed.map_err(|error| Failed::from(error).into_error(""))?;
        Ok(Answer::empty())
    }

    pub(crate) fn list_layer_versions(&self, request: &ApiRequest) -> Result<Answer, LambdaError> {
        let name = self.layer_name(request)?;
        let page = self
            .store
            .registry()
            .layer_versions_page(name.as_str(), request.marker(), request.page_size(50)?)
            .map_err(|error| Failed::from(error).into_error(""))?;
        let versions: Vec<_> = page
            .items
            .iter()
            .filter(|layer| fits(layer, request))
            .map(|layer| self.layer_answer(layer, None))
            .collect();
        Answer::json(&with_next("LayerVersions", json!(versions), page.next))
    }

    pub(crate) fn list_layers(&self, request: &ApiRequest) -> Result<Answer, LambdaError> {
        let page = self
            .store
            .registry()
            .layers_page(request.marker(), request.page_size(50)?)
            .map_err(|error| Failed::from(error).into_error(""))?;
        let layers: Vec<Value> = page
            .items
            .iter()
            .filter(|layer| fits(layer, request))
            .map(|layer| {
                json!({
                    "LayerName": layer.name.as_str(),
                    "LayerArn": self.account.layer(layer.name.as_str()),
                    "LatestMatchingVersion": self.layer_answer(layer, None),
                })
            })
            .collect();
        Answer::json(&with_next("Layers", json!(layers), page.next))
    }
}

/// Whether a layer is said to work with what the request asks for.
fn fits(layer: &LayerVersion, request: &ApiRequest) -> bool {
    let wanted = |name: &str, known: &[String]| {
        request.query(name).is_none_or(|wanted| known.iter().any(|known| known == wanted))
    };
    wanted("CompatibleRuntime", &layer.runtimes) && wanted("CompatibleArchitecture", &layer.architectures)
}
