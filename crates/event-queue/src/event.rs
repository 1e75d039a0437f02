//! Events, where they go, and what became of them.

use std::time::Duration;

/// A function, as the caller named it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Target {
    /// The function's name.
    pub function: String,
    /// Version or alias, when the caller gave one.
    pub qualifier: Option<String>,
}

/// An event to be queued.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewEvent {
    /// The request's id, the same in every attempt.
    pub request_id: String,
    /// The function.
    pub target: Target,
    /// The event, JSON.
    pub payload: Vec<u8>,
    /// The client context as JSON text.
    pub client_context: Option<String>,
    /// The X-Ray trace header.
    pub trace_id: Option<String>,
}

/// An event in the queue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QueuedEvent {
    /// Its place in the queue.
    pub(crate) id: i64,
    /// What was queued.
    pub event: NewEvent,
    /// When it was acknowledged, in milliseconds since 1970.
    pub accepted_ms: i64,
    /// How often the function has failed on it.
    pub failures: u32,
    /// How often it could not be run since it last was.
    pub(crate) refusals: u32,
    /// How many destinations it came through.
    pub(crate) hops: u32,
}

/// What a function wants done with its events.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RetryPolicy {
    /// How often a failed event is tried again: 0 to 2.
    pub retries: u32,
    /// How old an event may become: 60 s to 6 h.
    pub max_age: Duration,
    /// The function that hears of successes.
    pub on_success: Option<Target>,
    /// The function that hears of failures; without one they become dead letters.
    pub on_failure: Option<Target>,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { retries: 2, max_age: Duration::from_secs(6 * 3600), on_success: None, on_failure: None }
    }
}

/// What became of an attempt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Delivery {
    /// The function answered.
    Succeeded {
        /// The answer.
        payload: Vec<u8>,
        /// The version that ran.
        version: String,
    },
    /// The function failed.
    Failed {
        /// The error's payload.
        payload: Vec<u8>,
        /// The version that ran.
        version: String,
    },
    /// It could not be run now: throttled, or no instance could be started.
    TryLater,
    /// There is no such function any more.
    Gone,
}

/// An event that was given up and had no destination for failures.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeadLetter {
    /// The event.
    pub event: NewEvent,
    /// When it was acknowledged, in milliseconds since 1970.
    pub accepted_ms: i64,
    /// When it was given up, in milliseconds since 1970.
    pub ended_ms: i64,
    /// Why: `RetriesExhausted`, `EventAgeExceeded`, `FunctionGone` or `Loop`.
    pub condition: String,
    /// The last answer of the function, if it ran.
    pub response: Option<Vec<u8>>,
}

/// What the queue holds and did since it was opened.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Statistics {
    /// Events in the queue, those that are being delivered included.
    pub queued: u64,
    /// Events that are being delivered.
    pub in_flight: u64,
    /// Events that were acknowledged.
    pub accepted: u64,
    /// Events that ended well.
    pub succeeded: u64,
    /// Events that were given up.
    pub given_up: u64,
    /// Attempts that will be repeated.
    pub put_off: u64,
    /// Transactions that were written: fewer than events when many come at once.
    pub commits: u64,
}
