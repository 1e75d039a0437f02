//! The pool's own decisions played through in virtual time: what a policy costs and saves on a trace of invocations.
//!
//! Nothing is imitated: the fleet that decides in a node decides here too, with another clock and with starts that take as long
//! as the model says.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::Duration;

use store::{NameProblem, TreeDigest};

use crate::deployed::Key;
use crate::fleet::{Action, Fleet, InstanceId};
use crate::policy::Policy;

/// A function of a trace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FunctionModel {
    /// Bytes that an instance of it uses.
    pub memory: u64,
    /// How long starting an instance takes: a restore, or a boot.
    pub start: Duration,
}

/// An invocation of a trace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Invocation {
    /// When it comes.
    pub at: Duration,
    /// Which of the functions is called.
    pub function: usize,
    /// How long it runs on a ready instance.
    pub duration: Duration,
}

/// What became of a trace.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub struct Report {
    /// Invocations that found an instance ready.
    pub warm: u64,
    /// Invocations that waited for one to be started or to become free.
    pub cold: u64,
    /// Invocations that were refused for want of memory or concurrency.
    pub throttled: u64,
    /// Instances that were started.
    pub starts: u64,
    /// Instances ended to make room for others.
    pub evicted: u64,
    /// What the cold invocations waited, together.
    pub waited: Duration,
    /// Byte-seconds of all instances.
    pub byte_seconds: f64,
    /// Byte-seconds of instances while they ran an invocation: the rest was waste.
    pub busy_byte_seconds: f64,
    /// The most bytes at once.
    pub peak_bytes: u64,
}

impl Report {
    /// The share of invocations that did not find an instance ready, refused ones left out.
    pub fn cold_share(&self) -> f64 {
        let all = self.warm + self.cold;
        if all == 0 { 0.0 } else { self.cold as f64 / all as f64 }
    }

    /// Byte-seconds of instances without work.
    pub fn wasted_byte_seconds(&self) -> f64 {
        (self.byte_seconds - self.busy_byte_seconds).max(0.0)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Event {
    Done(InstanceId, usize),
    Ready(InstanceId),
    Arrive(usize),
}

struct Simulation<'a> {
    functions: &'a [FunctionModel],
    trace: &'a [Invocation],
    keys: HashMap<Key, usize>,
    fleet: Fleet<usize>,
    events: BinaryHeap<Reverse<(Duration, Event)>>,
    now: Duration,
    report: Report,
}

/// Plays `trace`, in whatever order, through a pool with `policy` and `concurrency` invocations at once. Invocations of functions
/// that there are none of are left out.
///
/// # Errors
/// [`NameProblem`] when there are more functions than names.
pub fn simulate(
    policy: Policy,
    concurrency: u32,
    functions: &[FunctionModel],
    trace: &[Invocation],
) -> Result<Report, NameProblem> {
    let mut by_number = Vec::with_capacity(functions.len());
    for number in 0..functions.len() {
        by_number.push(Key::new(format!("f{number}").parse()?, String::new(), TreeDigest::of_bytes(b"")));
    }
    let mut simulation = Simulation {
        functions,
        trace,
        keys: by_number.iter().cloned().zip(0..).collect(),
        fleet: Fleet::new(policy, concurrency),
        events: trace
            .iter()
            .enumerate()
            .map(|(index, call)| Reverse((call.at, Event::Arrive(index))))
            .collect(),
        now: Duration::ZERO,
        report: Report::default(),
    };
    simulation.run(&by_number);
    simulation.report.evicted = simulation.fleet.evicted();
    Ok(simulation.report)
}

impl Simulation<'_> {
    fn run(&mut self, keys: &[Key]) {
        let everything = || u64::MAX;
        while let Some(Reverse((at, event))) = self.events.peek().copied() {
            if let Some(due) = self.fleet.next_tick().filter(|due| *due <= at) {
                self.pass_to(due);
                let actions = self.fleet.tick(self.now, &everything);
                self.apply(actions);
                continue;
            }
            self.events.pop();
            self.pass_to(at);
            let actions = match event {
                Event::Arrive(index) => self.arrive(index, keys),
                Event::Ready(instance) => self.fleet.ready(instance, self.now),
                Event::Done(instance, index) => {
                    let memory = self.called(index).map(|(model, _)| model.memory);
                    self.fleet.finished(instance, true, memory, self.now, &everything)
                }
            };
            self.apply(actions);
        }
    }

    fn called(&self, index: usize) -> Option<(FunctionModel, Invocation)> {
        let call = self.trace.get(index)?;
        Some((*self.functions.get(call.function)?, *call))
    }

    fn arrive(&mut self, index: usize, keys: &[Key]) -> Vec<Action<usize>> {
        let Some((model, call)) = self.called(index) else { return Vec::new() };
        let Some(key) = keys.get(call.function) else { return Vec::new() };
        let submitted = self.fleet.submit(key, model.memory, index, self.now, &|| u64::MAX);
        submitted.unwrap_or_else(|_| {
            self.report.throttled += 1;
            Vec::new()
        })
    }

    fn pass_to(&mut self, then: Duration) {
        let seconds = then.saturating_sub(self.now).as_secs_f64();
        let bytes = self.fleet.census().bytes;
        self.report.byte_seconds += bytes as f64 * seconds;
        self.report.peak_bytes = self.report.peak_bytes.max(bytes);
        self.now = self.now.max(then);
    }

    fn apply(&mut self, actions: Vec<Action<usize>>) {
        for action in actions {
            match action {
                Action::Start { instance, key } => {
                    let model = self.keys.get(&key).and_then(|function| self.functions.get(*function));
                    let start = model.map_or(Duration::ZERO, |model| model.start);
                    self.report.starts += 1;
                    self.events.push(Reverse((self.now.saturating_add(start), Event::Ready(instance))));
                }
                Action::Run { instance, job } => {
                    let Some((model, call)) = self.called(job) else { continue };
                    let waited = self.now.saturating_sub(call.at);
                    match waited.is_zero() {
                        true => self.report.warm += 1,
                        false => self.report.cold += 1,
                    }
                    self.report.waited += waited;
                    self.report.busy_byte_seconds += model.memory as f64 * call.duration.as_secs_f64();
                    let done = self.now.saturating_add(call.duration);
                    self.events.push(Reverse((done, Event::Done(instance, job))));
                }
                Action::Stop { .. } => {}
                Action::Fail { .. } => self.report.throttled += 1,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{HistogramSettings, Keep};

    const MEMORY: u64 = 100 << 20;

    fn functions(count: usize) -> Vec<FunctionModel> {
        vec![FunctionModel { memory: MEMORY, start: Duration::from_millis(100) }; count]
    }

    /// Each function once in its own number of minutes, all day.
    fn clockwork(minutes: &[u64]) -> Vec<Invocation> {
        let calls = |(function, period): (usize, &u64)| {
            let period = Duration::from_secs(60 * period);
            (1..)
                .map(move |n| period * n)
                .take_while(|at| *at <= Duration::from_secs(86_400))
                .map(move |at| Invocation { at, function, duration: Duration::from_millis(50) })
        };
        minutes.iter().enumerate().flat_map(calls).collect()
    }

    fn play(policy: Policy, count: usize, trace: &[Invocation]) -> Report {
        simulate(policy, 1000, &functions(count), trace).unwrap()
    }

    fn minutes(count: u64) -> Duration {
        Duration::from_secs(60 * count)
    }

    #[test]
    fn a_fixed_time_serves_what_comes_within_it() {
        let trace = clockwork(&[5, 30]);
        let report = play(Policy::fixed(minutes(10)), 2, &trace);
        // The first call of the one, every call of the other.
        assert_eq!(report.cold, 1 + 48);
        assert_eq!(report.warm, 288 - 1);
    }

    #[test]
    fn the_histogram_beats_the_fixed_time_on_regular_functions_with_less_memory() {
        let trace = clockwork(&[30, 60, 120]);
        let fixed = play(Policy::fixed(minutes(10)), 3, &trace);
        let keep = Keep::Histogram(HistogramSettings::default());
        let histogram = play(Policy { keep, budget: None }, 3, &trace);
        assert_eq!(fixed.warm, 0);
        assert!(histogram.cold_share() < 0.25, "{histogram:?}");
        assert!(histogram.wasted_byte_seconds() < fixed.wasted_byte_seconds(), "{histogram:?} {fixed:?}");
    }

    #[test]
    fn a_budget_keeps_the_recently_used_and_is_never_exceeded() {
        // Ten functions in turn, one a second, with memory for five of them; and one that is called in between.
        let call = |second: u64, function: usize| Invocation {
            at: Duration::from_secs(second),
            function,
            duration: Duration::from_millis(50),
        };
        let trace: Vec<_> = (0..1000)
            .map(|second| call(second, if second % 2 == 0 { 0 } else { 1 + (second as usize / 2) % 10 }))
            .collect();
        let budget = 5 * (MEMORY + (16 << 20));
        let report = play(Policy { keep: Keep::Forever, budget: Some(budget) }, 11, &trace);
        assert!(report.peak_bytes <= budget, "{report:?}");
        assert!(report.warm >= 499, "the frequent one stays: {report:?}");
        assert!(report.evicted > 400, "{report:?}");
        let unlimited = play(Policy { keep: Keep::Forever, budget: None }, 11, &trace);
        assert_eq!((unlimited.cold, unlimited.evicted), (11, 0));
    }

    #[test]
    fn a_burst_is_served_by_fewer_instances_than_it_has_calls() {
        let call =
            Invocation { at: Duration::from_secs(1), function: 0, duration: Duration::from_millis(10) };
        let report = play(Policy::fixed(minutes(10)), 1, &[call; 64]);
        assert_eq!(report.cold, 64);
        assert!(report.starts <= 64);
        let later = Invocation { at: Duration::from_secs(2), ..call };
        let twice: Vec<_> = [call; 64].into_iter().chain([later; 64]).collect();
        assert_eq!(play(Policy::fixed(minutes(10)), 1, &twice).warm, 64);
    }

    #[test]
    fn more_than_the_concurrency_is_refused() {
        let call = Invocation { at: Duration::ZERO, function: 0, duration: Duration::from_secs(1) };
        let report = simulate(Policy::fixed(minutes(1)), 3, &functions(1), &[call; 5]).unwrap();
        assert_eq!((report.throttled, report.cold), (2, 3));
    }
}
