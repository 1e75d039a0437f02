//! A guest: its virtual machine, its process, and the host threads that drive its vCPUs.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use guest_memory::{AccessError, GuestMemory, MapError};
use machine::{Kvm, MachineError, Vm};
use pages::PageCount;
use parking_lot::Mutex;
use process_kernel::clock::Clock;
use process_kernel::file::FdTable;
use process_kernel::fs::{DirectoryOpener, FsContext, MountTable, Vfs, VfsError};
use process_kernel::ipc::Ipc;
use process_kernel::mm::Mm;
use process_kernel::net::Network;
use process_kernel::task::{
    CpuState, ExecError, ExecRequest, ExitStatus, Fpu, Hooks, Identity, Limits, Process, ProcessParts,
    Thread, start_main_thread,
};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::cpu::GuestCpu;
use crate::entry;
use crate::run::run_thread;
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

/// vCPUs that no thread uses at the moment; KVM can't free one.
#[derive(Default)]
struct IdleCpus(Mutex<Vec<GuestCpu>>);

/// Makes vCPUs for threads.
pub(crate) struct VcpuThreads {
    vm: Arc<Vm>,
    idle: Arc<IdleCpus>,
    next_id: AtomicU64,
}

impl VcpuThreads {
    fn take(&self, mm: &Mm) -> Result<GuestCpu, GuestError> {
        if let Some(cpu) = self.idle.0.lock().pop() {
            return Ok(cpu);
        }
        GuestCpu::new(&self.vm, self.next_id.fetch_add(1, Ordering::SeqCst), mm)
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
        let mut cpu = self.take(&process.mm).map_err(|error| {
            tracing::warn!(%error, "no vCPU for another thread");
            Errno::AGAIN
        })?;
        if fpu.is_empty() {
            cpu.reset();
        } else if !cpu.load(&fpu) {
            return Err(Errno::AGAIN);
        }
        let (process, thread, idle) = (process.clone(), thread.clone(), self.idle.clone());
        std::thread::Builder::new()
            .name(format!("vcpu-{}", thread.tid))
            .stack_size(256 << 10)
            .spawn(move || {
                let run = AssertUnwindSafe(|| run_thread(&process, &thread, &mut cpu, state));
                if catch_unwind(run).is_err() {
                    // A defect of ours, whatever the guest did: the guest can't go on, the worker says so.
                    process.fail(
                        "the worker failed while it served this guest (a defect: see its log)".to_owned(),
                    );
                    process.remove_thread(thread.tid, ExitStatus::Signal(libc::SIGKILL));
                }
                idle.0.lock().push(cpu);
            })
            .map(|_| ())
            .map_err(|_| Errno::AGAIN)
    }
}

/// A virtual machine with an empty process guest in it: what a pool keeps ready.
pub struct ProcessGuest {
    vm: Arc<Vm>,
    memory: Arc<GuestMemory>,
    hooks: Arc<VcpuThreads>,
}

impl ProcessGuest {
    /// Makes an empty virtual machine.
    ///
    /// # Errors
    /// [`GuestError`].
    pub fn new(kvm: &Kvm) -> Result<Self, GuestError> {
        let memory = Arc::new(GuestMemory::reserve(RESERVED).map_err(GuestError::Reserve)?);
        let vm = Arc::new(kvm.create_vm(memory.clone())?);
        let hooks = Arc::new(VcpuThreads {
            vm: vm.clone(),
            idle: Arc::new(IdleCpus::default()),
            next_id: AtomicU64::new(0),
        });
        Ok(Self { vm, memory, hooks })
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
        let clock = Arc::new(Clock::default());
        let ipc = Ipc::new(clock.clone());
        Ok(Process::new(ProcessParts {
            mm: self.address_space()?,
            files: FdTable::new(),
            fs: FsContext::new(vfs.root()),
            vfs,
            network: Network::new(&ipc),
            ipc,
            clock,
            limits: Limits::default(),
            identity: config.identity.clone(),
            memory_limit: config.memory_limit,
            hooks: self.hooks.clone(),
        }))
    }

    /// Loads a program into `process` and starts its main thread.
    ///
    /// # Errors
    /// [`GuestError`].
    pub fn start(&self, process: &Arc<Process>, request: &ExecRequest) -> Result<(), GuestError> {
        let (thread, state) = start_main_thread(process, request)?;
        process.hooks.spawn(process, &thread, state, Vec::new()).map_err(GuestError::Memory)
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
