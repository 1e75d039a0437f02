//! A function's record: its settings and which trees it runs from.

use std::fmt;

use file_tree::{TreeDigest, TreeSummary};
use serde::{Deserialize, Serialize};

use crate::environment::Environment;
use crate::names::{FunctionName, KernelName, RuntimeName, Version};
use crate::settings::Settings;
use crate::state::Status;

/// Layers that a function may have: AWS Lambda's limit.
pub const MAX_LAYERS: usize = 5;

/// Why a setting is refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SettingProblem {
    /// Memory out of range.
    #[error("a function can have 128 to 10240 MB of memory, not {0}")]
    Memory(u32),
    /// Timeout out of range.
    #[error("a function can have a timeout of 1 to 900 seconds, not {0}")]
    Timeout(u32),
    /// A handler that Lambda would refuse.
    #[error("{0:?} can't be a handler: use 1 to 128 characters without blanks, such as app.handler")]
    Handler(String),
    /// Temporary storage out of range.
    #[error("a function can have 512 to 10240 MB of /tmp, not {0}")]
    Tmp(u32),
    /// Too many layers.
    #[error("a function can have 5 layers, not {0}")]
    Layers(usize),
    /// Code and layers together are too large.
    #[error("code and layers together unpack to {bytes} bytes; they must stay below 262144000")]
    Unpacked {
        /// Bytes of all trees together.
        bytes: u64,
    },
}

/// A function's memory in MB (1 MB is 2^20 bytes), 128 to 10240.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct MemoryMegabytes(u32);

impl MemoryMegabytes {
    /// AWS Lambda's default. Ours too, so that a function meets its limit here where it would meet it there.
    pub const DEFAULT: Self = Self(128);

    /// The number of MB.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The same in bytes.
    pub const fn bytes(self) -> u64 {
        (self.0 as u64) << 20
    }
}

impl TryFrom<u32> for MemoryMegabytes {
    type Error = SettingProblem;

    fn try_from(megabytes: u32) -> Result<Self, SettingProblem> {
        if (128..=10240).contains(&megabytes) {
            Ok(Self(megabytes))
        } else {
            Err(SettingProblem::Memory(megabytes))
        }
    }
}

impl From<MemoryMegabytes> for u32 {
    fn from(memory: MemoryMegabytes) -> Self {
        memory.0
    }
}

impl fmt::Display for MemoryMegabytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// How long one invocation may take, in seconds, 1 to 900.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct TimeoutSeconds(u32);

impl TimeoutSeconds {
    /// AWS Lambda's default.
    pub const DEFAULT: Self = Self(3);

    /// The number of seconds.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for TimeoutSeconds {
    type Error = SettingProblem;

    fn try_from(seconds: u32) -> Result<Self, SettingProblem> {
        if (1..=900).contains(&seconds) { Ok(Self(seconds)) } else { Err(SettingProblem::Timeout(seconds)) }
    }
}

impl From<TimeoutSeconds> for u32 {
    fn from(timeout: TimeoutSeconds) -> Self {
        timeout.0
    }
}

impl fmt::Display for TimeoutSeconds {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// The size of a function's `/tmp` in MB (1 MB is 2^20 bytes), 512 to 10240.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct TmpMegabytes(u32);

impl TmpMegabytes {
    /// AWS Lambda's default.
    pub const DEFAULT: Self = Self(512);

    /// The number of MB.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The same in bytes.
    pub const fn bytes(self) -> u64 {
        (self.0 as u64) << 20
    }
}

impl TryFrom<u32> for TmpMegabytes {
    type Error = SettingProblem;

    fn try_from(megabytes: u32) -> Result<Self, SettingProblem> {
        if (512..=10240).contains(&megabytes) {
            Ok(Self(megabytes))
        } else {
            Err(SettingProblem::Tmp(megabytes))
        }
    }
}

impl From<TmpMegabytes> for u32 {
    fn from(tmp: TmpMegabytes) -> Self {
        tmp.0
    }
}

impl fmt::Display for TmpMegabytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// What the runtime is told to call: `_HANDLER`. For Python `module.function`; a plain bootstrap reads it as it likes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Handler(String);

impl Handler {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Handler {
    type Error = SettingProblem;

    /// `[^\s]+`, at most 128 characters: the rule of AWS Lambda's CreateFunction.
    fn try_from(text: String) -> Result<Self, SettingProblem> {
        let valid = !text.is_empty()
            && text.chars().count() <= 128
            && !text.chars().any(|letter| letter.is_whitespace() || letter.is_control());
        if valid { Ok(Self(text)) } else { Err(SettingProblem::Handler(text.chars().take(140).collect())) }
    }
}

impl From<Handler> for String {
    fn from(handler: Handler) -> Self {
        handler.0
    }
}

impl fmt::Display for Handler {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// What a function's program runs in.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Guest {
    /// A process guest: the program alone in a virtual machine.
    #[default]
    Process,
    /// A linux guest: a Linux kernel in a virtual machine, and the program in it.
    Linux {
        /// The stored kernel that it boots.
        kernel: KernelName,
    },
}

impl Guest {
    /// Whether it is a process guest.
    pub fn is_process(&self) -> bool {
        *self == Self::Process
    }
}

/// What an instance of a function depends on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FunctionConfig {
    /// The root file system that it runs in.
    pub runtime: RuntimeName,
    /// What the runtime calls.
    pub handler: Handler,
    /// Memory.
    pub memory: MemoryMegabytes,
    /// Time for one invocation.
    pub timeout: TimeoutSeconds,
    /// The size of `/tmp`.
    pub tmp: TmpMegabytes,
    /// Its own environment variables.
    pub environment: Environment,
    /// What its program runs in. Records from before there was a choice have none.
    #[serde(default, skip_serializing_if = "Guest::is_process")]
    pub guest: Guest,
}

/// The archive that code or a layer came in.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Package {
    /// SHA-256 of the archive in base64, as AWS Lambda shows it. Of a folder, which never was an archive, its tree's digest.
    pub sha256: String,
    /// Bytes of the archive; of a folder, of its files.
    pub bytes: u64,
    /// Whether the archive itself was kept and can be downloaded.
    pub kept: bool,
}

/// A layer of a function.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LayerUse {
    /// The layer version's ARN; `None` for a layer that was given as a file.
    pub arn: Option<String>,
    /// Bytes of its archive.
    pub package_bytes: u64,
    /// Its files.
    #[serde(flatten)]
    pub tree: TreeSummary,
}

/// One version of a function, as it is stored.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Function {
    /// Its name.
    pub name: FunctionName,
    /// Which version this is.
    pub version: Version,
    /// What its instances depend on.
    pub config: FunctionConfig,
    /// Everything else that a user chose.
    pub settings: Settings,
    /// The code, seen at /var/task.
    pub code: TreeSummary,
    /// The archive of the code.
    pub package: Package,
    /// The layers in order; a later one's files win.
    pub layers: Vec<LayerUse>,
    /// The layers merged, seen at /opt; `None` without layers.
    pub merged_layers: Option<TreeSummary>,
    /// What it is fit for.
    pub status: Status,
    /// Changes with every write.
    pub revision_id: String,
    /// When it was last changed by a user, in milliseconds since 1970.
    pub modified_ms: u64,
}

impl Function {
    /// Every tree that has to stay as long as this version does.
    pub fn trees(&self) -> impl Iterator<Item = TreeDigest> {
        let layers = self.layers.iter().map(|layer| layer.tree.digest);
        let merged = self.merged_layers.iter().map(|tree| tree.digest);
        std::iter::once(self.code.digest).chain(layers).chain(merged)
    }

    /// Whether another version has the same code and configuration: publishing it again would make no new version.
    pub fn is_same_as(&self, other: &Self) -> bool {
        let layers =
            |function: &Self| function.layers.iter().map(|layer| layer.tree.digest).collect::<Vec<_>>();
        let settings = |function: &Self| Settings { description: String::new(), ..function.settings.clone() };
        self.config == other.config
            && self.code.digest == other.code.digest
            && self.package.sha256 == other.package.sha256
            && layers(self) == layers(other)
            && settings(self) == settings(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_keep_lambdas_bounds() {
        for megabytes in [0, 127, 10241] {
            assert_eq!(MemoryMegabytes::try_from(megabytes), Err(SettingProblem::Memory(megabytes)));
        }
        assert_eq!(MemoryMegabytes::try_from(10240).map(MemoryMegabytes::bytes), Ok(10240 << 20));
        assert!(TimeoutSeconds::try_from(0).is_err() && TimeoutSeconds::try_from(901).is_err());
        assert!(TimeoutSeconds::try_from(900).is_ok());
        for text in ["", "a b", "a\n", &"x".repeat(129)] {
            assert!(Handler::try_from(text.to_owned()).is_err(), "{text}");
        }
        assert!(Handler::try_from("app.handler".to_owned()).is_ok());
    }

    #[test]
    fn a_guest_is_recorded_by_its_kind() {
        let linux = Guest::Linux { kernel: "default".parse().unwrap() };
        let text = serde_json::to_string(&linux).unwrap();
        assert_eq!(text, r#"{"kind":"linux","kernel":"default"}"#);
        assert_eq!(serde_json::from_str::<Guest>(&text).unwrap(), linux);
        assert!(serde_json::from_str::<Guest>(r#"{"kind":"linux","kernel":"../x"}"#).is_err());
    }

    #[test]
    fn a_record_out_of_range_does_not_decode() {
        assert!(serde_json::from_str::<MemoryMegabytes>("1").is_err());
        assert!(serde_json::from_str::<TimeoutSeconds>("1000").is_err());
    }
}
