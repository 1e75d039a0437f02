//! A stored function as AWS shows it.

use std::time::{Duration, UNIX_EPOCH};

use lambda_api::{
    Configuration, DeadLetter, EnvironmentAnswer, LayerReference, LoggingConfig, SizeAnswer, SnapStartAnswer,
    TracingConfig,
};
use registry::{Function, LayerUse, Logging, SnapStart, State, UpdateStatus, Version};

use crate::node::Node;

/// `2026-01-02T03:04:05.678+0000`, AWS's form of a function's LastModified.
pub(crate) fn timestamp(milliseconds: u64) -> String {
    // The format ends with the year 9999.
    let at = UNIX_EPOCH + Duration::from_millis(milliseconds.min(253_402_300_799_000));
    humantime::format_rfc3339_millis(at).to_string().replace('Z', "+0000")
}

impl Node {
    /// FunctionConfiguration. `qualifier` ends the ARN.
    pub(crate) fn configuration(&self, function: &Function, qualifier: Option<&str>) -> Configuration {
        let (config, settings, status) = (&function.config, &function.settings, &function.status);
        let name = function.name.as_str();
        let (state_reason, state_reason_code) = status.reason.clone().unzip();
        let (update_reason, update_reason_code) = status.update_reason.clone().unzip();
        let variables = config.environment.variables();
        Configuration {
            function_name: name.to_owned(),
            function_arn: match qualifier {
                None => self.account.function(name),
                Some(qualifier) => self.account.qualified(name, qualifier),
            },
            runtime: match &function.settings.runtime_as_asked {
                Some(asked) => asked.clone(),
                None => config.runtime.to_string(),
            },
            role: settings.role.clone(),
            handler: config.handler.to_string(),
            code_size: function.package.bytes,
            description: settings.description.clone(),
            timeout: config.timeout.get(),
            memory_size: config.memory.get(),
            last_modified: timestamp(function.modified_ms),
            code_sha256: function.package.sha256.clone(),
            version: function.version.to_string(),
            dead_letter_config: settings
                .dead_letter
                .clone()
                .map(|target| DeadLetter { target_arn: Some(target) }),
            environment: (!variables.is_empty()).then(|| EnvironmentAnswer { variables: variables.clone() }),
            tracing_config: TracingConfig {
                mode: Some(if settings.tracing_active { "Active" } else { "PassThrough" }.to_owned()),
            },
            revision_id: function.revision_id.clone(),
            layers: (!function.layers.is_empty())
                .then(|| function.layers.iter().map(|layer| self.layer_reference(layer)).collect()),
            state: Some(match status.state {
                State::Pending => "Pending",
                State::Active => "Active",
                State::Failed => "Failed",
            }),
            state_reason,
            state_reason_code,
            last_update_status: status.update.map(|update| match update {
                UpdateStatus::Successful => "Successful",
                UpdateStatus::InProgress => "InProgress",
                UpdateStatus::Failed => "Failed",
            }),
            last_update_status_reason: update_reason,
            last_update_status_reason_code: update_reason_code,
            package_type: "Zip",
            architectures: ["x86_64"],
            ephemeral_storage: SizeAnswer { size: config.tmp.get() },
            snap_start: SnapStartAnswer {
                apply_on: match settings.snap_start {
                    SnapStart::None => "None",
                    SnapStart::PublishedVersions => "PublishedVersions",
                },
                // AWS says "On" for published versions only, and only when their snapshot is there.
                optimization_status: match (function.version, status.snapshot_on) {
                    (Version::Number(_), true) => "On",
                    _ => "Off",
                },
            },
            logging_config: logging(&settings.logging, name),
        }
    }

    /// The same without states, as lists have it.
    pub(crate) fn listed(&self, function: &Function, qualifier: Option<&str>) -> Configuration {
        Configuration {
            state: None,
            state_reason: None,
            state_reason_code: None,
            last_update_status: None,
            last_update_status_reason: None,
            last_update_status_reason_code: None,
            ..self.configuration(function, qualifier)
        }
    }

    fn layer_reference(&self, layer: &LayerUse) -> LayerReference {
        // A layer that was given to the command line as a file has no name; its digest stands for one.
        let made_up =
            || format!("{}:1", self.account.layer(&format!("file-{}", layer.tree.digest.short(16))));
        LayerReference { arn: layer.arn.clone().unwrap_or_else(made_up), code_size: layer.package_bytes }
    }
}

fn logging(logging: &Logging, name: &str) -> LoggingConfig {
    let level =
        |given: &Option<String>| logging.json.then(|| given.clone().unwrap_or_else(|| "INFO".to_owned()));
    LoggingConfig {
        log_format: Some(if logging.json { "JSON" } else { "Text" }.to_owned()),
        application_log_level: level(&logging.application_level),
        system_log_level: level(&logging.system_level),
        log_group: Some(logging.group.clone().unwrap_or_else(|| format!("/aws/lambda/{name}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_aws_s_form() {
        assert_eq!(timestamp(1_767_323_045_678), "2026-01-02T03:04:05.678+0000");
        assert!(timestamp(u64::MAX).starts_with("9999"));
    }
}
