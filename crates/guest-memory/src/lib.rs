//! The host mapping behind guest-physical memory.
//!
//! One reservation of host address space stands for the whole guest-physical space: guest-physical address `g` is the
//! host byte `base + g`. Pieces of it are replaced by anonymous memory or by pieces of files.
//!
//! Architecture invariants: no Rust reference into guest memory ever exists, so replacing, cutting short or protecting a
//! mapping can never break Rust's rules; every copy goes through a system call that reports a bad page as an error
//! instead of killing the process (but see [`MemoryView`], for crates that want ordinary loads and stores, and
//! [`GuestMemory::write_ready`], for memory that no guest can touch yet). This crate knows nothing of KVM, snapshots or system calls.

mod arrivals;
mod copy;
mod counters;
mod file_cache;
mod file_mappings;
mod host_mapping;
mod read_in;
mod residency;
mod userfault;
mod view;

pub use arrivals::{Arrivals, LetIn, Lost, Waits};
pub use copy::{AccessError, HostSpan};
pub use counters::ProcessFaults;
pub use file_cache::{FileResidency, cached_count};
pub use file_mappings::FileMapping;
pub use host_mapping::{Advice, GuestMemory, MapError, Protection, Source};
pub use residency::PageState;
pub use userfault::{Installed, Userfault};
pub use view::MemoryView;
