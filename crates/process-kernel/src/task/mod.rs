//! The guest's process and its threads.

mod cpu;
mod limits;
mod process;
mod thread;
mod unsupported;

pub use cpu::{CpuState, Fpu, Registers};
pub use limits::{Limit, Limits, Resource};
pub use process::{Hooks, Identity, Process};
pub use thread::Thread;
pub use unsupported::UnsupportedCalls;
