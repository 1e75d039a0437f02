//! How long instances without work are kept, and when one is made ready ahead of a call: plain data and pure functions.
//!
//! Two questions are kept apart:
//! 1. *How long is an instance worth keeping?* [`Keep`]: for a fixed time, for ever, or as the function's history says.
//! 2. *Who goes first when memory is short?* The least recently used; how much there may be at all is [`Policy::budget`].
//!
//! Times are durations since some beginning that the caller chooses; nothing here reads a clock. The pool and the simulation
//! of `faasnap bench keep-alive` ([`crate::simulation`]) use this same code.

mod histogram;

use std::time::Duration;

pub use histogram::{HistogramSettings, IdleHistogram};

/// A keep-alive policy.
#[derive(Clone, PartialEq, Debug)]
pub struct Policy {
    /// How long an instance without work is kept.
    pub keep: Keep,
    /// Bytes that all instances together may take; the least recently used ones without work go when a new one needs room.
    /// `None`: as much as the machine has.
    pub budget: Option<u64>,
}

/// How long an instance without work is kept.
#[derive(Clone, PartialEq, Debug)]
pub enum Keep {
    /// For this time.
    Fixed(Duration),
    /// Until its memory is needed.
    Forever,
    /// By the function's own history: *Serverless in the Wild* (Shahrad et al., USENIX ATC 2020), its hybrid histogram policy
    /// without the time-series forecast.
    Histogram(HistogramSettings),
}

/// What is done with a function's instance from the moment on that it has no work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Windows {
    /// The instance is ended now and another one made ready after this time; zero: it is kept.
    pub pre_warm: Duration,
    /// How long it is kept, counted from the end of `pre_warm`.
    pub keep_alive: Duration,
}

impl Policy {
    /// AWS Lambda's habit as it is known from outside: some ten minutes.
    pub const fn fixed(keep: Duration) -> Self {
        Self { keep: Keep::Fixed(keep), budget: None }
    }

    /// The windows of a function with this history.
    pub fn windows(&self, history: &IdleHistogram) -> Windows {
        let kept = |keep_alive| Windows { pre_warm: Duration::ZERO, keep_alive };
        match &self.keep {
            Keep::Fixed(keep) => kept(*keep),
            Keep::Forever => kept(Duration::MAX),
            Keep::Histogram(settings) => history.windows(settings),
        }
    }

    /// Takes note of how long a function was idle before its latest call.
    pub fn observe(&self, history: &mut IdleHistogram, idle: Duration) {
        if let Keep::Histogram(settings) = &self.keep {
            history.observe(settings, idle);
        }
    }
}

/// An instance that could be ended to make room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Candidate<Id> {
    /// The instance.
    pub id: Id,
    /// When it was last used.
    pub last_used: Duration,
    /// Bytes that its end gives back.
    pub bytes: u64,
}

/// Those that have to go so that at least `needed` bytes come free: the least recently used first. `None` when all of them
/// together are not enough; then none should go.
pub fn least_recently_used<Id: Copy>(mut candidates: Vec<Candidate<Id>>, needed: u64) -> Option<Vec<Id>> {
    candidates.sort_by_key(|candidate| candidate.last_used);
    let mut freed = 0_u64;
    let mut victims = Vec::new();
    for candidate in candidates {
        if freed >= needed {
            break;
        }
        freed = freed.saturating_add(candidate.bytes);
        victims.push(candidate.id);
    }
    (freed >= needed).then_some(victims)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidates(of: &[(u64, u64)]) -> Vec<Candidate<usize>> {
        let candidate = |(id, (last_used, bytes)): (usize, &(u64, u64))| Candidate {
            id,
            last_used: Duration::from_secs(*last_used),
            bytes: *bytes,
        };
        of.iter().enumerate().map(candidate).collect()
    }

    #[test]
    fn the_oldest_go_and_no_more_than_needed() {
        let all = [(5, 10), (1, 10), (3, 10)];
        assert_eq!(least_recently_used(candidates(&all), 11), Some(vec![1, 2]));
        assert_eq!(least_recently_used(candidates(&all), 0), Some(vec![]));
        assert_eq!(least_recently_used(candidates(&all), 31), None);
    }

    proptest! {
        #[test]
        fn victims_are_enough_and_none_too_many(
            all in prop::collection::vec((0_u64..50, 0_u64..100), 0..20), needed in 0_u64..1500,
        ) {
            let total: u64 = all.iter().map(|(_, bytes)| bytes).sum();
            let victims = least_recently_used(candidates(&all), needed);
            prop_assert_eq!(victims.is_some(), total >= needed);
            if let Some(victims) = victims {
                let bytes = |ids: &[usize]| ids.iter().map(|id| all[*id].1).sum::<u64>();
                prop_assert!(bytes(&victims) >= needed);
                if let Some((_, fewer)) = victims.split_last() {
                    prop_assert!(bytes(fewer) < needed);
                }
                let youngest = victims.iter().map(|id| all[*id].0).max().unwrap_or(0);
                let kept = (0..all.len()).filter(|id| !victims.contains(id));
                prop_assert!(kept.into_iter().all(|id| all[id].0 >= youngest));
            }
        }
    }
}
