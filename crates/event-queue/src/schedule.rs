//! When an event is tried again and when it is given up: a pure function.

use std::time::Duration;

use crate::event::{Delivery, QueuedEvent, RetryPolicy};

/// Settings of a queue.
#[derive(Clone, PartialEq, Debug)]
pub struct QueueSettings {
    /// Deliveries at once.
    pub at_once: usize,
    /// The pauses before the first and the second retry.
    pub retry_pauses: [Duration; 2],
    /// The first pause after an event could not be run; it doubles each time.
    pub first_backoff: Duration,
    /// The longest such pause.
    pub longest_backoff: Duration,
    /// All pauses are multiplied by this: tests don't wait for minutes.
    pub time_scale: f64,
    /// Dead letters that are kept; the oldest go first.
    pub dead_letters: u32,
}

impl Default for QueueSettings {
    fn default() -> Self {
        Self {
            at_once: 100,
            retry_pauses: [Duration::from_secs(60), Duration::from_secs(120)],
            first_backoff: Duration::from_secs(1),
            longest_backoff: Duration::from_secs(300),
            time_scale: 1.0,
            dead_letters: 10_000,
        }
    }
}

/// Destinations that an event may go through in a row: AWS stops a loop after some 16.
const MAX_HOPS: u32 = 16;

/// What is done with an event after an attempt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    /// It is over and was a success.
    Succeeded,
    /// It is tried again after this pause; `failed`: the function ran and failed.
    Again { pause: Duration, failed: bool },
    /// It is given up.
    GivenUp(Condition),
}

/// Why an event is over, in AWS's words where it has them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Condition {
    Success,
    RetriesExhausted,
    EventAgeExceeded,
    FunctionGone,
    Loop,
}

impl Condition {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Success => "Success",
            Self::RetriesExhausted => "RetriesExhausted",
            Self::EventAgeExceeded => "EventAgeExceeded",
            Self::FunctionGone => "FunctionGone",
            Self::Loop => "Loop",
        }
    }
}

/// Whether an event has to be given up before it is tried.
pub(crate) fn before(event: &QueuedEvent, policy: &RetryPolicy, now_ms: i64) -> Option<Condition> {
    if event.hops > MAX_HOPS {
        return Some(Condition::Loop);
    }
    is_too_old(event, policy, now_ms).then_some(Condition::EventAgeExceeded)
}

/// What follows from an attempt.
pub(crate) fn after(
    event: &QueuedEvent,
    policy: &RetryPolicy,
    settings: &QueueSettings,
    delivery: &Delivery,
    now_ms: i64,
) -> Next {
    let scaled = |pause: Duration| pause.mul_f64(settings.time_scale.max(0.0));
    let in_time = |pause: Duration, failed| {
        let at = now_ms.saturating_add(milliseconds(pause));
        match is_too_old(event, policy, at) {
            true => Next::GivenUp(Condition::EventAgeExceeded),
            false => Next::Again { pause, failed },
        }
    };
    match delivery {
        Delivery::Succeeded { .. } => Next::Succeeded,
        Delivery::Gone => Next::GivenUp(Condition::FunctionGone),
        Delivery::Failed { .. } if event.failures >= policy.retries => {
            Next::GivenUp(Condition::RetriesExhausted)
        }
        Delivery::Failed { .. } => {
            let [first, later] = settings.retry_pauses;
            in_time(scaled(if event.failures == 0 { first } else { later }), true)
        }
        Delivery::TryLater => {
            let doubled = settings.first_backoff.saturating_mul(1 << event.refusals.min(20));
            in_time(scaled(doubled.min(settings.longest_backoff)), false)
        }
    }
}

fn is_too_old(event: &QueuedEvent, policy: &RetryPolicy, at_ms: i64) -> bool {
    at_ms.saturating_sub(event.accepted_ms) > milliseconds(policy.max_age)
}

pub(crate) fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::{NewEvent, Target};

    fn event(failures: u32, refusals: u32) -> QueuedEvent {
        let target = Target { function: "f".to_owned(), qualifier: None };
        let event = NewEvent {
            request_id: "r".to_owned(),
            target,
            payload: b"{}".to_vec(),
            client_context: None,
            trace_id: None,
        };
        QueuedEvent { id: 1, event, accepted_ms: 0, failures, refusals, hops: 0 }
    }

    fn failed() -> Delivery {
        Delivery::Failed { payload: Vec::new(), version: "$LATEST".to_owned() }
    }

    fn next(failures: u32, refusals: u32, delivery: &Delivery, now_ms: i64) -> Next {
        let (policy, settings) = (RetryPolicy::default(), QueueSettings::default());
        after(&event(failures, refusals), &policy, &settings, delivery, now_ms)
    }

    #[test]
    fn a_failed_function_is_tried_twice_more() {
        let again = |seconds| Next::Again { pause: Duration::from_secs(seconds), failed: true };
        assert_eq!(next(0, 0, &failed(), 0), again(60));
        assert_eq!(next(1, 0, &failed(), 0), again(120));
        assert_eq!(next(2, 0, &failed(), 0), Next::GivenUp(Condition::RetriesExhausted));
    }

    #[test]
    fn a_throttled_one_waits_longer_each_time_until_it_is_too_old() {
        let again = |seconds| Next::Again { pause: Duration::from_secs(seconds), failed: false };
        assert_eq!(next(0, 0, &Delivery::TryLater, 0), again(1));
        assert_eq!(next(0, 3, &Delivery::TryLater, 0), again(8));
        assert_eq!(next(0, 30, &Delivery::TryLater, 0), again(300));
        let old = 6 * 3_600_000 - 100_000;
        assert_eq!(next(0, 30, &Delivery::TryLater, old), Next::GivenUp(Condition::EventAgeExceeded));
    }

    #[test]
    fn loops_and_old_events_are_not_tried() {
        let policy = RetryPolicy { max_age: Duration::from_secs(60), ..RetryPolicy::default() };
        assert_eq!(before(&event(0, 0), &policy, 60_000), None);
        assert_eq!(before(&event(0, 0), &policy, 60_001), Some(Condition::EventAgeExceeded));
        assert_eq!(before(&QueuedEvent { hops: 17, ..event(0, 0) }, &policy, 0), Some(Condition::Loop));
    }

    proptest! {
        #[test]
        fn every_event_comes_to_an_end(outcomes in prop::collection::vec(any::<bool>(), 0..300)) {
            let (policy, settings) = (RetryPolicy::default(), QueueSettings::default());
            let (mut event, mut now) = (event(0, 0), 0);
            let mut outcomes = outcomes.into_iter();
            for round in 0.. {
                prop_assert!(round < 400, "no end");
                let fails = outcomes.next().unwrap_or(false);
                let delivery = if fails { failed() } else { Delivery::TryLater };
                match after(&event, &policy, &settings, &delivery, now) {
                    Next::Again { pause, failed } => {
                        now += milliseconds(pause);
                        prop_assert!(now <= 6 * 3_600_000);
                        match failed {
                            true => (event.failures, event.refusals) = (event.failures + 1, 0),
                            false => event.refusals += 1,
                        }
                    }
                    Next::GivenUp(_) => break,
                    Next::Succeeded => unreachable!(),
                }
            }
            prop_assert!(event.failures <= 2);
        }
    }
}
