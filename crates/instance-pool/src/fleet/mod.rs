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
//! invocations is served by fewer instances than it has requests. Only where no instance runs that could be sooner is a job promised
//! to a start: then the start and the job's beginning can be one.

mod concurrency;
mod group;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::time::Duration;

use store::FunctionName;

use crate::call::Throttle;
use crate::deployed::Key;
use crate::policy::{Candidate, IdleHistogram, Policy, Windows, least_recently_used};
use concurrency::Concurrency;
use group::{Ahead, Group};

/// An instance, from its start to its end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct InstanceId(u64);

/// What the driver has to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action<J> {
    /// Start an instance; [`Fleet::ready`], [`Fleet::start_failed`] or [`Fleet::is_needed`]'s no follows.
    Start { instance: InstanceId, key: Key },
    /// Give an instance a job; [`Fleet::finished`] or [`Fleet::returned`] follows.
    Run { instance: InstanceId, job: J },
    /// End an instance; nothing follows.
    Stop { instance: InstanceId },
    /// Tell a job that no instance came to be.
    Fail { job: J, why: NoInstance },
}

/// Why a job that was taken got no instance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NoInstance {
    /// Its start failed: the driver knows why.
    StartFailed,
    /// There was no memory for one.
    Memory,
}

/// Bytes that are to be had on this machine; asked only when an instance is to be started.
pub(crate) type Room<'a> = &'a dyn Fn() -> u64;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// `ahead`: for no job yet.
    Starting {
        ahead: bool,
    },
    /// Being started, with its first job in hand.
    Promised,
    Idle {
        since: Duration,
        until: Duration,
    },
    Busy,
}

#[derive(Debug)]
struct Instance {
    key: Key,
    state: State,
    bytes: u64,
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
    /// Bytes that all instances are taken to need.
    pub bytes: u64,
}

/// All instances and all waiting jobs.
#[derive(Debug)]
pub(crate) struct Fleet<J> {
    policy: Policy,
    groups: HashMap<Key, Group<J>>,
    instances: HashMap<InstanceId, Instance>,
    concurrency: Concurrency,
    next: u64,
    /// Of all instances.
    bytes: u64,
    /// Of those that are being started, whose memory the machine does not show yet.
    starting_bytes: u64,
    /// Idle instances that were ended to make room.
    evicted: u64,
    /// What an earlier pool has learnt of versions that were not called yet.
    remembered: HashMap<Key, IdleHistogram>,
    /// Versions that have come to have nothing left, neither an instance nor a job nor a plan.
    emptied: Vec<Key>,
}

impl<J> Fleet<J> {
    pub fn new(policy: Policy, account: u32) -> Self {
        Self {
            policy,
            groups: HashMap::new(),
            instances: HashMap::new(),
            concurrency: Concurrency::new(account),
            next: 0,
            bytes: 0,
            starting_bytes: 0,
            evicted: 0,
            remembered: HashMap::new(),
            emptied: Vec::new(),
        }
    }

    /// Takes over what an earlier pool has learnt.
    pub fn remember(&mut self, histories: impl IntoIterator<Item = (Key, IdleHistogram)>) {
        self.remembered.extend(histories);
    }

    /// What is known of versions' idle times.
    pub fn histories(&self) -> impl Iterator<Item = (&Key, &IdleHistogram)> {
        let called = self.groups.iter().map(|(key, group)| (key, &group.history));
        called.chain(&self.remembered).filter(|(_, history)| !history.is_empty())
    }

    /// A job has come for a version that may use `limit` bytes.
    pub fn submit(
        &mut self,
        key: &Key,
        limit: u64,
        job: J,
        now: Duration,
        room: Room<'_>,
    ) -> Result<Vec<Action<J>>, (J, Throttle)> {
        if let Err(throttle) = self.concurrency.enter(key.name()) {
            return Err((job, throttle));
        }
        if !self.groups.contains_key(key) {
            let history = self.remembered.remove(key).unwrap_or_default();
            self.groups.insert(key.clone(), Group::new(limit, history));
        }
        let Some(group) = self.groups.get_mut(key) else { return Ok(Vec::new()) };
        if let Some(instance) = group.idle.pop() {
            group.busy += 1;
            self.work_came(key, now);
            self.set(instance, State::Busy);
            return Ok(vec![Action::Run { instance, job }]);
        }
        let mut actions = Vec::new();
        if group.starting <= group.queue.len() {
            let bytes = group.bytes;
            let Some(stops) = self.make_room(bytes, room) else {
                self.concurrency.leave(key.name());
                return Err((job, Throttle::Memory));
            };
            actions = stops;
            actions.push(self.start(key, false));
        }
        self.work_came(key, now);
        if let Some(group) = self.groups.get_mut(key) {
            group.queue.push_back(job);
        }
        Ok(actions)
    }

    /// An instance takes its first job, if it has none yet.
    pub fn ready(&mut self, instance: InstanceId, now: Duration) -> Vec<Action<J>> {
        let promised = self.is_promised(instance);
        let Some(key) = self.leave(instance) else { return Vec::new() };
        match self.groups.get_mut(&key).filter(|_| promised) {
            Some(group) => {
                group.busy += 1;
                self.set(instance, State::Busy);
                Vec::new()
            }
            None => self.next_job(instance, &key, now),
        }
    }

    fn is_promised(&self, instance: InstanceId) -> bool {
        self.instances.get(&instance).is_some_and(|instance| instance.state == State::Promised)
    }

    /// Gives an instance its first job while it is being started, which [`Self::ready`] then does not give. `None` when nobody
    /// waits, or when an instance runs: it may be free sooner.
    pub fn promise(&mut self, instance: InstanceId) -> Option<J> {
        let Instance { key, state: state @ State::Starting { .. }, .. } =
            self.instances.get_mut(&instance)?
        else {
            return None;
        };
        let group = self.groups.get_mut(key).filter(|group| group.busy == 0)?;
        let job = group.queue.pop_front()?;
        group.starting = group.starting.saturating_sub(1);
        group.promised += 1;
        *state = State::Promised;
        Some(job)
    }

    /// Whether an instance whose start has not begun yet is still of use; if not, it is forgotten.
    pub fn is_needed(&mut self, instance: InstanceId) -> bool {
        let Some(Instance { key, state: State::Starting { ahead }, .. }) = self.instances.get(&instance)
        else {
            return false;
        };
        let surplus = self.groups.get(key).is_some_and(|group| group.starting > group.queue.len());
        if *ahead || !surplus {
            return true;
        }
        if let Some(key) = self.leave(instance) {
            self.remove(instance);
            self.tidy(&key);
        }
        false
    }

    /// An instance could not be started. The job that it was promised is the driver's to answer; without one, the job that waits
    /// longest hears of it.
    pub fn start_failed(&mut self, instance: InstanceId, now: Duration, room: Room<'_>) -> Vec<Action<J>> {
        let promised = self.is_promised(instance);
        let Some(key) = self.leave(instance) else { return Vec::new() };
        self.remove(instance);
        let mut actions = Vec::new();
        if promised {
            self.concurrency.leave(key.name());
        } else if let Some(job) = self.groups.get_mut(&key).and_then(|group| group.queue.pop_front()) {
            self.concurrency.leave(key.name());
            actions.push(Action::Fail { job, why: NoInstance::StartFailed });
        }
        actions.extend(self.ensure_starts(&key, room));
        actions.extend(self.rest(&key, now));
        actions
    }

    /// A job is done, and its instance had `memory` bytes in use, when that is known; with `sound` it takes another job.
    pub fn finished(
        &mut self,
        instance: InstanceId,
        sound: bool,
        memory: Option<u64>,
        now: Duration,
        room: Room<'_>,
    ) -> Vec<Action<J>> {
        let Some(key) = self.leave(instance) else { return Vec::new() };
        self.concurrency.leave(key.name());
        if let Some((memory, group)) = memory.zip(self.groups.get_mut(&key)) {
            let seen = group.learn(memory);
            self.reckon(instance, seen);
        }
        if sound {
            return self.next_job(instance, &key, now);
        }
        self.remove(instance);
        let mut actions = vec![Action::Stop { instance }];
        actions.extend(self.ensure_starts(&key, room));
        actions.extend(self.rest(&key, now));
        actions
    }

    /// An instance was gone before its job had begun: the job comes first in its queue again.
    pub fn returned(&mut self, instance: InstanceId, job: J, room: Room<'_>) -> Vec<Action<J>> {
        let Some(key) = self.leave(instance) else { return Vec::new() };
        self.remove(instance);
        if let Some(group) = self.groups.get_mut(&key) {
            group.queue.push_front(job);
        }
        let mut actions = vec![Action::Stop { instance }];
        actions.extend(self.ensure_starts(&key, room));
        actions
    }

    /// An instance without work has ended by itself.
    pub fn ended(&mut self, instance: InstanceId) -> Vec<Action<J>> {
        match self.instances.get(&instance) {
            Some(Instance { state: State::Idle { .. }, .. }) => self.stop(instance),
            _ => Vec::new(),
        }
    }

    /// Ends the instances whose time is up, and starts those that are to be made ready ahead of their jobs.
    pub fn tick(&mut self, now: Duration, room: Room<'_>) -> Vec<Action<J>> {
        let due = |state: State| matches!(state, State::Idle { until, .. } if until <= now);
        let all: Vec<_> =
            self.instances.iter().filter(|(_, instance)| due(instance.state)).map(|(id, _)| *id).collect();
        let mut actions: Vec<_> = all.into_iter().flat_map(|instance| self.stop(instance)).collect();
        let mut ahead = Vec::new();
        for (key, group) in &mut self.groups {
            match group.ahead {
                Ahead::Planned { at, until } if at <= now => {
                    group.ahead = Ahead::Made { until };
                    if group.is_empty() && !group.retired && until > now {
                        ahead.push((key.clone(), group.bytes));
                    }
                }
                _ => {}
            }
        }
        for (key, bytes) in ahead {
            // A guess is no reason to end anybody.
            if self.free(room) >= bytes {
                actions.push(self.start(&key, true));
            } else {
                self.tidy(&key);
            }
        }
        actions
    }

    /// When [`Self::tick`] has something to do next.
    pub fn next_tick(&self) -> Option<Duration> {
        let idle = self.instances.values().filter_map(|instance| match instance.state {
            State::Idle { until, .. } => Some(until),
            State::Starting { .. } | State::Promised | State::Busy => None,
        });
        let ahead = self.groups.values().filter_map(|group| match group.ahead {
            Ahead::Planned { at, .. } => Some(at),
            Ahead::No | Ahead::Made { .. } => None,
        });
        idle.chain(ahead).min()
    }

    /// No more work is expected for the versions that `matches` says: idle instances end now, busy ones with their job.
    pub fn retire(&mut self, matches: impl Fn(&Key) -> bool) -> Vec<Action<J>> {
        self.remembered.retain(|key, _| !matches(key));
        let (mut idle, mut keys) = (Vec::new(), Vec::new());
        for (key, group) in self.groups.iter_mut().filter(|(key, _)| matches(key)) {
            group.retired = true;
            group.ahead = Ahead::No;
            idle.extend(group.idle.iter().copied());
            keys.push(key.clone());
        }
        let actions = idle.into_iter().flat_map(|instance| self.stop(instance)).collect();
        keys.iter().for_each(|key| self.tidy(key));
        actions
    }

    /// Sets a function's reserved concurrency.
    pub fn reserve(&mut self, name: &FunctionName, reserved: Option<u32>) {
        self.concurrency.reserve(name, reserved);
    }

    /// How many there are.
    pub fn census(&self) -> Census {
        let mut census = Census { bytes: self.bytes, ..Census::default() };
        for group in self.groups.values() {
            census.starting += group.starting + group.promised;
            census.idle += group.idle.len();
            census.busy += group.busy;
            census.waiting += group.queue.len();
        }
        census
    }

    /// Invocations that run or wait.
    pub fn running(&self) -> u32 {
        self.concurrency.running()
    }

    /// Idle instances that were ended to make room, since the beginning.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Bytes that may be had without ending anybody.
    fn free(&self, room: Room<'_>) -> u64 {
        let machine = room().saturating_sub(self.starting_bytes);
        self.policy.budget.map_or(machine, |budget| machine.min(budget.saturating_sub(self.bytes)))
    }

    /// Ends as many idle instances as it takes; `None` when it would not help.
    fn make_room(&mut self, bytes: u64, room: Room<'_>) -> Option<Vec<Action<J>>> {
        let lacking = bytes.saturating_sub(self.free(room));
        if lacking == 0 {
            return Some(Vec::new());
        }
        let candidate = |(id, instance): (&InstanceId, &Instance)| match instance.state {
            State::Idle { since, .. } => Some(Candidate { id: *id, last_used: since, bytes: instance.bytes }),
            State::Starting { .. } | State::Promised | State::Busy => None,
        };
        let victims = least_recently_used(self.instances.iter().filter_map(candidate).collect(), lacking)?;
        self.evicted += victims.len() as u64;
        Some(victims.into_iter().flat_map(|instance| self.stop(instance)).collect())
    }

    fn start(&mut self, key: &Key, ahead: bool) -> Action<J> {
        let instance = InstanceId(self.next);
        self.next += 1;
        let mut bytes = 0;
        if let Some(group) = self.groups.get_mut(key) {
            group.starting += 1;
            bytes = group.bytes;
        }
        self.bytes += bytes;
        self.starting_bytes += bytes;
        self.instances
            .insert(instance, Instance { key: key.clone(), state: State::Starting { ahead }, bytes });
        Action::Start { instance, key: key.clone() }
    }

    /// A function that was idle is not any more.
    fn work_came(&mut self, key: &Key, now: Duration) {
        let Some(group) = self.groups.get_mut(key) else { return };
        if let Some(since) = group.idle_since.take() {
            self.policy.observe(&mut group.history, now.saturating_sub(since));
        }
        group.ahead = Ahead::No;
    }

    fn set(&mut self, instance: InstanceId, state: State) {
        if let Some(instance) = self.instances.get_mut(&instance) {
            instance.state = state;
        }
    }

    /// Corrects what an instance is taken to need.
    fn reckon(&mut self, instance: InstanceId, bytes: u64) {
        if let Some(instance) = self.instances.get_mut(&instance) {
            self.bytes = self.bytes.saturating_sub(instance.bytes) + bytes;
            instance.bytes = bytes;
        }
    }

    /// Takes an instance out of its group's counts.
    fn leave(&mut self, instance: InstanceId) -> Option<Key> {
        let Instance { key, state, bytes } = self.instances.get(&instance)?;
        let group = self.groups.get_mut(key)?;
        match state {
            State::Starting { .. } => {
                group.starting = group.starting.saturating_sub(1);
                self.starting_bytes = self.starting_bytes.saturating_sub(*bytes);
            }
            State::Promised => {
                group.promised = group.promised.saturating_sub(1);
                self.starting_bytes = self.starting_bytes.saturating_sub(*bytes);
            }
            State::Busy => group.busy = group.busy.saturating_sub(1),
            State::Idle { .. } => group.idle.retain(|idle| *idle != instance),
        }
        Some(key.clone())
    }

    /// Forgets an instance that has left its group.
    fn remove(&mut self, instance: InstanceId) {
        if let Some(instance) = self.instances.remove(&instance) {
            self.bytes = self.bytes.saturating_sub(instance.bytes);
        }
    }

    fn stop(&mut self, instance: InstanceId) -> Vec<Action<J>> {
        let Some(key) = self.leave(instance) else { return Vec::new() };
        self.remove(instance);
        self.tidy(&key);
        vec![Action::Stop { instance }]
    }

    fn next_job(&mut self, instance: InstanceId, key: &Key, now: Duration) -> Vec<Action<J>> {
        let Some(group) = self.groups.get_mut(key) else { return Vec::new() };
        if let Some(job) = group.queue.pop_front() {
            group.busy += 1;
            self.set(instance, State::Busy);
            return vec![Action::Run { instance, job }];
        }
        if group.retired {
            self.remove(instance);
            self.tidy(key);
            return vec![Action::Stop { instance }];
        }
        let Windows { pre_warm, keep_alive } = self.policy.windows(&group.history);
        let until = match group.ahead {
            Ahead::Made { until } => until,
            Ahead::No | Ahead::Planned { .. } => now.saturating_add(pre_warm).saturating_add(keep_alive),
        };
        group.idle.push(instance);
        self.set(instance, State::Idle { since: now, until });
        self.rest(key, now)
    }

    /// When a function has nothing to do any more: plans the instance that is made ready ahead of the next job, and ends the
    /// others if that is what its history advises.
    fn rest(&mut self, key: &Key, now: Duration) -> Vec<Action<J>> {
        let Some(group) = self.groups.get_mut(key) else { return Vec::new() };
        let mut actions = Vec::new();
        if group.is_idle() && group.idle_since.is_none() {
            group.idle_since = Some(now);
            let Windows { pre_warm, keep_alive } = self.policy.windows(&group.history);
            if !pre_warm.is_zero() && !group.retired {
                let at = now.saturating_add(pre_warm);
                group.ahead = Ahead::Planned { at, until: at.saturating_add(keep_alive) };
                let idle = group.idle.clone();
                actions.extend(idle.into_iter().flat_map(|instance| self.stop(instance)));
            }
        }
        self.tidy(key);
        actions
    }

    /// Starts an instance for each job that has none. Where there is no room for any, the job hears of it.
    fn ensure_starts(&mut self, key: &Key, room: Room<'_>) -> Vec<Action<J>> {
        let mut actions = Vec::new();
        while let Some(group) = self.groups.get(key).filter(|group| group.starting < group.queue.len()) {
            let (bytes, others) = (group.bytes, group.starting + group.promised + group.busy);
            if let Some(stops) = self.make_room(bytes, room) {
                actions.extend(stops);
                actions.push(self.start(key, false));
            } else if others > 0 {
                // The others take it when they are done.
                break;
            } else if let Some(job) = self.groups.get_mut(key).and_then(|group| group.queue.pop_front()) {
                self.concurrency.leave(key.name());
                actions.push(Action::Fail { job, why: NoInstance::Memory });
            }
        }
        actions
    }

    /// Takes note of a version that has nothing left, and forgets it when it is retired.
    fn tidy(&mut self, key: &Key) {
        let Some(group) = self.groups.get(key).filter(|group| group.has_nothing_left()) else { return };
        if group.retired {
            self.groups.remove(key);
        }
        self.emptied.push(key.clone());
    }

    /// The versions that have come to have nothing left since the last call, and still have nothing.
    pub fn take_emptied(&mut self) -> Vec<Key> {
        let mut emptied = std::mem::take(&mut self.emptied);
        emptied.retain(|key| self.groups.get(key).is_none_or(Group::has_nothing_left));
        emptied
    }
}
