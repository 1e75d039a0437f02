//! The fleet under arbitrary sequences of events: no job is lost, answered twice or left waiting; limits hold.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;
use store::TreeDigest;

use super::*;
use crate::policy::{HistogramSettings, Keep};

fn key(function: usize) -> Key {
    Key::new(format!("f{function}").parse().unwrap(), "1".to_owned(), TreeDigest::of_bytes(b""))
}

#[derive(Clone, Debug)]
enum Step {
    Submit(usize),
    /// The n-th instance that is being started may have its job already.
    Promise(usize),
    /// The n-th instance that is being started becomes ready, or fails.
    Start(usize, bool),
    /// The n-th busy instance has done its job, soundly or not.
    Finish(usize, bool),
    /// The n-th busy instance was gone before its job.
    Return(usize),
    /// The n-th idle instance has ended.
    End(usize),
    Wait(u64),
    Retire(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_usize..3).prop_map(Step::Submit),
        1 => (0_usize..8).prop_map(Step::Promise),
        3 => (0_usize..8, prop::bool::weighted(0.8)).prop_map(|(n, good)| Step::Start(n, good)),
        3 => (0_usize..8, prop::bool::weighted(0.8)).prop_map(|(n, good)| Step::Finish(n, good)),
        1 => (0_usize..8).prop_map(Step::Return),
        1 => (0_usize..8).prop_map(Step::End),
        1 => (0_u64..4000).prop_map(Step::Wait),
        1 => (0_usize..3).prop_map(Step::Retire),
    ]
}

fn policy() -> impl Strategy<Value = Policy> {
    let keep = prop_oneof![
        Just(Keep::Fixed(Duration::from_secs(600))),
        Just(Keep::Forever),
        Just(Keep::Histogram(HistogramSettings { least: 1, ..HistogramSettings::default() })),
    ];
    let budget = prop::option::of((100_u64 << 20)..(600 << 20));
    (keep, budget).prop_map(|(keep, budget)| Policy { keep, budget })
}

/// What the driver knows.
#[derive(Default)]
struct World {
    starting: Vec<InstanceId>,
    promised: HashMap<InstanceId, u32>,
    busy: HashMap<InstanceId, u32>,
    alive: HashSet<InstanceId>,
    answered: HashSet<u32>,
    of: HashMap<InstanceId, Key>,
}

impl World {
    fn apply(&mut self, actions: Vec<Action<u32>>) {
        for action in actions {
            match action {
                Action::Start { instance, key } => {
                    assert!(self.alive.insert(instance));
                    self.starting.push(instance);
                    self.of.insert(instance, key);
                }
                Action::Run { instance, job } => {
                    assert!(self.alive.contains(&instance) && !self.starting.contains(&instance));
                    assert!(self.busy.insert(instance, job).is_none(), "an instance got two jobs");
                    assert!(!self.answered.contains(&job));
                }
                Action::Stop { instance } => {
                    assert!(!self.busy.contains_key(&instance), "a busy instance was stopped");
                    self.alive.remove(&instance);
                }
                Action::Fail { job, .. } => assert!(self.answered.insert(job), "answered twice"),
            }
        }
    }

    fn pick<T: Copy + Ord>(of: impl Iterator<Item = T>, n: usize) -> Option<T> {
        let mut all: Vec<T> = of.collect();
        all.sort();
        if all.is_empty() { None } else { all.get(n % all.len()).copied() }
    }

    fn promise(&mut self, fleet: &mut Fleet<u32>, n: usize) {
        let Some(instance) = Self::pick(self.starting.iter().copied(), n) else { return };
        let Some(job) = fleet.promise(instance) else { return };
        let key = &self.of[&instance];
        assert!(self.busy.keys().all(|other| self.of[other] != *key), "one that runs may be sooner");
        assert!(self.promised.insert(instance, job).is_none(), "an instance got two jobs");
    }

    fn start(&mut self, fleet: &mut Fleet<u32>, n: usize, good: bool, now: Duration) {
        let Some(instance) = Self::pick(self.starting.iter().copied(), n) else { return };
        self.starting.retain(|other| *other != instance);
        let promised = self.promised.remove(&instance);
        if promised.is_none() && !fleet.is_needed(instance) {
            self.alive.remove(&instance);
            return;
        }
        let actions = if good {
            fleet.ready(instance, now)
        } else {
            self.alive.remove(&instance);
            fleet.start_failed(instance, now, &|| u64::MAX)
        };
        match promised {
            Some(job) if good => {
                assert!(actions.is_empty(), "it has its job");
                self.busy.insert(instance, job);
            }
            Some(job) => assert!(self.answered.insert(job), "answered twice"),
            None => {}
        }
        self.apply(actions);
    }

    fn finish(&mut self, fleet: &mut Fleet<u32>, n: usize, good: bool, now: Duration) {
        let Some(instance) = Self::pick(self.busy.keys().copied(), n) else { return };
        let job = self.busy.remove(&instance).unwrap();
        assert!(self.answered.insert(job), "answered twice");
        let actions = fleet.finished(instance, good, Some(30 << 20), now, &|| u64::MAX);
        self.apply(actions);
    }
}

proptest! {
    #[test]
    fn every_job_is_answered_once_and_limits_hold(
        policy in policy(), steps in prop::collection::vec(step(), 0..120),
    ) {
        const ACCOUNT: u32 = 6;
        let mut fleet = Fleet::new(policy.clone(), ACCOUNT);
        fleet.reserve(&"f0".parse().unwrap(), Some(2));
        let mut world = World::default();
        let (mut now, mut next, mut taken) = (Duration::ZERO, 0_u32, 0_usize);
        for step in steps {
            now += Duration::from_millis(10);
            match step {
                Step::Submit(function) => {
                    let job = next;
                    next += 1;
                    if let Ok(actions) = fleet.submit(&key(function), 128 << 20, job, now, &|| u64::MAX) {
                        taken += 1;
                        world.apply(actions);
                    }
                }
                Step::Promise(n) => world.promise(&mut fleet, n),
                Step::Start(n, good) => world.start(&mut fleet, n, good, now),
                Step::Finish(n, good) => world.finish(&mut fleet, n, good, now),
                Step::Return(n) => {
                    if let Some(instance) = World::pick(world.busy.keys().copied(), n) {
                        let job = world.busy.remove(&instance).unwrap();
                        let actions = fleet.returned(instance, job, &|| u64::MAX);
                        world.apply(actions);
                    }
                }
                Step::End(n) => {
                    let idle = |id: &InstanceId| !world.busy.contains_key(id) && !world.starting.contains(id);
                    if let Some(instance) = World::pick(world.alive.iter().copied().filter(idle), n) {
                        world.apply(fleet.ended(instance));
                    }
                }
                Step::Wait(seconds) => {
                    now += Duration::from_secs(seconds);
                    world.apply(fleet.tick(now, &|| u64::MAX));
                }
                Step::Retire(function) => world.apply(fleet.retire(|other| *other == key(function))),
            }
            let census = fleet.census();
            prop_assert!(fleet.running() <= ACCOUNT);
            let held = world.busy.len() + world.promised.len();
            prop_assert_eq!(taken, world.answered.len() + held + census.waiting);
            prop_assert_eq!((census.starting, census.busy), (world.starting.len(), world.busy.len()));
            prop_assert_eq!(census.starting + census.busy + census.idle, world.alive.len());
            // Whoever waits has a start or a busy instance to wait for.
            prop_assert!(census.waiting == 0 || census.starting + census.busy > 0);
        }
        // Left alone, everything comes to an end.
        while !world.starting.is_empty() || !world.busy.is_empty() {
            world.start(&mut fleet, 0, true, now);
            world.finish(&mut fleet, 0, true, now);
        }
        prop_assert_eq!(world.answered.len(), taken);
        prop_assert_eq!(fleet.running(), 0);
        world.apply(fleet.retire(|_| true));
        prop_assert_eq!(fleet.census(), Census::default());
        prop_assert!(world.alive.is_empty());
    }
}

#[test]
fn a_start_that_nobody_needs_any_more_is_not_begun() {
    let room = || u64::MAX;
    let mut fleet = Fleet::new(Policy::fixed(Duration::from_secs(60)), 10);
    let mut started = Vec::new();
    for job in 0..3 {
        for action in fleet.submit(&key(0), 128 << 20, job, Duration::ZERO, &room).unwrap() {
            let Action::Start { instance, .. } = action else { panic!("{action:?}") };
            started.push(instance);
        }
    }
    assert_eq!(started.len(), 3);
    // The first takes all three jobs while the others wait for their turn.
    assert!(fleet.is_needed(started[0]));
    fleet.ready(started[0], Duration::ZERO);
    for _ in 0..2 {
        let run = fleet.finished(started[0], true, None, Duration::ZERO, &room);
        assert!(matches!(run.as_slice(), [Action::Run { .. }]));
    }
    assert!(!fleet.is_needed(started[1]) && !fleet.is_needed(started[2]));
    assert_eq!(fleet.census().starting, 0);
}

#[test]
fn without_memory_a_call_is_refused_and_the_idle_go_first() {
    let mut fleet = Fleet::new(Policy { keep: Keep::Forever, budget: Some(100 << 20) }, 10);
    let room = || u64::MAX;
    let start = |actions: Vec<Action<u32>>| {
        actions.into_iter().find_map(|action| match action {
            Action::Start { instance, .. } => Some(instance),
            _ => None,
        })
    };
    let first = start(fleet.submit(&key(0), 32 << 20, 0, Duration::ZERO, &room).unwrap()).unwrap();
    fleet.ready(first, Duration::ZERO);
    let refused = fleet.submit(&key(1), 128 << 20, 1, Duration::ZERO, &room);
    assert_eq!(refused.unwrap_err(), (1, Throttle::Memory));
    fleet.finished(first, true, Some(16 << 20), Duration::ZERO, &room);
    let actions = fleet.submit(&key(1), 128 << 20, 2, Duration::ZERO, &room).unwrap();
    assert!(actions.contains(&Action::Stop { instance: first }));
    assert!(start(actions).is_some());
    assert_eq!(fleet.evicted(), 1);
}
