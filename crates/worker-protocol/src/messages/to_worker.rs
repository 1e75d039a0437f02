//! What a node asks of a worker.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::descriptors::Descriptor;

/// The most pages that a worker is asked to make ready: 64 MiB.
pub const MOST_READY_PAGES: u64 = 16_384;

/// A node's message. Configure comes first and once; then Boot or Restore, once; then the others. Configure, Boot or Restore,
/// and the first Invoke may be sent without waiting in between: what came too early is done when its turn has come.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ToWorker {
    /// Make memory ready for a restore by the faasnap strategy, until a function comes. Answered by
    /// [`MemoryReady`](crate::FromWorker::MemoryReady) if no function comes before.
    MakeMemoryReady {
        /// The guest-physical pages, at most [`MOST_READY_PAGES`]: ascending runs, each as the pages since the end of the one
        /// before and its own. Those that can't be made ready are left out.
        pages: Vec<(u64, u64)>,
        /// Those of them that the guest's page tables will let it write.
        writable: Vec<(u64, u64)>,
    },
    /// What the instance is. Answered only when it is refused.
    Configure(Box<Configuration>),
    /// Start the program from the beginning. Answered by [`Booted`](crate::FromWorker::Booted) when it has initialised.
    Boot {
        /// What a linux guest boots; `None` for other guests.
        kernel: Option<Kernel>,
    },
    /// Continue from a snapshot. Answered by [`Restored`](crate::FromWorker::Restored).
    Restore(RestoreRequest),
    /// Run the function once. Answered by [`Answered`](crate::FromWorker::Answered).
    Invoke(Box<Invoke>),
    /// Write a snapshot and go on. Answered by [`Snapshotted`](crate::FromWorker::Snapshotted).
    Snapshot {
        /// The directory to fill, empty; whoever asks publishes it.
        into: Descriptor,
    },
    /// Deliver a signal to the guest's program: a terminal's interrupt or change of size.
    Signal {
        /// The signal's number on x86-64 Linux.
        number: u8,
    },
    /// End the guest and the worker. Answered by the end of the socket.
    Stop,
}

/// What an instance is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Configuration {
    /// What runs the program.
    pub guest: GuestKind,
    /// The directory that is the guest's `/`; for a linux guest an image of it. So are the mounts' sources.
    pub root: Descriptor,
    /// Directories that appear elsewhere in the guest, outer ones first.
    pub mounts: Vec<Mount>,
    /// An empty file without a name, for a linux guest's own disk: its /tmp. It is gone when the instance is.
    pub scratch: Option<Descriptor>,
    /// The program: an absolute path in the guest, or a name to look up in the environment's `PATH`.
    pub program: ByteBuf,
    /// The arguments, the program's own name first.
    pub arguments: Vec<ByteBuf>,
    /// The environment, as names and values.
    pub environment: Vec<(ByteBuf, ByteBuf)>,
    /// The working directory in the guest.
    pub working_directory: ByteBuf,
    /// Descriptors that the program starts with. Without 1 and 2 here, standard output and error come as
    /// [`Log`](crate::FromWorker::Log).
    pub inherited: Vec<InheritedDescriptor>,
    /// What the guest may use.
    pub limits: Limits,
    /// What of the network the guest sees.
    pub network: NetworkPolicy,
    /// The Runtime API, for a function; `None` for an ordinary program.
    pub runtime: Option<RuntimeService>,
}

/// What runs the program.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum GuestKind {
    /// The program alone in a virtual machine; the worker serves its system calls.
    Process,
    /// A Linux kernel in a virtual machine, the program in it.
    Linux,
}

/// How long a linux guest's kernel may take to boot, before the time of init begins. Some ten times what a slow host needs.
pub const BOOT_LIMIT: Duration = Duration::from_secs(60);

/// A kernel for a linux guest.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Kernel {
    /// The image: a bzImage or an ELF file.
    pub image: Descriptor,
    /// Its modules, in the order in which they are loaded.
    pub modules: Vec<KernelModule>,
    /// Its command line.
    pub command_line: String,
}

/// A module of a kernel.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KernelModule {
    /// Its name.
    pub name: String,
    /// The file.
    pub file: Descriptor,
}

/// A directory that appears in the guest.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Mount {
    /// The directory.
    pub source: Descriptor,
    /// Its absolute path in the guest.
    pub target: ByteBuf,
    /// Whether the guest may change it.
    pub writable: bool,
}

/// A descriptor that the guest's program starts with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct InheritedDescriptor {
    /// Its number in the guest.
    pub number: u32,
    /// The descriptor.
    pub descriptor: Descriptor,
}

/// What a guest may use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Limits {
    /// Memory in bytes.
    pub memory: u64,
    /// The private `/tmp`, in bytes.
    pub tmp: u64,
    /// Threads and processes.
    pub tasks: u32,
    /// Open descriptors.
    pub open_files: u32,
    /// How long init may take, before-snapshot hooks included.
    pub init_timeout: Duration,
    /// How long a restore may take, after-restore hooks included.
    pub restore_timeout: Duration,
}

/// What of the network a guest sees.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum NetworkPolicy {
    /// Its own loopback only.
    Loopback,
    /// Outbound connections through a relay.
    Outbound {
        /// The control socket to it.
        relay: Descriptor,
    },
}

/// The Runtime API of a function.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RuntimeService {
    /// Whether the calls around a snapshot exist.
    pub snap_start: bool,
    /// What a request for credentials must carry.
    pub authorization_token: Option<String>,
    /// The function's credentials, for those requests.
    pub credentials: Option<Credentials>,
    /// The function's version, for the START line.
    pub version: String,
    /// What the runtime is called in the log, for the RESTORE_START line.
    pub runtime_version: String,
}

/// Credentials for the function.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// The access key's id.
    pub access_key_id: String,
    /// The secret key.
    pub secret_access_key: String,
    /// The session token.
    pub token: String,
    /// When they expire, as RFC 3339 text.
    pub expiration: String,
}

/// Secrets don't belong in logs.
impl std::fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Credentials")
            .field("access_key_id", &self.access_key_id)
            .finish_non_exhaustive()
    }
}

/// A restore.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RestoreRequest {
    /// The snapshot's directory.
    pub snapshot: Descriptor,
    /// The restore strategy's name. An unknown one is refused, never replaced.
    pub strategy: String,
    /// Names of techniques that the strategy is to do without; unknown ones are refused.
    pub without: Vec<String>,
    /// Whether a fault on the memory file reads a single page instead of the device's readahead window; `None`: as the
    /// strategy has it.
    pub random_access: Option<bool>,
    /// Whether the pages that the next invocation uses are recorded, beside the snapshot.
    pub record: Record,
    /// Whether all of memory is compared with the snapshot, before the guest runs and after its invocation.
    pub verify: bool,
}

/// Whether an invocation is recorded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Record {
    /// It is not.
    No,
    /// It is when the strategy uses recordings and has none that it can use.
    #[default]
    IfNeeded,
    /// It is; what is recorded is added to the recording that is there.
    Again,
}

/// One invocation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Invoke {
    /// Identifies the invocation.
    pub request_id: String,
    /// The event.
    pub payload: ByteBuf,
    /// The function's timeout, counted from delivery to the runtime.
    pub timeout: Duration,
    /// The function's ARN, with the qualifier only when the caller gave one.
    pub invoked_function_arn: String,
    /// The X-Ray trace header.
    pub trace_id: Option<String>,
    /// The client context as JSON text.
    pub client_context: Option<String>,
    /// Identity and identity pool of a caller through Cognito.
    pub cognito_identity: Option<(String, String)>,
    /// The tenant on whose behalf the call is made.
    pub tenant_id: Option<String>,
    /// Whether the caller takes the answer as it comes.
    pub streaming: bool,
}
