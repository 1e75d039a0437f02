//! A function in a linux guest: booted or restored, saved, invoked.
//!
//! The guest's first program relays the function's connections to its Runtime API over the one stream that it and this side
//! share; here they end in the same [`RuntimeBridge`] that serves process guests.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use guest_init::wire::{self, Ended, Kind, Start};
use initramfs::Module;
use linux_guest::{
    Beginning, Card, Disk, Fittings, KernelImage, Line, PausedVm, RunningGuest, SavedVm, Scratch, Session,
    SpareGuest, initial_files, memory_ranges,
};
use machine::Kvm;
use pages::PageSet;
use parking_lot::{Condvar, Mutex};
use process_kernel::ipc::LogStream;
use process_kernel::task::ExitStatus;
use restore::{Phase, ReadyPages, ReadyThreads, RestoreError, Timeline};
use runtime_api::{Config, Credentials, Invocation, ReleasedRuntime};
use snapshot::{MachineIdentity, Snapshot};
use worker_protocol::FailureKind;

use crate::checkpoint::{self, CheckpointError, Opened, Saved};
use crate::error_text::chain;
use crate::function_guest::{InstanceError, Listeners, events_to};
use crate::memory_guard::MemoryGuard;
use crate::restored::{Alarm, Behind, Conclusion, Foresight, RestoreOptions, Restored, Touched, Victim};
use crate::runtime_bridge::{RuntimeBridge, Sockets};

/// How long a guest may take to come to rest: its first program freezes the function and closes its connection.
const REST_LIMIT: Duration = Duration::from_secs(10);
/// Memory that the machine has beyond the function's: the kernel, its page tables, its first program.
const KERNEL_MIB: u64 = 64;
const PROCESSORS: u8 = 1;

const SIGKILL: i32 = 9;

/// What a function's guest is made from.
#[derive(Debug)]
pub(crate) struct LinuxConfig {
    /// The images of its file systems, the root first.
    pub disks: Vec<File>,
    /// An empty file for its own disk, its /tmp.
    pub scratch: File,
    /// The control socket of the relay that carries its connections out, when it may have any.
    pub relay: Option<OwnedFd>,
    /// What its first program is told.
    pub start: Start,
    pub runtime: Config,
    /// What the function can fetch; never part of a snapshot.
    pub credentials: Option<Credentials>,
}

impl LinuxConfig {
    fn fittings(&self, scratch: &Arc<Scratch>) -> Result<Fittings, InstanceError> {
        let shared = self.disks.iter().map(|file| file.try_clone().map(Disk::shared));
        let disks = shared.chain(std::iter::once(Ok(Disk::Private(scratch.clone()))));
        let disks = disks.collect::<io::Result<_>>();
        let disks =
            disks.map_err(linux_guest::LinuxGuestError::Disk).map_err(linux_guest::GuestError::from)?;
        Ok(Fittings { disks, card: self.card()?, console: None })
    }

    /// Its network card, with a network behind it, if it may have one.
    fn card(&self) -> Result<Option<Card>, InstanceError> {
        let Some(relay) = &self.relay else { return Ok(None) };
        let link = relay.try_clone().and_then(|relay| guest_network::start(outbound::Client::new(relay)));
        let link = link.map_err(InstanceError::Relay)?;
        Ok(Some(Card { link, address: guest_network::GUEST_MAC }))
    }

    /// Its own disk, with an empty file system on it.
    fn new_scratch(&self) -> Result<Arc<Scratch>, InstanceError> {
        let file = self.scratch.try_clone().map_err(CheckpointError::Disk)?;
        ext4_image::write_empty(&file, self.start.tmp_limit)?;
        Ok(Arc::new(Scratch::new(file, None).map_err(CheckpointError::Disk)?))
    }

    /// Its own disk as it was when the snapshot was taken.
    fn saved_scratch(&self, snapshot: &Snapshot) -> Result<Arc<Scratch>, InstanceError> {
        let open = || {
            let base = snapshot.disk_file().ok_or(io::ErrorKind::NotFound)?.try_clone()?;
            let own = self.scratch.try_clone()?;
            own.set_len(base.metadata()?.len())?;
            Scratch::new(own, Some(base))
        };
        Ok(Arc::new(open().map_err(CheckpointError::Disk)?))
    }
}

/// What a guest boots.
pub(crate) struct BootFiles {
    pub image: Vec<u8>,
    pub modules: Vec<Module>,
    pub command_line: String,
}

/// A virtual machine that waits for its function.
pub(crate) struct ReadyLinux {
    machine: SpareGuest,
    /// What a snapshot has to fit.
    host: MachineIdentity,
    guard: MemoryGuard,
    timeline: Timeline,
    /// Those of a restore.
    threads: Arc<ReadyThreads>,
}

impl ReadyLinux {
    /// Makes one for a function with so much memory.
    pub fn new(memory_mib: u64) -> Result<Self, InstanceError> {
        let mut timeline = Timeline::start();
        let machine = timeline.measure(Phase::VmCreated, || -> Result<_, InstanceError> {
            Ok(SpareGuest::new(&Kvm::open()?, memory_mib.saturating_add(KERNEL_MIB), PROCESSORS)?)
        })?;
        let host = MachineIdentity::of_this_machine().map_err(CheckpointError::Machine)?;
        Ok(Self { machine, host, guard: MemoryGuard::new(), timeline, threads: Arc::default() })
    }

    /// Starts the machine's threads, and a restore's. This process is confined by now.
    pub fn start_threads(&mut self) -> Result<(), InstanceError> {
        self.machine.start_threads()?;
        self.threads = Arc::new(ReadyThreads::start().map_err(RestoreError::Thread)?);
        Ok(())
    }

    /// Says which memory is to be made ready ahead; see [`SpareGuest::want_memory_ready`].
    pub fn want_memory_ready(&mut self, pages: &PageSet) {
        self.machine.want_memory_ready(pages);
    }

    /// Makes more of it ready; `false` when all is, or no more can be had: a request does without then.
    pub fn make_memory_ready(&mut self) -> bool {
        self.machine.make_memory_ready().unwrap_or_else(|error| {
            tracing::warn!(error = chain(&error), "no memory is made ready ahead");
            false
        })
    }

    /// The machine, if it has the size that the function needs.
    fn made_for(machine: SpareGuest, config: &LinuxConfig) -> Result<SpareGuest, InstanceError> {
        let needed = (config.start.memory_limit >> 20) + KERNEL_MIB;
        Some(machine).filter(|machine| machine.memory_mib() == needed).ok_or(InstanceError::OtherKind)
    }

    /// The request has come: time counts from here.
    pub fn begin_request(&mut self) {
        self.timeline.begin_request();
    }

    /// Boots a function.
    pub fn boot(
        self,
        config: &LinuxConfig,
        files: BootFiles,
        listeners: &Listeners,
    ) -> Result<LinuxFunction, InstanceError> {
        let Self { machine, guard, timeline, .. } = self;
        let scratch = config.new_scratch()?;
        let ready = Self::made_for(machine, config)?.fit(config.fittings(&scratch)?);
        let line = Line::new();
        let runtime = config.runtime.clone();
        let bridge = RuntimeBridge::new(Box::new(line.clone()), runtime, events_to(&listeners.runtime));
        bridge.set_credentials(config.credentials.clone());
        let kernel = KernelImage::new(files.image).map_err(linux_guest::GuestError::from)?;
        let initial = initial_files(&files.modules, config.relay.is_some())?;
        let guest = ready.boot(&kernel, &initial, &files.command_line)?;
        let beginning = Beginning::Start(config.start.clone());
        LinuxFunction::begin(guest, line, beginning, bridge, listeners, (guard, timeline, scratch))
    }

    /// Goes on from the snapshot in `directory`. The runtime still waits where it waited.
    pub fn restore(
        self,
        config: &LinuxConfig,
        directory: &Path,
        options: &RestoreOptions,
        listeners: &Listeners,
    ) -> Result<LinuxFunction, InstanceError> {
        let Self { machine, host, guard, mut timeline, threads } = self;
        let machine = Self::made_for(machine, config)?;
        let Opened { snapshot, layout, saved } =
            timeline.measure(Phase::SnapshotOpened, || checkpoint::open::<SavedVm>(directory, &host))?;
        let scratch = config.saved_scratch(&snapshot)?;
        let ready_memory = ReadyPages { pages: machine.ready_memory().clone(), ..ReadyPages::default() };
        // Without any, a page that is only read is best left in the page cache: a nested page fault maps one page, wherever it is.
        let ready_memory = Some(ready_memory).filter(|ready| !ready.pages.is_empty());
        let ready = machine.fit(config.fittings(&scratch)?);
        let victim = Victim::default();
        let memory = ready.memory().clone();
        let behind = Behind { memory, ready: ready_memory, late: None, threads };
        let foreseen = behind.foresee(&snapshot, &layout, options)?;
        let foresight = Foresight { snapshot, layout, foreseen };
        let alarm = Alarm { victim: victim.clone(), learned: listeners.learned.clone() };
        let restored = Restored::begin(&behind, foresight, &[], options, alarm, &mut timeline)?;
        let line = Line::new();
        let sockets = Box::new(line.clone());
        let bridge = RuntimeBridge::restore(sockets, saved.bridge, events_to(&listeners.runtime))?;
        bridge.set_credentials(config.credentials.clone());
        let guest = timeline.measure(Phase::StateRestored, || ready.restore(&saved.guest))?;
        let parts = (guard, timeline, scratch);
        let mut function = LinuxFunction::begin(guest, line, Beginning::Resume, bridge, listeners, parts)?;
        victim.is(function.session.failer());
        function.restored = Some(restored);
        Ok(function)
    }
}

/// How a guest ended, once it has.
#[derive(Clone, Debug)]
struct End {
    status: ExitStatus,
    out_of_memory: bool,
    /// Why the machine, not the function, could not go on.
    failure: Option<String>,
}

/// Where the end is waited for.
#[derive(Default)]
struct Ending {
    end: Mutex<Option<End>>,
    known: Condvar,
}

/// A function's guest that runs.
pub(crate) struct LinuxFunction {
    session: Session,
    bridge: Arc<RuntimeBridge>,
    ending: Arc<Ending>,
    guard: MemoryGuard,
    /// From the machine's making on.
    pub timeline: Timeline,
    scratch: Arc<Scratch>,
    restored: Option<Restored>,
}

impl LinuxFunction {
    fn begin(
        guest: RunningGuest,
        line: Line,
        beginning: Beginning,
        bridge: Arc<RuntimeBridge>,
        listeners: &Listeners,
        (guard, timeline, scratch): (MemoryGuard, Timeline, Arc<Scratch>),
    ) -> Result<Self, InstanceError> {
        let ending = Arc::new(Ending::default());
        let (heard, log, ended) = (bridge.clone(), listeners.log.clone(), ending.clone());
        let kernel_up = listeners.kernel_up.clone();
        let hear = move |kind, body: &[u8]| match kind {
            Kind::Output => log(LogStream::Output, body),
            Kind::Error => log(LogStream::Error, body),
            Kind::Start | Kind::Resume => kernel_up(),
            _ => relay(&heard, kind, body),
        };
        let when_ended = move |result| {
            *ended.end.lock() = Some(end(result));
            ended.known.notify_all();
        };
        let session = Session::begin(guest, line, beginning, Box::new(hear), Box::new(when_ended))?;
        Ok(Self { session, bridge, ending, guard, timeline, scratch, restored: None })
    }

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
        let written = self.session.rest(REST_LIMIT, |paused| self.write(parent, paused))?;
        Ok(written?.stored_pages().count().bytes())
    }

    fn write(&self, parent: &Path, paused: &PausedVm<'_>) -> Result<Snapshot, InstanceError> {
        let guest = paused.save().map_err(linux_guest::GuestError::from)?;
        let ranges = memory_ranges(guest.memory_mib() << 20);
        let layout = checkpoint::linux_layout(&ranges).map_err(CheckpointError::from)?;
        let saved = Saved { guest, bridge: self.bridge.save() };
        let memory = self.session.machine().memory();
        let read = |page: pages::PageIndex, bytes: &mut [u8]| memory.read(page.address(), bytes);
        Ok(checkpoint::write(parent, &saved, &layout, &ranges, read, Some(&self.scratch))?)
    }

    /// What a user should hear of though the instance goes on.
    pub fn warnings(&self) -> Vec<String> {
        self.restored.as_ref().map(Restored::warnings).unwrap_or_default()
    }

    /// When the guest was left first, by the host's monotonic clock in nanoseconds.
    pub fn first_exit(&self) -> Option<u64> {
        self.session.machine().first_exit()
    }

    /// See [`Restored::failure`].
    pub fn memory_failure(&self) -> Option<FailureKind> {
        self.restored.as_ref().and_then(Restored::failure)
    }

    /// Compares memory that was not written with the snapshot, when that was asked for; gives what is wrong.
    pub fn verify(&mut self) -> Option<String> {
        let restored = self.restored.as_ref().filter(|_| self.timeline.verified.is_some())?;
        let _paused = match self.session.pause() {
            Ok(paused) => paused,
            Err(error) => return Some(format!("memory can't be compared with the snapshot: {error}")),
        };
        let compared = restored.verify(self.session.machine().memory(), &mut self.timeline);
        compared.err().map(|error| chain(&error))
    }

    /// The most bytes that the guest, its kernel included, had in use.
    pub fn peak_memory(&self) -> u64 {
        self.guard.peak()
    }

    /// Ends the guest, and tells what was recorded of it.
    pub fn end(mut self) -> Conclusion {
        let paused = self.session.pause();
        // What its own page tables say isn't looked at: it maps no files of the host.
        let touched = paused.is_ok().then(Touched::default);
        let restored = self.restored.take();
        let end =
            restored.map(|restored| restored.finish(self.timeline.clone(), touched)).unwrap_or_default();
        self.kill();
        drop(paused);
        self.session.machine().wait();
        end
    }

    /// Tells the guest to end.
    pub fn kill(&self) {
        self.session.stop();
    }

    /// Waits for the guest's end.
    pub fn waiter(&self) -> impl FnOnce() -> Option<ExitStatus> + Send + use<> {
        let ending = self.ending.clone();
        move || {
            let mut end = ending.end.lock();
            loop {
                match &*end {
                    Some(end) => return Some(end.status),
                    None => ending.known.wait(&mut end),
                }
            }
        }
    }

    /// Why the machine could not go on, when that is how it ended.
    pub fn failure(&self) -> Option<String> {
        self.ending.end.lock().as_ref().and_then(|end| end.failure.clone())
    }

    /// Whether the function was ended for its memory.
    pub fn ran_out_of_memory(&self) -> bool {
        self.ending.end.lock().as_ref().is_some_and(|end| end.out_of_memory)
    }
}

/// What the guest says of the function's connections. What makes no sense concerns no connection.
fn relay(bridge: &RuntimeBridge, kind: Kind, body: &[u8]) {
    let Some((connection, bytes)) = wire::connection(body) else { return };
    match kind {
        Kind::Opened => bridge.opened(connection),
        Kind::Bytes => bridge.received(connection, bytes),
        Kind::Finished => bridge.finished(connection),
        Kind::Closed => bridge.closed(connection),
        _ => {}
    }
}

fn end(result: Result<Ended, linux_guest::GuestError>) -> End {
    let (status, out_of_memory, failure) = match result {
        Ok(Ended::Status(status)) => (ExitStatus::Code(status), false, None),
        Ok(Ended::Signal(signal)) => (ExitStatus::Signal(signal.into()), false, None),
        Ok(Ended::OutOfMemory) => (ExitStatus::Signal(SIGKILL), true, None),
        Err(error) => (ExitStatus::Signal(SIGKILL), false, Some(chain(&error))),
    };
    End { status, out_of_memory, failure }
}

impl Sockets for Line {
    fn push(&self, connection: u64, bytes: &[u8]) {
        // False when the guest has ended, or reads nothing: it is ended when its time is up.
        self.send(connection, bytes);
    }

    fn close(&self, connection: u64) {
        self.say(Kind::Closed, &wire::about(connection, &[]));
    }
}
