//! Settings that AWS Lambda has and a function's instances don't depend on.

use serde::{Deserialize, Serialize};

/// When snapshots are made as AWS's SnapStart makes them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum SnapStart {
    /// Not.
    #[default]
    None,
    /// When a version is published.
    PublishedVersions,
}

/// How a function's log is written.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Logging {
    /// `JSON` instead of `Text`.
    pub json: bool,
    /// The least level of the function's own lines, with JSON only.
    pub application_level: Option<String>,
    /// The least level of the platform's lines, with JSON only.
    pub system_level: Option<String>,
    /// The log group; `None` for `/aws/lambda/NAME`.
    pub group: Option<String>,
}

/// Settings beside [`FunctionConfig`](crate::FunctionConfig). Members that older records lack have their defaults.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// A text for people.
    pub description: String,
    /// The role's ARN: kept and shown, since nothing here gives out its rights.
    pub role: String,
    /// Snapshots at publishing.
    pub snap_start: SnapStart,
    /// X-Ray's mode `Active` instead of `PassThrough`: kept and shown.
    pub tracing_active: bool,
    /// The log.
    pub logging: Logging,
    /// Where events go that failed for good: the ARN of a function.
    pub dead_letter: Option<String>,
    /// AWS's name of the runtime, when the function was given that one and not the runtime's own.
    pub runtime_as_asked: Option<String>,
}
