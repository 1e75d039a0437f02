//! A machine and the conversation with its first program.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use guest_init::wire::{self, Ended, Kind, Resume, Start};
use guest_memory::GuestMemory;
use machine::Kvm;
use parking_lot::Mutex;
use thiserror::Error;

use crate::error::LinuxGuestError;
use crate::kernel::KernelImage;
use crate::monitor::{Config, End, MicroVm, PausedVm, ReadyVm, SavedVm};
use crate::virtio::Disk;

/// Fresh random bytes for a guest's generator.
const ENTROPY_BYTES: usize = 64;
/// Input passed on at once.
const PIECE: usize = 32 << 10;
/// Bytes of the kernel's messages that are kept.
const KEPT: usize = 16 << 10;

/// What a program reads and writes.
pub struct Streams {
    /// Its standard input.
    pub input: Box<dyn Read + Send>,
    /// Its standard output.
    pub output: Box<dyn Write + Send>,
    /// Its standard error.
    pub error: Box<dyn Write + Send>,
}

/// A conversation that did not come to its end.
#[derive(Debug, Error)]
pub enum GuestError {
    /// The machine.
    #[error(transparent)]
    Machine(#[from] LinuxGuestError),
    /// The guest says why it could not do what it was told.
    #[error("the guest could not run it: {0}")]
    Failed(String),
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
}

/// What a machine is made of, apart from what it runs.
pub struct Hardware {
    /// Memory, MiB.
    pub memory_mib: u64,
    /// Processors.
    pub processors: u8,
    /// The root file system and, if it is to hold more than memory can, a disk for what is written.
    pub disks: Vec<Disk>,
    /// Where the kernel's messages go, as they come.
    pub console: Option<Box<dyn Write + Send>>,
}

/// A machine that waits for its guest.
pub struct ReadyGuest {
    ready: ReadyVm,
    connections: Receiver<UnixStream>,
    messages: Arc<Mutex<VecDeque<u8>>>,
}

impl ReadyGuest {
    /// Makes one.
    ///
    /// # Errors
    /// [`GuestError::Machine`].
    pub fn new(kvm: &Kvm, hardware: Hardware) -> Result<Self, GuestError> {
        let messages = Arc::new(Mutex::new(VecDeque::new()));
        let (sender, connections) = channel();
        let config = Config {
            memory_mib: hardware.memory_mib,
            processors: hardware.processors,
            disks: hardware.disks,
            connector: Box::new(move |port| {
                let (near, far) = UnixStream::pair().ok()?;
                (port == wire::PORT && sender.send(far).is_ok()).then_some(near)
            }),
            console: Box::new(Messages { kept: messages.clone(), shown: hardware.console }),
        };
        Ok(Self { ready: ReadyVm::new(kvm, config)?, connections, messages })
    }

    /// The reservation; a restore maps memory into it.
    pub fn memory(&self) -> &Arc<GuestMemory> {
        self.ready.memory()
    }

    /// Boots a kernel and waits until its first program speaks.
    ///
    /// # Errors
    /// [`GuestError`].
    pub fn boot(
        self,
        kernel: &KernelImage,
        initial_files: &[u8],
        command_line: &str,
    ) -> Result<Guest, GuestError> {
        let machine = self.ready.boot(kernel, initial_files, command_line)?;
        Guest::greet(machine, self.connections, self.messages)
    }

    /// Goes on from saved state and lets the program go on; the caller has brought memory back.
    ///
    /// # Errors
    /// [`GuestError`].
    pub fn restore(self, saved: &SavedVm) -> Result<Guest, GuestError> {
        let machine = self.ready.restore(saved)?;
        let mut guest = Guest::greet(machine, self.connections, self.messages)?;
        guest.resume()?;
        Ok(guest)
    }
}

/// A machine whose first program has spoken.
pub struct Guest {
    machine: MicroVm,
    host: UnixStream,
    connections: Receiver<UnixStream>,
    messages: Arc<Mutex<VecDeque<u8>>>,
}

impl Guest {
    fn greet(
        machine: MicroVm,
        connections: Receiver<UnixStream>,
        messages: Arc<Mutex<VecDeque<u8>>>,
    ) -> Result<Self, GuestError> {
        match next_connection(&connections, &machine) {
            Some(host) => Ok(Self { machine, host, connections, messages }),
            None => Err(silent(&machine, &messages)),
        }
    }

    /// Tells it what to run. Time and entropy are filled in here.
    ///
    /// # Errors
    /// [`GuestError::Conversation`].
    pub fn start(&mut self, start: &Start) -> Result<(), GuestError> {
        let start = Start { time: now(), entropy: entropy(), ..start.clone() };
        self.say(Kind::Start, &start.encode())
    }

    /// Sends the program this as its standard input; nothing means its end.
    ///
    /// # Errors
    /// [`GuestError::Conversation`].
    pub fn input(&mut self, bytes: &[u8]) -> Result<(), GuestError> {
        bytes.chunks(PIECE).try_for_each(|piece| self.say(Kind::Input, piece))?;
        if bytes.is_empty() { self.say(Kind::Input, &[]) } else { Ok(()) }
    }

    fn say(&mut self, kind: Kind, body: &[u8]) -> Result<(), GuestError> {
        wire::write(&mut self.host, kind, body).map_err(GuestError::Conversation)
    }

    /// Passes on what the program reads and writes until it has ended.
    ///
    /// # Errors
    /// [`GuestError`].
    pub fn converse(&mut self, mut streams: Streams) -> Result<Ended, GuestError> {
        let writer = self.host.try_clone().map_err(GuestError::Conversation)?;
        // Not waited for: it may wait for a person.
        thread::spawn(move || pass_input(streams.input, writer));
        loop {
            match self.next_output()? {
                (Kind::Output, body) => show(&mut streams.output, &body)?,
                (Kind::Error, body) => show(&mut streams.error, &body)?,
                (Kind::Ended, body) => {
                    return Ended::decode(&body).ok_or_else(nonsense);
                }
                _ => return Err(nonsense()),
            }
        }
    }

    /// The next thing that the guest says: output, or the program's end.
    ///
    /// # Errors
    /// [`GuestError`].
    pub fn next_output(&mut self) -> Result<(Kind, Vec<u8>), GuestError> {
        match wire::read(&mut self.host) {
            Ok(Some((Kind::Failed, body))) => {
                Err(GuestError::Failed(String::from_utf8_lossy(&body).into_owned()))
            }
            Ok(Some(message)) => Ok(message),
            Ok(None) => Err(silent(&self.machine, &self.messages)),
            Err(error) => Err(GuestError::Conversation(error)),
        }
    }

    /// Freezes the program and pauses the machine, so that it can be saved. What the program wrote before that comes first;
    /// it is given to `output`. The guest goes on with [`Self::resume`], after the pause has ended.
    ///
    /// # Errors
    /// [`GuestError`].
    pub fn rest(&mut self, mut output: impl FnMut(Kind, &[u8])) -> Result<PausedVm<'_>, GuestError> {
        self.say(Kind::Rest, &[])?;
        while let Some((kind, body)) = wire::read(&mut self.host).map_err(GuestError::Conversation)? {
            output(kind, &body);
        }
        if self.machine.has_ended() {
            return Err(silent(&self.machine, &self.messages));
        }
        Ok(self.machine.pause()?)
    }

    /// Gives the guest the time and fresh entropy on a new connection; the program goes on.
    ///
    /// # Errors
    /// [`GuestError`].
    pub fn resume(&mut self) -> Result<(), GuestError> {
        loop {
            // A guest that was restored was told that its connections are gone; one that went on has a new one.
            let body = Resume { time: now(), entropy: entropy() }.encode();
            if wire::write(&mut self.host, Kind::Resume, &body).is_ok() {
                return Ok(());
            }
            match next_connection(&self.connections, &self.machine) {
                Some(host) => self.host = host,
                None => return Err(silent(&self.machine, &self.messages)),
            }
        }
    }

    /// Guest memory.
    pub fn memory(&self) -> &Arc<GuestMemory> {
        self.machine.memory()
    }
}

fn nonsense() -> GuestError {
    GuestError::Conversation(io::ErrorKind::InvalidData.into())
}

fn silent(machine: &MicroVm, messages: &Mutex<VecDeque<u8>>) -> GuestError {
    machine.stop();
    let end = machine.wait();
    let messages = messages.lock().iter().copied().collect::<Vec<u8>>();
    GuestError::Silent { end, messages: String::from_utf8_lossy(&messages).into_owned() }
}

/// The guest's connection, or `None` when the guest ends first.
fn next_connection(connections: &Receiver<UnixStream>, machine: &MicroVm) -> Option<UnixStream> {
    loop {
        match connections.recv_timeout(Duration::from_millis(20)) {
            Ok(stream) => return Some(stream),
            Err(RecvTimeoutError::Timeout) if !machine.has_ended() => {}
            Err(_) => return None,
        }
    }
}

fn show(to: &mut impl Write, bytes: &[u8]) -> Result<(), GuestError> {
    to.write_all(bytes).and_then(|()| to.flush()).map_err(GuestError::Conversation)
}

fn pass_input(mut input: Box<dyn Read + Send>, mut writer: UnixStream) {
    let mut buffer = vec![0; PIECE];
    loop {
        // A read error is an end, too.
        let count = input.read(&mut buffer).unwrap_or(0);
        let piece = buffer.get(..count).unwrap_or_default();
        if wire::write(&mut writer, Kind::Input, piece).is_err() || count == 0 {
            return;
        }
    }
}

/// The time of day, nanoseconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

fn entropy() -> Vec<u8> {
    let mut bytes = vec![0; ENTROPY_BYTES];
    // The generator of a kernel that is up never fails.
    let filled = rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty());
    bytes.truncate(filled.unwrap_or(0));
    bytes
}

/// Keeps the end of what a kernel says, and shows all of it to who wants it.
struct Messages {
    kept: Arc<Mutex<VecDeque<u8>>>,
    shown: Option<Box<dyn Write + Send>>,
}

impl Write for Messages {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut kept = self.kept.lock();
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
