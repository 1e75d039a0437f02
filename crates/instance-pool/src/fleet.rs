//! Which instance does what: all of the pool's decisions as a state machine. What happened goes in, what is to be done comes
//! out. No I/O, no clock.
//!
//! ```text
//!   submit ──► queue ──► Run ◄── idle ◄──┐
//!                │        ▲       ▲      │ finished, sound
//!                ▼        │       │      │
//!              Start ──► ready ───┘    busy ──► finished, unsound ──► Stop
//! ```
//!
//! Every waiting job has a start behind it; whichever instance becomes free first takes the first job, so a burst of short
//! invocations is served by fewer instances than it has requests.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use store::FunctionName;

use crate::call::Throttle;
use crate::deployed::Key;

/// An instance, from its start to its end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct InstanceId(u64);

/// What the driver has to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action<J> {
    /// Start an instance; [`Fleet::ready`] or [`Fleet::start_failed`] follows.
    Start { instance: InstanceId, key: Key },
    /// Give an instance a job; [`Fleet::finished`] or [`Fleet::returned`] follows.
    Run { instance: InstanceId, job: J },
    /// End an instance; nothing follows.
    Stop { instance: InstanceId },
    /// Tell a job that no instance came to be.
    Fail { job: J },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Starting,
    Idle { since: Duration },
    Busy,
}

#[derive(Debug)]
struct Instance {
    key: Key,
    state: State,
}

#[derive(Debug)]
struct Group<J> {
    queue: VecDeque<J>,
    /// Most recently used last.
    idle: Vec<InstanceId>,
    starting: usize,
    busy: usize,
    /// No new work is expected: instances end with what they do.
    retired: bool,
}

impl<J> Default for Group<J> {
    fn default() -> Self {
        Self { queue: VecDeque::new(), idle: Vec::new(), starting: 0, busy: 0, retired: false }
    }
}

impl<J> Group<J> {
    fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.idle.is_empty() && self.starting == 0 && self.busy == 0
    }
}

/// How many instances there are, and what they do.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Census {
    /// Being started.
    pub starting: usize,
    /// Waiting for work.
    pub idle: usize,
    /// Running an invocation.
    pub busy: usize,
    /// Invocations that wait for an instance.
    pub waiting: usize,
}

/// All instances and all waiting jobs.
#[derive(Debug)]
pub(crate) struct Fleet<J> {
    groups: HashMap<Key, Group<J>>,
    instances: HashMap<InstanceId, Instance>,
    concurrency: Concurrency,
    next: u64,
}

impl<J> Fleet<J> {
    pub fn new(account: u32) -> Self {
        Self {
            groups: HashMap::new(),
            instances: HashMap::new(),
            concurrency: Concurrency { account, ..Concurrency::default() },
            next: 0,
        }
    }

    /// A job has come.
    pub fn submit(&mut self, key: &Key, job: J) -> Result<Vec<Action<J>>, (J, Throttle)> {
        if let Err(throttle) = self.concurrency.enter(key.name()) {
            return Err((job, throttle));
        }
        if !self.groups.contains_key(key) {
            self.groups.insert(key.clone(), Group::default());
        }
        let Some(group) = self.groups.get_mut(key) else { return Ok(Vec::new()) };
        if let Some(instance) = group.idle.pop() {
            group.busy += 1;
            self.set(instance, State::Busy);
            return Ok(vec![Action::Run { instance, job }]);
        }
        group.queue.push_back(job);
        Ok(self.ensure_starts(key))
    }

    /// An instance takes its first job.
    pub fn ready(&mut self, instance: InstanceId, now: Duration) -> Vec<Action<J>> {
        let Some(key) = self.leave(instance) else { return Vec::new() };
        self.next_job(instance, &key, now)
    }

    /// An instance could not be started. The job that waits longest hears of it.
    pub fn start_failed(&mut self, instance: InstanceId) -> Vec<Action<J>> {
        let Some(key) = self.leave(instance) else { return Vec::new() };
        self.instances.remove(&instance);
        let job = self.groups.get_mut(&key).and_then(|group| group.queue.pop_front());
        let mut actions = Vec::new();
        if let Some(job) = job {
            self.concurrency.leave(key.name());
            actions.push(Action::Fail { job });
        }
        actions.extend(self.ensure_starts(&key));
        self.tidy(&key);
        actions
    }

    /// A job is done; with `sound` the instance takes another one.
    pub fn finished(&mut self, instance: InstanceId, sound: bool, now: Duration) -> Vec<Action<J>> {
        let Some(key) = self.leave(instance) else { return Vec::new() };
        self.concurrency.leave(key.name());
        if sound {
            return self.next_job(instance, &key, now);
        }
        self.instances.remove(&instance);
        let mut actions = vec![Action::Stop { instance }];
        actions.extend(self.ensure_starts(&key));
        self.tidy(&key);
        actions
    }

    /// An instance was gone before its job had begun: the job comes first in its queue again.
    pub fn returned(&mut self, instance: InstanceId, job: J) -> Vec<Action<J>> {
        let Some(key) = self.leave(instance) else { return Vec::new() };
        self.instances.remove(&instance);
        if let Some(group) = self.groups.get_mut(&key) {
            group.queue.push_front(job);
        }
        let mut actions = vec![Action::Stop { instance }];
        actions.extend(self.ensure_starts(&key));
        actions
    }

    /// An instance without work has ended by itself.
    pub fn ended(&mut self, instance: InstanceId) -> Vec<Action<J>> {
        let idle = matches!(self.instances.get(&instance), Some(Instance { state: State::Idle { .. }, .. }));
        if !idle {
            return Vec::new();
        }
        let Some(key) = self.leave(instance) else { return Vec::new() };
        self.instances.remove(&instance);
        self.tidy(&key);
        vec![Action::Stop { instance }]
    }

    /// Ends the instances that have been idle for `keep_alive`.
    pub fn expire(&mut self, keep_alive: Duration, now: Duration) -> Vec<Action<J>> {
        let due =
            |state: State| matches!(state, State::Idle { since } if now.saturating_sub(since) >= keep_alive);
        let all: Vec<_> =
            self.instances.iter().filter(|(_, instance)| due(instance.state)).map(|(id, _)| *id).collect();
        all.into_iter().flat_map(|instance| self.ended(instance)).collect()
    }

    /// When the next idle instance became idle.
    pub fn oldest_idle(&self) -> Option<Duration> {
        let since = |instance: &Instance| match instance.state {
            State::Idle { since } => Some(since),
            State::Starting | State::Busy => None,
        };
        self.instances.values().filter_map(since).min()
    }

    /// No more work is expected for the versions that `matches` says: idle instances end now, busy ones with their job.
    pub fn retire(&mut self, matches: impl Fn(&Key) -> bool) -> Vec<Action<J>> {
        let mut idle = Vec::new();
        for (_, group) in self.groups.iter_mut().filter(|(key, _)| matches(key)) {
            group.retired = true;
            idle.extend(group.idle.iter().copied());
        }
        idle.into_iter().flat_map(|instance| self.ended(instance)).collect()
    }

    /// Sets a function's reserved concurrency.
    pub fn reserve(&mut self, name: &FunctionName, reserved: Option<u32>) {
        self.concurrency.reserve(name, reserved);
    }

    /// How many there are.
    pub fn census(&self) -> Census {
        let mut census = Census::default();
        for group in self.groups.values() {
            census.starting += group.starting;
            census.idle += group.idle.len();
            census.busy += group.busy;
            census.waiting += group.queue.len();
        }
        census
    }

    fn set(&mut self, instance: InstanceId, state: State) {
        if let Some(instance) = self.instances.get_mut(&instance) {
            instance.state = state;
        }
    }

    /// Takes an instance out of its group's counts.
    fn leave(&mut self, instance: InstanceId) -> Option<Key> {
        let Instance { key, state } = self.instances.get(&instance)?;
        let group = self.groups.get_mut(key)?;
        match state {
            State::Starting => group.starting = group.starting.saturating_sub(1),
            State::Busy => group.busy = group.busy.saturating_sub(1),
            State::Idle { .. } => group.idle.retain(|idle| *idle != instance),
        }
        Some(key.clone())
    }

    fn next_job(&mut self, instance: InstanceId, key: &Key, now: Duration) -> Vec<Action<J>> {
        let Some(group) = self.groups.get_mut(key) else { return Vec::new() };
        if let Some(job) = group.queue.pop_front() {
            group.busy += 1;
            self.set(instance, State::Busy);
            return vec![Action::Run { instance, job }];
        }
        if group.retired {
            self.instances.remove(&instance);
            self.tidy(key);
            return vec![Action::Stop { instance }];
        }
        group.idle.push(instance);
        self.set(instance, State::Idle { since: now });
        Vec::new()
    }

    fn ensure_starts(&mut self, key: &Key) -> Vec<Action<J>> {
        let Some(group) = self.groups.get_mut(key) else { return Vec::new() };
        let mut actions = Vec::new();
        while group.starting < group.queue.len() {
            group.starting += 1;
            let instance = InstanceId(self.next);
            self.next += 1;
            self.instances.insert(instance, Instance { key: key.clone(), state: State::Starting });
            actions.push(Action::Start { instance, key: key.clone() });
        }
        actions
    }

    fn tidy(&mut self, key: &Key) {
        if self.groups.get(key).is_some_and(Group::is_empty) {
            self.groups.remove(key);
        }
    }
}

/// Who may run how many at once (AWS's reserved and unreserved concurrency).
#[derive(Debug, Default)]
struct Concurrency {
    account: u32,
    reserved: HashMap<FunctionName, u32>,
    running: HashMap<FunctionName, u32>,
}

impl Concurrency {
    fn enter(&mut self, name: &FunctionName) -> Result<(), Throttle> {
        let running = self.running.get(name).copied().unwrap_or_default();
        match self.reserved.get(name) {
            Some(reserved) if running >= *reserved => return Err(Throttle::Reserved),
            Some(_) => {}
            None => {
                let all: u32 = self.reserved.values().sum();
                let others = self.running.iter().filter(|(name, _)| !self.reserved.contains_key(*name));
                let unreserved: u32 = others.map(|(_, running)| running).sum();
                if unreserved >= self.account.saturating_sub(all) {
                    return Err(Throttle::Account);
                }
            }
        }
        match self.running.get_mut(name) {
            Some(running) => *running += 1,
            None => drop(self.running.insert(name.clone(), 1)),
        }
        Ok(())
    }

    fn leave(&mut self, name: &FunctionName) {
        if let Some(running) = self.running.get_mut(name) {
            *running = running.saturating_sub(1);
            if *running == 0 {
                self.running.remove(name);
            }
        }
    }

    fn reserve(&mut self, name: &FunctionName, reserved: Option<u32>) {
        match reserved {
            Some(reserved) => drop(self.reserved.insert(name.clone(), reserved)),
            None => drop(self.reserved.remove(name)),
        }
    }
}
