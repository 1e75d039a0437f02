//! One program in a guest of its own: booted, run, ended.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use guest_init::wire::{self, Ended, Kind, Start};
use machine::Kvm;
use parking_lot::Mutex;
use thiserror::Error;

use crate::error::LinuxGuestError;
use crate::kernel::KernelImage;
use crate::monitor::{Config, End, MicroVm, ReadyVm};
use crate::virtio::Disk;

/// Fresh random bytes for a guest's generator.
const ENTROPY_BYTES: usize = 64;
/// Input passed on at once.
const PIECE: usize = 32 << 10;
/// Bytes of the kernel's messages that are kept.
const KEPT: usize = 16 << 10;

/// A program and the machine to run it in.
#[derive(Debug)]
pub struct Program {
    /// The kernel.
    pub kernel: KernelImage,
    /// Its initial file system, from [`crate::initial_files`].
    pub initial_files: Vec<u8>,
    /// Its command line.
    pub command_line: String,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// Processors.
    pub processors: u8,
    /// The root file system and, if it is to hold more than memory can, a disk for what is written.
    pub disks: Vec<Disk>,
    /// The program and its arguments.
    pub arguments: Vec<Vec<u8>>,
    /// `NAME=value` each.
    pub environment: Vec<Vec<u8>>,
    /// Its working directory.
    pub directory: Vec<u8>,
    /// As whom it runs: user and group.
    pub user: (u32, u32),
    /// Name of the machine.
    pub hostname: Vec<u8>,
}

/// What a program reads and writes.
pub struct Streams {
    /// Its standard input.
    pub input: Box<dyn Read + Send>,
    /// Its standard output.
    pub output: Box<dyn Write + Send>,
    /// Its standard error.
    pub error: Box<dyn Write + Send>,
    /// The kernel's messages, as they come.
    pub console: Option<Box<dyn Write + Send>>,
}

/// How a program ended, and what it took.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProgramEnd {
    /// How.
    pub ended: Ended,
    /// From the call until the first processor ran.
    pub made: Duration,
    /// From there until the guest's first program spoke to the host.
    pub booted: Duration,
    /// From there until the program had ended.
    pub ran: Duration,
}

/// A program that could not be run.
#[derive(Debug, Error)]
pub enum ProgramError {
    /// The machine.
    #[error(transparent)]
    Guest(#[from] LinuxGuestError),
    /// The guest says why it could not.
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

impl Program {
    /// Runs it to its end.
    ///
    /// # Errors
    /// [`ProgramError`].
    pub fn run(self, kvm: &Kvm, streams: Streams) -> Result<ProgramEnd, ProgramError> {
        let called = std::time::Instant::now();
        let messages = Arc::new(Mutex::new(VecDeque::new()));
        let (sender, connections) = channel();
        let config = Config {
            memory_mib: self.memory_mib,
            processors: self.processors,
            disks: self.disks,
            connector: Box::new(move |port| {
                let (near, far) = UnixStream::pair().ok()?;
                (port == wire::PORT && sender.send(far).is_ok()).then_some(near)
            }),
            console: Box::new(Messages { kept: messages.clone(), shown: streams.console }),
        };
        let ready = ReadyVm::new(kvm, config)?;
        let machine = ready.boot(&self.kernel, &self.initial_files, &self.command_line)?;
        let made = called.elapsed();
        let silent = |machine: &MicroVm| {
            machine.stop();
            let end = machine.wait();
            let messages = messages.lock().iter().copied().collect::<Vec<u8>>();
            ProgramError::Silent { end, messages: String::from_utf8_lossy(&messages).into_owned() }
        };
        let Some(mut host) = first_connection(&connections, &machine) else { return Err(silent(&machine)) };
        let booted = called.elapsed() - made;
        let start = Start {
            time: now(),
            entropy: entropy(),
            hostname: self.hostname,
            user: self.user.0,
            group: self.user.1,
            directory: self.directory,
            arguments: self.arguments,
            environment: self.environment,
        };
        wire::write(&mut host, Kind::Start, &start.encode()).map_err(ProgramError::Conversation)?;
        let writer = host.try_clone().map_err(ProgramError::Conversation)?;
        let input = streams.input;
        // Not waited for: it may wait for a person.
        thread::spawn(move || pass_input(input, writer));
        let ended = converse(&mut host, streams.output, streams.error)?;
        let ran = called.elapsed() - made - booted;
        match ended {
            Some(ended) => Ok(ProgramEnd { ended, made, booted, ran }),
            None => Err(silent(&machine)),
        }
    }
}

/// The guest's connection, or `None` when the guest ends first.
fn first_connection(connections: &Receiver<UnixStream>, machine: &MicroVm) -> Option<UnixStream> {
    loop {
        match connections.recv_timeout(Duration::from_millis(20)) {
            Ok(stream) => return Some(stream),
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) if !machine.has_ended() => {}
            Err(_) => return None,
        }
    }
}

/// Passes on what the guest says until its program has ended; `None` when the guest falls silent.
fn converse(
    host: &mut UnixStream,
    mut output: Box<dyn Write + Send>,
    mut error: Box<dyn Write + Send>,
) -> Result<Option<Ended>, ProgramError> {
    while let Some((kind, body)) = wire::read(host).map_err(ProgramError::Conversation)? {
        match kind {
            Kind::Output => show(&mut output, &body)?,
            Kind::Error => show(&mut error, &body)?,
            Kind::Failed => return Err(ProgramError::Failed(String::from_utf8_lossy(&body).into_owned())),
            Kind::Ended => {
                let nonsense = || ProgramError::Conversation(io::ErrorKind::InvalidData.into());
                return Ended::decode(&body).map(Some).ok_or_else(nonsense);
            }
            Kind::Start | Kind::Input | Kind::Signal => {
                return Err(ProgramError::Conversation(io::ErrorKind::InvalidData.into()));
            }
        }
    }
    Ok(None)
}

fn show(to: &mut impl Write, bytes: &[u8]) -> Result<(), ProgramError> {
    to.write_all(bytes).and_then(|()| to.flush()).map_err(ProgramError::Conversation)
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
