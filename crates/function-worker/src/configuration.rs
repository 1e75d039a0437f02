//! What a worker is told about a function: its files, environment and limits.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use jail::{Access, Passage, ResourceLimits};
use runtime_api::environment::{FunctionEnvironment, InitializationType};
use serde_bytes::ByteBuf;
use store::OpenFunction;
use uuid::Uuid;
use worker_protocol::{Attached, Configuration, GuestKind, Limits, Mount, NetworkPolicy, RuntimeService};

use crate::error::WorkerError;

/// How long init may take (AWS Lambda's figure).
pub const INIT_LIMIT: Duration = Duration::from_secs(10);
/// How long a restore with its hooks may take (AWS Lambda's figure).
pub const RESTORE_LIMIT: Duration = Duration::from_secs(10);
/// The region that functions are told they are in.
pub const REGION: &str = "us-east-1";
/// What a worker uses beside its guest's memory and /tmp: its own memory, and page tables by the share of the guest's.
const WORKER_BYTES: u64 = 128 << 20;
/// Memory for which AWS Lambda gives a whole CPU.
const MEGABYTES_PER_CPU: u32 = 1769;
/// RLIMIT_NPROC and RLIMIT_NOFILE as AWS Lambda has them.
const TASKS: u32 = 1024;
const OPEN_FILES: u32 = 1024;

/// Where a function's program is looked for, in this order.
const BOOTSTRAPS: [&str; 3] = ["/var/runtime/bootstrap", "/var/task/bootstrap", "/opt/bootstrap"];

/// What an instance is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Role {
    /// Whether the runtime is told that it will be, or was, snapshotted.
    pub snap_start: bool,
    /// The function's version as the function sees it: `$LATEST` or a number.
    pub version: String,
    /// How long init may take.
    pub init_limit: Duration,
}

impl Role {
    /// An instance of `$LATEST` within the ordinary limits.
    pub fn latest(snap_start: bool) -> Self {
        Self { snap_start, version: "$LATEST".to_owned(), init_limit: INIT_LIMIT }
    }
}

/// What the worker's process may use. Its guest's own limit is kept by looking and ends the guest with an error that its caller
/// sees; this one is the kernel's, for a worker that its guest has taken over.
pub(crate) fn resources(function: &OpenFunction) -> ResourceLimits {
    let config = &function.function.config;
    let memory = config.memory.bytes();
    ResourceLimits {
        memory: memory + memory / 4 + config.tmp.bytes() + WORKER_BYTES,
        cpus: config.memory.get().div_ceil(MEGABYTES_PER_CPU),
    }
}

pub(crate) fn configuration(
    function: &OpenFunction,
    role: &Role,
    passage: &Passage,
) -> Result<(Configuration, Attached), WorkerError> {
    let mut attached = Attached::default();
    let mut attach = |fd: &OwnedFd| -> Result<_, WorkerError> {
        Ok(attached.attach(passage.directory(fd.as_fd(), Access::Read)?))
    };
    let root = attach(&function.runtime.directory)?;
    let mount = |source, target: &str| Mount { source, target: bytes(target), writable: false };
    let mut mounts = vec![mount(attach(&function.code.directory)?, "/var/task")];
    if let Some(layers) = &function.layers {
        mounts.push(mount(attach(&layers.directory)?, "/opt"));
    }
    let program = bootstrap(function)?;
    let token = Uuid::new_v4().simple().to_string();
    let config = &function.function.config;
    let configuration = Configuration {
        guest: GuestKind::Process,
        root,
        mounts,
        program: bytes(program),
        arguments: vec![bytes(program)],
        environment: environment(function, role, &token),
        working_directory: bytes("/var/task"),
        inherited: Vec::new(),
        limits: Limits {
            memory: config.memory.bytes(),
            tmp: config.tmp.bytes(),
            tasks: TASKS,
            open_files: OPEN_FILES,
            init_timeout: role.init_limit,
            restore_timeout: RESTORE_LIMIT,
        },
        network: NetworkPolicy::Loopback,
        runtime: Some(RuntimeService {
            snap_start: role.snap_start,
            authorization_token: role.snap_start.then_some(token),
            version: role.version.clone(),
            runtime_version: config.runtime.to_string(),
        }),
    };
    Ok((configuration, attached))
}

fn bytes(text: &str) -> ByteBuf {
    ByteBuf::from(text.as_bytes())
}

/// The function's program: the first of [`BOOTSTRAPS`] that is there.
fn bootstrap(function: &OpenFunction) -> Result<&'static str, WorkerError> {
    let there = |path: &&'static str| {
        let (folder, inside) = match path {
            path if path.starts_with("/var/task/") => (Some(&function.code.path), "bootstrap"),
            path if path.starts_with("/opt/") => {
                (function.layers.as_ref().map(|layers| &layers.path), "bootstrap")
            }
            _ => (Some(&function.runtime.path), "var/runtime/bootstrap"),
        };
        folder.is_some_and(|folder| folder.join(inside).symlink_metadata().is_ok())
    };
    BOOTSTRAPS.into_iter().find(there).ok_or_else(|| WorkerError::NothingToRun {
        function: function.function.name.clone(),
        runtime: function.function.config.runtime.clone(),
    })
}

fn environment(function: &OpenFunction, role: &Role, token: &str) -> Vec<(ByteBuf, ByteBuf)> {
    let config = &function.function.config;
    let name = function.function.name.as_str();
    // The runtime's variables are like the user's: they win over defaults, never over what identifies the function.
    let own = FunctionEnvironment {
        function_name: name,
        function_version: &role.version,
        memory_size_mb: config.memory.get().into(),
        handler: config.handler.as_str(),
        region: REGION,
        managed_runtime: None,
        log_group: &format!("/aws/lambda/{name}"),
        log_stream: &format!("[{}]{}", role.version, Uuid::new_v4().simple()),
        initialization_type: match role.snap_start {
            true => InitializationType::SnapStart,
            false => InitializationType::OnDemand,
        },
        authorization_token: Some(token),
        credentials: None,
        json_logs: false,
        log_level: None,
        user: &function.environment(),
    };
    own.variables().into_iter().map(|(name, value)| (bytes(&name), bytes(&value))).collect()
}
