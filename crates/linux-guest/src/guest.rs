//! A machine as its user sees it: made ready, then booted or restored; what is said to it is [`crate::Session`]'s.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use guest_init::wire;
use guest_memory::GuestMemory;
use machine::{Kvm, SystemVm};
use pages::PageSet;
use parking_lot::Mutex;
use thiserror::Error;

use crate::error::LinuxGuestError;
use crate::kernel::KernelImage;
use crate::monitor::{Config, End, MicroVm, ReadyVm, SavedVm, SpareVm};
use crate::virtio::{Card, Disk, HostSide, stream};

/// Bytes of the kernel's messages that are kept.
const KEPT: usize = 16 << 10;

/// A conversation that did not come to its end.
#[derive(Debug, Error)]
pub enum GuestError {
    /// The machine.
    #[error(transparent)]
    Machine(#[from] LinuxGuestError),
    /// The guest says why it could not do what it was told.
    #[error("the guest could not run it: {0}")]
    Failed(String),
    /// The machine could not go on.
    #[error("the machine broke down: {0}")]
    Broken(String),
    /// The guest ended without a word.
    #[error("the guest ended before the program did ({end:?}); its last messages:\n{messages}")]
    Silent {
        /// How.
        end: End,
        /// What its kernel said.
        messages: String,
    },
    /// The guest said something that makes no sense, or its output can't be passed on.
    #[error("the conversation with the guest failed")]
    Conversation(#[source] io::Error),
    /// The guest did not come to rest.
    #[error("the guest did not come to rest within {0:?}")]
    Restless(Duration),
}

/// What a machine is made of, apart from what it runs.
pub struct Hardware {
    /// Memory, MiB.
    pub memory_mib: u64,
    /// Processors.
    pub processors: u8,
    /// The rest.
    pub fittings: Fittings,
}

/// What a machine has beside memory and processors.
pub struct Fittings {
    /// The root file system, disks that are mounted into it, and one of the guest's own.
    pub disks: Vec<Disk>,
    /// A network card, for a guest that has a network.
    pub card: Option<Card>,
    /// Where the kernel's messages go, as they come.
    pub console: Option<Box<dyn Write + Send>>,
}

/// A machine with memory and processors, made before it is known which guest will run in it: what a pool keeps ready.
pub struct SpareGuest(SpareVm);

impl SpareGuest {
    /// Makes one.
    ///
    /// # Errors
    /// [`GuestError::Machine`].
    pub fn new(kvm: &Kvm, memory_mib: u64, processors: u8) -> Result<Self, GuestError> {
        let vm = SystemVm::new(kvm).map_err(LinuxGuestError::from)?;
        Ok(Self(SpareVm::new(vm, memory_mib, processors)?))
    }

    /// Starts the threads that a guest is likely to need. This process must be as confined as it is to be.
    ///
    /// # Errors
    /// [`GuestError::Machine`].
    pub fn start_threads(&mut self) -> Result<(), GuestError> {
        Ok(self.0.start_threads()?)
    }

    /// The size of its memory, MiB.
    pub fn memory_mib(&self) -> u64 {
        self.0.memory_mib()
    }

    /// Says which pages [`Self::make_memory_ready`] is to make ready: those that the next guest is likely to touch.
    pub fn want_memory_ready(&mut self, pages: &PageSet) {
        self.0.want_memory_ready(pages);
    }

    /// Makes a part of them ready, a few milliseconds' worth; `false` when there is no more.
    ///
    /// # Errors
    /// [`GuestError::Machine`]; then no more is made ready.
    pub fn make_memory_ready(&mut self) -> Result<bool, GuestError> {
        Ok(self.0.make_memory_ready()?)
    }

    /// The memory that is ready: populated, writable, zero.
    pub fn ready_memory(&self) -> &PageSet {
        self.0.ready_memory()
    }

    /// Gives it what it lacks.
    pub fn fit(self, fittings: Fittings) -> ReadyGuest {
        let messages = Messages::default();
        let (sender, connections) = channel();
        let (dial, dialled) = channel();
        // One connection is all that the first program makes; others are of its programs, which have no business here.
        let mut sender = Some(sender);
        let accept = Box::new(move |port| {
            let sender = sender.take_if(|_| port == wire::PORT)?;
            let (device, near) = stream().ok()?;
            sender.send(near).is_ok().then_some(device)
        });
        let Fittings { disks, card, console } = fittings;
        let host = HostSide { accept, dialled };
        let console = Box::new(Console { kept: messages.clone(), shown: console });
        let ready = ReadyVm::new(self.0, Config { disks, card, host, console });
        ReadyGuest { ready, connections, dial, messages }
    }
}

/// A machine that waits for its guest.
pub struct ReadyGuest {
    ready: ReadyVm,
    connections: Receiver<File>,
    dial: Sender<(u32, File)>,
    messages: Messages,
}

impl ReadyGuest {
    /// Makes one.
    ///
    /// # Errors
    /// [`GuestError::Machine`].
    pub fn new(kvm: &Kvm, hardware: Hardware) -> Result<Self, GuestError> {
        let Hardware { memory_mib, processors, fittings } = hardware;
        Ok(SpareGuest::new(kvm, memory_mib, processors)?.fit(fittings))
    }

    /// The reservation; a restore maps memory into it.
    pub fn memory(&self) -> &Arc<GuestMemory> {
        self.ready.memory()
    }

    /// Boots a kernel. Its first program then waits for [`crate::Beginning::Start`].
    ///
    /// # Errors
    /// [`GuestError::Machine`].
    pub fn boot(
        self,
        kernel: &KernelImage,
        initial_files: &[u8],
        command_line: &str,
    ) -> Result<RunningGuest, GuestError> {
        let Self { ready, connections, dial, messages } = self;
        let machine = ready.boot(kernel, initial_files, command_line)?;
        Ok(RunningGuest { machine, connections, dial, messages })
    }

    /// Goes on from saved state; the caller has brought memory back. The first program waits for
    /// [`crate::Beginning::Resume`].
    ///
    /// # Errors
    /// [`GuestError::Machine`].
    pub fn restore(self, saved: &SavedVm) -> Result<RunningGuest, GuestError> {
        let Self { ready, connections, dial, messages } = self;
        let machine = ready.restore(saved)?;
        Ok(RunningGuest { machine, connections, dial, messages })
    }
}

/// A machine that runs and has not been spoken to.
pub struct RunningGuest {
    pub(crate) machine: MicroVm,
    pub(crate) connections: Receiver<File>,
    pub(crate) dial: Sender<(u32, File)>,
    pub(crate) messages: Messages,
}

/// The end of what a kernel says.
#[derive(Clone, Default)]
pub(crate) struct Messages(Arc<Mutex<VecDeque<u8>>>);

impl Messages {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().iter().copied().collect::<Vec<u8>>()).into_owned()
    }
}

/// Keeps the end of what a kernel says, and shows all of it to who wants it.
struct Console {
    kept: Messages,
    shown: Option<Box<dyn Write + Send>>,
}

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut kept = self.kept.0.lock();
        kept.extend(bytes.iter().filter(|byte| **byte != b'\r'));
        let excess = kept.len().saturating_sub(KEPT);
        kept.drain(..excess);
        if let Some(shown) = &mut self.shown {
            shown.write_all(bytes)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.shown.as_mut().map_or(Ok(()), Write::flush)
    }
}
