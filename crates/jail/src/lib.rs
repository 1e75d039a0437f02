//! The jail: what a worker process may do, and nothing else.
//!
//! A guest is hostile, and one that breaks out of its virtual machine owns its worker. What it owns then is a process with
//! one function's descriptors and no way to anything else.
//!
//! ```text
//!   node                                             worker
//!     prepare(home)      once, before any thread
//!     launch(program) ── clone3: namespaces of its own ──► waits
//!       maps the worker's user ──────────────────────────► execs, with the descriptors it is given and no others
//!                                                         enter(): empty read-only root, no capabilities, limits, filter
//!     Passage::directory(fd) ── a detached mount of one directory ──► openat2 below it, and nowhere else
//! ```
//!
//! A directory's descriptor alone would be a way out: `..` leads from it to the whole disk, whatever the root of its holder
//! is. A [`Passage`] therefore hands over a mount of its own whose root is that directory, read-only unless asked otherwise.
//!
//! Architecture invariants: this crate knows no KVM, no guest, no protocol and nothing else of this workspace. It is the home
//! of the `unsafe` that starting and confining a process needs; each such call is in `sys`.

mod authority;
mod cgroup;
mod enter;
mod error;
mod filter;
mod inherited;
mod launch;
mod own_image;
mod passage;
mod privileges;
mod process;
mod prompt;
mod root;
mod sys;
mod tap;
mod waiting;

pub use authority::{Authority, authority, prepare, summary};
pub use cgroup::{Cgroups, ResourceLimits, cgroups};
#[doc(hidden)]
pub use enter::enter_without_filter;
pub use enter::{Confinement, enter};
pub use error::JailError;
pub use filter::{Role, begin_running, narrow};
pub use inherited::Inherited;
pub use launch::{Launched, Program, launch};
pub use own_image::let_go_of_start_up;
pub use passage::{Access, Passage};
pub use process::Process;
pub use prompt::take_short_turns;
pub use tap::tap;
pub use waiting::WaitingThread;
