//! A function's guest, whichever kind it is.

use std::path::Path;

use pages::PageSet;
use process_kernel::task::ExitStatus;
use restore::{Phase, Timeline};
use runtime_api::{Invocation, ReleasedRuntime};
use worker_protocol::{FailureKind, MachineKind};

use crate::function_guest::{FunctionConfig, FunctionGuest, InstanceError, Listeners, ReadyMachine};
use crate::linux_function::{BootFiles, LinuxConfig, LinuxFunction, ReadyLinux};
use crate::program;
use crate::restored::{Conclusion, RestoreOptions};

/// What a function's guest is made from.
#[derive(Debug)]
pub(crate) enum GuestConfig {
    Process(FunctionConfig),
    Linux(LinuxConfig),
}

/// An empty virtual machine that waits for its function.
pub(crate) enum Ready {
    Process(ReadyMachine),
    Linux(ReadyLinux),
}

impl Ready {
    /// Makes one, with what can be made before it is known what will run in it.
    pub fn new(machine: MachineKind) -> Result<Self, InstanceError> {
        Ok(match machine {
            MachineKind::Process => Self::Process(ReadyMachine::new()?),
            MachineKind::Linux { memory_mib } => Self::Linux(ReadyLinux::new(memory_mib)?),
        })
    }

    /// Starts what of its threads can be started ahead. This process is confined by now.
    pub fn start_threads(&mut self) -> Result<(), InstanceError> {
        match self {
            Self::Process(machine) => machine.start_threads(),
            Self::Linux(machine) => machine.start_threads(),
        }
    }

    /// Says which memory is to be made ready ahead.
    pub fn want_memory_ready(&mut self, pages: &PageSet, writable: &PageSet) {
        match self {
            Self::Process(machine) => machine.want_memory_ready(pages, writable),
            // It may write all of its memory.
            Self::Linux(machine) => machine.want_memory_ready(pages),
        }
    }

    /// Makes more of it ready; `false` when all is.
    pub fn make_memory_ready(&mut self) -> bool {
        match self {
            Self::Process(machine) => machine.make_memory_ready(),
            Self::Linux(machine) => machine.make_memory_ready(),
        }
    }

    /// The request has come: time counts from here.
    pub fn begin_request(&mut self) {
        match self {
            Self::Process(machine) => machine.begin_request(),
            Self::Linux(machine) => machine.begin_request(),
        }
    }

    /// Boots a function; a linux guest's from `files`.
    pub fn boot(
        self,
        config: &GuestConfig,
        files: Option<BootFiles>,
        listeners: &Listeners,
    ) -> Result<Guest, InstanceError> {
        match (self, config, files) {
            (Self::Process(machine), GuestConfig::Process(config), None) => {
                Ok(Guest::Process(machine.boot(config, listeners)?))
            }
            (Self::Linux(machine), GuestConfig::Linux(config), Some(files)) => {
                Ok(Guest::Linux(machine.boot(config, files, listeners)?))
            }
            _ => Err(InstanceError::OtherKind),
        }
    }

    /// Goes on from the snapshot in `directory`.
    pub fn restore(
        self,
        config: &GuestConfig,
        directory: &Path,
        options: &RestoreOptions,
        listeners: &Listeners,
    ) -> Result<Guest, InstanceError> {
        match (self, config) {
            (Self::Process(machine), GuestConfig::Process(config)) => {
                Ok(Guest::Process(machine.restore(config, directory, options, listeners)?))
            }
            (Self::Linux(machine), GuestConfig::Linux(config)) => {
                Ok(Guest::Linux(machine.restore(config, directory, options, listeners)?))
            }
            _ => Err(InstanceError::OtherKind),
        }
    }
}

/// A function's guest that runs.
pub(crate) enum Guest {
    Process(FunctionGuest),
    Linux(LinuxFunction),
}

/// The same of either kind.
macro_rules! either {
    ($guest:expr, $inner:ident => $do:expr) => {
        match $guest {
            Self::Process($inner) => $do,
            Self::Linux($inner) => $do,
        }
    };
}

impl Guest {
    /// Gives the runtime an invocation.
    pub fn deliver(&self, invocation: Invocation) -> Result<(), InstanceError> {
        either!(self, guest => guest.deliver(invocation))
    }

    /// Lets a restored runtime go on.
    pub fn release(&self) -> ReleasedRuntime {
        either!(self, guest => guest.release())
    }

    /// Writes a snapshot below `parent` and lets the guest go on; gives the bytes of memory that are stored.
    pub fn snapshot(&self, parent: &Path) -> Result<u64, InstanceError> {
        either!(self, guest => guest.snapshot(parent))
    }

    /// What a user should hear of though the instance goes on.
    pub fn warnings(&self) -> Vec<String> {
        either!(self, guest => guest.warnings())
    }

    /// From the machine's making on.
    pub fn timeline(&mut self) -> &mut Timeline {
        either!(self, guest => &mut guest.timeline)
    }

    /// Whether the invocation is recorded: then the instance is of no use after it.
    pub fn is_recorded(&self) -> bool {
        either!(self, guest => guest.timeline.recorded)
    }

    /// Gives back what was ready for a first call and was not used. Its answer need not wait for it.
    pub fn end_growth(&self) {
        if let Self::Process(guest) = self
            && let Err(error) = guest.process.mm.end_growth()
        {
            tracing::warn!(%error, "memory that was ready and not used stays");
        }
    }

    /// Adds to the timeline when the guest was left first and that the answer is there.
    pub fn note_answer(&mut self) {
        let exit = either!(&*self, guest => guest.first_exit());
        let timeline = self.timeline();
        let begin = timeline.phases.last().map_or(0, |phase| phase.end_ns);
        if let Some(exit) = exit {
            let exit = timeline.since_request(exit);
            timeline.record(Phase::FirstExit, begin.min(exit), exit);
        }
        timeline.record(Phase::Answered, begin, timeline.now_ns());
        timeline.finish();
        if let Self::Process(guest) = self {
            guest.note_run();
        }
    }

    /// What the node can do about memory that could not be brought back, if that is how the guest failed.
    pub fn memory_failure(&self) -> Option<FailureKind> {
        either!(self, guest => guest.memory_failure())
    }

    /// Compares memory that was not written with the snapshot, when that was asked for; gives what is wrong.
    pub fn verify(&mut self) -> Option<String> {
        either!(self, guest => guest.verify())
    }

    /// The most bytes that the guest was seen to use.
    pub fn peak_memory(&self) -> u64 {
        either!(self, guest => guest.peak_memory())
    }

    /// Ends the guest, and tells what was recorded of it.
    pub fn end(self) -> Conclusion {
        either!(self, guest => guest.end())
    }

    /// Tells the guest to end.
    pub fn kill(&self) {
        either!(self, guest => guest.kill());
    }

    /// What waits for the guest's end, on a thread of its own.
    pub fn waiter(&self) -> Box<dyn FnOnce() -> Option<ExitStatus> + Send> {
        match self {
            Self::Process(guest) => {
                let process = guest.process.clone();
                Box::new(move || process.wait_ended(None))
            }
            Self::Linux(guest) => Box::new(guest.waiter()),
        }
    }

    /// Why the machine, not the function, could not go on, when that is how it ended.
    pub fn failure(&self) -> Option<String> {
        match self {
            Self::Process(guest) => guest.process.failure(),
            Self::Linux(guest) => guest.failure(),
        }
    }

    /// Whether the function was ended for its memory.
    pub fn ran_out_of_memory(&self) -> bool {
        match self {
            Self::Process(guest) => guest.guard.was_exceeded(),
            Self::Linux(guest) => guest.ran_out_of_memory(),
        }
    }

    /// System calls that were made in vain, with how often. A linux guest's kernel serves them all.
    pub fn unsupported(&self) -> Vec<(String, u64)> {
        match self {
            Self::Process(guest) => program::unsupported(&guest.process),
            Self::Linux(_) => Vec::new(),
        }
    }
}
