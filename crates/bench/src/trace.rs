//! A day of calls with the shape of a production trace: *Serverless in the Wild* (Shahrad et al., USENIX ATC 2020, on Azure
//! Functions). Most functions are called rarely: 45% at most once an hour, 81% at most once a minute; few are called so often
//! that nearly all calls are theirs; 16% are called by timers. The busiest are cut here, since their instances stay warm under
//! any policy and would only lengthen the simulation.

use std::f64::consts::TAU;
use std::time::Duration;

use crate::statistics::Random;

/// Seconds of a day.
const DAY: f64 = 86_400.0;
/// Shares of functions and how many calls a day they have at most; in between, equal shares are equal factors.
const POPULARITY: [(f64, f64); 5] =
    [(0.0, 1.0), (0.45, 24.0), (0.81, 1440.0), (0.99, 10_000.0), (1.0, 30_000.0)];
/// Functions called by a timer.
const TIMERS: f64 = 0.16;
/// Of the others, functions whose calls come in bunches.
const BUNCHED: f64 = 0.33;
/// Calls of a bunch on average, and seconds between two of them.
const BUNCH: f64 = 10.0;
const BUNCH_GAP: f64 = 3.0;
/// How much more than the average the busiest hour has.
const SWING: f64 = 0.5;

/// When each of `functions` functions is called within a day; ascending. The same seed gives the same day.
pub(crate) fn day(functions: usize, seed: u64) -> Vec<Vec<Duration>> {
    let mut random = Random::new(seed);
    (0..functions)
        .map(|number| {
            // Spread evenly over the shares, so that a small trace has the shape too.
            let share = (number as f64 + random.share()) / functions as f64;
            let mut seconds = calls(calls_a_day(share), &mut random);
            seconds.retain(|at| (0.0..DAY).contains(at));
            seconds.sort_by(f64::total_cmp);
            seconds.into_iter().map(Duration::from_secs_f64).collect()
        })
        .collect()
}

fn calls_a_day(share: f64) -> f64 {
    for pair in POPULARITY.windows(2) {
        if let [(from, low), (to, high)] = pair
            && share <= *to
        {
            return low * (high / low).powf((share - from) / (to - from));
        }
    }
    1.0
}

fn calls(a_day: f64, random: &mut Random) -> Vec<f64> {
    let kind = random.share();
    if kind < TIMERS {
        let period = DAY / a_day;
        let first = random.share() * period;
        return (0..a_day.ceil() as u64).map(|number| first + period * number as f64).collect();
    }
    let bunched = kind < TIMERS + (1.0 - TIMERS) * BUNCHED;
    let arrivals = if bunched { a_day / BUNCH } else { a_day };
    let peak = random.share();
    let mut found = Vec::new();
    let mut at = 0.0;
    // By thinning: arrivals at the busiest hour's rate, of which the hour's share is kept.
    let most = arrivals * (1.0 + SWING) / DAY;
    loop {
        at += waiting(most, random);
        if at >= DAY {
            return found;
        }
        let now = 1.0 + SWING * (TAU * (at / DAY - peak)).cos();
        if random.share() * (1.0 + SWING) > now {
            continue;
        }
        found.push(at);
        if bunched {
            let mut next = at;
            while random.share() > 1.0 / BUNCH {
                next += waiting(1.0 / BUNCH_GAP, random);
                found.push(next);
            }
        }
    }
}

/// Seconds to the next of events that come by chance, so many a second.
fn waiting(a_second: f64, random: &mut Random) -> f64 {
    -(1.0 - random.share()).ln() / a_second
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_functions_are_called_rarely_and_few_have_most_calls() {
        let mut counts: Vec<usize> = day(500, 7).iter().map(Vec::len).collect();
        counts.sort_unstable();
        let at_most = |limit: usize| counts.iter().filter(|count| **count <= limit).count() as f64 / 500.0;
        assert!((0.38..0.55).contains(&at_most(24)), "{}", at_most(24));
        assert!((0.74..0.88).contains(&at_most(1440)), "{}", at_most(1440));
        let all: usize = counts.iter().sum();
        let busiest: usize = counts.iter().rev().take(100).sum();
        assert!(busiest as f64 > 0.85 * all as f64, "{busiest} of {all}");
    }

    #[test]
    fn a_seed_gives_one_day() {
        assert_eq!(day(20, 3), day(20, 3));
        assert_ne!(day(20, 3), day(20, 4));
        assert!(day(20, 3).iter().all(|calls| calls.is_sorted()));
    }
}
