//! A machine with memory and processors, made before it is known what will run in it.

use std::sync::Arc;

use guest_memory::GuestMemory;
use machine::{FurnishedVm, SystemVcpu, SystemVm};
use pages::{PageCount, PageRange, PageSet};

use super::MIB;
use crate::error::LinuxGuestError;
use crate::layout;
use crate::ready_memory::ReadyMemory;
use crate::ready_threads::ReadyThreads;

/// AWS Lambda's largest function, and what a snapshot's page numbers hold many times over.
const MOST_MEMORY_MIB: u64 = 10_240;
const LEAST_MEMORY_MIB: u64 = 64;
const MOST_PROCESSORS: u8 = 32;

/// A machine without disks, network or guest.
pub struct SpareVm {
    pub(super) vm: FurnishedVm,
    pub(super) memory: Arc<GuestMemory>,
    /// Its size, MiB.
    pub(super) memory_mib: u64,
    pub(super) processors: Vec<SystemVcpu>,
    pub(super) threads: ReadyThreads,
    ready: ReadyMemory,
}

impl SpareVm {
    /// Gives an empty machine its memory, reserved but not mapped, and its processors.
    ///
    /// # Errors
    /// [`LinuxGuestError`].
    pub fn new(vm: SystemVm, memory_mib: u64, processors: u8) -> Result<Self, LinuxGuestError> {
        if !(LEAST_MEMORY_MIB..=MOST_MEMORY_MIB).contains(&memory_mib) {
            let (range, value) = ("between 64 and 10240 MB", memory_mib);
            return Err(LinuxGuestError::Size { what: "memory", range, value });
        }
        if !(1..=MOST_PROCESSORS).contains(&processors) {
            let (range, value) = ("between 1 and 32", u64::from(processors));
            return Err(LinuxGuestError::Size { what: "the number of processors", range, value });
        }
        let ranges = layout::memory(memory_mib * MIB);
        let end = ranges.last().map_or(0, |range| range.end().0);
        let memory = Arc::new(GuestMemory::reserve(PageCount(end))?);
        let vm = vm.furnish(memory.clone(), &ranges)?;
        let made = (0..processors).map(|id| vm.create_vcpu(id, processors));
        let processors = made.collect::<Result<_, _>>()?;
        let (threads, ready) = (ReadyThreads::default(), ReadyMemory::default());
        Ok(Self { vm, memory, memory_mib, processors, threads, ready })
    }

    /// Starts the threads that a guest is likely to need. This process must be as confined as it is to be.
    ///
    /// # Errors
    /// [`LinuxGuestError::Thread`].
    pub fn start_threads(&mut self) -> Result<(), LinuxGuestError> {
        self.threads = ReadyThreads::start().map_err(LinuxGuestError::Thread)?;
        Ok(())
    }

    /// The reservation; a restore maps memory into it.
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// The size of its memory, MiB.
    pub fn memory_mib(&self) -> u64 {
        self.memory_mib
    }

    /// Its memory.
    pub(super) fn ranges(&self) -> Vec<PageRange> {
        layout::memory(self.memory_mib * MIB)
    }

    /// Says which pages [`Self::make_memory_ready`] is to make ready: those that the next guest is likely to touch. What can't be
    /// made ready is left out.
    pub fn want_memory_ready(&mut self, pages: &PageSet) {
        let ranges = self.ranges();
        self.ready.want(pages, &ranges);
    }

    /// Makes another block's part of them ready; `false` when there is no more.
    ///
    /// # Errors
    /// [`LinuxGuestError`]; then nothing more is made ready.
    pub fn make_memory_ready(&mut self) -> Result<bool, LinuxGuestError> {
        match self.processors.first_mut() {
            Some(processor) => self.ready.grow(&self.memory, processor),
            None => Ok(false),
        }
    }

    /// The memory that is ready: populated, writable, zero.
    pub fn ready_memory(&self) -> &PageSet {
        self.ready.pages()
    }
}
