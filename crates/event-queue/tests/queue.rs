//! The queue from the outside: order of events, retries, destinations, dead letters, shared commits.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use event_queue::{
    Deliver, Delivery, EventQueue, NewEvent, QueueError, QueueSettings, QueuedEvent, RetryPolicy, Target,
};
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// A function `good` that succeeds, `bad` that fails, `busy` that is throttled twice, `gone` that is not there.
#[derive(Default)]
struct Functions {
    calls: Mutex<Vec<(String, String, String)>>,
    policies: HashMap<String, RetryPolicy>,
}

impl Functions {
    fn calls_of(&self, function: &str) -> Vec<(String, String)> {
        let calls = self.calls.lock();
        let of = |(called, id, payload): &(String, String, String)| {
            (called == function).then(|| (id.clone(), payload.clone()))
        };
        calls.iter().filter_map(of).collect()
    }
}

impl Deliver for Functions {
    fn policy(&self, target: &Target) -> RetryPolicy {
        self.policies.get(&target.function).cloned().unwrap_or_default()
    }

    fn arn(&self, target: &Target) -> String {
        format!("arn:{}", target.function)
    }

    fn deliver<'a>(&'a self, event: &'a QueuedEvent) -> Pin<Box<dyn Future<Output = Delivery> + Send + 'a>> {
        Box::pin(async move {
            let function = event.event.target.function.clone();
            let payload = String::from_utf8(event.event.payload.clone()).unwrap();
            self.calls.lock().push((function.clone(), event.event.request_id.clone(), payload));
            let version = "$LATEST".to_owned();
            match function.as_str() {
                "bad" => Delivery::Failed { payload: br#"{"errorMessage":"no"}"#.to_vec(), version },
                "busy" if self.calls_of("busy").len() < 3 => Delivery::TryLater,
                "gone" => Delivery::Gone,
                _ => Delivery::Succeeded { payload: b"1".to_vec(), version },
            }
        })
    }
}

fn target(function: &str) -> Target {
    Target { function: function.to_owned(), qualifier: None }
}

fn event(function: &str, id: &str) -> NewEvent {
    let (target, payload) = (target(function), format!("{{\"id\":\"{id}\"}}").into_bytes());
    NewEvent { request_id: id.to_owned(), target, payload, client_context: None, trace_id: None }
}

/// Puts the events and waits until the queue is empty.
async fn run(functions: Functions, events: &[NewEvent]) -> (Arc<Functions>, EventQueue, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let settings = QueueSettings { time_scale: 0.0001, ..QueueSettings::default() };
    let queue = EventQueue::open(&folder.path().join("events.sqlite"), settings).await.unwrap();
    let functions = Arc::new(functions);
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn({
        let (queue, functions) = (queue.clone(), functions.clone());
        async move { queue.run(functions, async { drop(stopped.await) }).await }
    });
    for event in events {
        queue.put(event.clone()).await.unwrap();
    }
    while queue.statistics().queued > 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    drop(stop);
    running.await.unwrap();
    (functions, queue, folder)
}

#[tokio::test]
async fn a_failure_is_tried_three_times_with_the_same_id_and_kept_as_a_dead_letter() {
    let (functions, queue, _folder) =
        run(Functions::default(), &[event("bad", "x"), event("good", "y")]).await;
    let tries = functions.calls_of("bad");
    assert_eq!(tries, vec![("x".to_owned(), r#"{"id":"x"}"#.to_owned()); 3]);
    assert_eq!(functions.calls_of("good").len(), 1);
    let letters = queue.dead_letters(10).await.unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!((&*letters[0].event.request_id, &*letters[0].condition), ("x", "RetriesExhausted"));
    let statistics = queue.statistics();
    assert_eq!(
        (statistics.accepted, statistics.succeeded, statistics.given_up, statistics.put_off),
        (2, 1, 1, 2)
    );
}

#[tokio::test]
async fn a_throttled_event_comes_again_and_one_for_nobody_is_given_up() {
    let (functions, queue, _folder) =
        run(Functions::default(), &[event("busy", "x"), event("gone", "y")]).await;
    assert_eq!(functions.calls_of("busy").len(), 3);
    assert_eq!(queue.dead_letters(10).await.unwrap()[0].condition, "FunctionGone");
}

#[tokio::test]
async fn destinations_hear_of_success_and_failure_and_a_loop_ends() {
    let mut functions = Functions::default();
    let on_success = Some(target("heard"));
    functions.policies.insert("good".to_owned(), RetryPolicy { on_success, ..RetryPolicy::default() });
    let on_failure = Some(target("good"));
    functions
        .policies
        .insert("bad".to_owned(), RetryPolicy { on_failure, retries: 0, ..RetryPolicy::default() });
    let round = Some(target("round"));
    functions
        .policies
        .insert("round".to_owned(), RetryPolicy { on_success: round, ..RetryPolicy::default() });
    let (functions, queue, _folder) = run(functions, &[event("bad", "x"), event("round", "y")]).await;
    let failure: serde_json::Value = serde_json::from_str(&functions.calls_of("good")[0].1).unwrap();
    assert_eq!(failure["requestContext"]["condition"], "RetriesExhausted");
    assert_eq!(failure["requestContext"]["functionArn"], "arn:bad");
    assert_eq!(failure["requestPayload"]["id"], "x");
    assert_eq!(failure["responsePayload"]["errorMessage"], "no");
    let success: serde_json::Value = serde_json::from_str(&functions.calls_of("heard")[0].1).unwrap();
    assert_eq!(success["requestContext"]["condition"], "Success");
    assert_eq!(functions.calls_of("round").len(), 17);
    assert_eq!(queue.dead_letters(10).await.unwrap()[0].condition, "Loop");
}

#[tokio::test]
async fn events_that_come_together_share_a_commit_and_large_ones_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let queue =
        EventQueue::open(&folder.path().join("events.sqlite"), QueueSettings::default()).await.unwrap();
    let mut puts = tokio::task::JoinSet::new();
    for number in 0..500 {
        let queue = queue.clone();
        puts.spawn(async move { queue.put(event("good", &number.to_string())).await.unwrap() });
    }
    puts.join_all().await;
    let statistics = queue.statistics();
    assert_eq!(statistics.queued, 500);
    assert!(statistics.commits < 500, "{statistics:?}");
    let large = NewEvent { payload: vec![b' '; event_queue::MAX_EVENT + 1], ..event("good", "x") };
    assert!(matches!(queue.put(large).await, Err(QueueError::TooLarge(_))));
    drop(queue);
    // What another process left is there.
    let again =
        EventQueue::open(&folder.path().join("events.sqlite"), QueueSettings::default()).await.unwrap();
    assert_eq!(again.statistics().queued, 500);
}

#[tokio::test]
async fn a_file_of_another_version_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.sqlite");
    rusqlite::Connection::open(&path).unwrap().pragma_update(None, "user_version", 9).unwrap();
    let refused = EventQueue::open(&path, QueueSettings::default()).await;
    assert!(matches!(refused, Err(QueueError::Schema { found: 9, .. })), "{refused:?}");
}
