//! The pool as a node sees it, and the driver of the fleet's decisions.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use restore::Timeline;
use store::{FunctionName, SnapshotEntry, Store};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::call::{Call, Refused, Reply, SnapshotFailed, StreamingReply};
use crate::deployed::{Deployed, Key};
use crate::fleet::{Action, Census, Fleet, InstanceId};
use crate::instance::{self, AnswerTo, Job};
use crate::log::{InstanceLog, LogReceiver};
use crate::recordings::Recordings;
use crate::settings::PoolSettings;
use crate::start::{self, NotBorn};

/// Instances of functions. A handle; clones mean the same pool.
#[derive(Clone)]
pub struct Pool(Arc<Core>);

/// What the pool holds and did.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Statistics {
    /// Instances by what they do now.
    pub instances: Census,
}

/// What the tasks of a pool share.
pub(crate) struct Core {
    pub settings: PoolSettings,
    pub store: Store,
    pub log: Arc<dyn LogReceiver>,
    pub recordings: Recordings,
    state: Mutex<State>,
    /// Versions whose snapshot is being taken by the pool itself.
    snapshotting: Mutex<HashSet<Key>>,
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
        let state = State {
            fleet: Fleet::new(settings.concurrency),
            instances: HashMap::new(),
            deployed: HashMap::new(),
            shutting_down: false,
        };
        let core = Arc::new(Core {
            settings,
            store,
            log,
            recordings: Recordings::default(),
            state: Mutex::new(state),
            snapshotting: Mutex::default(),
            changed: Notify::new(),
            began: Instant::now(),
        });
        tokio::spawn(core.clone().keep_house());
        Self(core)
    }

    /// Invokes a function and waits for its whole answer. Giving up waiting does not stop the function.
    ///
    /// # Errors
    /// [`Refused`]: the function surely did not run.
    pub async fn invoke(&self, target: Arc<Deployed>, call: Call) -> Result<Reply, Refused> {
        let (sender, receiver) = oneshot::channel();
        self.0.submit(target, Job { call, answer: AnswerTo::Whole(sender) })?;
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
        self.0.submit(target, Job { call, answer: AnswerTo::Streaming(sender) })?;
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

    /// What the pool holds and did.
    pub fn statistics(&self) -> Statistics {
        Statistics { instances: self.0.state.lock().fleet.census() }
    }

    /// Takes no more calls, waits until the running ones have ended, and ends all instances.
    pub async fn shut_down(&self) {
        self.0.state.lock().shutting_down = true;
        self.0.change(|state, _| state.fleet.retire(|_| true));
        while self.0.holds_anything() {
            let changed = self.0.changed.notified();
            // Somebody may have ended in between.
            let _ = tokio::time::timeout(Duration::from_millis(100), changed).await;
        }
    }
}

impl Core {
    fn submit(self: &Arc<Self>, target: Arc<Deployed>, job: Job) -> Result<(), Refused> {
        let mut state = self.state.lock();
        if state.shutting_down {
            return Err(Refused::ShuttingDown);
        }
        let key = target.key().clone();
        let actions = match state.fleet.submit(&key, Box::new(job)) {
            Ok(actions) => actions,
            Err((_, throttle)) => return Err(Refused::Throttled(throttle)),
        };
        state.deployed.insert(key, target);
        self.apply(&mut state, actions);
        Ok(())
    }

    /// An instance takes its first job.
    pub fn ready(self: &Arc<Self>, instance: InstanceId) {
        self.change(|state, now| state.fleet.ready(instance, now));
    }

    /// A job is done.
    pub fn finished(self: &Arc<Self>, instance: InstanceId, sound: bool) {
        self.change(|state, now| state.fleet.finished(instance, sound, now));
    }

    /// A job's instance was gone before the job began.
    pub fn returned(self: &Arc<Self>, instance: InstanceId, job: Box<Job>) {
        self.change(|state, _| state.fleet.returned(instance, job));
    }

    /// An instance without work has ended.
    pub fn ended(self: &Arc<Self>, instance: InstanceId) {
        self.change(|state, _| state.fleet.ended(instance));
    }

    /// An instance could not be started.
    pub fn start_failed(self: &Arc<Self>, instance: InstanceId, deployed: &Deployed, why: NotBorn) {
        let mut failed = Vec::new();
        self.change(|state, _| {
            let (fail, others) = state
                .fleet
                .start_failed(instance)
                .into_iter()
                .partition(|action| matches!(action, Action::Fail { .. }));
            failed = fail;
            state.instances.remove(&instance);
            others
        });
        if let Some(Action::Fail { job }) = failed.pop() {
            let answer = why.answer(deployed, &job.call);
            job.answer(answer);
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
                    let timeline = Timeline::start();
                    tokio::spawn(instance::live(self.clone(), instance, deployed, timeline, receiver));
                }
                Action::Run { instance, job } => {
                    if let Some(sender) = state.instances.get(&instance) {
                        // The task takes its channel to the end before it goes.
                        let _ = sender.send(job);
                    }
                }
                Action::Stop { instance } => drop(state.instances.remove(&instance)),
                Action::Fail { job } => job.answer(Err(Refused::ShuttingDown)),
            }
        }
    }

    fn holds_anything(&self) -> bool {
        let census = self.state.lock().fleet.census();
        census != Census::default()
    }

    /// Ends what has been idle for too long.
    async fn keep_house(self: Arc<Self>) {
        let keep_alive = self.settings.keep_alive;
        loop {
            let (oldest, over) = {
                let state = self.state.lock();
                (state.fleet.oldest_idle(), state.shutting_down)
            };
            if over {
                return;
            }
            let changed = self.changed.notified();
            match oldest {
                None => changed.await,
                Some(since) => {
                    let left = (since + keep_alive).saturating_sub(self.began.elapsed());
                    tokio::time::sleep(left).await;
                    self.change(|state, now| state.fleet.expire(keep_alive, now));
                }
            }
        }
    }

    /// Takes a snapshot in the background when that is allowed and nobody does.
    pub fn snapshot_soon(self: &Arc<Self>, deployed: &Arc<Deployed>) {
        let wanted =
            deployed.snap_start || (self.settings.automatic_snapshots && deployed.automatic_snapshot);
        if !wanted
            || self.state.lock().shutting_down
            || !self.snapshotting.lock().insert(deployed.key().clone())
        {
            return;
        }
        let (core, deployed) = (self.clone(), deployed.clone());
        tokio::spawn(async move {
            if let Err(error) = core.snapshot(&deployed).await {
                let (function, error) = (deployed.name(), start::chain(&error));
                tracing::warn!(%function, error, "no snapshot was taken: cold starts stay boots");
            }
            core.snapshotting.lock().remove(deployed.key());
        });
    }

    async fn snapshot(self: &Arc<Self>, deployed: &Arc<Deployed>) -> Result<SnapshotEntry, SnapshotFailed> {
        let log = InstanceLog::new(self.log.clone(), deployed.clone());
        start::snapshot(self, deployed, &log).await
    }
}
