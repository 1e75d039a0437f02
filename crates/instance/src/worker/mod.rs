//! The worker: one process, one instance, one event loop.
//!
//! ```text
//!   node's messages ──► reader thread ──┐
//!   runtime's events ─► guest threads ──┼──► one queue ──► event loop ──► lifecycle ──► steps ──► messages
//!   guest's end ──────► waiter thread ──┘                      │
//!                                             the deadline ────┘
//! ```
//!
//! The loop alone changes the instance. Log output goes from the guest's threads straight to the node. The worker ends when
//! the node says so or is gone.

mod configuration;
mod report;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, TryRecvError};
use std::thread::Builder;
use std::time::{Duration, Instant};

use jail::WaitingThread;
use pages::PageSet;
use parking_lot::Mutex;
use process_kernel::ipc::LogStream as GuestLog;
use process_kernel::task::ExitStatus;
use restore::Phase;
use runtime_api::{Event, ExitReason, log_line};
use serde_bytes::ByteBuf;
use thiserror::Error;
use worker_protocol::{
    Attached, Channel, ChannelError, Descriptors, Failure, FailureKind, FromWorker, Health, Invoke, Kernel,
    Learned, LogStream, MOST_READY_PAGES, MachineKind, Received, RestoreRequest, Sender, Snapshotted,
    ToWorker, WorkerChannel,
};

use crate::error_text::chain;
use crate::function_guest::{InstanceError, Listeners};
use crate::guest::{Guest, Ready};
use crate::lifecycle::{GuestEnd, Lifecycle, OutOfTurn};
use crate::restored::Conclusion;
use configuration::Configured;
use report::Invocation;

/// A worker that can't go on at all.
#[derive(Debug, Error)]
pub enum WorkerError {
    /// The node's socket.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// The system call filter.
    #[error(transparent)]
    Jail(#[from] jail::JailError),
    /// A thread can't be started.
    #[error("starting a thread of the worker")]
    Thread(#[source] io::Error),
}

/// What the event loop hears of.
enum Occurrence {
    Message(Received<ToWorker>),
    /// The node is gone, or says what can't be understood.
    NodeGone(Option<ChannelError>),
    Runtime(Event),
    /// A guest's kernel has booted, or goes on: init begins, or a restore's hooks do.
    KernelUp,
    Ended(ExitStatus),
}

/// The way to the node, from any thread.
#[derive(Clone)]
struct Node(Arc<Mutex<Sender<FromWorker>>>);

impl Node {
    fn send(&self, message: &FromWorker) -> Result<(), ChannelError> {
        self.0.lock().send(message, Attached::default())
    }

    fn log(&self, stream: LogStream, bytes: &[u8]) -> Result<(), ChannelError> {
        self.send(&FromWorker::Log { stream, bytes: ByteBuf::from(bytes) })
    }
}

/// Serves the node at the other end of `socket` until it says to stop or is gone. `machine` says what its function's guest will be.
///
/// # Errors
/// [`WorkerError`].
pub fn serve(socket: OwnedFd, machine: MachineKind) -> Result<(), WorkerError> {
    let Channel { sender, mut receiver } = WorkerChannel::new(socket);
    let (occurrences, queue) = mpsc::channel();
    let from_node = occurrences.clone();
    let read = move || {
        loop {
            let occurrence = match receiver.receive() {
                Ok(Some(message)) => Occurrence::Message(message),
                Ok(None) => Occurrence::NodeGone(None),
                Err(error) => Occurrence::NodeGone(Some(error)),
            };
            let last = matches!(occurrence, Occurrence::NodeGone(_));
            if from_node.send(occurrence).is_err() || last {
                return;
            }
        }
    };
    Builder::new().name("node".to_owned()).spawn(read).map_err(WorkerError::Thread)?;
    let node = Node(Arc::new(Mutex::new(sender)));
    // Without a machine there is no worker: the node hears why, and the worker ends.
    let refuse = |error| node.send(&FromWorker::Failed(Refused::Instance(error).failure()));
    let mut machine = match Ready::new(machine) {
        Ok(machine) => machine,
        Err(error) => return Ok(refuse(error)?),
    };
    jail::let_go_of_start_up();
    // From here on the node, a snapshot or a guest has a say.
    jail::begin_running()?;
    if let Err(error) = machine.start_threads() {
        return Ok(refuse(error)?);
    }
    let waiter = waiter().map_err(WorkerError::Thread)?;
    node.send(&FromWorker::Ready)?;
    let mut worker = Worker {
        waiter: Some(waiter),
        node,
        occurrences,
        machine: Some(machine),
        life: Lifecycle::default(),
        configured: None,
        guest: None,
        snapshot: None,
        deadline: None,
        began: Instant::now(),
        released: None,
        cold_start: None,
        invocation: None,
        early: None,
        makes_memory_ready: false,
        learned: Arc::default(),
    };
    worker.run(&queue)
}

/// A thread that will wait for a guest's end.
fn waiter() -> io::Result<WaitingThread> {
    WaitingThread::start(Builder::new().name("waiter".to_owned()).stack_size(128 << 10), None, || {})
}

/// The event loop's state.
struct Worker {
    /// Until there is a guest to wait for.
    waiter: Option<WaitingThread>,
    node: Node,
    occurrences: mpsc::Sender<Occurrence>,
    life: Lifecycle,
    /// Until the instance is started.
    machine: Option<Ready>,
    configured: Option<Configured>,
    guest: Option<Guest>,
    /// The snapshot's directory, kept open as long as the instance lives: it is known by way of this descriptor.
    snapshot: Option<OwnedFd>,
    deadline: Option<Instant>,
    /// When Boot or Restore came.
    began: Instant,
    /// When a restored runtime was let go on.
    released: Option<Instant>,
    /// For the next REPORT line.
    cold_start: Option<log_line::ColdStart>,
    invocation: Option<Invocation>,
    /// An invocation that came before the instance was ready for it.
    early: Option<Invoke>,
    /// Whether memory is made ready while nothing else is to be done.
    makes_memory_ready: bool,
    /// What the node is to be told of the snapshot before it hears of anything that came of it.
    learned: Arc<Mutex<Vec<Learned>>>,
}

impl Worker {
    fn run(&mut self, queue: &mpsc::Receiver<Occurrence>) -> Result<(), WorkerError> {
        loop {
            if !self.life.is_timed() {
                self.deadline = None;
            }
            let occurrence = match self.deadline {
                None if self.makes_memory_ready => match queue.try_recv() {
                    Err(TryRecvError::Empty) => {
                        self.make_memory_ready()?;
                        continue;
                    }
                    occurrence => occurrence.map_err(|_| RecvTimeoutError::Disconnected),
                },
                None => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(deadline) => queue.recv_timeout(deadline.saturating_duration_since(Instant::now())),
            };
            self.tell_learned()?;
            match occurrence {
                Ok(Occurrence::Message(Received { message: ToWorker::Stop, .. }))
                | Err(RecvTimeoutError::Disconnected) => return self.stop(),
                Ok(Occurrence::Message(received)) => self.message(received)?,
                Ok(Occurrence::NodeGone(problem)) => {
                    self.stop()?;
                    return problem.map_or(Ok(()), |problem| Err(problem.into()));
                }
                Ok(Occurrence::Runtime(event)) => {
                    let steps = self.life.runtime(event);
                    self.take(steps)?;
                }
                Ok(Occurrence::KernelUp) => {
                    if let Some(guest) = &mut self.guest {
                        guest.timeline().reached(Phase::KernelUp);
                    }
                    if let Some(configured) = self.configured.as_ref().filter(|_| self.life.is_starting()) {
                        let restores = self.snapshot.is_some();
                        let limit =
                            if restores { configured.restore_timeout } else { configured.init_timeout };
                        self.deadline = Instant::now().checked_add(limit);
                    }
                }
                Ok(Occurrence::Ended(status)) => {
                    let end = self.how_it_ended(status);
                    let steps = self.life.ended(end);
                    self.take(steps)?;
                }
                Err(RecvTimeoutError::Timeout) => {
                    let steps = self.life.time_is_up();
                    self.take(steps)?;
                }
            }
        }
    }

    fn message(&mut self, received: Received<ToWorker>) -> Result<(), WorkerError> {
        let Received { message, mut descriptors } = received;
        let done = match message {
            ToWorker::Configure(configuration) => self.configure(*configuration, &mut descriptors),
            ToWorker::Boot { kernel } => self.boot(kernel, &mut descriptors),
            ToWorker::MakeMemoryReady { pages, writable } => self.want_memory_ready(pages, writable),
            ToWorker::Restore(request) => self.restore(request, &mut descriptors),
            ToWorker::Invoke(invoke) => self.invoke(*invoke),
            ToWorker::Snapshot { into } => match descriptors.take(into) {
                Ok(directory) => self.snapshot(&directory),
                Err(error) => Err(Refused::Request(error.to_string())),
            },
            ToWorker::Signal { number } => {
                Err(Refused::Request(format!("a function takes no signals, so not {number} either")))
            }
            // Taken by the loop.
            ToWorker::Stop => Ok(()),
        };
        self.done(done)
    }

    fn tell_learned(&self) -> Result<(), ChannelError> {
        let learned = std::mem::take(&mut *self.learned.lock());
        learned.into_iter().try_for_each(|learned| self.node.send(&FromWorker::Learned(learned)))
    }

    /// Tells the node of what could not be done.
    fn done(&self, done: Result<(), Refused>) -> Result<(), WorkerError> {
        self.tell_learned()?;
        match done {
            Ok(()) => Ok(()),
            Err(Refused::Channel(error)) => Err(error.into()),
            Err(refused) => Ok(self.node.send(&FromWorker::Failed(refused.failure()))?),
        }
    }

    fn configure(
        &mut self,
        configuration: worker_protocol::Configuration,
        descriptors: &mut Descriptors,
    ) -> Result<(), Refused> {
        if self.configured.is_some() {
            return Err(Refused::Request("the worker is configured already".to_owned()));
        }
        self.makes_memory_ready = false;
        if let Some(machine) = &mut self.machine {
            machine.begin_request();
        }
        self.configured = Some(configuration::read(&configuration, descriptors).map_err(Refused::Request)?);
        Ok(())
    }

    fn want_memory_ready(
        &mut self,
        pages: Vec<(u64, u64)>,
        writable: Vec<(u64, u64)>,
    ) -> Result<(), Refused> {
        let set = |runs: Vec<(u64, u64)>| {
            PageSet::try_from(runs)
                .map_err(|_| Refused::Request("the pages to make ready are no ascending runs".to_owned()))
        };
        let (pages, writable) = (set(pages)?, set(writable)?);
        if pages.count().0 > MOST_READY_PAGES {
            let text = format!("{} pages to make ready are more than {MOST_READY_PAGES}", pages.count().0);
            return Err(Refused::Request(text));
        }
        // Without a machine there is a function already.
        if let Some(machine) = self.machine.as_mut().filter(|_| self.configured.is_none()) {
            machine.want_memory_ready(&pages, &writable);
            self.makes_memory_ready = true;
        }
        Ok(())
    }

    /// Does a part of what is made ready ahead, a few milliseconds' worth, so that a request waits no longer.
    fn make_memory_ready(&mut self) -> Result<(), WorkerError> {
        self.makes_memory_ready = self.machine.as_mut().is_some_and(Ready::make_memory_ready);
        match self.makes_memory_ready {
            true => Ok(()),
            false => Ok(self.node.send(&FromWorker::MemoryReady)?),
        }
    }

    fn take_machine(&mut self) -> Result<Ready, Refused> {
        self.machine.take().ok_or_else(|| Refused::Request("the instance was started before".to_owned()))
    }

    fn configured(&self) -> Result<&Configured, Refused> {
        self.configured.as_ref().ok_or_else(|| Refused::Request("the worker is not configured".to_owned()))
    }

    fn listeners(&self) -> Listeners {
        // The loop lives as long as the worker does.
        let tell = |occurrences: &mpsc::Sender<Occurrence>| {
            let occurrences = Mutex::new(occurrences.clone());
            move |occurrence| drop(occurrences.lock().send(occurrence))
        };
        let (runtime, kernel_up) = (tell(&self.occurrences), tell(&self.occurrences));
        let (node, to_tell) = (self.node.clone(), self.learned.clone());
        Listeners {
            runtime: Arc::new(move |event| runtime(Occurrence::Runtime(event))),
            kernel_up: Arc::new(move || kernel_up(Occurrence::KernelUp)),
            log: Arc::new(move |stream, bytes| {
                let stream = match stream {
                    GuestLog::Output => LogStream::Output,
                    GuestLog::Error => LogStream::Error,
                };
                // A node that is gone reads no log; the loop hears of it by itself.
                let _ = node.log(stream, bytes);
            }),
            // The loader's thread may send nothing itself.
            learned: Arc::new(move |learned| to_tell.lock().push(learned)),
        }
    }

    fn boot(&mut self, kernel: Option<Kernel>, descriptors: &mut Descriptors) -> Result<(), Refused> {
        let listeners = self.listeners();
        let configured = self.configured()?;
        let limit = configured.init_timeout + configured.boot_timeout;
        let read = |kernel| configuration::boot_files(kernel, descriptors).map_err(Refused::Request);
        let files = kernel.map(read).transpose()?;
        let machine = self.take_machine()?;
        let guest = machine.boot(&self.configured()?.guest, files, &listeners);
        self.life.boot()?;
        self.began = Instant::now();
        self.started(guest?, limit)
    }

    fn restore(&mut self, request: RestoreRequest, descriptors: &mut Descriptors) -> Result<(), Refused> {
        let listeners = self.listeners();
        self.began = Instant::now();
        let configured = self.configured()?;
        let limit = configured.restore_timeout + configured.boot_timeout;
        let options = configuration::restore_options(&request).map_err(Refused::Request)?;
        let directory =
            descriptors.take(request.snapshot).map_err(|error| Refused::Request(error.to_string()))?;
        let machine = self.take_machine()?;
        let path = of_descriptor(&directory);
        let guest = machine.restore(&self.configured()?.guest, &path, &options, &listeners);
        self.snapshot = Some(directory);
        self.life.restore()?;
        self.started(guest?, limit)?;
        self.released = Some(Instant::now());
        let Some(guest) = &self.guest else { return Ok(()) };
        let released = guest.release();
        let steps = self.life.released(released);
        Ok(self.take(steps)?)
    }

    /// Watches a guest that has just been started.
    fn started(&mut self, guest: Guest, limit: Duration) -> Result<(), Refused> {
        let ended = guest.waiter();
        self.guest = Some(guest);
        self.deadline = Instant::now().checked_add(limit);
        let occurrences = self.occurrences.clone();
        let wait = move || {
            if let Some(status) = ended() {
                // The loop lives as long as the worker does.
                let _ = occurrences.send(Occurrence::Ended(status));
            }
        };
        let waiter = self.waiter.take().map_or_else(waiter, Ok).and_then(|waiter| waiter.give(wait));
        waiter.map(drop).map_err(|error| Refused::Machine(format!("starting a thread: {error}")))
    }

    pub(super) fn invoke(&mut self, invoke: Invoke) -> Result<(), Refused> {
        if self.life.is_starting() && self.early.is_none() {
            self.early = Some(invoke);
            return Ok(());
        }
        let (request_id, limit) = (invoke.request_id.clone(), invoke.timeout);
        self.life.invoke(&request_id, limit)?;
        let version = self.configured()?.version.clone();
        self.node.log(LogStream::Platform, log_line::start(&request_id, &version).as_bytes())?;
        self.invocation = Some(Invocation { began: Instant::now() });
        self.deadline = Instant::now().checked_add(limit);
        match &self.guest {
            Some(guest) => Ok(guest.deliver(report::invocation(invoke))?),
            None => Ok(()),
        }
    }

    fn snapshot(&mut self, directory: &OwnedFd) -> Result<(), Refused> {
        self.life.snapshot()?;
        let Some(guest) = &self.guest else { return Ok(()) };
        let began = Instant::now();
        let memory = guest.snapshot(&of_descriptor(directory))?;
        Ok(self.node.send(&FromWorker::Snapshotted(Snapshotted { memory, duration: began.elapsed() }))?)
    }

    fn how_it_ended(&self, status: ExitStatus) -> GuestEnd {
        let Some(guest) = &self.guest else { return GuestEnd::Broken("there was no guest".to_owned()) };
        if let Some(failure) = guest.failure() {
            return GuestEnd::Broken(failure);
        }
        if guest.ran_out_of_memory() {
            return GuestEnd::OutOfMemory;
        }
        GuestEnd::Exit(match status {
            ExitStatus::Code(code) => ExitReason::Status(code),
            ExitStatus::Signal(signal) => ExitReason::Signal(u8::try_from(signal).unwrap_or(u8::MAX)),
        })
    }

    fn stop(&mut self) -> Result<(), WorkerError> {
        let Conclusion { problem, timeline } = self.guest.take().map(Guest::end).unwrap_or_default();
        // A node that is gone keeps nothing.
        let _ = self.tell_learned();
        if let Some(problem) = problem {
            // The node may be gone: then nobody is there to be told.
            let _ = self.node.log(LogStream::Worker, format!("{problem}\n").as_bytes());
        }
        if let Some(timeline) = timeline {
            let _ = self.node.send(&FromWorker::Finished(report::encoded(&timeline)));
        }
        Ok(())
    }
}

/// A path to the directory that is open as `directory`.
fn of_descriptor(directory: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()))
}

/// A message that could not be obeyed.
enum Refused {
    Channel(ChannelError),
    Request(String),
    Machine(String),
    Instance(InstanceError),
}

impl From<ChannelError> for Refused {
    fn from(error: ChannelError) -> Self {
        Self::Channel(error)
    }
}

impl From<OutOfTurn> for Refused {
    fn from(error: OutOfTurn) -> Self {
        Self::Request(error.to_string())
    }
}

impl From<InstanceError> for Refused {
    fn from(error: InstanceError) -> Self {
        Self::Instance(error)
    }
}

impl From<WorkerError> for Refused {
    fn from(error: WorkerError) -> Self {
        match error {
            WorkerError::Channel(error) => Self::Channel(error),
            other => Self::Machine(other.to_string()),
        }
    }
}

impl Refused {
    fn failure(self) -> Failure {
        let (kind, message, health) = match self {
            Self::Request(message) => (FailureKind::Request, message, Health::Ready),
            Self::Machine(message) => (FailureKind::Machine, message, Health::Discard),
            Self::Channel(error) => (FailureKind::Internal, error.to_string(), Health::Discard),
            Self::Instance(error) => (report::failure_kind(&error), chain(&error), Health::Discard),
        };
        Failure { kind, message, health }
    }
}
