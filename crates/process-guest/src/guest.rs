//! A guest: its virtual machine, its process, and the host threads that drive its vCPUs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use guest_memory::{AccessError, Arrivals, GuestMemory, MapError};
use machine::{Kvm, MachineError, Vm};
use pages::{Block, PageCount, PageIndex, PageSet};
use parking_lot::Mutex;
use process_kernel::fs::{DirectoryOpener, MountTable, Vfs, VfsError};
use process_kernel::mm::{MemoryImage, Mm};
use process_kernel::object::{RestoreError, SaveError};
use process_kernel::task::{
    CpuState, ExecError, ExecRequest, ExitStatus, Fpu, Hooks, Identity, Process, ProcessParts, Revival,
    SavedProcess, Thread, start_main_thread,
};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::cpu::{GuestCpu, SpareCpu};
use crate::driver::{self, Driver, Idle, Job};
use crate::entry;
use crate::exits::{ExitCounts, Exits};
use crate::ready_memory::ReadyMemory;
use crate::slots::VmSlots;

/// A guest that can't be made or started.
#[derive(Debug, Error)]
pub enum GuestError {
    /// KVM.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// Host memory could not be reserved.
    #[error("reserving guest memory")]
    Reserve(#[source] MapError),
    /// Guest memory could not be prepared.
    #[error("preparing guest memory")]
    Memory(#[source] Errno),
    /// A supervisor page could not be written.
    #[error("writing a supervisor page")]
    SupervisorPage(#[source] AccessError),
    /// A file system can't be mounted.
    #[error(transparent)]
    Mount(#[from] VfsError),
    /// The guest can't be saved.
    #[error("the guest can't be saved")]
    Save(#[from] SaveError),
    /// A saved guest can't be made again.
    #[error("the saved guest can't be made again")]
    Restore(#[from] RestoreError),
    /// Memory could not be made ready ahead.
    #[error("making memory ready ahead")]
    ReadyMemory(#[source] MapError),
    /// A vCPU that was to touch it did not.
    #[error("touching memory ahead ended with {0}")]
    NotTouched(String),
    /// The program can't be started.
    #[error(transparent)]
    Program(#[from] ExecError),
    /// A host thread could not be started.
    #[error("starting a thread for a vCPU")]
    Thread(#[source] std::io::Error),
}

/// Guest-physical space that is reserved: an address range only, no memory.
const RESERVED: PageCount = PageCount((256 << 30) / pages::PAGE_SIZE);

/// What a process guest is made from; plain data.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProcessConfig {
    /// What the guest sees of the file tree.
    pub mounts: MountTable,
    /// Ids and names.
    pub identity: Identity,
    /// The most memory that it may use, bytes.
    pub memory_limit: u64,
}

/// A process guest's saved form, apart from its memory.
#[derive(Serialize, Deserialize)]
pub struct SavedGuest {
    process: SavedProcess,
    /// The supervisor pages of its vCPUs.
    cpu_pages: Vec<PageIndex>,
}

impl SavedGuest {
    /// See [`SavedProcess::late_blocks`].
    pub fn late_blocks(&self) -> Arrivals {
        self.process.late_blocks()
    }

    /// See [`SavedProcess::first_blocks`].
    pub fn first_blocks(&self) -> Vec<Block> {
        self.process.first_blocks()
    }
}

/// Makes vCPUs for threads, each driven by a host thread.
pub(crate) struct VcpuThreads {
    vm: Arc<Vm>,
    this: Weak<Self>,
    tsc_khz: Option<u32>,
    next_id: AtomicU64,
    cpus: Mutex<Cpus>,
    exits: Arc<ExitCounts>,
}

/// vCPUs that no thread uses. KVM can't free one.
#[derive(Default)]
struct Cpus {
    /// Used before, with the host threads that drove them.
    idle: Vec<Idle>,
    /// Made ahead.
    spare: Vec<SpareCpu>,
    /// Host threads started ahead for them.
    drivers: Vec<Driver>,
    /// Every page that belongs to a vCPU of the guest.
    pages: Vec<PageIndex>,
    /// Those of them that no vCPU has taken since a restore.
    free_pages: Vec<PageIndex>,
}

impl VcpuThreads {
    fn spare(&self) -> Result<SpareCpu, GuestError> {
        SpareCpu::new(&self.vm, self.next_id.fetch_add(1, Ordering::SeqCst))
    }

    /// How often guest code was left.
    pub(crate) fn exits(&self) -> Arc<ExitCounts> {
        self.exits.clone()
    }

    /// Takes a vCPU back from a guest thread that has ended.
    pub(crate) fn put_back(&self, idle: Idle) {
        self.cpus.lock().idle.push(idle);
    }

    /// A vCPU for a guest thread, with a host thread that waits to drive it, if there is one.
    fn take(&self, mm: &Mm) -> Result<(GuestCpu, Option<Driver>), GuestError> {
        let mut cpus = self.cpus.lock();
        if let Some(Idle { cpu, driver }) = cpus.idle.pop() {
            return Ok((cpu, Some(driver)));
        }
        let spare = match cpus.spare.pop() {
            Some(spare) => spare,
            None => self.spare()?,
        };
        let page = match cpus.free_pages.pop() {
            Some(page) => page,
            None => {
                let page = mm.supervisor_page().map_err(GuestError::Memory)?;
                entry::write_cpu_page(mm.memory(), page).map_err(GuestError::SupervisorPage)?;
                cpus.pages.push(page);
                page
            }
        };
        let driver = cpus.drivers.pop();
        Ok((spare.place(mm.memory(), page, mm.page_table_root())?, driver))
    }
}

impl Hooks for VcpuThreads {
    fn spawn(
        &self,
        process: &Arc<Process>,
        thread: &Arc<Thread>,
        state: CpuState,
        fpu: Vec<u8>,
    ) -> Result<(), Errno> {
        let (mut cpu, driver) = self.take(&process.mm).map_err(|error| {
            tracing::warn!(%error, "no vCPU for another thread");
            Errno::AGAIN
        })?;
        if fpu.is_empty() {
            cpu.reset();
        } else if !cpu.load(&fpu) {
            return Err(Errno::AGAIN);
        }
        let job = Box::new(Job { cpu, process: process.clone(), thread: thread.clone(), state });
        let handed_over = match driver {
            Some(driver) => driver.go_on(job),
            None => Err(job),
        };
        handed_over.or_else(|job| driver::start(job, self.this.clone()))
    }

    fn tsc_khz(&self) -> Option<u32> {
        self.tsc_khz
    }
}

/// A virtual machine with an empty process guest in it: what a pool keeps ready.
pub struct ProcessGuest {
    vm: Arc<Vm>,
    memory: Arc<GuestMemory>,
    hooks: Arc<VcpuThreads>,
    ready: ReadyMemory,
}

impl ProcessGuest {
    /// Makes an empty virtual machine.
    ///
    /// # Errors
    /// [`GuestError`].
    pub fn new(kvm: &Kvm) -> Result<Self, GuestError> {
        let memory = Arc::new(GuestMemory::reserve(RESERVED).map_err(GuestError::Reserve)?);
        let vm = Arc::new(kvm.create_vm(memory.clone())?);
        // Every guest needs one, and it tells how the time-stamp counter runs.
        let first = SpareCpu::new(&vm, 0)?;
        let hooks = Arc::new_cyclic(|this| VcpuThreads {
            vm: vm.clone(),
            this: this.clone(),
            tsc_khz: first.tsc_khz,
            next_id: AtomicU64::new(1),
            cpus: Mutex::new(Cpus { spare: vec![first], ..Cpus::default() }),
            exits: Arc::default(),
        });
        Ok(Self { vm, memory, hooks, ready: ReadyMemory::default() })
    }

    /// Makes `count` vCPUs ahead and memory slots for `pages` pages, so that a restore doesn't have to.
    ///
    /// # Errors
    /// [`GuestError`].
    pub fn make_ready(&self, count: usize, pages: PageCount) -> Result<(), GuestError> {
        self.vm.cover(pages)?;
        for _ in 0..count {
            let spare = self.hooks.spare()?;
            self.hooks.cpus.lock().spare.push(spare);
        }
        Ok(())
    }

    /// Starts the host thread that will drive the first vCPU, which costs a restore 0.1 ms. It confines itself, so this process must
    /// be as confined as it is to be.
    ///
    /// # Errors
    /// [`GuestError::Thread`].
    pub fn start_driver(&self) -> Result<(), GuestError> {
        let driver =
            driver::ahead(self.hooks.this.clone()).map_err(|errno| GuestError::Thread(errno.into()))?;
        self.hooks.cpus.lock().drivers.push(driver);
        Ok(())
    }

    /// Says which pages [`Self::make_memory_ready`] is to make ready: those that the next guest is likely to touch, and which of
    /// them it may write by its own tables. What can't be is left out.
    pub fn want_memory_ready(&mut self, pages: &PageSet, writable: &PageSet) {
        self.ready.want(pages, writable);
    }

    /// Makes another block's part of them ready ahead, and a vCPU if there is none to spare; `false` when there is no more.
    ///
    /// # Errors
    /// [`GuestError`].
    pub fn make_memory_ready(&mut self) -> Result<bool, GuestError> {
        let spare = self.hooks.cpus.lock().spare.pop();
        let mut cpu = spare.map_or_else(|| self.hooks.spare(), Ok)?;
        self.vm.cover(self.ready.end())?;
        let grown = self.ready.grow(&self.memory, &mut cpu);
        self.hooks.cpus.lock().spare.push(cpu);
        grown
    }

    /// The memory that is ready: populated, writable, zero.
    pub fn ready_memory(&self) -> &PageSet {
        self.ready.pages()
    }

    /// Those of its pages that shadow tables let a guest write whose own tables forbid it: nothing of such a guest may stay there.
    pub fn ready_writable(&self) -> &PageSet {
        self.ready.writable()
    }

    /// Gives it back, for a guest that has no use for it.
    ///
    /// # Errors
    /// [`GuestError::ReadyMemory`].
    pub fn give_up_ready_memory(&mut self) -> Result<(), GuestError> {
        self.ready.give_up(&self.memory)
    }

    /// When guest code was left for the first time, by an exit that the guest caused or by a kick, but not just to wait for
    /// memory that was still to come: host CLOCK_MONOTONIC in nanoseconds.
    pub fn first_exit(&self) -> Option<u64> {
        self.hooks.exits.first()
    }

    /// How often guest code was left so far, by all threads.
    pub fn exits(&self) -> Exits {
        self.hooks.exits.so_far()
    }

    /// Guest memory.
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// An empty address space in this machine, with the entry stubs in place.
    ///
    /// # Errors
    /// [`GuestError`].
    pub fn address_space(&self) -> Result<Mm, GuestError> {
        let mm =
            Mm::new(self.memory.clone(), Arc::new(VmSlots(self.vm.clone()))).map_err(GuestError::Memory)?;
        entry::write_stubs(&self.memory).map_err(GuestError::SupervisorPage)?;
        Ok(mm)
    }

    /// The way to vCPUs, for the process that is going to run here.
    pub fn hooks(&self) -> Arc<dyn Hooks> {
        self.hooks.clone()
    }

    /// An empty process in this machine. `open` opens the host directories that the mounts name.
    ///
    /// # Errors
    /// [`GuestError`].
    pub fn process(
        &self,
        config: &ProcessConfig,
        open: DirectoryOpener<'_>,
    ) -> Result<Arc<Process>, GuestError> {
        let vfs = Vfs::new(&config.mounts, open)?;
        let hooks = self.hooks.clone();
        let parts = ProcessParts::new(self.address_space()?, vfs, config.memory_limit, hooks);
        Ok(Process::new(ProcessParts { identity: config.identity.clone(), ..parts }))
    }

    /// Loads a program into `process` and starts its main thread.
    ///
    /// # Errors
    /// [`GuestError`].
    pub fn start(&self, process: &Arc<Process>, request: &ExecRequest) -> Result<(), GuestError> {
        let (thread, state) = start_main_thread(process, request)?;
        process.hooks.spawn(process, &thread, state, Vec::new()).map_err(GuestError::Memory)
    }

    /// Saves the guest, whose process must be paused.
    ///
    /// # Errors
    /// [`GuestError::Save`] naming what can't be saved.
    pub fn save(&self, process: &Process) -> Result<(SavedGuest, MemoryImage), GuestError> {
        let (process, image) = process.save()?;
        Ok((SavedGuest { process, cpu_pages: self.hooks.cpus.lock().pages.clone() }, image))
    }

    /// First half of a restore: opens again what the guest had open. The caller then maps memory as the saved
    /// [`MemoryImage`] says, with [`Revival::mapped_files`], and calls [`ProcessGuest::resume`].
    ///
    /// # Errors
    /// [`GuestError::Restore`], [`GuestError::Mount`].
    pub fn revive(
        &self,
        saved: SavedGuest,
        mounts: &MountTable,
        open: DirectoryOpener<'_>,
    ) -> Result<Revival, GuestError> {
        let vfs = Vfs::new(mounts, open)?;
        let mut cpus = self.hooks.cpus.lock();
        cpus.free_pages = saved.cpu_pages.clone();
        cpus.pages = saved.cpu_pages;
        drop(cpus);
        Ok(Revival::begin(saved.process, vfs)?)
    }

    /// Second half of a restore, after memory has been mapped: the process, whose threads run from here on.
    ///
    /// # Errors
    /// [`GuestError`].
    pub fn resume(&self, revival: Revival) -> Result<Arc<Process>, GuestError> {
        self.resume_after(revival, |_| Ok(()))
    }

    /// As [`ProcessGuest::resume`], noting from the start which pages the guest touches; see [`Mm::touched`].
    ///
    /// # Errors
    /// [`GuestError`].
    pub fn resume_watched(&self, revival: Revival) -> Result<Arc<Process>, GuestError> {
        self.resume_after(revival, |mm| {
            entry::touch(&self.memory).map_err(|_| GuestError::Memory(Errno::FAULT))?;
            mm.watch_touches().map_err(GuestError::Memory)
        })
    }

    fn resume_after(
        &self,
        revival: Revival,
        before: impl FnOnce(&Mm) -> Result<(), GuestError>,
    ) -> Result<Arc<Process>, GuestError> {
        let slots = Arc::new(VmSlots(self.vm.clone()));
        let (process, threads) = revival.finish(self.memory.clone(), slots, self.hooks.clone())?;
        before(&process.mm)?;
        for (thread, state) in threads {
            process.hooks.spawn(&process, &thread, state.cpu, state.fpu).map_err(GuestError::Memory)?;
        }
        // Starting a thread for it takes time that the guest need not wait for.
        process.keep_vdso_fresh();
        Ok(process)
    }

    /// Runs a program to its end.
    ///
    /// # Errors
    /// [`GuestError`].
    pub fn run(&self, process: &Arc<Process>, request: &ExecRequest) -> Result<ExitStatus, GuestError> {
        self.start(process, request)?;
        loop {
            if let Some(status) = process.wait_ended(Some(Duration::from_secs(3600))) {
                return Ok(status);
            }
        }
    }
}
