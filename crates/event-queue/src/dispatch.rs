//! The queue as a node sees it: taking events, and delivering what is due.

use std::collections::HashSet;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::MAX_EVENT;
use crate::error::QueueError;
use crate::event::{DeadLetter, Delivery, NewEvent, QueuedEvent, RetryPolicy, Statistics, Target};
use crate::record::record;
use crate::schedule::{self, Condition, Next, QueueSettings, milliseconds};
use crate::writer::{Change, Writer, now_ms};

/// How long the queue waits before it tries again what the disk refused.
const AFTER_REFUSAL: Duration = Duration::from_secs(1);

/// Runs functions for the queue.
pub trait Deliver: Send + Sync + 'static {
    /// What the function wants done with its events; asked before and after each attempt.
    fn policy(&self, target: &Target) -> RetryPolicy;

    /// The function's ARN with its qualifier (`$LATEST` without one), for destinations.
    fn arn(&self, target: &Target) -> String;

    /// Runs the function once.
    fn deliver<'a>(&'a self, event: &'a QueuedEvent) -> Pin<Box<dyn Future<Output = Delivery> + Send + 'a>>;
}

/// A durable queue of events. A handle; clones mean the same queue.
#[derive(Clone, Debug)]
pub struct EventQueue(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    writer: Writer,
    settings: QueueSettings,
    /// Something may be due, or a place is free.
    changed: Notify,
    in_flight: Mutex<HashSet<i64>>,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    queued: AtomicU64,
    accepted: AtomicU64,
    succeeded: AtomicU64,
    given_up: AtomicU64,
    put_off: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl EventQueue {
    /// Opens the queue in the file at `path` and makes it when it isn't there. One process may have it open.
    ///
    /// # Errors
    /// [`QueueError`].
    pub async fn open(path: &Path, settings: QueueSettings) -> Result<Self, QueueError> {
        let writer = Writer::start(path, settings.dead_letters)?;
        let counters = Counters { queued: writer.count().await?.into(), ..Counters::default() };
        let (changed, in_flight) = (Notify::new(), Mutex::default());
        Ok(Self(Arc::new(Shared { writer, settings, changed, in_flight, counters })))
    }

    /// Takes an event. When this returns, it is on disk.
    ///
    /// # Errors
    /// [`QueueError::TooLarge`], or [`QueueError::Write`] when it could not be put on disk.
    pub async fn put(&self, event: NewEvent) -> Result<(), QueueError> {
        if event.payload.len() > MAX_EVENT {
            return Err(QueueError::TooLarge(event.payload.len()));
        }
        self.0.writer.change(Change::Put(event)).await?;
        count(&self.0.counters.accepted);
        count(&self.0.counters.queued);
        self.0.changed.notify_one();
        Ok(())
    }

    /// Delivers what is due until `stop` is ready, then waits for the deliveries under way. To be run once.
    pub async fn run(&self, deliver: Arc<dyn Deliver>, stop: impl Future<Output = ()> + Send) {
        let mut stop = std::pin::pin!(stop);
        let mut deliveries = JoinSet::new();
        loop {
            let wait = self.dispatch(&deliver, &mut deliveries).await;
            tokio::select! {
                () = &mut stop => break,
                () = self.0.changed.notified() => {}
                () = tokio::time::sleep(wait) => {}
                Some(_) = deliveries.join_next() => {}
            }
        }
        while deliveries.join_next().await.is_some() {}
    }

    /// Starts a delivery for each due event that there is a place for; gives the time until the next look.
    async fn dispatch(&self, deliver: &Arc<dyn Deliver>, deliveries: &mut JoinSet<()>) -> Duration {
        let in_flight = self.0.in_flight.lock().clone();
        let limit = self.0.settings.at_once;
        if in_flight.len() >= limit {
            return Duration::MAX;
        }
        let due = match self.0.writer.due(limit, in_flight).await {
            Ok(due) => due,
            Err(error) => {
                tracing::error!(%error, "the event queue can't be read");
                return AFTER_REFUSAL;
            }
        };
        for event in due.events {
            self.0.in_flight.lock().insert(event.id);
            let (queue, deliver) = (self.clone(), deliver.clone());
            deliveries.spawn(async move { queue.attempt(&*deliver, event).await });
        }
        match due.next_ms {
            None => Duration::MAX,
            Some(at) => Duration::from_millis(u64::try_from(at - now_ms()).unwrap_or(0).max(1)),
        }
    }

    async fn attempt(&self, deliver: &dyn Deliver, event: QueuedEvent) {
        let policy = deliver.policy(&event.event.target);
        let (next, delivery) = match schedule::before(&event, &policy, now_ms()) {
            Some(condition) => (Next::GivenUp(condition), None),
            None => {
                let delivery = deliver.deliver(&event).await;
                let policy = deliver.policy(&event.event.target);
                let next = schedule::after(&event, &policy, &self.0.settings, &delivery, now_ms());
                (next, Some(delivery))
            }
        };
        let id = event.id;
        let change = || self.change(deliver, &event, &policy, &next, delivery.as_ref());
        while let Err(error) = self.0.writer.change(change()).await {
            // Delivered, but not noted: if this never succeeds, it will be delivered again by the next process.
            tracing::error!(%error, request = event.event.request_id, "the end of an event can't be noted");
            if matches!(error, QueueError::Closed) {
                return;
            }
            tokio::time::sleep(AFTER_REFUSAL).await;
        }
        self.note(&next, &policy);
        self.0.in_flight.lock().remove(&id);
        self.0.changed.notify_one();
    }

    fn note(&self, next: &Next, policy: &RetryPolicy) {
        let Counters { queued, succeeded, given_up, put_off, .. } = &self.0.counters;
        let follows = match next {
            Next::Again { .. } => return count(put_off),
            Next::Succeeded => {
                count(succeeded);
                policy.on_success.is_some()
            }
            Next::GivenUp(condition) => {
                count(given_up);
                policy.on_failure.is_some() && *condition != Condition::Loop
            }
        };
        if !follows {
            queued.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// What is written for the end of an attempt.
    fn change(
        &self,
        deliver: &dyn Deliver,
        event: &QueuedEvent,
        policy: &RetryPolicy,
        next: &Next,
        delivery: Option<&Delivery>,
    ) -> Change {
        let id = event.id;
        let (condition, destination) = match next {
            Next::Again { pause, failed } => {
                let due_ms = now_ms().saturating_add(milliseconds(*pause));
                let (failures, refusals) = match failed {
                    true => (event.failures + 1, 0),
                    false => (event.failures, event.refusals.saturating_add(1)),
                };
                return Change::PutOff { id, failures, refusals, due_ms };
            }
            Next::Succeeded => (Condition::Success, policy.on_success.as_ref()),
            // A loop that went on through its destination would be none that has ended.
            Next::GivenUp(Condition::Loop) => (Condition::Loop, None),
            Next::GivenUp(condition) => (*condition, policy.on_failure.as_ref()),
        };
        if let Some(target) = destination {
            let arn = deliver.arn(&event.event.target);
            let follow = NewEvent {
                request_id: uuid::Uuid::new_v4().to_string(),
                target: target.clone(),
                payload: record(event, &arn, condition, delivery, now_ms()),
                client_context: None,
                trace_id: event.event.trace_id.clone(),
            };
            return Change::Over { id, follow: Some((follow, event.hops + 1)), letter: None };
        }
        if condition == Condition::Success {
            return Change::Over { id, follow: None, letter: None };
        }
        let response = match delivery {
            Some(Delivery::Failed { payload, .. } | Delivery::Succeeded { payload, .. }) => {
                Some(payload.clone())
            }
            Some(Delivery::TryLater | Delivery::Gone) | None => None,
        };
        let letter = DeadLetter {
            event: event.event.clone(),
            accepted_ms: event.accepted_ms,
            ended_ms: now_ms(),
            condition: condition.name().to_owned(),
            response,
        };
        Change::Over { id, follow: None, letter: Some(letter) }
    }

    /// The events that were given up and had no destination for failures, latest first, at most `limit`.
    ///
    /// # Errors
    /// [`QueueError`].
    pub async fn dead_letters(&self, limit: u32) -> Result<Vec<DeadLetter>, QueueError> {
        self.0.writer.dead_letters(limit).await
    }

    /// What the queue holds and did.
    pub fn statistics(&self) -> Statistics {
        let Counters { queued, accepted, succeeded, given_up, put_off } = &self.0.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Statistics {
            queued: read(queued),
            in_flight: self.0.in_flight.lock().len() as u64,
            accepted: read(accepted),
            succeeded: read(succeeded),
            given_up: read(given_up),
            put_off: read(put_off),
            commits: self.0.writer.commits(),
        }
    }
}
