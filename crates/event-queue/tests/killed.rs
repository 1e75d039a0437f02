//! A process that takes and delivers events is killed three times: every event that it acknowledged is delivered.
//!
//! The full size: `EVENT_QUEUE_EVENTS=10000 cargo nextest run -p event-queue --test killed`.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;

use event_queue::{Deliver, Delivery, EventQueue, NewEvent, QueueSettings, QueuedEvent, RetryPolicy, Target};
use libtest_mimic::{Arguments, Trial};
use parking_lot::Mutex;

const CHILD: &str = "EVENT_QUEUE_TEST_FOLDER";

fn main() {
    if let Some(folder) = std::env::var_os(CHILD) {
        return child(&PathBuf::from(folder));
    }
    let killed = Trial::test("no_acknowledged_event_is_lost_when_the_process_is_killed", || {
        parent();
        Ok(())
    });
    libtest_mimic::run(&Arguments::from_args(), vec![killed]).exit();
}

fn events() -> usize {
    std::env::var("EVENT_QUEUE_EVENTS").ok().and_then(|count| count.parse().ok()).unwrap_or(1000)
}

/// Lines of a file that whoever wrote it may have been killed over: only whole ones count.
fn lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(str::to_owned).collect()
}

fn parent() {
    let folder = tempfile::tempdir().unwrap();
    let (acknowledged, delivered) = (folder.path().join("acknowledged"), folder.path().join("delivered"));
    for quarter in 1..=4 {
        let mut child = start(folder.path());
        if quarter == 4 {
            assert!(child.wait().unwrap().success());
        } else {
            // Killed in the middle of it: both of taking and of delivering.
            while lines(&acknowledged).len() < quarter * events() / 4 {
                assert!(child.try_wait().unwrap().is_none(), "the child has ended by itself");
                std::thread::sleep(Duration::from_millis(1));
            }
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
    let acknowledged: HashSet<String> = lines(&acknowledged).into_iter().collect();
    let all = lines(&delivered);
    let delivered: HashSet<String> = all.iter().cloned().collect();
    assert_eq!(acknowledged.len(), events());
    let lost: Vec<_> = acknowledged.difference(&delivered).collect();
    assert!(lost.is_empty(), "{} lost: {lost:?}", lost.len());
    println!("{} events, {} deliveries, 3 kills", acknowledged.len(), all.len());
}

fn start(folder: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap()).env(CHILD, folder).spawn().unwrap()
}

/// Notes each delivery; one in seven fails at first, one in eleven is refused.
struct Notes(Mutex<(File, HashSet<String>)>);

impl Deliver for Notes {
    fn policy(&self, _: &Target) -> RetryPolicy {
        RetryPolicy::default()
    }

    fn arn(&self, target: &Target) -> String {
        target.function.clone()
    }

    fn deliver<'a>(&'a self, event: &'a QueuedEvent) -> Pin<Box<dyn Future<Output = Delivery> + Send + 'a>> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            let id = &event.event.request_id;
            let number: usize = id.parse().unwrap();
            let mut notes = self.0.lock();
            // What a process has seen is forgotten when it is killed; the failures of an event are not.
            if notes.1.insert(id.clone()) && number.is_multiple_of(11) {
                return Delivery::TryLater;
            }
            if event.failures == 0 && number.is_multiple_of(7) {
                return Delivery::Failed { payload: Vec::new(), version: String::new() };
            }
            notes.0.write_all(format!("{id}\n").as_bytes()).unwrap();
            Delivery::Succeeded { payload: Vec::new(), version: String::new() }
        })
    }
}

#[tokio::main]
async fn child(folder: &Path) {
    let append = |name: &str| File::options().create(true).append(true).open(folder.join(name)).unwrap();
    let settings = QueueSettings { time_scale: 0.001, ..QueueSettings::default() };
    let queue = EventQueue::open(&folder.join("events.sqlite"), settings).await.unwrap();
    let known: HashSet<String> = lines(&folder.join("acknowledged")).into_iter().collect();
    let notes = Arc::new(Notes(Mutex::new((append("delivered"), HashSet::new()))));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn({
        let queue = queue.clone();
        async move { queue.run(notes, async { drop(stopped.await) }).await }
    });
    let acknowledged = Arc::new(Mutex::new(append("acknowledged")));
    // Not known to be acknowledged: asked for again, as a client would.
    let missing: Vec<String> =
        (0..events()).map(|n| n.to_string()).filter(|id| !known.contains(id)).collect();
    for some in missing.chunks(64) {
        let mut puts = tokio::task::JoinSet::new();
        for id in some {
            let (queue, id, acknowledged) = (queue.clone(), id.clone(), acknowledged.clone());
            puts.spawn(async move {
                let target = Target { function: "f".to_owned(), qualifier: None };
                let event = NewEvent {
                    request_id: id.clone(),
                    target,
                    payload: b"{}".to_vec(),
                    client_context: None,
                    trace_id: None,
                };
                queue.put(event).await.unwrap();
                acknowledged.lock().write_all(format!("{id}\n").as_bytes()).unwrap();
            });
        }
        puts.join_all().await;
    }
    while queue.statistics().queued > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(stop);
    running.await.unwrap();
}
