//! The bodies of requests. Members that are not offered are read too, so that they can be refused and not ignored.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::answers::{DeadLetter, DestinationConfig, LoggingConfig, Routing, TracingConfig};
use crate::error::{ErrorKind, LambdaError};

/// Reads a body; an empty one is `{}`.
///
/// # Errors
/// [`ErrorKind::Serialization`].
pub fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, LambdaError> {
    let body = if body.trim_ascii().is_empty() { b"{}" } else { body };
    serde_json::from_slice(body).map_err(|error| {
        LambdaError::new(ErrorKind::Serialization, format!("Could not parse request body into json: {error}"))
    })
}

/// Variables of the environment.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct EnvironmentRequest {
    /// By name.
    pub variables: Option<BTreeMap<String, String>>,
}

/// A size in MB.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SizeRequest {
    /// In MB.
    pub size: i64,
}

/// SnapStart.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SnapStartRequest {
    /// `PublishedVersions` or `None`.
    pub apply_on: Option<String>,
}

/// Where code comes from.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CodeRequest<'a> {
    /// An archive in base64.
    #[serde(borrow)]
    pub zip_file: Option<Cow<'a, str>>,
    /// A bucket.
    pub s3_bucket: Option<String>,
    /// An object in it.
    pub s3_key: Option<String>,
    /// A container image.
    pub image_uri: Option<String>,
}

/// Settings that CreateFunction and UpdateFunctionConfiguration share.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[allow(missing_docs, reason = "AWS's own names")]
pub struct SettingsRequest {
    pub runtime: Option<String>,
    pub role: Option<String>,
    pub handler: Option<String>,
    pub description: Option<String>,
    pub timeout: Option<i64>,
    pub memory_size: Option<i64>,
    pub environment: Option<EnvironmentRequest>,
    pub dead_letter_config: Option<DeadLetter>,
    pub tracing_config: Option<TracingConfig>,
    pub layers: Option<Vec<String>>,
    pub ephemeral_storage: Option<SizeRequest>,
    pub snap_start: Option<SnapStartRequest>,
    pub logging_config: Option<LoggingConfig>,
    pub vpc_config: Option<Value>,
    #[serde(rename = "KMSKeyArn")]
    pub kms_key_arn: Option<String>,
    pub file_system_configs: Option<Vec<Value>>,
    pub image_config: Option<Value>,
    pub capacity_provider_config: Option<Value>,
    pub durable_config: Option<Value>,
    pub accelerator_config: Option<Value>,
}

/// CreateFunction.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "AWS's own names")]
pub struct CreateFunctionRequest<'a> {
    pub function_name: Option<String>,
    #[serde(borrow)]
    pub code: Option<CodeRequest<'a>>,
    #[serde(flatten)]
    pub settings: SettingsRequest,
    pub publish: Option<bool>,
    pub package_type: Option<String>,
    pub tags: Option<BTreeMap<String, String>>,
    pub architectures: Option<Vec<String>>,
    pub code_signing_config_arn: Option<String>,
    pub tenancy_config: Option<Value>,
}

/// UpdateFunctionCode.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "AWS's own names")]
pub struct UpdateCodeRequest<'a> {
    #[serde(borrow)]
    pub zip_file: Option<Cow<'a, str>>,
    pub s3_bucket: Option<String>,
    pub s3_key: Option<String>,
    pub image_uri: Option<String>,
    pub architectures: Option<Vec<String>>,
    pub publish: Option<bool>,
    pub dry_run: Option<bool>,
    pub revision_id: Option<String>,
}

/// UpdateFunctionConfiguration.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "AWS's own names")]
pub struct UpdateConfigurationRequest {
    #[serde(flatten)]
    pub settings: SettingsRequest,
    pub revision_id: Option<String>,
}

/// PublishVersion.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "AWS's own names")]
pub struct PublishVersionRequest {
    pub code_sha256: Option<String>,
    pub description: Option<String>,
    pub revision_id: Option<String>,
}

/// CreateAlias and UpdateAlias.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "AWS's own names")]
pub struct AliasRequest {
    pub name: Option<String>,
    pub function_version: Option<String>,
    pub description: Option<String>,
    pub routing_config: Option<Routing>,
    pub revision_id: Option<String>,
}

/// PutFunctionConcurrency.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ConcurrencyRequest {
    /// Invocations at once.
    pub reserved_concurrent_executions: Option<i64>,
}

/// TagResource.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct TagRequest {
    /// By key.
    pub tags: Option<BTreeMap<String, String>>,
}

/// PutFunctionEventInvokeConfig and UpdateFunctionEventInvokeConfig.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "AWS's own names")]
pub struct EventConfigRequest {
    pub maximum_retry_attempts: Option<i64>,
    pub maximum_event_age_in_seconds: Option<i64>,
    pub destination_config: Option<DestinationConfig>,
}

/// The content of a layer.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct LayerContent<'a> {
    /// An archive in base64.
    #[serde(borrow)]
    pub zip_file: Option<Cow<'a, str>>,
    /// A bucket.
    pub s3_bucket: Option<String>,
}

/// PublishLayerVersion.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "AWS's own names")]
pub struct LayerRequest<'a> {
    pub description: Option<String>,
    #[serde(borrow)]
    pub content: Option<LayerContent<'a>>,
    pub compatible_runtimes: Option<Vec<String>>,
    pub compatible_architectures: Option<Vec<String>>,
    pub license_info: Option<String>,
}

/// AddPermission.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "AWS's own names")]
pub struct PermissionRequest {
    pub statement_id: Option<String>,
    pub action: Option<String>,
    pub principal: Option<String>,
    pub source_arn: Option<String>,
    pub source_account: Option<String>,
    pub function_url_auth_type: Option<String>,
    pub revision_id: Option<String>,
}

/// CreateFunctionUrlConfig and UpdateFunctionUrlConfig.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "AWS's own names")]
pub struct UrlRequest {
    pub auth_type: Option<String>,
    pub cors: Option<Value>,
    pub invoke_mode: Option<String>,
}
