//! One program in a guest of its own: booted, run, ended.

use std::time::{Duration, Instant};

use guest_init::wire::{Ended, Start};
use machine::Kvm;

use crate::guest::{GuestError, Hardware, ReadyGuest, Streams};
use crate::kernel::KernelImage;

/// A program and the machine to run it in.
pub struct Program {
    /// The machine.
    pub hardware: Hardware,
    /// The kernel.
    pub kernel: KernelImage,
    /// Its initial file system, from [`crate::initial_files`].
    pub initial_files: Vec<u8>,
    /// Its command line.
    pub command_line: String,
    /// What the guest runs; time and entropy are filled in.
    pub start: Start,
}

/// How a program ended, and what it took.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProgramEnd {
    /// How.
    pub ended: Ended,
    /// From the call until the guest's first program spoke to the host.
    pub booted: Duration,
    /// From there until the program had ended.
    pub ran: Duration,
}

impl Program {
    /// Runs it to its end.
    ///
    /// # Errors
    /// [`GuestError`].
    pub fn run(self, kvm: &Kvm, streams: Streams) -> Result<ProgramEnd, GuestError> {
        let called = Instant::now();
        let ready = ReadyGuest::new(kvm, self.hardware)?;
        let mut guest = ready.boot(&self.kernel, &self.initial_files, &self.command_line)?;
        let booted = called.elapsed();
        guest.start(&self.start)?;
        let ended = guest.converse(streams)?;
        Ok(ProgramEnd { ended, booted, ran: called.elapsed() - booted })
    }
}
