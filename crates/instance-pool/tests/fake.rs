//! The pool against workers that do as they are told: crash, fail, stream, take their time. The workers are this program run
//! again, speaking the worker protocol without any guest.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod world;

use std::sync::Arc;
use std::time::Duration;

use instance_pool::policy::{Keep, Policy};
use instance_pool::{Census, PoolSettings, Refused, SnapshotFailed, Start, Throttle};
use libtest_mimic::{Arguments, Trial};
use store::Retention;
use world::{World, worker};

static ALONE: parking_lot::RwLock<()> = parking_lot::RwLock::new(());

fn main() {
    // The pool starts its workers as `PROGRAM worker`.
    if std::env::args().nth(1).as_deref() == Some("worker") {
        return worker::serve();
    }
    let trial = |name: &str, test: fn(), alone: bool| {
        Trial::test(name, move || {
            // In one process, what kills all workers would kill those of others too.
            let (_shared, _alone) = match alone {
                true => (None, Some(ALONE.write())),
                false => (Some(ALONE.read()), None),
            };
            test();
            Ok(())
        })
        // Workers are handed the device, whatever they do with it.
        .with_ignored_flag(!std::path::Path::new("/dev/kvm").exists())
    };
    let test = |name, test| trial(name, test, false);
    let tests = vec![
        test("an_instance_is_used_again_and_a_sequential_caller_needs_only_one", warm),
        test("a_burst_is_answered_and_needs_no_more_instances_than_calls", burst),
        test("a_worker_that_dies_before_the_event_is_replaced_and_the_caller_hears_nothing", dies_before),
        test("a_worker_that_dies_with_the_event_is_an_answer_and_never_a_second_run", dies_within),
        test("an_idle_worker_that_dies_is_forgotten", dies_idle),
        trial("a_worker_that_is_killed_while_it_is_started_is_replaced_once", killed_while_starting, true),
        test("a_restore_and_its_invocation_go_to_the_worker_together", together),
        test("an_instance_ends_before_its_credentials_do_when_there_are_others", outlived),
        test("workers_that_never_take_an_event_are_given_up", never_takes),
        test("a_failing_init_is_repeated_once_and_answered", init_fails),
        test("reserved_and_shared_concurrency_throttle_with_awss_reasons", throttles),
        test("an_answer_is_streamed_piece_by_piece", streams),
        test("a_caller_that_goes_away_does_not_stop_the_function", abandoned),
        test("the_first_boot_leaves_a_snapshot_and_the_next_start_is_a_restore", snapshots),
        test("an_unused_snapshot_goes_and_is_made_again_at_the_next_call", unused),
        test("a_snapshot_of_no_use_is_removed_and_the_function_boots", damaged),
        test("a_failing_restore_hook_is_a_refusal", hook_fails),
        test("an_instance_that_must_not_go_on_is_ended", discards),
        test("what_was_learnt_of_idle_times_is_there_in_the_next_pool", remembers),
        test("retired_versions_end_and_shutting_down_waits_for_what_runs", ends),
    ];
    libtest_mimic::run(&Arguments::from_args(), tests).exit();
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.unwrap().block_on(future)
}

fn settings() -> PoolSettings {
    PoolSettings { automatic_snapshots: false, spare_workers: 1, ..PoolSettings::default() }
}

fn warm() {
    block_on(async {
        let world = World::new(settings());
        let function = world.function("f", "good");
        let first = world.invoke(&function, "answer").await.unwrap();
        assert!(matches!(first.start, Start::Booted { .. }));
        for _ in 0..20 {
            let reply = world.invoke(&function, "answer").await.unwrap();
            assert_eq!(
                (reply.start, reply.payload, reply.function_error),
                (Start::Warm, b"\"done\"".to_vec(), None)
            );
        }
        assert_eq!(world.pool.statistics().booted, 1);
    });
}

fn burst() {
    block_on(async {
        let world = World::new(settings());
        let function = world.function("f", "good");
        let calls: Vec<_> = (0..64).map(|_| world.invoke(&function, "answer")).collect();
        let mut calls: tokio::task::JoinSet<_> = calls.into_iter().collect();
        while let Some(reply) = calls.join_next().await {
            assert_eq!(reply.unwrap().unwrap().function_error, None);
        }
        let statistics = world.pool.statistics();
        assert!(statistics.booted <= 64 && statistics.instances.busy == 0, "{statistics:?}");
        assert_eq!(statistics.running, 0);
    });
}

fn dies_before() {
    block_on(async {
        let world = World::new(settings());
        let function = world.function("f", "good");
        world.invoke(&function, "answer").await.unwrap();
        // The warm instance dies on receipt; a new one answers.
        let reply = world.invoke(&function, "die-before-start-once").await.unwrap();
        assert_eq!(reply.function_error, None);
        assert_eq!(world.runs("die-before-start-once"), 1);
    });
}

fn dies_within() {
    block_on(async {
        let world = World::new(settings());
        let (function, other) = (world.function("f", "good"), world.function("g", "good"));
        let slow = world.invoke(&other, "sleep:300");
        let reply = world.invoke(&function, "die-after-start").await.unwrap();
        assert_eq!(reply.function_error.as_deref(), Some("Sandbox.Failure"));
        assert!(String::from_utf8(reply.payload).unwrap().contains("RequestId: "));
        assert_eq!(world.runs("die-after-start"), 1);
        assert_eq!(slow.await.unwrap().function_error, None);
        assert_eq!(world.invoke(&function, "answer").await.unwrap().function_error, None);
        assert_eq!(world.pool.statistics().crashed, 1);
    });
}

fn dies_idle() {
    block_on(async {
        let world = World::new(settings());
        let function = world.function("f", "good");
        world.invoke(&function, "answer-then-die").await.unwrap();
        world.until(|statistics| statistics.instances == Census::default()).await;
        assert!(matches!(world.invoke(&function, "answer").await.unwrap().start, Start::Booted { .. }));
    });
}

fn killed_while_starting() {
    block_on(async {
        let world = World::new(settings());
        let function = world.function("f", "slow-boot");
        let call = world.invoke(&function, "answer");
        while world.runs("boot") == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        world::kill_workers();
        let reply = call.await.unwrap();
        assert!(matches!(reply.start, Start::Booted { .. }), "{reply:?}");
        assert_eq!((world.runs("boot"), world.runs("answer")), (2, 1));
        let refused = world.invoke(&world.function("g", "die-at-boot"), "answer").await;
        assert!(matches!(refused, Err(Refused::NotStarted { .. })), "{refused:?}");
        assert_eq!((world.runs("boot"), world.pool.statistics().running), (4, 0));
    });
}

fn together() {
    block_on(async {
        let world = World::new(settings());
        let function = world.function("f", "restored-by-the-invocation");
        world.pool.snapshot(function.clone()).await.unwrap();
        let reply = world.invoke(&function, "answer").await.unwrap();
        assert!(matches!(reply.start, Start::Restored { .. }), "{reply:?}");
        let mut streamed = world.stream(&function, "stream:3").await.unwrap();
        while streamed.pieces.recv().await.is_some() {}
        assert_eq!(streamed.end.await.unwrap().function_error, None);
    });
}

fn outlived() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("credentials.json");
    let write = |expiration: &str| {
        let text = format!(
            r#"{{"Version":1,"AccessKeyId":"k","SecretAccessKey":"s","SessionToken":"t","Expiration":"{expiration}"}}"#
        );
        std::fs::write(&path, text).unwrap();
    };
    // The past: what is expired is given all the same while there is nothing better.
    write("2026-01-01T00:00:00Z");
    let credentials = Some(function_worker::CredentialsFile::open(&path).unwrap());
    block_on(async {
        let world = World::new(PoolSettings { function_credentials: credentials, ..settings() });
        let function = world.function("f", "good");
        assert!(matches!(world.invoke(&function, "answer").await.unwrap().start, Start::Booted { .. }));
        assert_eq!(world.invoke(&function, "answer").await.unwrap().start, Start::Warm);
        write("2099-01-01T00:00:00+00:00");
        // When it has nothing to do, it looks.
        while world.invoke(&function, "answer").await.unwrap().start == Start::Warm {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(world.pool.statistics().booted, 2);
        assert_eq!(world.invoke(&function, "answer").await.unwrap().start, Start::Warm);
    });
}

fn never_takes() {
    block_on(async {
        let world = World::new(settings());
        let function = world.function("f", "good");
        let refused = world.invoke(&function, "die-before-start").await;
        assert!(matches!(refused, Err(Refused::NotStarted { .. })), "{refused:?}");
        assert_eq!(world.pool.statistics().running, 0);
    });
}

fn init_fails() {
    block_on(async {
        let world = World::new(settings());
        let function = world.function("f", "init-error");
        let reply = world.invoke(&function, "answer").await.unwrap();
        assert_eq!((reply.start, reply.payload), (Start::Failed, br#"{"errorType":"Boom"}"#.to_vec()));
        assert_eq!(world.runs("init"), 2, "as AWS does: once ahead of the invocation, once inside it");
        let second = world.function("g", "init-error-once");
        let reply = world.invoke(&second, "answer").await.unwrap();
        assert!(matches!(reply.start, Start::Booted { .. }), "{reply:?}");
        let failed = world.pool.snapshot(function).await;
        assert!(matches!(failed, Err(SnapshotFailed::Init { .. })), "{failed:?}");
    });
}

fn throttles() {
    block_on(async {
        let world = World::new(PoolSettings { concurrency: 3, ..settings() });
        let (kept, other) = (world.function("f", "good"), world.function("g", "good"));
        world.pool.reserve(kept.name(), Some(1));
        let running = [
            world.invoke(&kept, "sleep:400"),
            world.invoke(&other, "sleep:400"),
            world.invoke(&other, "sleep:400"),
        ];
        world.until(|statistics| statistics.running == 3).await;
        let refused = |reply: Result<_, Refused>| match reply {
            Err(Refused::Throttled(throttle)) => throttle,
            other => panic!("{other:?}"),
        };
        let reserved = refused(world.invoke(&kept, "answer").await);
        assert_eq!(reserved.aws_reason(), "ReservedFunctionConcurrentInvocationLimitExceeded");
        assert_eq!(refused(world.invoke(&other, "answer").await), Throttle::Account);
        for reply in running {
            reply.await.unwrap();
        }
        world.invoke(&kept, "answer").await.unwrap();
        world.pool.reserve(kept.name(), Some(0));
        assert_eq!(refused(world.invoke(&kept, "answer").await), Throttle::Reserved);
        // And a machine without memory for another instance.
        let small = World::new(PoolSettings {
            policy: Policy { keep: Keep::Forever, budget: Some(90 << 20) },
            ..settings()
        });
        let (one, two) = (small.function("f", "good"), small.function("g", "good"));
        let slow = small.invoke(&one, "sleep:300");
        small.until(|statistics| statistics.running == 1).await;
        assert_eq!(refused(small.invoke(&two, "answer").await), Throttle::Memory);
        slow.await.unwrap();
        small.invoke(&two, "answer").await.unwrap();
        assert_eq!(small.pool.statistics().evicted, 1);
    });
}

fn streams() {
    block_on(async {
        let world = World::new(settings());
        let function = world.function("f", "good");
        let mut reply = world.stream(&function, "stream:100").await.unwrap();
        assert_eq!(reply.content_type.as_deref(), Some("text/plain"));
        let mut pieces = Vec::new();
        while let Some(piece) = reply.pieces.recv().await {
            pieces.push(piece);
        }
        assert_eq!(pieces.len(), 100);
        assert_eq!(pieces[99], b"piece 99\n");
        let end = reply.end.await.unwrap();
        assert_eq!((end.function_error, end.payload.len()), (None, 0));
        // One that is not streamed comes whole, with the end.
        let mut whole = world.stream(&function, "answer").await.unwrap();
        assert_eq!(whole.pieces.recv().await, None);
        assert_eq!(whole.end.await.unwrap().payload, b"\"done\"");
        // A reader that goes away in between leaves the instance sound.
        drop(world.stream(&function, "stream:5000").await.unwrap());
        assert_eq!(world.invoke(&function, "answer").await.unwrap().function_error, None);
    });
}

fn abandoned() {
    block_on(async {
        let world = World::new(settings());
        let function = world.function("f", "good");
        let call = world.pool.invoke(function.clone(), world::call(&function, "sleep:100"));
        let gone = tokio::time::timeout(Duration::from_millis(20), call).await;
        assert!(gone.is_err());
        world.until(|statistics| statistics.instances.idle == 1).await;
        assert_eq!(world.runs("sleep:100"), 1);
        assert_eq!(world.invoke(&function, "answer").await.unwrap().start, Start::Warm);
    });
}

fn snapshots() {
    block_on(async {
        let world = World::new(PoolSettings { automatic_snapshots: true, ..settings() });
        let function = world.function("f", "good");
        world.invoke(&function, "answer").await.unwrap();
        world.until(|statistics| statistics.snapshots == 1).await;
        let other = world.invoke(&function, "sleep:300");
        world.until(|statistics| statistics.instances.busy == 1).await;
        // The warm one is busy: this one is restored, and recorded, so it serves one call only.
        let restored = world.invoke(&function, "answer").await.unwrap();
        assert!(matches!(restored.start, Start::Restored { .. }), "{restored:?}");
        assert!(restored.timeline.is_some());
        other.await.unwrap();
        assert_eq!(world.pool.statistics().snapshots, 1, "one is enough");
    });
}

fn unused() {
    block_on(async {
        let retention = Retention { unused: Duration::ZERO, ..Retention::default() };
        let every = Duration::from_millis(20);
        let world = World::new(PoolSettings {
            retention,
            retention_every: every,
            automatic_snapshots: true,
            ..settings()
        });
        let function = world.function("f", "good");
        world.invoke(&function, "answer").await.unwrap();
        world.until(|statistics| statistics.snapshots == 1).await;
        while !world.store.snapshots(function.name()).unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        world.pool.retire(function.name(), None);
        world.until(|statistics| statistics.instances == Census::default()).await;
        let again = world.invoke(&function, "answer").await.unwrap();
        assert!(matches!(again.start, Start::Booted { .. }), "{again:?}");
        world.until(|statistics| statistics.snapshots == 2).await;
    });
}

fn damaged() {
    block_on(async {
        let world = World::new(settings());
        let function = world.function("f", "snapshot-damaged");
        let entry = world.pool.snapshot(function.clone()).await.unwrap();
        let reply = world.invoke(&function, "answer").await.unwrap();
        assert!(matches!(reply.start, Start::Booted { .. }), "{reply:?}");
        assert!(world.store.open_snapshot(function.name(), &entry.id).is_err());
    });
}

fn remembers() {
    let keep = Keep::Histogram(instance_pool::policy::HistogramSettings::default());
    let settings = PoolSettings { policy: Policy { keep, budget: None }, ..settings() };
    block_on(async {
        let world = World::new(settings.clone());
        let function = world.function("f", "good");
        for _ in 0..3 {
            world.invoke(&function, "answer").await.unwrap();
        }
        world.pool.shut_down().await;
        let kept = world.store.kept_idle_times().unwrap();
        assert_eq!(kept.len(), 1);
        assert_eq!((kept[0].function.as_str(), kept[0].bins.as_slice()), ("f", [(0, 2)].as_slice()));
        let next = instance_pool::Pool::start(settings, world.store.clone(), Arc::new(()));
        next.shut_down().await;
        assert_eq!(world.store.kept_idle_times().unwrap(), kept);
    });
}

fn hook_fails() {
    block_on(async {
        let world = World::new(settings());
        let function = world.function("f", "hook-error");
        world.pool.snapshot(function.clone()).await.unwrap();
        let refused = world.invoke(&function, "answer").await.unwrap_err();
        let expected = Refused::RestoreHook {
            error_type: "Runtime.AfterRestoreError".to_owned(),
            payload: b"{}".to_vec(),
        };
        assert_eq!(refused, expected);
        assert_eq!(world.runs("answer"), 0);
    });
}

fn discards() {
    block_on(async {
        let world = World::new(settings());
        let function = world.function("f", "good");
        let timed_out = world.invoke(&function, "time-out").await.unwrap();
        assert_eq!(timed_out.function_error.as_deref(), Some("Sandbox.Timedout"));
        assert!(matches!(world.invoke(&function, "answer").await.unwrap().start, Start::Booted { .. }));
        assert_eq!(world.pool.statistics().booted, 2);
    });
}

fn ends() {
    block_on(async {
        let world = World::new(settings());
        let function = world.function("f", "good");
        world.invoke(&function, "answer").await.unwrap();
        world.pool.retire(function.name(), None);
        world.until(|statistics| statistics.instances == Census::default()).await;
        // Nothing of the pool holds its files any more.
        while Arc::strong_count(&function) > 1 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let running = world.invoke(&function, "sleep:200");
        world.until(|statistics| statistics.running == 1).await;
        world.pool.shut_down().await;
        assert_eq!(running.await.unwrap().function_error, None);
        assert_eq!(world.invoke(&function, "answer").await, Err(Refused::ShuttingDown));
        assert_eq!(world.pool.statistics().instances, Census::default());
    });
}
