//! One request to one instance, measured and its answer checked.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use function_worker::{
    FunctionWorker, INIT_LIMIT, LogSink, REGION, RecentRestores, RestoreOptions, Role, SpareWorker,
    WorkerError, machine_kind,
};
use parking_lot::Mutex;
use restore::{Phase, RestoreStrategy, Timeline};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use serde_json::Value;
use uuid::Uuid;
use worker_protocol::{Answer, Invoke, Record};

use crate::catalogue::{Input, Subject};
use crate::error::BenchError;
use crate::memory_use::MemoryUse;
use crate::mode::{Files, How};
use crate::page_cache::SnapshotFiles;

/// Bytes of a worker's log that are kept for an error.
const LOG_KEPT: usize = 2000;

/// What one request took.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// From the request to the complete answer, seen from where the request came from.
    pub total_ns: u64,
    /// What it went into.
    pub timeline: Timeline,
    /// What the instance held when it had answered; only measured when its files were cold before.
    pub memory: Option<MemoryUse>,
}

/// What went wrong with a request, before it is known which one it was.
enum Trouble {
    Worker(Box<WorkerError>, Log),
    Wrong(Vec<u8>),
    FellBack(String),
    Bench(BenchError),
}

impl From<BenchError> for Trouble {
    fn from(error: BenchError) -> Self {
        Self::Bench(error)
    }
}

/// The end of what worker and function log.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<VecDeque<u8>>>);

impl Log {
    fn sink(&self) -> LogSink {
        let log = self.0.clone();
        Box::new(move |_, bytes| {
            let mut log = log.lock();
            log.extend(bytes);
            let surplus = log.len().saturating_sub(LOG_KEPT);
            log.drain(..surplus);
        })
    }

    fn text(&self) -> String {
        let bytes: Vec<u8> = self.0.lock().iter().copied().collect();
        String::from_utf8_lossy(&bytes).trim().to_owned()
    }

    fn failed(&self) -> impl Fn(WorkerError) -> Trouble {
        let log = self.clone();
        move |error| Trouble::Worker(Box::new(error), log.clone())
    }
}

/// A function with an input: what a request is about.
#[derive(Clone, Copy)]
pub(crate) struct Request<'a> {
    pub subject: &'a Subject,
    pub input: &'a Input,
}

impl Request<'_> {
    fn invoke(&self) -> Invoke {
        let function = &self.subject.function.function;
        Invoke {
            request_id: Uuid::new_v4().to_string(),
            payload: ByteBuf::from(self.input.event.get().as_bytes()),
            timeout: Duration::from_secs(function.config.timeout.get().into()),
            invoked_function_arn: format!("arn:aws:lambda:{REGION}:000000000000:function:{}", function.name),
            trace_id: None,
            client_context: None,
            cognito_identity: None,
            tenant_id: None,
            streaming: false,
        }
    }

    fn check(&self, answer: Answer) -> Result<Answer, Trouble> {
        match self.is_right(&answer.payload) && !answer.ending.is_function_error() {
            true => Ok(answer),
            false => Err(Trouble::Wrong(answer.payload.into_vec())),
        }
    }

    fn is_right(&self, payload: &[u8]) -> bool {
        let answer = serde_json::from_slice::<Value>(payload).unwrap_or_default();
        answer.get("checksum").and_then(Value::as_str) == Some(self.input.checksum.as_str())
    }

    /// Makes sure that an answer which came otherwise carries the right checksum.
    pub fn check_payload(&self, mode: &str, payload: &[u8]) -> Result<(), BenchError> {
        match self.is_right(payload) {
            true => Ok(()),
            false => Err(self.error(mode, Trouble::Wrong(payload.to_vec()))),
        }
    }

    fn error(&self, mode: &str, trouble: Trouble) -> BenchError {
        let (function, mode) = (self.subject.name.clone(), mode.to_owned());
        let input = self.input.label.clone();
        match trouble {
            Trouble::Worker(source, log) => {
                BenchError::Worker { function, mode, input, log: log.text(), source }
            }
            Trouble::Wrong(payload) => BenchError::WrongAnswer {
                function,
                mode,
                input,
                expected: self.input.checksum.clone(),
                answer: String::from_utf8_lossy(&payload).chars().take(500).collect(),
            },
            Trouble::FellBack(reason) => BenchError::FellBack { function, mode, reason },
            Trouble::Bench(error) => error,
        }
    }

    /// Restores an instance from `snapshot` and asks it. `started` hears the number of a ready worker's process before the
    /// request comes.
    pub fn restored(
        &self,
        snapshot: &Path,
        how: &How,
        started: impl Fn(u32) -> Result<(), BenchError>,
    ) -> Result<Measured, BenchError> {
        self.try_restored(snapshot, how, started).map_err(|trouble| self.error(&how.name, trouble))
    }

    fn try_restored(
        &self,
        snapshot: &Path,
        how: &How,
        started: impl Fn(u32) -> Result<(), BenchError>,
    ) -> Result<Measured, Trouble> {
        let log = Log::default();
        let ready = match how.ready_worker {
            true => Some(self.subject.worker_for(&[snapshot], how).map_err(log.failed())?),
            false => None,
        };
        if let Some(worker) = &ready {
            started(worker.process_id())?;
        }
        let files = SnapshotFiles::open(snapshot)?;
        match how.files {
            Files::Cold => files.drop_from_cache()?,
            Files::Cached => files.bring_into_cache()?,
        }
        let timeline = Timeline::start();
        let clock = timeline.clone();
        let worker = match ready {
            Some(worker) => worker,
            None => self.subject.worker().map_err(log.failed())?,
        };
        let role = Role::latest(true);
        let mut worker =
            worker.configure(&self.subject.function, &role, log.sink(), timeline).map_err(log.failed())?;
        let answered = worker.restore_and_invoke(snapshot, &how.options, self.invoke());
        let total_ns = clock.now_ns();
        let (_, answer) = answered.map_err(log.failed())?;
        let memory = match how.files {
            Files::Cold => Some(MemoryUse::of(worker.process_id(), &files)?),
            Files::Cached => None,
        };
        let answer = self.check(answer)?;
        let timeline = worker.timeline(&answer.timeline).map_err(log.failed())?;
        let recording = timeline.recorded;
        if let Some(reason) = &timeline.fell_back
            && !recording
        {
            return Err(Trouble::FellBack(reason.clone()));
        }
        let timeline = worker.stop_measured(timeline).map_err(log.failed())?;
        Ok(Measured { total_ns, timeline, memory })
    }

    /// Restores an instance in `worker` and asks it: when the request was sent and when it was answered, by the host's
    /// monotonic clock in nanoseconds, and the instance.
    pub fn answered(
        &self,
        worker: SpareWorker,
        snapshot: &Path,
        how: &How,
    ) -> Result<(u64, u64, FunctionWorker), BenchError> {
        let ask = || -> Result<_, Trouble> {
            let log = Log::default();
            let timeline = Timeline::start();
            let clock = timeline.clone();
            let role = Role::latest(true);
            let function = &self.subject.function;
            let mut worker = worker.configure(function, &role, log.sink(), timeline).map_err(log.failed())?;
            let answered = worker.restore_and_invoke(snapshot, &how.options, self.invoke());
            let total_ns = clock.now_ns();
            let answer = self.check(answered.map_err(log.failed())?.1)?;
            if let Some(reason) = worker.timeline(&answer.timeline).map_err(log.failed())?.fell_back {
                return Err(Trouble::FellBack(reason));
            }
            Ok((clock.request_at_ns, clock.request_at_ns + total_ns, worker))
        };
        ask().map_err(|trouble| self.error(&how.name, trouble))
    }

    /// A worker that could not even be started.
    pub fn worker_error(&self, how: &How, source: WorkerError) -> BenchError {
        self.error(&how.name, Trouble::Worker(Box::new(source), Log::default()))
    }

    /// Boots an instance and asks it.
    pub fn booted(&self, mode: &str) -> Result<Measured, BenchError> {
        self.try_booted().map_err(|trouble| self.error(mode, trouble))
    }

    fn try_booted(&self) -> Result<Measured, Trouble> {
        let log = Log::default();
        let worker = self.subject.ready_worker().map_err(log.failed())?;
        let timeline = Timeline::start();
        let clock = timeline.clone();
        let role = Role::latest(false);
        let mut worker =
            worker.configure(&self.subject.function, &role, log.sink(), timeline).map_err(log.failed())?;
        worker.boot(INIT_LIMIT).map_err(log.failed())?;
        let answered = worker.invoke(self.invoke());
        let total_ns = clock.now_ns();
        let answer = self.check(answered.map_err(log.failed())?)?;
        let timeline = worker.timeline(&answer.timeline).map_err(log.failed())?;
        worker.stop().map_err(log.failed())?;
        Ok(Measured { total_ns, timeline, memory: None })
    }
}

/// An instance that stays.
pub(crate) struct WarmInstance {
    worker: FunctionWorker,
    log: Log,
}

impl WarmInstance {
    /// Restores one by reading all of memory, so that it maps no file of the snapshot: mapped pages can't be dropped from
    /// the page cache. It is asked once.
    pub fn start(request: Request<'_>, snapshot: &Path) -> Result<Self, BenchError> {
        let start = || -> Result<Self, Trouble> {
            let log = Log::default();
            let worker = request.subject.ready_worker().map_err(log.failed())?;
            let (role, timeline) = (Role::latest(true), Timeline::start());
            let mut worker = worker
                .configure(&request.subject.function, &role, log.sink(), timeline)
                .map_err(log.failed())?;
            let options = RestoreOptions::by(RestoreStrategy::Eager);
            let answered = worker.restore_and_invoke(snapshot, &options, request.invoke());
            request.check(answered.map_err(log.failed())?.1)?;
            Ok(Self { worker, log })
        };
        start().map_err(|trouble| request.error("warm", trouble))
    }

    /// Asks it again.
    pub fn ask(&mut self, request: Request<'_>) -> Result<Measured, BenchError> {
        let mut ask = || -> Result<Measured, Trouble> {
            let invoke = request.invoke();
            let mut timeline = Timeline::start();
            let answered = self.worker.invoke(invoke);
            let total_ns = timeline.now_ns();
            timeline.record(Phase::Answered, 0, total_ns);
            request.check(answered.map_err(self.log.failed())?)?;
            Ok(Measured { total_ns, timeline, memory: None })
        };
        ask().map_err(|trouble| request.error("warm", trouble))
    }

    pub fn stop(self) -> Result<(), WorkerError> {
        self.worker.stop()
    }
}

/// Restores with recording, so that a strategy has what it needs; what was recorded is published beside the snapshot.
pub(crate) fn recorded(
    request: Request<'_>,
    snapshot: &Path,
    strategy: RestoreStrategy,
    started: impl Fn(u32) -> Result<(), BenchError>,
) -> Result<Measured, BenchError> {
    let mut how = How::cold(&format!("{strategy}, recording"), strategy);
    how.options.record = Record::Again;
    request.restored(snapshot, &how, started)
}

impl Subject {
    /// A worker for its kind of guest.
    fn worker(&self) -> Result<SpareWorker, WorkerError> {
        SpareWorker::start(machine_kind(&self.function.function.config))
    }

    /// The same, which has made its machine.
    fn ready_worker(&self) -> Result<SpareWorker, WorkerError> {
        let mut worker = self.worker()?;
        worker.wait_ready()?;
        Ok(worker)
    }

    /// The same, which has also made ready what is of use to `how`, as those of a node do that has restored `snapshots` lately.
    pub fn worker_for(&self, snapshots: &[&Path], how: &How) -> Result<SpareWorker, WorkerError> {
        let mut worker = self.ready_worker()?;
        if how.options.strategy == RestoreStrategy::FaaSnap {
            let mut recent = RecentRestores::default();
            let machine = machine_kind(&self.function.function.config);
            snapshots.iter().for_each(|snapshot| recent.note(snapshot, machine));
            worker.wait_memory_ready(recent.likely_pages(machine))?;
        }
        Ok(worker)
    }
}

/// Boots the function and writes its snapshot below `parent`, in a folder named `snapshot`.
pub(crate) fn snapshotted(request: Request<'_>, parent: &Path) -> Result<(), BenchError> {
    let write = || -> Result<(), Trouble> {
        let log = Log::default();
        let worker = request.subject.ready_worker().map_err(log.failed())?;
        let (role, timeline) = (Role::latest(true), Timeline::start());
        let mut worker =
            worker.configure(&request.subject.function, &role, log.sink(), timeline).map_err(log.failed())?;
        worker.boot(INIT_LIMIT).map_err(log.failed())?;
        worker.snapshot(parent).map_err(log.failed())?;
        worker.stop().map_err(log.failed())
    };
    write().map_err(|trouble| request.error("making the snapshot", trouble))
}
