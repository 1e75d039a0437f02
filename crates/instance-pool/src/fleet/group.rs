//! The instances and the waiting jobs of one version of a function.

use std::collections::VecDeque;
use std::time::Duration;

use super::InstanceId;
use crate::policy::IdleHistogram;

/// What an instance is taken to need before one was seen, beside what the function may use at most.
const FIRST_GUESS: u64 = 64 << 20;
/// What a worker needs beside its guest's memory.
const WORKER: u64 = 16 << 20;

#[derive(Debug)]
pub(super) struct Group<J> {
    pub queue: VecDeque<J>,
    /// Most recently used last.
    pub idle: Vec<InstanceId>,
    /// Being started, for whichever job is first then.
    pub starting: usize,
    /// Being started, each with its job.
    pub promised: usize,
    pub busy: usize,
    /// No new work is expected: instances end with what they do.
    pub retired: bool,
    /// Bytes that an instance is expected to need.
    pub bytes: u64,
    pub history: IdleHistogram,
    /// Since when nothing runs or waits; none before the first job and while there is work.
    pub idle_since: Option<Duration>,
    pub ahead: Ahead,
}

/// Whether an instance is to be made ready before a job comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ahead {
    No,
    /// One is made at `at` and kept until `until`.
    Planned {
        at: Duration,
        until: Duration,
    },
    /// One is or was made, to be kept until then.
    Made {
        until: Duration,
    },
}

impl<J> Group<J> {
    /// A group whose instances may use `limit` bytes, and what is known of its idle times.
    pub fn new(limit: u64, history: IdleHistogram) -> Self {
        Self {
            queue: VecDeque::new(),
            idle: Vec::new(),
            starting: 0,
            promised: 0,
            busy: 0,
            retired: false,
            bytes: limit.min(FIRST_GUESS) + WORKER,
            history,
            idle_since: None,
            ahead: Ahead::No,
        }
    }

    /// Whether there is neither an instance nor a job.
    pub fn is_empty(&self) -> bool {
        self.is_idle() && self.idle.is_empty()
    }

    /// Whether there is neither an instance nor a job nor a plan for one.
    pub fn has_nothing_left(&self) -> bool {
        self.is_empty() && !matches!(self.ahead, Ahead::Planned { .. })
    }

    /// Whether nothing runs, waits or starts.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.starting == 0 && self.promised == 0 && self.busy == 0
    }

    /// An invocation took `guest` bytes. The guess follows upwards at once and downwards slowly.
    pub fn learn(&mut self, guest: u64) -> u64 {
        let seen = guest + WORKER;
        self.bytes = seen.max(self.bytes - self.bytes / 8);
        seen
    }
}
