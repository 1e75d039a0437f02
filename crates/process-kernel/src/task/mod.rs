//! The guest's process and its threads.

mod cpu;
mod exec;
mod exit;
mod frame;
mod futex;
mod initial_stack;
mod limits;
mod process;
mod program;
mod safe_point;
pub mod signal;
mod state;
mod thread;
mod timers;
mod unsupported;

pub use cpu::{CpuState, Fpu, Registers};
pub use exec::{ExecError, ExecRequest, exec, start_main_thread};
pub use exit::end_thread;
pub(crate) use frame::rt_sigreturn;
pub use futex::FutexTable;
pub use limits::{Limit, Limits, Resource};
pub use process::{ExitStatus, Hooks, Identity, PauseError, Process, ProcessParts, ProgramImage};
pub use safe_point::{Next, force, safe_point};
pub use state::{RestoredThread, Revival, SavedProcess};
pub use thread::{RestingState, SavedThread, Thread};
pub use timers::{Notify, SavedTimers, SignalTimers, TimerName, TimerRule};
pub use unsupported::UnsupportedCalls;
