//! The life of a microVM: made, booted or restored, paused, saved, ended.
//!
//! A thread drives each processor, one more waits for the host's side of the devices, and each disk has one that waits for its file. All of them share the devices behind one
//! lock: a guest has few processors, and a request takes microseconds.

mod spare;
mod threads;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use guest_memory::{GuestMemory, MemoryView, Protection, Source};
use machine::{FurnishedVm, Kicker, SystemState, SystemVcpu, VcpuState};
use pages::{PageCount, PageRange};
use parking_lot::{Condvar, Mutex};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use serde::{Deserialize, Serialize};

use crate::devices::{Console, Devices, DevicesState};
use crate::error::LinuxGuestError;
use crate::kernel::{self, Boot, KernelImage};
use crate::ready_threads::ReadyThreads;
use crate::virtio::{Balloon, Block, Card, Device, Disk, Entropy, HostSide, Network, Vsock};

pub use spare::SpareVm;

const MIB: u64 = 1 << 20;
/// Free memory in shorter runs stays with the guest (128 KiB). Each run that is given back may be a mapping of its own, of which
/// the host has 65,530 for a process: this leaves room for the largest guest.
const LEAST_GIVEN_BACK: PageCount = PageCount(32);

/// Whether this machine can run linux guests, as far as can be told without making one.
///
/// # Errors
/// [`machine::MachineError::SoftwareOnly`].
pub fn check_machine() -> Result<(), LinuxGuestError> {
    if machine::is_software_only() { Err(machine::MachineError::SoftwareOnly.into()) } else { Ok(()) }
}

/// What a machine is given beside memory and processors.
pub struct Config {
    /// Disks, in the order in which the guest finds them.
    pub disks: Vec<Disk>,
    /// A network card, if it has one.
    pub card: Option<Card>,
    /// Who is at the other end of the guest's connections.
    pub host: HostSide,
    /// Where the kernel's messages go.
    pub console: Console,
}

/// How a guest ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    /// It asked for a reset, as it does at the end of its work and after a panic.
    Reset,
    /// It was stopped from outside.
    Stopped,
    /// It could not go on.
    Broken(String),
}

/// The state of a paused machine, its memory aside.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedVm {
    memory_mib: u64,
    system: SystemState,
    processors: Vec<VcpuState>,
    devices: DevicesState,
}

impl SavedVm {
    /// The memory that it needs, MiB.
    pub fn memory_mib(&self) -> u64 {
        self.memory_mib
    }

    /// Its number of processors.
    pub fn processors(&self) -> usize {
        self.processors.len()
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Wish {
    Run,
    Pause,
    End(End),
}

struct Control {
    wish: Wish,
    /// Processors that have come to rest, with their state.
    resting: Vec<Option<Result<VcpuState, String>>>,
    /// Threads that still run.
    running: usize,
}

struct Shared {
    devices: Mutex<Devices>,
    control: Mutex<Control>,
    changed: Condvar,
    kickers: Mutex<Vec<Kicker>>,
    /// Wakes the thread that waits for the host's side.
    wake: Arc<OwnedFd>,
    /// The host's monotonic clock in nanoseconds when an instruction of the guest first left guest code.
    first_exit: OnceLock<u64>,
}

impl Shared {
    /// Makes every processor and the device thread look at the wish.
    fn make(&self, wish: Wish) {
        let mut control = self.control.lock();
        // The first end is the one that counts.
        if !matches!(control.wish, Wish::End(_)) {
            control.wish = wish;
        }
        drop(control);
        self.changed.notify_all();
        for kicker in &*self.kickers.lock() {
            kicker.kick();
        }
        self.wake();
    }

    /// Makes the device thread look at the host's side.
    fn wake(&self) {
        // Fails when it is full, and then the thread wakes anyway.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}

/// A machine without a guest yet.
pub struct ReadyVm {
    spare: SpareVm,
    config: Config,
}

impl ReadyVm {
    /// Gives a spare machine what it lacks.
    pub fn new(spare: SpareVm, config: Config) -> Self {
        Self { spare, config }
    }

    /// The reservation; a restore maps memory into it.
    pub fn memory(&self) -> &Arc<GuestMemory> {
        self.spare.memory()
    }

    /// Boots a kernel in fresh memory.
    ///
    /// # Errors
    /// [`LinuxGuestError`].
    pub fn boot(
        self,
        kernel: &KernelImage,
        initial_files: &[u8],
        command_line: &str,
    ) -> Result<MicroVm, LinuxGuestError> {
        let memory_bytes = self.spare.memory_mib * MIB;
        for range in self.spare.ranges() {
            self.memory().map(range, Source::Anonymous, Protection::ReadWrite)?;
        }
        let processors = self.spare.processors.len() as u8;
        self.start(None, |view, first, virtio_devices| {
            let boot = Boot { kernel, initial_files, command_line, memory_bytes, processors, virtio_devices };
            kernel::start_at(first, boot.load(view)?)
        })
    }

    /// Goes on from saved state; the caller has brought memory back.
    ///
    /// # Errors
    /// [`LinuxGuestError`] when it does not fit this machine.
    pub fn restore(self, saved: &SavedVm) -> Result<MicroVm, LinuxGuestError> {
        let (here, value) = (self.spare.memory_mib, saved.memory_mib);
        if here != value || self.spare.processors.len() != saved.processors.len() {
            let range = "the snapshot's";
            return Err(LinuxGuestError::Size { what: "memory and number of processors", range, value });
        }
        self.start(Some(saved), |_, _, _| Ok(()))
    }

    fn start(
        self,
        saved: Option<&SavedVm>,
        prepare: impl FnOnce(&MemoryView, &SystemVcpu, usize) -> Result<(), LinuxGuestError>,
    ) -> Result<MicroVm, LinuxGuestError> {
        let Self { spare, config } = self;
        let Config { disks, card, host, console } = config;
        let view = MemoryView::new(&spare.memory, &spare.ranges())?;
        let SpareVm { vm, memory, memory_mib, processors, threads, .. } = spare;
        let events = epoll::create(CreateFlags::CLOEXEC).map_err(thread_error)?;
        let events = Arc::new(events);
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(thread_error)?;
        epoll::add(&*events, &wake, EventData::new_u64(0), EventFlags::IN).map_err(thread_error)?;
        let wake = Arc::new(wake);
        let virtio = virtio_devices((disks, card, host), &memory, (&events, &wake), &threads)?;
        if let Some(saved) = saved {
            vm.restore(&saved.system)?;
            for (processor, state) in processors.iter().zip(&saved.processors) {
                processor.restore(state)?;
            }
        }
        // After the interrupt controllers: a device raises anew what the guest has not yet heard.
        let devices = Devices::new(&vm, &view, console, virtio, saved.map(|saved| &saved.devices))?;
        if let Some(first) = processors.first() {
            prepare(&view, first, devices.virtio_count())?;
        }
        let shared = Arc::new(Shared {
            devices: Mutex::new(devices),
            control: Mutex::new(Control {
                wish: Wish::Run,
                resting: processors.iter().map(|_| None).collect(),
                running: processors.len(),
            }),
            changed: Condvar::new(),
            kickers: Mutex::new(processors.iter().map(SystemVcpu::kicker).collect()),
            wake,
            first_exit: OnceLock::new(),
        });
        let mut machine = MicroVm { vm, memory, memory_mib, shared, threads: Vec::new() };
        machine.spawn(processors, events, &threads)?;
        Ok(machine)
    }
}

/// All virtio devices, in the order in which the guest finds them. `events` tells whoever waits that one has something to do, as does
/// `wake`.
fn virtio_devices(
    (disks, card, host): (Vec<Disk>, Option<Card>, HostSide),
    memory: &Arc<GuestMemory>,
    (events, wake): (&Arc<OwnedFd>, &Arc<OwnedFd>),
    threads: &ReadyThreads,
) -> Result<Vec<Box<dyn Device>>, LinuxGuestError> {
    let memory = memory.clone();
    let give_back = Box::new(move |range| give_back(&memory, range));
    let mut devices: Vec<Box<dyn Device>> = vec![
        Box::new(Vsock::new(host, events.clone())),
        Box::new(Entropy),
        Box::new(Balloon::new(LEAST_GIVEN_BACK, give_back)),
    ];
    for disk in disks {
        devices.push(Box::new(Block::new(disk, wake.clone(), threads).map_err(LinuxGuestError::Disk)?));
    }
    if let Some(card) = card {
        devices.push(Box::new(Network::new(card, events).map_err(LinuxGuestError::Card)?));
    }
    Ok(devices)
}

/// Takes away memory that the guest has no use for. What is there instead is zero, also where a restore had mapped a file.
fn give_back(memory: &GuestMemory, range: PageRange) {
    // A host without room for another mapping leaves the guest its memory.
    if let Err(error) = memory.map(range, Source::Anonymous, Protection::ReadWrite) {
        tracing::debug!(%error, "free memory was not given back");
    }
}

fn thread_error(errno: rustix::io::Errno) -> LinuxGuestError {
    LinuxGuestError::Thread(io::Error::from(errno))
}

/// A machine with a guest. Dropping it ends the guest.
pub struct MicroVm {
    vm: FurnishedVm,
    memory: Arc<GuestMemory>,
    memory_mib: u64,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl MicroVm {
    fn spawn(
        &mut self,
        processors: Vec<SystemVcpu>,
        events: Arc<OwnedFd>,
        ready: &ReadyThreads,
    ) -> Result<(), LinuxGuestError> {
        for (number, processor) in processors.into_iter().enumerate() {
            let shared = self.shared.clone();
            let drive = move || {
                jail::take_short_turns();
                threads::drive(&shared, number, processor);
            };
            match ready.run(&format!("vcpu{number}"), drive) {
                Ok(thread) => self.threads.push(thread),
                Err(error) => {
                    self.shared.control.lock().running = self.threads.len();
                    return Err(LinuxGuestError::Thread(error));
                }
            }
        }
        let shared = self.shared.clone();
        let thread = ready.run("devices", move || threads::watch(&shared, &events));
        self.threads.push(thread.map_err(LinuxGuestError::Thread)?);
        Ok(())
    }

    /// Waits until the guest has ended.
    pub fn wait(&self) -> End {
        let mut control = self.shared.control.lock();
        loop {
            match &control.wish {
                Wish::End(end) if control.running == 0 => return end.clone(),
                _ => self.shared.changed.wait(&mut control),
            }
        }
    }

    /// Waits until the guest has ended, for so long at most.
    pub fn wait_for(&self, limit: Duration) {
        let mut control = self.shared.control.lock();
        let going_on = |control: &mut Control| !matches!(control.wish, Wish::End(_));
        self.shared.changed.wait_while_for(&mut control, going_on, limit);
    }

    /// Whether the guest has ended, or is about to.
    pub fn has_ended(&self) -> bool {
        matches!(self.shared.control.lock().wish, Wish::End(_))
    }

    /// Ends the guest; what it was doing is lost.
    pub fn stop(&self) {
        self.shared.make(Wish::End(End::Stopped));
    }

    /// Ends the guest because something is wrong with the machine.
    pub fn fail(&self, reason: String) {
        self.shared.make(Wish::End(End::Broken(reason)));
    }

    /// Makes the devices look at what there is for them on the host's side.
    pub fn wake_devices(&self) {
        self.shared.wake();
    }

    /// When an instruction of the guest first left guest code, by the host's monotonic clock in nanoseconds.
    pub fn first_exit(&self) -> Option<u64> {
        self.shared.first_exit.get().copied()
    }

    /// Stops every processor between two instructions.
    ///
    /// # Errors
    /// [`LinuxGuestError::Ended`].
    pub fn pause(&self) -> Result<PausedVm<'_>, LinuxGuestError> {
        self.shared.make(Wish::Pause);
        let mut control = self.shared.control.lock();
        loop {
            if let Wish::End(end) = &control.wish {
                return Err(LinuxGuestError::Ended(format!("{end:?}")));
            }
            if control.resting.iter().all(Option::is_some) {
                return Ok(PausedVm { machine: self });
            }
            self.shared.changed.wait(&mut control);
        }
    }

    /// Guest memory.
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }
}

impl Drop for MicroVm {
    fn drop(&mut self) {
        self.stop();
        for thread in self.threads.drain(..) {
            // A panic there has been reported already.
            let _ = thread.join();
        }
    }
}

/// A machine whose processors rest. It runs on when this is dropped.
pub struct PausedVm<'a> {
    machine: &'a MicroVm,
}

impl PausedVm<'_> {
    /// The state of everything but memory.
    ///
    /// # Errors
    /// [`LinuxGuestError`].
    pub fn save(&self) -> Result<SavedVm, LinuxGuestError> {
        let mut processors = Vec::new();
        for state in &mut self.machine.shared.control.lock().resting {
            match state.take() {
                Some(Ok(saved)) => processors.push(saved),
                Some(Err(reason)) => return Err(LinuxGuestError::Ended(reason)),
                None => return Err(LinuxGuestError::Ended("its state was taken already".to_owned())),
            }
        }
        Ok(SavedVm {
            memory_mib: self.machine.memory_mib,
            system: self.machine.vm.save()?,
            processors,
            devices: self.machine.shared.devices.lock().save(),
        })
    }
}

impl Drop for PausedVm<'_> {
    fn drop(&mut self) {
        self.machine.shared.make(Wish::Run);
    }
}
