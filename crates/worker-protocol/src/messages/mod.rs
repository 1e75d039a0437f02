//! The messages themselves. Plain data: no behaviour, no types of other crates.

mod from_worker;
mod to_worker;

pub use from_worker::{
    Answer, Booted, Ending, Exit, Failure, FailureKind, FromWorker, Health, Learned, LogStream, Restored,
    SnapshotPoint, Snapshotted, Timeline, Usage,
};
pub use to_worker::{
    BOOT_LIMIT, Configuration, Credentials, GuestKind, InheritedDescriptor, Invoke, Kernel, KernelModule,
    Limits, MOST_READY_PAGES, Mount, NetworkPolicy, Record, RestoreRequest, RuntimeService, ToWorker,
};
