//! A worker process with one function, from the side of whoever drives it: the command line, the node, the benchmark.
//!
//! ```text
//!   SpareWorker::start ──► wait_ready ──► configure ──► FunctionWorker ──► boot | restore ──► invoke … ──► stop
//!   (a process with an     (optional)     (which function)      └── or restore_and_invoke, in one go
//!    empty machine)
//! ```
//!
//! `configure` waits for nothing: a worker that is not ready yet takes its function up when it is.
//! Calls wait for their answers; for an event loop there are `send_…` and [`FunctionWorker::hear`], which don't.
//!
//! Architecture invariant: this crate links no KVM and no guest; a guest's bug reaches its callers only as a message.
#![forbid(unsafe_code)]

mod configuration;
mod credentials;
mod error;
mod keeping;
mod options;
mod polled;
mod read_ahead;
mod recent;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jail::{Access, Launched, Program};
use restore::{Phase, ReadyPages, Timeline};
use store::{KernelSource, OpenFunction};
use worker_protocol::{
    Answer, Attached, Booted, FromWorker, Invoke, Learned, LogStream, MachineKind, NodeChannel, Received,
    RestoreRequest, Restored, Snapshotted, ToWorker, pair,
};

use keeping::{Restoring, Writing};
use read_ahead::read_ahead;

pub use configuration::{
    INIT_LIMIT, REGION, RESTORE_LIMIT, Role, SNAPSHOT_INIT_LIMIT, boot_limit, machine_kind,
};
pub use credentials::{CredentialsFile, CredentialsFileError, expiration};
pub use error::WorkerError;
pub use keeping::{KeepError, Keeping, WrittenError};
pub use options::RestoreOptions;
pub use polled::Heard;
pub use recent::RecentRestores;

/// How long beyond its own limits a worker may be silent before it is given up.
pub const GRACE: Duration = Duration::from_secs(15);
/// How long writing a snapshot may take.
pub const SNAPSHOT_LIMIT: Duration = Duration::from_secs(600);

/// Takes what a worker and its function write to the log.
pub type LogSink = Box<dyn FnMut(LogStream, &[u8]) + Send>;

/// A worker process that has no function yet.
#[derive(Debug)]
pub struct SpareWorker {
    channel: NodeChannel,
    jailed: Launched,
    is_ready: bool,
}

/// A worker process with one function.
pub struct FunctionWorker {
    channel: NodeChannel,
    jailed: Launched,
    log: LogSink,
    /// From the request on.
    timeline: Timeline,
    /// What a linux guest boots.
    kernel: Option<KernelSource>,
    boot_limit: Duration,
    /// What it was restored from.
    restoring: Option<Restoring>,
    /// Where it writes a snapshot.
    writing: Option<Writing>,
}

impl std::fmt::Debug for FunctionWorker {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("FunctionWorker")
            .field("process", &self.jailed.process)
            .finish_non_exhaustive()
    }
}

impl SpareWorker {
    /// Starts a worker: this very executable run again as `faasnap worker`. `machine` says what its machine is made for.
    ///
    /// # Errors
    /// [`WorkerError::Jail`] or [`WorkerError::Channel`] when the machine has no room for another process or socket.
    pub fn start(machine: MachineKind) -> Result<Self, WorkerError> {
        Self::start_program(&PathBuf::from("/proc/self/exe"), machine)
    }

    /// Starts a worker from the executable at `program`, in a jail as strong as [`jail::authority`] allows.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_program(program: &Path, machine: MachineKind) -> Result<Self, WorkerError> {
        let (channel, socket) = pair()?;
        let mut passed = vec![("kvm", device("/dev/kvm")?)];
        // Without it, the strategies that need it say so.
        passed.extend(device("/dev/userfaultfd").ok().map(|device| ("userfaultfd", device)));
        let arguments = &["faasnap", "worker", "--machine", &machine.to_string()];
        let jailed = jail::launch(Program { path: program, arguments, socket, passed })?;
        Ok(Self { channel, jailed, is_ready: false })
    }

    /// The process.
    pub fn process_id(&self) -> u32 {
        self.jailed.process.id()
    }

    /// Waits until the worker has made its virtual machine: from then on a request finds everything done that can be done
    /// without knowing the function.
    ///
    /// # Errors
    /// [`WorkerError::Failed`] when this machine can't make one.
    pub fn wait_ready(&mut self) -> Result<(), WorkerError> {
        if self.is_ready {
            return Ok(());
        }
        let received = self.channel.receiver.receive_within(GRACE)?;
        self.is_ready = match received.map(|received| received.message) {
            Some(FromWorker::Ready) => true,
            Some(FromWorker::Failed(failure)) => return Err(WorkerError::Failed(failure)),
            Some(other) => return Err(unexpected(&other)),
            None => return Err(WorkerError::Ended { status: how_it_ended(&mut self.jailed.process) }),
        };
        Ok(())
    }

    /// Lets the worker make those pages ready ahead of a restore by the faasnap strategy, for as long as it has no function; see
    /// [`RecentRestores`]. Nothing is waited for.
    ///
    /// # Errors
    /// [`WorkerError::Channel`] when the worker is gone.
    pub fn make_memory_ready(&mut self, ready: ReadyPages) -> Result<(), WorkerError> {
        let ReadyPages { pages, writable } = ready;
        let message = ToWorker::MakeMemoryReady { pages: pages.into(), writable: writable.into() };
        Ok(self.channel.sender.send(&message, Attached::default())?)
    }

    /// The same, and waits until all of it is ready.
    ///
    /// # Errors
    /// As [`Self::wait_ready`].
    pub fn wait_memory_ready(&mut self, ready: ReadyPages) -> Result<(), WorkerError> {
        self.wait_ready()?;
        self.make_memory_ready(ready)?;
        match self.channel.receiver.receive_within(GRACE)?.map(|received| received.message) {
            Some(FromWorker::MemoryReady) => Ok(()),
            Some(FromWorker::Failed(failure)) => Err(WorkerError::Failed(failure)),
            Some(other) => Err(unexpected(&other)),
            None => Err(WorkerError::Ended { status: how_it_ended(&mut self.jailed.process) }),
        }
    }

    /// Whether the process is still there: one that was killed is of no use.
    pub fn is_alive(&mut self) -> bool {
        self.jailed.process.is_alive()
    }

    /// Gives the worker its function. `timeline` began with the request. Nothing is waited for: what the worker refuses shows
    /// at the next step.
    ///
    /// # Errors
    /// [`WorkerError`] when the function can't be run or the worker is gone.
    pub fn configure(
        self,
        function: &OpenFunction,
        role: &Role,
        log: LogSink,
        timeline: Timeline,
    ) -> Result<FunctionWorker, WorkerError> {
        // From here on the process ends with the value, whatever goes wrong.
        let kernel = function.linux.as_ref().map(|files| files.kernel.clone());
        let boot_limit = boot_limit(function);
        let mut worker = FunctionWorker {
            channel: self.channel,
            jailed: self.jailed,
            log,
            timeline,
            kernel,
            boot_limit,
            restoring: None,
            writing: None,
        };
        worker.timeline.reached(Phase::WorkerReady);
        worker.jailed.process.limit(configuration::resources(function)).map_err(WorkerError::Limit)?;
        let (configuration, attached) = configuration::configuration(function, role, &worker.jailed.passage)?;
        worker.channel.sender.enqueue(&ToWorker::Configure(Box::new(configuration)), attached)?;
        Ok(worker)
    }
}

impl FunctionWorker {
    /// The process.
    pub fn process_id(&self) -> u32 {
        self.jailed.process.id()
    }

    /// Boots the function.
    ///
    /// # Errors
    /// [`WorkerError::Failed`] with the function's own report when it can't initialise.
    pub fn boot(&mut self, limit: Duration) -> Result<Booted, WorkerError> {
        self.ask_boot()?;
        self.flush()?;
        match self.answer(limit + self.boot_limit)? {
            FromWorker::Booted(booted) => Ok(booted),
            other => Err(unexpected(&other)),
        }
    }

    /// Restores the function from the snapshot in `directory`.
    ///
    /// # Errors
    /// [`WorkerError::Failed`] when the snapshot or the strategy can't be used here.
    pub fn restore(&mut self, directory: &Path, options: &RestoreOptions) -> Result<Restored, WorkerError> {
        self.ask_restore(directory, options)?;
        self.flush()?;
        read_ahead(directory, options.strategy);
        self.restored()
    }

    /// Restores the function and invokes it, without a round trip in between: what a cold start is.
    ///
    /// # Errors
    /// As [`Self::restore`] and [`Self::invoke`].
    pub fn restore_and_invoke(
        &mut self,
        directory: &Path,
        options: &RestoreOptions,
        invoke: Invoke,
    ) -> Result<(Restored, Answer), WorkerError> {
        let limit = invoke.timeout;
        self.ask_restore(directory, options)?;
        self.channel.sender.enqueue(&ToWorker::Invoke(Box::new(invoke)), Attached::default())?;
        self.flush()?;
        read_ahead(directory, options.strategy);
        let restored = self.restored()?;
        Ok((restored, self.answered(limit)?))
    }

    fn ask_boot(&mut self) -> Result<(), WorkerError> {
        let (kernel, attached) = match &self.kernel {
            None => (None, Attached::default()),
            Some(source) => {
                let (kernel, attached) = configuration::kernel(source.read()?)?;
                (Some(kernel), attached)
            }
        };
        Ok(self.channel.sender.enqueue(&ToWorker::Boot { kernel }, attached)?)
    }

    fn ask_restore(&mut self, directory: &Path, options: &RestoreOptions) -> Result<(), WorkerError> {
        let mut attached = Attached::default();
        let snapshot = attached.attach(self.hand(directory, Access::Read)?);
        self.restoring = Some(Restoring::new(directory, options.strategy, options.record));
        let request = RestoreRequest {
            snapshot,
            strategy: options.strategy.name().to_owned(),
            without: options.without.iter().map(|technique| technique.name().to_owned()).collect(),
            random_access: options.random_access,
            record: options.record,
            verify: options.verify,
        };
        Ok(self.channel.sender.enqueue(&ToWorker::Restore(request), attached)?)
    }

    fn ask_snapshot(&mut self, parent: &Path) -> Result<(), WorkerError> {
        let mut attached = Attached::default();
        let handed = self.hand(parent, Access::Write)?;
        let into = attached.attach(handed.try_clone().map_err(WorkerError::Start)?);
        self.writing = Some(Writing { parent: parent.to_owned(), handed });
        Ok(self.channel.sender.enqueue(&ToWorker::Snapshot { into }, attached)?)
    }

    /// Sends what was put together.
    fn flush(&mut self) -> Result<(), WorkerError> {
        self.channel.sender.send_queued()?;
        if self.timeline.end_of(Phase::Sent).is_none() {
            self.timeline.reached(Phase::Sent);
        }
        Ok(())
    }

    fn restored(&mut self) -> Result<Restored, WorkerError> {
        match self.answer(RESTORE_LIMIT + self.boot_limit)? {
            FromWorker::Restored(restored) => Ok(restored),
            other => Err(unexpected(&other)),
        }
    }

    /// Invokes the function once.
    ///
    /// # Errors
    /// [`WorkerError`] when the worker fails; a function's failure is an [`Answer`].
    pub fn invoke(&mut self, invoke: Invoke) -> Result<Answer, WorkerError> {
        let limit = invoke.timeout;
        self.channel.sender.send(&ToWorker::Invoke(Box::new(invoke)), Attached::default())?;
        self.answered(limit)
    }

    fn answered(&mut self, limit: Duration) -> Result<Answer, WorkerError> {
        match self.answer(limit)? {
            FromWorker::Answered(answer) => Ok(*answer),
            other => Err(unexpected(&other)),
        }
    }

    /// Writes a snapshot below `parent`, in a folder named `snapshot`.
    ///
    /// # Errors
    /// [`WorkerError::Failed`] when the instance can't be brought to rest or the disk is full.
    pub fn snapshot(&mut self, parent: &Path) -> Result<Snapshotted, WorkerError> {
        self.ask_snapshot(parent)?;
        self.flush()?;
        match self.answer(SNAPSHOT_LIMIT)? {
            FromWorker::Snapshotted(snapshotted) => {
                self.written()?;
                Ok(snapshotted)
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Takes what the worker says it has written.
    fn written(&mut self) -> Result<(), WorkerError> {
        let writing = self.writing.take().ok_or(WorkerError::OutOfTurn)?;
        Ok(writing.finish(&self.jailed.passage)?)
    }

    /// What follows from what the worker says of its snapshot, if anything.
    fn learned(&mut self, learned: Learned) -> Option<Keeping> {
        self.restoring.as_mut()?.hear(learned)
    }

    /// The same, done at once.
    fn keep(&mut self, learned: Learned) {
        if let Some(Err(error)) = self.learned(learned).map(|keeping| keeping.keep()) {
            let text =
                format!("what the invocation taught about its snapshot was not kept: {}\n", chain(&error));
            (self.log)(LogStream::Worker, text.as_bytes());
        }
    }

    /// The request's timeline with what the worker measured, whose clock is this machine's too.
    ///
    /// # Errors
    /// [`WorkerError::Timeline`] when the worker's record can't be read.
    pub fn timeline(&self, measured: &worker_protocol::Timeline) -> Result<Timeline, WorkerError> {
        let worker: Timeline = postcard::from_bytes(&measured.0).map_err(WorkerError::Timeline)?;
        Ok(self.timeline.continued_by(worker))
    }

    /// Ends the instance and waits until its process is gone.
    ///
    /// # Errors
    /// [`WorkerError`] when the process does not end by itself; it is killed then.
    pub fn stop(self) -> Result<(), WorkerError> {
        self.ended().map(drop)
    }

    /// The same, and completes the `timeline` of a restored instance's request by what only its end tells: when the loader was
    /// done, and what became of the loading set.
    ///
    /// # Errors
    /// As [`Self::stop`] and [`Self::timeline`].
    pub fn stop_measured(self, timeline: Timeline) -> Result<Timeline, WorkerError> {
        Ok(match self.ended()? {
            Some(ended) => timeline.completed_by(&ended),
            None => timeline,
        })
    }

    /// Ends the instance; gives what was measured until then, if it was restored.
    fn ended(mut self) -> Result<Option<Timeline>, WorkerError> {
        self.channel.sender.send(&ToWorker::Stop, Attached::default())?;
        let mut measured = None;
        while let Some(received) = self.channel.receiver.receive_within(GRACE)? {
            match received.message {
                FromWorker::Log { stream, bytes } => (self.log)(stream, &bytes),
                FromWorker::Learned(learned) => self.keep(learned),
                FromWorker::Finished(timeline) => measured = Some(self.timeline(&timeline)?),
                _ => {}
            }
        }
        self.jailed.process.wait().map_err(WorkerError::Wait)?;
        Ok(measured)
    }

    /// The next message that is no log, within `limit` and some grace.
    fn answer(&mut self, limit: Duration) -> Result<FromWorker, WorkerError> {
        loop {
            match self.channel.receiver.receive_within(limit + GRACE)? {
                None => return Err(WorkerError::Ended { status: how_it_ended(&mut self.jailed.process) }),
                // A worker that was not waited for when it was spare.
                Some(Received { message: FromWorker::Ready | FromWorker::MemoryReady, .. }) => {}
                Some(Received { message: FromWorker::Log { stream, bytes }, .. }) => {
                    (self.log)(stream, &bytes);
                }
                Some(Received { message: FromWorker::Learned(learned), .. }) => self.keep(learned),
                Some(Received { message: FromWorker::Failed(failure), .. }) => {
                    return Err(WorkerError::Failed(failure));
                }
                Some(Received { message, .. }) => return Ok(message),
            }
        }
    }

    /// The directory at `path`, as a descriptor that leads nowhere else.
    fn hand(&self, path: &Path, access: Access) -> Result<OwnedFd, WorkerError> {
        Ok(self.jailed.passage.directory(open_directory(path)?.as_fd(), access)?)
    }
}

fn how_it_ended(process: &mut jail::Process) -> String {
    let end = process.wait().map_or_else(|error| error.to_string(), |end| end.to_string());
    match process.last_words() {
        words if words.is_empty() => end,
        words => format!("{end}: {words}"),
    }
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

fn unexpected(message: &FromWorker) -> WorkerError {
    match message {
        FromWorker::Exited(exit) => WorkerError::ProgramEnded(*exit),
        _ => WorkerError::OutOfTurn,
    }
}

fn device(path: &str) -> Result<OwnedFd, WorkerError> {
    let opened = File::options().read(true).write(true).open(path);
    Ok(opened.map_err(|source| WorkerError::Open { path: path.into(), source })?.into())
}

fn open_directory(path: &Path) -> Result<OwnedFd, WorkerError> {
    let opened: io::Result<File> = File::open(path);
    Ok(opened.map_err(|source| WorkerError::Open { path: path.to_owned(), source })?.into())
}
