//! The life of one instance: an ordinary program run to its end, or a function booted, snapshotted, restored and invoked.
//!
//! Here the parts meet: the guest ([`process_guest`], [`linux_guest`]), what brings its memory back ([`restore`]), the file that keeps it
//! ([`snapshot`]) and the server that a function talks to ([`runtime_api`]). [`serve`] is the worker process that a node
//! starts for each instance and speaks to by [`worker_protocol`].
//!
//! Architecture invariants: nothing here knows the home directory or the command line; what an instance is made from
//! comes as descriptors and plain data. No system call of the guest is served here and no KVM ioctl is made.
#![forbid(unsafe_code)]

mod checkpoint;
mod error_text;
mod function_guest;
mod guest;
mod host_facts;
mod lifecycle;
mod linux_function;
mod memory_guard;
mod mounts;
mod program;
mod restored;
mod runtime_bridge;
mod worker;

pub use checkpoint::{CheckpointError, SNAPSHOT_NAME};
pub use host_facts::take_along;
pub use lifecycle::{GuestEnd, Lifecycle, NotReady, OutOfTurn, Step, WaitingIn};
pub use memory_guard::MemoryGuard;
pub use mounts::{HostBind, TMP_INODES, private_trees, program_mounts};
pub use program::{Program, ProgramEnd, ProgramError};
pub use worker::{WorkerError, serve};
