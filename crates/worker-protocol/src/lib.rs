//! What a node and its workers say to each other: typed messages, framed, over one Unix stream socket, with file
//! descriptors passed beside them.
//!
//! ```text
//!   node                                                    worker (one process per instance)
//!     │  preface: magic, version                               │
//!     │ ◄────────────────────────────────────────────────────► │
//!     │                       Ready: a virtual machine is made │
//!     │ ◄───────────────────────────────────────────────────── │
//!     │  MakeMemoryReady + which pages (a spare worker's)       │
//!     │ ─────────────────────────────────────────────────────► │
//!     │                                            MemoryReady │
//!     │ ◄───────────────────────────────────────────────────── │
//!     │  Configure + descriptors (root, mounts, stdio)         │
//!     │ ─────────────────────────────────────────────────────► │
//!     │  Boot  or  Restore + snapshot directory                │
//!     │ ─────────────────────────────────────────────────────► │
//!     │                                      Booted / Restored │
//!     │ ◄───────────────────────────────────────────────────── │
//!     │  Invoke ...                                            │
//!     │ ─────────────────────────────────────────────────────► │
//!     │                                   Log ..., Answered    │
//!     │ ◄───────────────────────────────────────────────────── │
//!     │  Stop, or the socket closed                            │
//!     │ ─────────────────────────────────────────────────────► │
//! ```
//!
//! A spare worker has sent Ready and waits. A request then sends Configure, Restore and Invoke at once: no answer is waited for
//! in between.
//!
//! A frame is a `u32` length, a `u8` number of descriptors and the message in postcard's encoding, little-endian throughout.
//! Both sides are the same executable, so the version guards against a node replaced while its workers run, not against
//! old files: nothing in this encoding is ever stored.
//!
//! Architecture invariants: depends on no other crate of the workspace, so a node never links KVM; what a restore measured
//! passes through as opaque bytes ([`Timeline`]). A worker may have been taken over by its guest: whatever arrives, decoding
//! neither panics nor takes more memory than one frame, and descriptors that nobody asked for are closed.
#![forbid(unsafe_code)]

mod channel;
mod descriptors;
mod frame;
mod machine_kind;
mod messages;

pub use channel::{
    Channel, ChannelError, NodeChannel, Polled, Received, Receiver, Sender, WorkerChannel, pair,
};
pub use descriptors::{Attached, Descriptor, DescriptorError, Descriptors};
pub use frame::{Decoder, FrameError, MAX_DESCRIPTORS, MAX_FRAME, VERSION};
pub use machine_kind::{MachineKind, UnknownMachine};
pub use messages::{
    Answer, BOOT_LIMIT, Booted, Configuration, Credentials, Ending, Exit, Failure, FailureKind, FromWorker,
    GuestKind, Health, InheritedDescriptor, Invoke, Kernel, KernelModule, Learned, Limits, LogStream,
    MOST_READY_PAGES, Mount, NetworkPolicy, Record, RestoreRequest, Restored, RuntimeService, SnapshotPoint,
    Snapshotted, Timeline, ToWorker, Usage,
};
