//! What a Linux kernel is started with: cpio archives, and its modules in the order in which they load.
//!
//! Architecture invariants: this crate starts no kernel and downloads nothing. The same entries give the same bytes.
#![forbid(unsafe_code)]

mod archive;
mod modules;

pub use archive::{Archive, ArchiveError};
pub use modules::{Module, ModuleError, load_order};
