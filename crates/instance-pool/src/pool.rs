//! The pool as a node sees it, and the driver of the fleet's decisions.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use restore::Timeline;
use store::{FunctionName, SnapshotEntry, Store, StoreError};
use tokio::sync::{Notify, Semaphore, SemaphorePermit, mpsc, oneshot};

use crate::admission::Admission;
use crate::call::{Call, Refused, Reply, SnapshotFailed, StreamingReply, Throttle};
use crate::deployed::{Deployed, Key};
use crate::fleet::{Action, Census, Fleet, InstanceId, NoInstance};
use crate::histories;
use crate::instance::{self, AnswerTo, Job};
use crate::log::{InstanceLog, LogReceiver, LogTap};
use crate::policy::Keep;
use crate::recordings::Recordings;
use crate::settings::PoolSettings;
use crate::spares::Spares;
use crate::start::{self, NotBorn};

/// Longest time between two looks at what has become due.
const HOUSE_KEEPING: Duration = Duration::from_secs(1);
/// Workers that may be lost over a snapshot, until it counts as failed.
const SNAPSHOT_ATTEMPTS: u8 = 3;
/// Time until the next attempt: what killed the one worker may be about to kill others.
const SNAPSHOT_PAUSE: Duration = Duration::from_millis(500);

/// Instances of functions. A handle; clones mean the same pool.
#[derive(Clone)]
pub struct Pool(Arc<Core>);

/// What the pool holds and did.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Statistics {
    /// Instances by what they do now.
    pub instances: Census,
    /// Invocations that run or wait for an instance.
    pub running: u32,
    /// Worker processes without a function.
    pub spare_workers: usize,
    /// Since the beginning: instances that were booted.
    pub booted: u64,
    /// Since the beginning: instances that were restored.
    pub restored: u64,
    /// Since the beginning: instances that could not be started.
    pub failed_starts: u64,
    /// Since the beginning: instances without work that were ended to make room.
    pub evicted: u64,
    /// Since the beginning: workers that ended or fell silent within an invocation.
    pub crashed: u64,
    /// Since the beginning: snapshots that were taken.
    pub snapshots: u64,
}

/// What happened since the beginning.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub booted: AtomicU64,
    pub restored: AtomicU64,
    pub failed_starts: AtomicU64,
    pub crashed: AtomicU64,
    pub snapshots: AtomicU64,
}

/// One more.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// What the tasks of a pool share.
pub(crate) struct Core {
    pub settings: PoolSettings,
    pub store: Store,
    pub log: Arc<dyn LogReceiver>,
    pub recordings: Recordings,
    pub spares: Arc<Spares>,
    pub counters: Counters,
    admission: Admission,
    /// For starting instances.
    starts: Semaphore,
    /// Instances and snapshots under way: each holds a clone.
    alive: Arc<()>,
    state: Mutex<State>,
    /// Versions whose snapshot is being taken by the pool itself.
    snapshotting: Mutex<HashSet<Key>>,
    /// The home takes more than its quota: no snapshots that nobody asked for.
    over_quota: AtomicBool,
    /// An instance became idle, ended, or the pool shuts down.
    changed: Notify,
    began: Instant,
}

struct State {
    fleet: Fleet<Box<Job>>,
    /// The way to each instance; closing it ends the instance.
    instances: HashMap<InstanceId, mpsc::UnboundedSender<Box<Job>>>,
    deployed: HashMap<Key, Arc<Deployed>>,
    shutting_down: bool,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Pool").field("statistics", &self.statistics()).finish_non_exhaustive()
    }
}

impl Pool {
    /// A pool without instances. To be called, like everything else here, within a tokio runtime.
    pub fn start(settings: PoolSettings, store: Store, log: Arc<dyn LogReceiver>) -> Self {
        let mut fleet = Fleet::new(settings.policy.clone(), settings.concurrency);
        fleet.remember(histories::load(&store, &settings.policy));
        let state =
            State { fleet, instances: HashMap::new(), deployed: HashMap::new(), shutting_down: false };
        let spares = Arc::new(Spares::new(settings.worker_program.clone(), settings.spare_workers));
        tokio::spawn(spares.clone().keep(store.clone()));
        let core = Arc::new(Core {
            spares,
            counters: Counters::default(),
            admission: Admission::new(settings.memory_reserve),
            starts: Semaphore::new(settings.starts_at_once.max(1)),
            alive: Arc::new(()),
            settings,
            store,
            log,
            recordings: Recordings::default(),
            state: Mutex::new(state),
            snapshotting: Mutex::default(),
            over_quota: AtomicBool::new(false),
            changed: Notify::new(),
            began: Instant::now(),
        });
        tokio::spawn(core.clone().keep_house());
        tokio::spawn(core.clone().keep_disk());
        Self(core)
    }

    /// Invokes a function and waits for its whole answer. Giving up waiting does not stop the function.
    ///
    /// # Errors
    /// [`Refused`]: the function surely did not run.
    pub async fn invoke(&self, target: Arc<Deployed>, call: Call) -> Result<Reply, Refused> {
        self.invoke_watched(target, call, None).await
    }

    /// As [`Self::invoke`]; all of the invocation's log goes to `log` while it is written.
    ///
    /// # Errors
    /// [`Refused`]: the function surely did not run.
    pub async fn invoke_watched(
        &self,
        target: Arc<Deployed>,
        call: Call,
        log: Option<LogTap>,
    ) -> Result<Reply, Refused> {
        let (sender, receiver) = oneshot::channel();
        self.0.submit(target, Job { call, answer: AnswerTo::Whole(sender), log, attempts: 0 })?;
        receiver.await.unwrap_or(Err(Refused::ShuttingDown))
    }

    /// Invokes a function and gives its answer as it comes. Waits until the answer has begun or the invocation is over.
    ///
    /// # Errors
    /// [`Refused`]: the function surely did not run.
    pub async fn invoke_streaming(
        &self,
        target: Arc<Deployed>,
        call: Call,
    ) -> Result<StreamingReply, Refused> {
        let (sender, receiver) = oneshot::channel();
        self.0.submit(target, Job { call, answer: AnswerTo::Streaming(sender), log: None, attempts: 0 })?;
        receiver.await.unwrap_or(Err(Refused::ShuttingDown))
    }

    /// Takes a snapshot from an instance booted for it, within the limits of publishing a SnapStart version.
    ///
    /// # Errors
    /// [`SnapshotFailed`].
    pub async fn snapshot(&self, target: Arc<Deployed>) -> Result<SnapshotEntry, SnapshotFailed> {
        self.0.snapshot(&target).await
    }

    /// No more calls are expected for a function, or for one version of it: its instances end when they have nothing to do.
    pub fn retire(&self, function: &FunctionName, version: Option<&str>) {
        self.0.change(|state, _| {
            state.fleet.retire(|key| {
                key.name() == function && version.is_none_or(|version| version == key.version())
            })
        });
    }

    /// Sets a function's reserved concurrency: it may run that many invocations at once, and nobody else may use them.
    pub fn reserve(&self, function: &FunctionName, reserved: Option<u32>) {
        self.0.state.lock().fleet.reserve(function, reserved);
    }

    /// Waits until what functions have logged so far is where it is found again, though this process be killed.
    pub async fn log_kept(&self) {
        let (sender, receiver) = oneshot::channel();
        self.0.log.when_kept(Box::new(move || {
            // Whoever waited may have gone.
            let _ = sender.send(());
        }));
        // A receiver that is gone keeps nothing any more.
        let _ = receiver.await;
    }

    /// What the pool holds and did.
    pub fn statistics(&self) -> Statistics {
        let Counters { booted, restored, failed_starts, crashed, snapshots } = &self.0.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let state = self.0.state.lock();
        Statistics {
            instances: state.fleet.census(),
            running: state.fleet.running(),
            spare_workers: self.0.spares.count(),
            booted: read(booted),
            restored: read(restored),
            failed_starts: read(failed_starts),
            evicted: state.fleet.evicted(),
            crashed: read(crashed),
            snapshots: read(snapshots),
        }
    }

    /// Takes no more calls, waits until the running ones have ended, and ends all instances.
    pub async fn shut_down(&self) {
        self.0.state.lock().shutting_down = true;
        let core = self.0.clone();
        // A runtime that ends does without.
        let _ = start::blocking(move || core.keep_histories()).await;
        self.0.change(|state, _| state.fleet.retire(|_| true));
        while Arc::strong_count(&self.0.alive) > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Core {
    fn submit(self: &Arc<Self>, target: Arc<Deployed>, job: Job) -> Result<(), Refused> {
        let (now, limit) = (self.began.elapsed(), target.function.function.config.memory.bytes());
        let mut state = self.state.lock();
        if state.shutting_down {
            return Err(Refused::ShuttingDown);
        }
        let key = target.key();
        let submitted = state.fleet.submit(key, limit, Box::new(job), now, &|| self.admission.room());
        let actions = submitted.map_err(|(_, throttle)| Refused::Throttled(throttle))?;
        if !state.deployed.get(key).is_some_and(|known| Arc::ptr_eq(known, &target)) {
            state.deployed.insert(key.clone(), target);
        }
        self.apply(&mut state, actions);
        Ok(())
    }

    /// An instance takes its first job.
    pub fn ready(self: &Arc<Self>, instance: InstanceId) {
        self.change(|state, now| state.fleet.ready(instance, now));
    }

    /// Waits for the turn to start; `None` when the instance is not needed any more.
    pub async fn may_start(self: &Arc<Self>, instance: InstanceId) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed.
        let permit = self.starts.acquire().await.ok()?;
        let mut state = self.state.lock();
        let needed = state.fleet.is_needed(instance);
        if !needed {
            state.instances.remove(&instance);
        }
        needed.then_some(permit)
    }

    /// A job is done; its instance had `memory` bytes in use, when that is known.
    pub fn finished(self: &Arc<Self>, instance: InstanceId, sound: bool, memory: Option<u64>) {
        self.change(|state, now| {
            state.fleet.finished(instance, sound, memory, now, &|| self.admission.room())
        });
    }

    /// A job's instance was gone before the job began.
    pub fn returned(self: &Arc<Self>, instance: InstanceId, job: Box<Job>) {
        self.change(|state, _| state.fleet.returned(instance, job, &|| self.admission.room()));
    }

    /// An instance without work has ended.
    pub fn ended(self: &Arc<Self>, instance: InstanceId) {
        self.change(|state, _| state.fleet.ended(instance));
    }

    /// The first job of an instance that is being started, unless an instance that runs may be sooner.
    pub fn promise(&self, instance: InstanceId) -> Option<Box<Job>> {
        self.state.lock().fleet.promise(instance)
    }

    /// An instance could not be started, which had been promised a job or not.
    pub fn start_failed(
        self: &Arc<Self>,
        instance: InstanceId,
        deployed: &Deployed,
        log: &InstanceLog,
        why: NotBorn,
        promised: Option<Box<Job>>,
    ) {
        let mut failed = None;
        count(&self.counters.failed_starts);
        self.change(|state, now| {
            let actions = state.fleet.start_failed(instance, now, &|| self.admission.room());
            let mut others = Vec::new();
            for action in actions {
                match action {
                    Action::Fail { job, why: NoInstance::StartFailed } => failed = Some(job),
                    other => others.push(other),
                }
            }
            state.instances.remove(&instance);
            others
        });
        if let Some(job) = promised.or(failed) {
            log.begin(job.log);
            let answer = why.answer(deployed, &job.call);
            job.answer.send(answer);
        }
    }

    fn change(self: &Arc<Self>, decide: impl FnOnce(&mut State, Duration) -> Vec<Action<Box<Job>>>) {
        let now = self.began.elapsed();
        let mut state = self.state.lock();
        let actions = decide(&mut state, now);
        self.apply(&mut state, actions);
        drop(state);
        self.changed.notify_waiters();
    }

    fn apply(self: &Arc<Self>, state: &mut State, actions: Vec<Action<Box<Job>>>) {
        for action in actions {
            match action {
                Action::Start { instance, key } => {
                    let Some(deployed) = state.deployed.get(&key).cloned() else { continue };
                    let (sender, receiver) = mpsc::unbounded_channel();
                    state.instances.insert(instance, sender);
                    let (timeline, alive) = (Timeline::start(), self.alive.clone());
                    let life = instance::live(self.clone(), instance, deployed, timeline, receiver);
                    tokio::spawn(async move {
                        life.await;
                        drop(alive);
                    });
                }
                Action::Run { instance, job } => {
                    if let Some(sender) = state.instances.get(&instance) {
                        // The task takes its channel to the end before it goes.
                        let _ = sender.send(job);
                    }
                }
                Action::Stop { instance } => drop(state.instances.remove(&instance)),
                Action::Fail { job, why } => job.answer.send(Err(match why {
                    NoInstance::Memory => Refused::Throttled(Throttle::Memory),
                    NoInstance::StartFailed => Refused::NotStarted { reason: "its start failed".to_owned() },
                })),
            }
        }
        // A version without instances holds no files: its next call brings them again.
        for key in state.fleet.take_emptied() {
            state.deployed.remove(&key);
        }
    }

    /// Ends what has been idle for too long, and starts what is to be ready ahead.
    async fn keep_house(self: Arc<Self>) {
        loop {
            let changed = self.changed.notified();
            let (next, over) = {
                let state = self.state.lock();
                (state.fleet.next_tick(), state.shutting_down)
            };
            if over {
                return;
            }
            match next {
                None => changed.await,
                Some(at) => {
                    // What became due sooner meanwhile waits for at most this long.
                    let wait = at.saturating_sub(self.began.elapsed()).min(HOUSE_KEEPING);
                    tokio::time::sleep(wait.max(Duration::from_millis(1))).await;
                    self.change(|state, now| state.fleet.tick(now, &|| self.admission.room()));
                }
            }
        }
    }

    /// Keeps what was learnt for the next pool of this home.
    fn keep_histories(&self) {
        if !matches!(self.settings.policy.keep, Keep::Histogram(_)) {
            return;
        }
        let records = histories::records(self.state.lock().fleet.histories());
        if let Err(error) = self.store.keep_idle_times(&records) {
            tracing::warn!(error = start::chain(&error), "idle times can't be kept");
        }
    }

    /// Removes snapshots that nobody uses or that there is no room for, and keeps what was learnt.
    async fn keep_disk(self: Arc<Self>) {
        while !self.state.lock().shutting_down {
            let core = self.clone();
            let look = move || {
                core.keep_histories();
                core.store.retain(&core.settings.retention)
            };
            match start::blocking(look).await {
                Ok(Ok(retained)) => {
                    for (function, snapshot) in &retained.removed {
                        tracing::info!(%function, %snapshot, "a snapshot was removed: unused, or no room for it");
                    }
                    if retained.over_quota {
                        let bytes = retained.bytes;
                        tracing::warn!(
                            bytes,
                            "the home takes more than its quota and nothing is left that may go"
                        );
                    }
                    self.over_quota.store(retained.over_quota, Ordering::Relaxed);
                }
                Ok(Err(error)) => {
                    tracing::warn!(error = start::chain(&error), "what is kept on disk can't be looked at");
                }
                Err(_) => return,
            }
            tokio::time::sleep(self.settings.retention_every).await;
        }
    }

    /// Takes a snapshot in the background when that is allowed and nobody does.
    pub fn snapshot_soon(self: &Arc<Self>, deployed: &Arc<Deployed>) {
        let automatic = self.settings.automatic_snapshots && deployed.automatic_snapshot;
        let room = !self.over_quota.load(Ordering::Relaxed);
        let wanted = deployed.snap_start || (automatic && room);
        if !wanted
            || self.state.lock().shutting_down
            || !self.snapshotting.lock().insert(deployed.key().clone())
        {
            return;
        }
        let (core, deployed, alive) = (self.clone(), deployed.clone(), self.alive.clone());
        tokio::spawn(async move {
            let _alive = alive;
            let function = deployed.name();
            match core.snapshot(&deployed).await {
                Ok(_) => {}
                Err(SnapshotFailed::Store(StoreError::NoFunction(_) | StoreError::Outdated(_))) => {
                    tracing::debug!(%function, "it was changed or removed while a snapshot of it was taken");
                }
                Err(error) => {
                    let error = start::chain(&error);
                    tracing::warn!(%function, error, "no snapshot was taken: cold starts stay boots");
                }
            }
            core.snapshotting.lock().remove(deployed.key());
        });
    }

    async fn snapshot(self: &Arc<Self>, deployed: &Arc<Deployed>) -> Result<SnapshotEntry, SnapshotFailed> {
        let log = InstanceLog::new(self.log.clone(), deployed.clone());
        let mut taken = start::snapshot(self, deployed, &log).await;
        for _ in 1..SNAPSHOT_ATTEMPTS {
            // Its worker may have been killed: neither the function nor the next worker can help that.
            let Err(SnapshotFailed::NotStarted { reason }) = &taken else { break };
            tracing::warn!(function = %deployed.name(), reason, "a snapshot is tried again");
            tokio::time::sleep(SNAPSHOT_PAUSE).await;
            taken = start::snapshot(self, deployed, &log).await;
        }
        log.end();
        let entry = taken?;
        count(&self.counters.snapshots);
        Ok(entry)
    }
}
