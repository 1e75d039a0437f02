//! A worker process with one function, from the side of whoever drives it: the command line, the node, the benchmark.
//!
//! ```text
//!   SpareWorker::start ──► configure ──► FunctionWorker ──► boot | restore ──► invoke … ──► stop
//!   (a process, ready       (which function)
//!    before it is needed)
//! ```
//!
//! Calls wait for their answers; a node gives each worker a thread of its own.
//!
//! Architecture invariant: this crate links no KVM and no guest; a guest's bug reaches its callers only as a message.
#![forbid(unsafe_code)]

mod configuration;
mod error;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use restore::{Phase, RestoreStrategy, Timeline};
use store::OpenFunction;
use worker_protocol::{
    Answer, Attached, Booted, FromWorker, Invoke, LogStream, NodeChannel, Received, RestoreRequest, Restored,
    Snapshotted, ToWorker, pair,
};

pub use configuration::{INIT_LIMIT, REGION, RESTORE_LIMIT, Role};
pub use error::WorkerError;

/// How long beyond its own limits a worker may be silent before it is given up.
const GRACE: Duration = Duration::from_secs(15);
/// How long writing a snapshot may take.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(600);

/// Takes what a worker and its function write to the log.
pub type LogSink = Box<dyn FnMut(LogStream, &[u8]) + Send>;

/// A worker process that has no function yet.
#[derive(Debug)]
pub struct SpareWorker {
    channel: NodeChannel,
    child: Child,
}

/// A worker process with one function.
pub struct FunctionWorker {
    channel: NodeChannel,
    child: Child,
    log: LogSink,
    /// From the request on.
    timeline: Timeline,
}

impl std::fmt::Debug for FunctionWorker {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("FunctionWorker").field("child", &self.child).finish_non_exhaustive()
    }
}

impl SpareWorker {
    /// Starts a worker: this very executable run again as `faasnap worker`.
    ///
    /// # Errors
    /// [`WorkerError::Start`] or [`WorkerError::Channel`] when the machine has no room for another process or socket.
    pub fn start() -> Result<Self, WorkerError> {
        Self::start_program(&PathBuf::from("/proc/self/exe"))
    }

    /// Starts a worker from the executable at `program`.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_program(program: &Path) -> Result<Self, WorkerError> {
        let (channel, socket) = pair()?;
        let child = Command::new(program)
            .arg0("faasnap")
            .arg("worker")
            .stdin(Stdio::from(socket))
            .stdout(Stdio::null())
            .spawn()
            .map_err(WorkerError::Start)?;
        Ok(Self { channel, child })
    }

    /// The process.
    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// Gives the worker its function. `timeline` began with the request.
    ///
    /// # Errors
    /// [`WorkerError`] when the function can't be run or the worker refuses it.
    pub fn configure(
        self,
        function: &OpenFunction,
        role: &Role,
        log: LogSink,
        timeline: Timeline,
    ) -> Result<FunctionWorker, WorkerError> {
        // From here on the process ends with the value, whatever goes wrong.
        let mut worker = FunctionWorker { channel: self.channel, child: self.child, log, timeline };
        let (configuration, attached) = configuration::configuration(function, role)?;
        worker.channel.sender.send(&ToWorker::Configure(Box::new(configuration)), attached)?;
        match worker.answer(Duration::ZERO)? {
            FromWorker::Ready => {}
            other => return Err(unexpected(&other)),
        }
        worker.timeline.reached(Phase::WorkerReady);
        Ok(worker)
    }
}

impl FunctionWorker {
    /// The process.
    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// Boots the function.
    ///
    /// # Errors
    /// [`WorkerError::Failed`] with the function's own report when it can't initialise.
    pub fn boot(&mut self, limit: Duration) -> Result<Booted, WorkerError> {
        self.channel.sender.send(&ToWorker::Boot, Attached::default())?;
        match self.answer(limit)? {
            FromWorker::Booted(booted) => Ok(booted),
            other => Err(unexpected(&other)),
        }
    }

    /// Restores the function from the snapshot in `directory`; with `record` its pages are recorded for the strategies
    /// that use recordings and have none.
    ///
    /// # Errors
    /// [`WorkerError::Failed`] when the snapshot or the strategy can't be used here.
    pub fn restore(
        &mut self,
        directory: &Path,
        strategy: RestoreStrategy,
        record: bool,
    ) -> Result<Restored, WorkerError> {
        let mut attached = Attached::default();
        let snapshot = attached.attach(open_directory(directory)?);
        let record_into = match record {
            true => Some(attached.attach(open_directory(directory)?)),
            false => None,
        };
        let request =
            RestoreRequest { snapshot, strategy: strategy.name().to_owned(), record_into, credentials: None };
        self.channel.sender.send(&ToWorker::Restore(request), attached)?;
        match self.answer(RESTORE_LIMIT)? {
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
        let mut attached = Attached::default();
        let into = attached.attach(open_directory(parent)?);
        self.channel.sender.send(&ToWorker::Snapshot { into }, attached)?;
        match self.answer(SNAPSHOT_LIMIT)? {
            FromWorker::Snapshotted(snapshotted) => Ok(snapshotted),
            other => Err(unexpected(&other)),
        }
    }

    /// The request's timeline with what the worker measured, whose clock is this machine's too.
    ///
    /// # Errors
    /// [`WorkerError::Timeline`] when the worker's record can't be read.
    pub fn timeline(&self, measured: &worker_protocol::Timeline) -> Result<Timeline, WorkerError> {
        let mut whole: Timeline = postcard::from_bytes(&measured.0).map_err(WorkerError::Timeline)?;
        let shift = whole.request_at_ns.saturating_sub(self.timeline.request_at_ns);
        for phase in &mut whole.phases {
            phase.start_ns = phase.start_ns.saturating_add(shift);
            phase.end_ns = phase.end_ns.saturating_add(shift);
        }
        whole.request_at_ns = self.timeline.request_at_ns;
        let mut phases = self.timeline.phases.clone();
        phases.append(&mut whole.phases);
        phases.sort_by_key(|phase| phase.end_ns);
        whole.phases = phases;
        Ok(whole)
    }

    /// Ends the instance and waits until its process is gone.
    ///
    /// # Errors
    /// [`WorkerError`] when the process does not end by itself; it is killed then.
    pub fn stop(mut self) -> Result<(), WorkerError> {
        self.channel.sender.send(&ToWorker::Stop, Attached::default())?;
        while let Some(received) = self.channel.receiver.receive_within(GRACE)? {
            if let FromWorker::Log { stream, bytes } = received.message {
                (self.log)(stream, &bytes);
            }
        }
        self.child.wait().map_err(WorkerError::Wait)?;
        Ok(())
    }

    /// The next message that is no log, within `limit` and some grace.
    fn answer(&mut self, limit: Duration) -> Result<FromWorker, WorkerError> {
        loop {
            match self.channel.receiver.receive_within(limit + GRACE)? {
                None => return Err(WorkerError::Ended { status: self.how_it_ended() }),
                Some(Received { message: FromWorker::Log { stream, bytes }, .. }) => {
                    (self.log)(stream, &bytes);
                }
                Some(Received { message: FromWorker::Failed(failure), .. }) => {
                    return Err(WorkerError::Failed(failure));
                }
                Some(Received { message, .. }) => return Ok(message),
            }
        }
    }

    fn how_it_ended(&mut self) -> String {
        self.child.wait().map_or_else(|error| error.to_string(), |status| status.to_string())
    }
}

impl Drop for FunctionWorker {
    fn drop(&mut self) {
        // Either fails when the worker has ended already, which is as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn unexpected(message: &FromWorker) -> WorkerError {
    match message {
        FromWorker::Exited(exit) => WorkerError::ProgramEnded(*exit),
        _ => WorkerError::OutOfTurn,
    }
}

fn open_directory(path: &Path) -> Result<OwnedFd, WorkerError> {
    let opened: io::Result<File> = File::open(path);
    Ok(opened.map_err(|source| WorkerError::Open { path: path.to_owned(), source })?.into())
}
