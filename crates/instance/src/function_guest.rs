//! A function in a process guest: booted or restored, saved, invoked.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use guest_memory::{AccessError, GuestMemory, Protection};
use machine::{Kvm, MachineError};
use pages::{PageCount, PageIndex, PageRange, PageSet};
use process_guest::{Exits, GuestError, ProcessConfig, ProcessGuest, SavedGuest};
use process_kernel::fs::MountTable;
use process_kernel::ipc::{Ipc, LogSink, LogStream};
use process_kernel::mm::MemoryImage;
use process_kernel::net::Network;
use process_kernel::task::{ExitStatus, Identity, PauseError, Process};
use restore::{ExitCounts, LateBlocks, Phase, ReadyPages, ReadyThreads, RestoreError, Timeline, WaitCounts};
use runtime_api::{Config, Credentials, DeliverError, Event, Invocation, ReleasedRuntime, ResumeError};
use rustix::io::Errno;
use snapshot::{MachineIdentity, Snapshot};
use thiserror::Error;
use worker_protocol::{FailureKind, Learned};

use crate::checkpoint::{self, CheckpointError, Opened, Saved};
use crate::error_text::chain;
use crate::memory_guard::MemoryGuard;
use crate::program::{self, ProgramError};
use crate::restored::{Alarm, Behind, Conclusion, Foresight, RestoreOptions, Restored, Touched, Victim};
use crate::runtime_bridge::{self, LoopbackBridge, RuntimeBridge};

/// How long a guest may take to come to rest. Its threads are kicked, so this is only exceeded by a defect.
const PAUSE_LIMIT: Duration = Duration::from_secs(5);
/// How long a guest that is ended may take to be gone.
const END_LIMIT: Duration = Duration::from_secs(5);

/// How long a guest may take until it only waits, before it is brought to rest for a snapshot.
const SETTLE_LIMIT: Duration = Duration::from_millis(500);

const SIGKILL: i32 = 9;

/// What a function's guest is made from.
#[derive(Debug)]
pub(crate) struct FunctionConfig {
    /// The mounts; host directories are named by [`directory_name`].
    pub mounts: MountTable,
    /// The host directories that the mounts name.
    pub directories: Vec<OwnedFd>,
    pub identity: Identity,
    pub memory_limit: u64,
    /// The control socket of the relay that carries its connections out, when it may have any.
    pub relay: Option<OwnedFd>,
    pub program: Vec<u8>,
    pub arguments: Vec<Vec<u8>>,
    pub environment: BTreeMap<Vec<u8>, Vec<u8>>,
    pub working_directory: Vec<u8>,
    pub runtime: Config,
    /// What the function can fetch; never part of a snapshot.
    pub credentials: Option<Credentials>,
}

/// The name in a mount table of the host directory that was passed as number `index`.
pub(crate) fn directory_name(index: usize) -> PathBuf {
    PathBuf::from(format!("/passed/{index}"))
}

impl FunctionConfig {
    fn open(&self, path: &Path) -> io::Result<OwnedFd> {
        let number = path.strip_prefix("/passed").ok().and_then(|number| number.to_str()?.parse().ok());
        let directory = number.and_then(|number: usize| self.directories.get(number));
        directory.ok_or(io::ErrorKind::NotFound)?.try_clone()
    }

    /// Switches the guest's network on, if it is to be.
    fn connect(&self, network: &Network) -> Result<(), InstanceError> {
        let Some(relay) = &self.relay else { return Ok(()) };
        network.allow_outside(outbound::Client::new(relay.try_clone().map_err(InstanceError::Relay)?));
        Ok(())
    }
}

/// Who hears of what a function does; called on guest threads.
#[derive(Clone)]
pub(crate) struct Listeners {
    pub runtime: Arc<dyn Fn(Event) + Send + Sync>,
    pub log: Arc<dyn Fn(LogStream, &[u8]) + Send + Sync>,
    /// A kernel has booted, and the function's program is about to be started.
    pub kernel_up: Arc<dyn Fn() + Send + Sync>,
    /// Hears what the node should know of the snapshot.
    pub learned: Arc<dyn Fn(Learned) + Send + Sync>,
}

/// An instance that can't be made, saved or invoked.
#[derive(Debug, Error)]
pub(crate) enum InstanceError {
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error(transparent)]
    Guest(#[from] GuestError),
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Restore(#[from] RestoreError),
    #[error("the saved Runtime API contradicts itself")]
    Runtime(#[from] ResumeError),
    #[error("{reason}")]
    MemoryLost { reason: String, kind: FailureKind },
    #[error("the guest can't be brought to rest")]
    Pause(#[from] PauseError),
    #[error("the invocation can't be delivered")]
    Deliver(#[from] DeliverError),
    #[error("a file that the guest has mapped can't be opened")]
    MappedFile(#[source] Errno),
    #[error("the way to the relay of outbound connections can't be set up")]
    Relay(#[source] io::Error),
    #[error("the function's standard output can't be set up")]
    Log(#[source] Errno),
    #[error("the worker's machine is made for another kind or size of guest")]
    OtherKind,
    #[error(transparent)]
    Linux(#[from] linux_guest::GuestError),
    #[error("the guest's own disk can't be made")]
    Scratch(#[from] ext4_image::Ext4Error),
    #[error("the guest's initial files can't be made")]
    InitialFiles(#[from] initramfs::ArchiveError),
    #[error("the memory guard can't be started")]
    MemoryGuard(#[source] io::Error),
}

/// An empty virtual machine that waits for its function.
pub(crate) struct ReadyMachine {
    guest: ProcessGuest,
    /// What a snapshot has to fit.
    host: MachineIdentity,
    guard: MemoryGuard,
    timeline: Timeline,
    /// Those of a restore.
    threads: Arc<ReadyThreads>,
}

impl ReadyMachine {
    /// Makes one, with what can be made before it is known what will run in it.
    pub fn new() -> Result<Self, InstanceError> {
        let mut timeline = Timeline::start();
        let guest = timeline.measure(Phase::VmCreated, || -> Result<_, InstanceError> {
            Ok(ProcessGuest::new(&Kvm::open()?)?)
        })?;
        timeline.measure(Phase::VcpusCreated, || guest.make_ready(1, PageCount(0)))?;
        // The smallest slot there is: most functions fit.
        timeline.measure(Phase::SlotsSet, || guest.make_ready(0, PageCount(1)))?;
        let host = MachineIdentity::of_this_machine().map_err(CheckpointError::Machine)?;
        Ok(Self { guest, host, guard: MemoryGuard::new(), timeline, threads: Arc::default() })
    }

    /// Starts what of the machine's threads can be started before it is known what will run in it. This process is confined by now.
    pub fn start_threads(&mut self) -> Result<(), InstanceError> {
        self.guest.start_driver()?;
        self.guard.start().map_err(InstanceError::MemoryGuard)?;
        self.threads = Arc::new(ReadyThreads::start().map_err(RestoreError::Thread)?);
        Ok(())
    }

    /// The request has come: time counts from here.
    pub fn begin_request(&mut self) {
        self.timeline.begin_request();
    }

    /// Says which memory is to be made ready ahead; see [`ProcessGuest::want_memory_ready`].
    pub fn want_memory_ready(&mut self, pages: &PageSet, writable: &PageSet) {
        self.guest.want_memory_ready(pages, writable);
    }

    /// Makes more of it ready; `false` when all is, or no more can be had: a request does without then.
    pub fn make_memory_ready(&mut self) -> bool {
        self.guest.make_memory_ready().unwrap_or_else(|error| {
            tracing::warn!(error = chain(&error), "no memory is made ready ahead");
            false
        })
    }

    /// Boots a function.
    pub fn boot(
        self,
        config: &FunctionConfig,
        listeners: &Listeners,
    ) -> Result<FunctionGuest, InstanceError> {
        let Self { mut guest, mut guard, timeline, .. } = self;
        guest.give_up_ready_memory()?;
        let process_config = ProcessConfig {
            mounts: config.mounts.clone(),
            identity: config.identity.clone(),
            memory_limit: config.memory_limit,
        };
        let process = guest.process(&process_config, &|path| config.open(path))?;
        program::enter(&process, &config.working_directory)?;
        connect_log(&process.ipc, listeners);
        config.connect(&process.network)?;
        for (number, stream) in [(1, LogStream::Output), (2, LogStream::Error)] {
            let limit = process.limits.open_files();
            let file = log_file(&process.ipc, stream);
            process.files.replace(number, file, limit, false).map_err(InstanceError::Log)?;
        }
        let sockets = Box::new(process.network.service_handle());
        let bridge = RuntimeBridge::new(sockets, config.runtime.clone(), events_to(&listeners.runtime));
        serve_runtime(&process.network, &bridge);
        bridge.set_credentials(config.credentials.clone());
        guard.watch(&process, config.memory_limit).map_err(InstanceError::MemoryGuard)?;
        program::start(&guest, &process, &config.program, config.arguments.clone(), &config.environment)?;
        Ok(FunctionGuest {
            guest,
            process,
            bridge,
            guard,
            timeline,
            restored: None,
            left_before: Exits::default(),
        })
    }

    /// Goes on from the snapshot in `directory`. The runtime still waits where it waited.
    pub fn restore(
        self,
        config: &FunctionConfig,
        directory: &Path,
        options: &RestoreOptions,
        listeners: &Listeners,
    ) -> Result<FunctionGuest, InstanceError> {
        let Self { guest, host, mut guard, mut timeline, threads } = self;
        let Opened { snapshot, layout, saved } =
            timeline.measure(Phase::SnapshotOpened, || checkpoint::open::<SavedGuest>(directory, &host))?;
        timeline.measure(Phase::SlotsSet, || guest.make_ready(0, layout.page_count()))?;
        let arrivals = Arc::new(saved.guest.late_blocks());
        let late = LateBlocks { arrivals: arrivals.clone(), first: saved.guest.first_blocks() };
        let ready =
            ReadyPages { pages: guest.ready_memory().clone(), writable: guest.ready_writable().clone() };
        let (memory, ready) = (guest.memory().clone(), Some(ready));
        let behind = Behind { memory, ready, late: Some(late), threads: threads.clone() };
        // The guest's objects are made again, files opened among them, while another thread plans.
        let planning = {
            let options = options.clone();
            threads.plan(move || {
                let foreseen = behind.foresee(&snapshot, &layout, &options);
                foreseen.map(|foreseen| (behind, Foresight { snapshot, layout, foreseen }))
            })
        };
        let revival = timeline.measure(Phase::StateRestored, || {
            guest.revive(saved.guest, &config.mounts, &|path| config.open(path))
        });
        let (behind, foresight) = planning.map_err(RestoreError::Thread)?.join()?;
        let mut revival = revival?;
        revival.expect(arrivals.clone());
        let victim = Victim::default();
        let restored = {
            let files = revival.mapped_files().descriptors().map_err(InstanceError::MappedFile)?;
            let alarm = Alarm { victim: victim.clone(), learned: listeners.learned.clone() };
            Restored::begin(&behind, foresight, &files, options, alarm, &mut timeline)?
        };
        revival.expect_growth(restored.growth().clone());
        let context = revival.context();
        connect_log(&context.ipc, listeners);
        config.connect(&context.network)?;
        let sockets = Box::new(context.network.service_handle());
        let bridge = RuntimeBridge::restore(sockets, saved.bridge, events_to(&listeners.runtime))?;
        serve_runtime(&context.network, &bridge);
        bridge.set_credentials(config.credentials.clone());
        let process = timeline.measure(Phase::StateRestored, || match restored.wants_touches() {
            true => guest.resume_watched(revival),
            false => guest.resume(revival),
        });
        // Why memory is lost says more than what could not be done without it.
        let process = process.map_err(|error| match arrivals.loss() {
            Some(reason) => {
                let kind = restored.failure().unwrap_or(FailureKind::Snapshot);
                InstanceError::MemoryLost { reason, kind }
            }
            None => error.into(),
        })?;
        let weak = Arc::downgrade(&process);
        victim.is(move |reason| {
            if let Some(process) = weak.upgrade() {
                process.fail(reason);
            }
        });
        guard.watch(&process, config.memory_limit).map_err(InstanceError::MemoryGuard)?;
        let left_before = Exits::default();
        Ok(FunctionGuest { guest, process, bridge, guard, timeline, restored: Some(restored), left_before })
    }
}

/// A function's guest that runs.
pub(crate) struct FunctionGuest {
    guest: ProcessGuest,
    pub process: Arc<Process>,
    bridge: Arc<RuntimeBridge>,
    pub guard: MemoryGuard,
    /// From the machine's making on.
    pub timeline: Timeline,
    restored: Option<Restored>,
    /// How often the guest had been left when it answered last.
    left_before: Exits,
}

impl FunctionGuest {
    /// See [`RuntimeBridge::deliver`].
    pub fn deliver(&self, invocation: Invocation) -> Result<(), InstanceError> {
        Ok(self.bridge.deliver(invocation)?)
    }

    /// Lets a restored runtime go on.
    pub fn release(&self) -> ReleasedRuntime {
        self.bridge.release_restore()
    }

    /// Writes a snapshot below `parent` and lets the guest go on; gives the bytes of memory that are stored.
    pub fn snapshot(&self, parent: &Path) -> Result<u64, InstanceError> {
        // The runtime was heard of when its request arrived; it has yet to begin to wait for the answer. A program that
        // doesn't settle is snapshotted as it is.
        let _ = self.process.settle(SETTLE_LIMIT);
        // A thread that waits for memory can't rest. If it will not come, the pause says that the process ends.
        let _ = self.process.mm.wait_for_all();
        self.process.pause(PAUSE_LIMIT)?;
        let written = self.write(parent);
        self.process.resume();
        Ok(written?.stored_pages().count().bytes())
    }

    fn write(&self, parent: &Path) -> Result<Snapshot, InstanceError> {
        let (guest, image) = self.guest.save(&self.process)?;
        let saved = Saved { guest, bridge: self.bridge.save() };
        let memory = self.guest.memory();
        let layout = checkpoint::process_layout(&image).map_err(CheckpointError::from)?;
        let read = |page, bytes: &mut [u8]| read(memory, &image, page, bytes);
        Ok(checkpoint::write(parent, &saved, &layout, &image.candidates, read, None)?)
    }

    /// What a user should hear of though the instance goes on.
    pub fn warnings(&self) -> Vec<String> {
        self.restored.as_ref().map(Restored::warnings).unwrap_or_default()
    }

    /// When the guest was left first, by the host's monotonic clock in nanoseconds.
    pub fn first_exit(&self) -> Option<u64> {
        self.guest.first_exit()
    }

    /// Adds to the timeline how often the guest was left since its last answer, how memory came in beside it, and how much was
    /// waited for it.
    pub fn note_run(&mut self) {
        let exits = self.guest.exits();
        let before = std::mem::replace(&mut self.left_before, exits);
        self.timeline.exits = Some(ExitCounts {
            system_calls: exits.system_calls.saturating_sub(before.system_calls),
            page_faults: exits.page_faults.saturating_sub(before.page_faults),
        });
        let waits = self.process.mm.waits();
        let time_ns = u64::try_from(waits.time.as_nanos()).unwrap_or(u64::MAX);
        self.timeline.waits = WaitCounts { count: waits.count, time_ns };
        if let Some(restored) = &self.restored {
            restored.note_loader(&mut self.timeline);
        }
    }

    /// The most bytes that the guest was seen to use.
    pub fn peak_memory(&self) -> u64 {
        self.guard.peak()
    }

    /// See [`Restored::failure`].
    pub fn memory_failure(&self) -> Option<FailureKind> {
        self.restored.as_ref().and_then(Restored::failure)
    }

    /// Compares memory that was not written with the snapshot, when that was asked for; gives what is wrong.
    pub fn verify(&mut self) -> Option<String> {
        let restored = self.restored.as_ref().filter(|_| self.timeline.verified.is_some())?;
        if let Err(error) = self.process.pause(PAUSE_LIMIT) {
            return Some(format!("memory can't be compared with the snapshot: {error}"));
        }
        let compared = restored.verify(self.guest.memory(), &mut self.timeline);
        self.process.resume();
        compared.err().map(|error| chain(&error))
    }

    /// Ends the guest, and tells what was recorded of it.
    pub fn end(mut self) -> Conclusion {
        if self.process.mm.is_late() {
            // Nothing more comes in, so its threads may wait for what will not: they end now.
            self.kill();
        }
        let paused = self.process.pause(PAUSE_LIMIT).is_ok();
        let mm = &self.process.mm;
        let touched = mm.touched().ok().filter(|_| paused);
        let touched = touched.map(|pages| Touched { pages, grown: mm.grown() });
        let restored = self.restored.take();
        let end =
            restored.map(|restored| restored.finish(self.timeline.clone(), touched)).unwrap_or_default();
        self.kill();
        self.process.wait_ended(Some(END_LIMIT));
        end
    }

    /// Tells the guest to end.
    pub fn kill(&self) {
        self.process.exit(ExitStatus::Signal(SIGKILL));
    }
}

fn serve_runtime(network: &Arc<Network>, bridge: &Arc<RuntimeBridge>) {
    let service = LoopbackBridge { bridge: bridge.clone(), handle: network.service_handle() };
    network.add_service(runtime_bridge::PORT, Arc::new(service));
}

pub(crate) fn events_to(listener: &Arc<dyn Fn(Event) + Send + Sync>) -> Box<dyn Fn(Event) + Send + Sync> {
    let listener = listener.clone();
    Box::new(move |event| listener(event))
}

fn connect_log(ipc: &Ipc, listeners: &Listeners) {
    let log = listeners.log.clone();
    ipc.log.set_receiver(move |stream, bytes| log(stream, bytes));
}

fn log_file(ipc: &Ipc, stream: LogStream) -> Arc<process_kernel::file::OpenFile> {
    use process_kernel::file::{AccessMode, OpenFile, StatusFlags};
    OpenFile::new(LogSink::new(ipc, stream), AccessMode::Write, StatusFlags::empty())
}

/// Copies pages of a guest at rest, those that the guest itself may not read included. Pages beyond a mapped file's end
/// have no content and read as zeros.
fn read(
    memory: &GuestMemory,
    image: &MemoryImage,
    first: PageIndex,
    bytes: &mut [u8],
) -> Result<(), AccessError> {
    if memory.read(first.address(), bytes).is_ok() {
        return Ok(());
    }
    for (index, bytes) in bytes.chunks_mut(pages::PAGE_SIZE as usize).enumerate() {
        let page = PageIndex(first.0 + index as u64);
        if memory.read(page.address(), bytes).is_ok() {
            continue;
        }
        let range = PageRange::new(page, PageCount(1));
        let region = image.regions.iter().find(|region| region.range.contains(page));
        let hidden = region.is_some_and(|region| region.protection == Protection::None);
        if !hidden || memory.protect(range, Protection::Read).is_err() {
            bytes.fill(0);
            continue;
        }
        let copied = memory.read(page.address(), bytes);
        // The guest is at rest; if this fails, reading again will fail too and the snapshot with it.
        let _ = memory.protect(range, Protection::None);
        copied?;
    }
    Ok(())
}
