//! What a worker is told about a function: its files, environment and limits.

use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use jail::{Access, Passage, ResourceLimits};
use runtime_api::environment::{FunctionEnvironment, InitializationType};
use rustix::fs::MemfdFlags;
use serde_bytes::ByteBuf;
use store::{FunctionConfig, Guest, LinuxFiles, OpenFunction, OpenKernel};
use uuid::Uuid;
use worker_protocol::{
    Attached, BOOT_LIMIT, Configuration, Credentials, Descriptor, GuestKind, Kernel, KernelModule, Limits,
    MachineKind, Mount, NetworkPolicy, RuntimeService,
};

use crate::error::WorkerError;

/// How long init may take (AWS Lambda's figure).
pub const INIT_LIMIT: Duration = Duration::from_secs(10);
/// How long init may take when it is done for a snapshot (AWS Lambda: this, or the function's timeout when that is longer).
pub const SNAPSHOT_INIT_LIMIT: Duration = Duration::from_secs(130);
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

/// Where an instance sees its code and its layers.
const CODE: &str = "/var/task";
const LAYERS: &str = "/opt";
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
    /// What the function may call AWS with.
    pub credentials: Option<Credentials>,
}

impl Role {
    /// An instance of `$LATEST` within the ordinary limits.
    pub fn latest(snap_start: bool) -> Self {
        Self { snap_start, version: "$LATEST".to_owned(), init_limit: INIT_LIMIT, credentials: None }
    }

    /// The same, with another limit for init, or the function's timeout when that is longer.
    #[must_use]
    pub fn with_init_limit(self, limit: Duration, function: &OpenFunction) -> Self {
        let timeout = Duration::from_secs(function.function.config.timeout.get().into());
        Self { init_limit: limit.max(timeout), ..self }
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
    let (root, mounts) = match &function.linux {
        None => directories(function, passage, &mut attached)?,
        Some(files) => images(files, &mut attached)?,
    };
    let scratch = match &function.linux {
        None => None,
        Some(files) => Some(attached.attach(files.scratch()?)),
    };
    let network = match function.network {
        true => NetworkPolicy::Outbound { relay: attached.attach(outbound_relay::prepare()?.connect()?) },
        false => NetworkPolicy::Loopback,
    };
    let program = bootstrap(function)?;
    let token = Uuid::new_v4().simple().to_string();
    let config = &function.function.config;
    let configuration = Configuration {
        guest: match config.guest {
            Guest::Process => GuestKind::Process,
            Guest::Linux { .. } => GuestKind::Linux,
        },
        root,
        mounts,
        scratch,
        program: bytes(program),
        arguments: vec![bytes(program)],
        environment: environment(function, role, &token),
        working_directory: bytes(CODE),
        inherited: Vec::new(),
        limits: Limits {
            memory: config.memory.bytes(),
            tmp: config.tmp.bytes(),
            tasks: TASKS,
            open_files: OPEN_FILES,
            init_timeout: role.init_limit,
            restore_timeout: RESTORE_LIMIT,
        },
        network,
        runtime: Some(RuntimeService {
            snap_start: role.snap_start,
            authorization_token: role.snap_start.then_some(token),
            credentials: role.credentials.clone().filter(|_| role.snap_start),
            version: role.version.clone(),
            runtime_version: config.runtime.to_string(),
        }),
    };
    Ok((configuration, attached))
}

/// The function's directories, each so that nothing leads out of it.
fn directories(
    function: &OpenFunction,
    passage: &Passage,
    attached: &mut Attached,
) -> Result<(Descriptor, Vec<Mount>), WorkerError> {
    let mut attach = |fd: &OwnedFd| -> Result<_, WorkerError> {
        Ok(attached.attach(passage.directory(fd.as_fd(), Access::Read)?))
    };
    let root = attach(&function.runtime.directory)?;
    let mut mounts = vec![mount(attach(&function.code.directory)?, CODE)];
    if let Some(layers) = &function.layers {
        mounts.push(mount(attach(&layers.directory)?, LAYERS));
    }
    Ok((root, mounts))
}

/// The images of the same.
fn images(files: &LinuxFiles, attached: &mut Attached) -> Result<(Descriptor, Vec<Mount>), WorkerError> {
    let mut attach = |file: &File| -> Result<_, WorkerError> {
        Ok(attached.attach(file.try_clone().map_err(WorkerError::Image)?))
    };
    let root = attach(&files.root)?;
    let mut mounts = vec![mount(attach(&files.code)?, CODE)];
    if let Some(layers) = &files.layers {
        mounts.push(mount(attach(layers)?, LAYERS));
    }
    Ok((root, mounts))
}

fn mount(source: Descriptor, target: &str) -> Mount {
    Mount { source, target: bytes(target), writable: false }
}

/// A kernel with its modules, as files in memory for the worker to read.
pub(crate) fn kernel(kernel: OpenKernel) -> Result<(Kernel, Attached), WorkerError> {
    let mut attached = Attached::default();
    let mut attach = |name: &str, content: &[u8]| {
        let file = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)?;
        let mut file = File::from(file);
        file.write_all(content)?;
        file.rewind()?;
        Ok::<_, std::io::Error>(attached.attach(file))
    };
    let mut modules = Vec::new();
    let image = attach("kernel", &kernel.image).map_err(WorkerError::Image)?;
    for module in kernel.modules {
        let file = attach("module", &module.content).map_err(WorkerError::Image)?;
        modules.push(KernelModule { name: module.name, file });
    }
    Ok((Kernel { image, modules, command_line: kernel.record.command_line }, attached))
}

/// How long a function's kernel may take to boot before its init begins: nothing when there is none.
pub fn boot_limit(function: &OpenFunction) -> Duration {
    if function.linux.is_some() { BOOT_LIMIT } else { Duration::ZERO }
}

/// What the machine of a worker for such a function is made for.
pub fn machine_kind(config: &FunctionConfig) -> MachineKind {
    match config.guest {
        Guest::Process => MachineKind::Process,
        Guest::Linux { .. } => MachineKind::Linux { memory_mib: config.memory.bytes() >> 20 },
    }
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
        // With SnapStart they come from the endpoint, so that no snapshot holds any.
        credentials: role.credentials.as_ref().filter(|_| !role.snap_start).map(|credentials| {
            [&*credentials.access_key_id, &*credentials.secret_access_key, &*credentials.token]
        }),
        json_logs: false,
        log_level: None,
        user: &function.environment(),
    };
    own.variables().into_iter().map(|(name, value)| (bytes(&name), bytes(&value))).collect()
}
