//! The conversation with a guest's first program, from its first word to its end, rests in between.
//!
//! ```text
//!   whoever has something to say ──► Line ──► writer ──► ┌────────┐
//!                                                        │ vsock  │ ◄──► the guest's first program
//!   `hear`, and at last `ended`  ◄── reader ◄─────────── └────────┘
//! ```
//!
//! The reader alone makes connections. To rest, the guest is told to close its connection; when it has, the machine is paused
//! and saved, and the reader dials the guest to let it go on. Nobody believes the guest: it can end the conversation, and be
//! ended, at any time.

mod line;

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use guest_init::wire::{self, Ended, Kind, Resume, Start};
use parking_lot::Mutex;

pub use line::Line;

use crate::error::LinuxGuestError;
use crate::guest::{GuestError, Messages, RunningGuest};
use crate::monitor::{End, MicroVm, PausedVm};
use crate::virtio::stream;

/// Fresh random bytes for a guest's generator.
const ENTROPY_BYTES: usize = 64;
/// How often a guest that boots is looked after.
const PERIOD: Duration = Duration::from_millis(20);
/// How long a guest whose connection is closed may take to end by itself: it says why on its console before it does.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// What the guest hears first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Beginning {
    /// It has booted and waits to be told what to run. Time and entropy are filled in.
    Start(Start),
    /// It was restored and waits to go on.
    Resume,
}

/// Hears what the guest says, in its order; first of all [`Kind::Start`] when it has booted and been told what to run, or
/// [`Kind::Resume`] when its first program goes on after a restore. Each of these is heard once at most.
pub type Hear = Box<dyn FnMut(Kind, &[u8]) + Send>;
/// Hears once how the conversation ended.
pub type WhenEnded = Box<dyn FnOnce(Result<Ended, GuestError>) + Send>;

/// A guest at rest: whoever holds the other end says when it may go on.
type Resting = Sender<Sender<()>>;

/// A conversation. Dropping it ends the guest.
pub struct Session {
    machine: Arc<MicroVm>,
    line: Line,
    resting: Arc<Mutex<Option<Resting>>>,
}

impl Session {
    /// Begins the conversation with a guest over `line`.
    ///
    /// # Errors
    /// [`GuestError::Machine`] when a thread can't be started.
    pub fn begin(
        guest: RunningGuest,
        line: Line,
        beginning: Beginning,
        hear: Hear,
        ended: WhenEnded,
    ) -> Result<Self, GuestError> {
        let RunningGuest { machine, connections, dial, messages } = guest;
        let (machine, resting) = (Arc::new(machine), Arc::new(Mutex::new(None)));
        let writer = line.clone();
        start_thread("guest-writer", move || writer.write())?;
        let reader = Reader {
            machine: machine.clone(),
            line: line.clone(),
            resting: resting.clone(),
            connections,
            dial,
            messages,
        };
        let session = Self { machine, line, resting };
        start_thread("guest-reader", move || {
            let end = reader.converse(beginning, hear);
            reader.line.close();
            reader.machine.stop();
            ended(end);
        })?;
        Ok(session)
    }

    /// Brings the guest to rest: its program frozen, no connection open, the processors between two instructions. What `save`
    /// makes of that is given back, and the guest goes on.
    ///
    /// # Errors
    /// [`GuestError::Restless`] when that takes longer than `limit`, [`GuestError::Machine`] when the guest has ended.
    pub fn rest<T>(&self, limit: Duration, save: impl FnOnce(&PausedVm<'_>) -> T) -> Result<T, GuestError> {
        let (rested, when_rested) = channel();
        *self.resting.lock() = Some(rested);
        let told = self.line.say(Kind::Rest, &[]);
        let go_on = when_rested.recv_timeout(if told { limit } else { Duration::ZERO });
        let Ok(go_on) = go_on else {
            *self.resting.lock() = None;
            return Err(GuestError::Restless(limit));
        };
        let paused = self.machine.pause()?;
        let saved = save(&paused);
        drop(paused);
        // Fails when the guest has ended meanwhile, which is heard of otherwise.
        let _ = go_on.send(());
        Ok(saved)
    }

    /// Stops the processors for a moment, the program as it is; nothing that is seen then may be kept.
    ///
    /// # Errors
    /// [`LinuxGuestError::Ended`].
    pub fn pause(&self) -> Result<PausedVm<'_>, LinuxGuestError> {
        self.machine.pause()
    }

    /// Ends the guest; what it was doing is lost.
    pub fn stop(&self) {
        self.line.close();
        self.machine.stop();
    }

    /// What ends the guest because something is wrong with its machine; it may outlive the session.
    pub fn failer(&self) -> impl Fn(String) + Send + Sync + use<> {
        let machine = Arc::downgrade(&self.machine);
        move |reason| {
            if let Some(machine) = machine.upgrade() {
                machine.fail(reason);
            }
        }
    }

    /// The machine.
    pub fn machine(&self) -> &MicroVm {
        &self.machine
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.stop();
    }
}

fn start_thread(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), GuestError> {
    let builder = thread::Builder::new().name(name.to_owned()).stack_size(256 << 10);
    builder.spawn(work).map(drop).map_err(|error| LinuxGuestError::Thread(error).into())
}

struct Reader {
    machine: Arc<MicroVm>,
    line: Line,
    resting: Arc<Mutex<Option<Resting>>>,
    connections: Receiver<File>,
    dial: Sender<(u32, File)>,
    messages: Messages,
}

impl Reader {
    fn converse(&self, beginning: Beginning, mut hear: Hear) -> Result<Ended, GuestError> {
        let mut resumes = beginning == Beginning::Resume;
        let mut stream = match beginning {
            Beginning::Start(start) => {
                let stream = self.first_connection()?;
                let start = Start { time: now(), entropy: entropy(), ..start };
                hear(Kind::Start, &[]);
                self.begin(stream, Kind::Start, &start.encode())?
            }
            Beginning::Resume => self.resume()?,
        };
        loop {
            match wire::read(&mut &*stream) {
                Ok(Some((Kind::Ended, body))) => return Ended::decode(&body).ok_or_else(nonsense),
                Ok(Some((Kind::Failed, body))) => {
                    return Err(GuestError::Failed(String::from_utf8_lossy(&body).into_owned()));
                }
                Ok(Some((Kind::Resume, _))) if std::mem::take(&mut resumes) => hear(Kind::Resume, &[]),
                // Also said after each rest, and by a guest that wants more time.
                Ok(Some((Kind::Start | Kind::Resume, _))) => {}
                Ok(Some((kind, body))) => hear(kind, &body),
                Ok(None) => {
                    let Some(rested) = self.resting.lock().take() else { return Err(self.silent()) };
                    let (go_on, may_go_on) = channel();
                    // Whoever wanted the rest may have given up: then the guest goes on at once.
                    if rested.send(go_on).is_ok() {
                        let _ = may_go_on.recv();
                    }
                    stream = self.resume()?;
                }
                Err(error) => return Err(self.broken(error)),
            }
        }
    }

    /// The connection that a guest makes when it has booted.
    fn first_connection(&self) -> Result<File, GuestError> {
        loop {
            match self.connections.recv_timeout(PERIOD) {
                Ok(stream) => return Ok(stream),
                Err(RecvTimeoutError::Timeout) if !self.machine.has_ended() => {}
                Err(_) => return Err(self.silent()),
            }
        }
    }

    /// Connects to a guest that waits for that, and lets it go on.
    fn resume(&self) -> Result<Arc<File>, GuestError> {
        let (device, near) = stream().map_err(GuestError::Conversation)?;
        // Taken out by the devices, which live as long as the machine does.
        let _ = self.dial.send((wire::PORT, device));
        self.machine.wake_devices();
        let resume = Resume { time: now(), entropy: entropy() };
        self.begin(near, Kind::Resume, &resume.encode())
    }

    /// Says the first thing on a new connection; others may follow.
    fn begin(&self, stream: File, kind: Kind, body: &[u8]) -> Result<Arc<File>, GuestError> {
        wire::write(&mut &stream, kind, body).map_err(|error| self.broken(error))?;
        let stream = Arc::new(stream);
        self.line.connect(stream.clone());
        Ok(stream)
    }

    /// The stream failed: it is nonsense that was said, or the guest has closed it with something unread.
    fn broken(&self, error: io::Error) -> GuestError {
        match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => self.silent(),
            _ => GuestError::Conversation(error),
        }
    }

    /// The guest has closed its connection, or has ended, without saying why.
    fn silent(&self) -> GuestError {
        self.machine.wait_for(LAST_WORDS);
        self.machine.stop();
        match self.machine.wait() {
            End::Broken(reason) => GuestError::Broken(reason),
            end => GuestError::Silent { end, messages: self.messages.text() },
        }
    }
}

fn nonsense() -> GuestError {
    GuestError::Conversation(io::ErrorKind::InvalidData.into())
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
