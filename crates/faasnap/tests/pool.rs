//! The pool with real workers: what a node does, without its HTTP.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use instance_pool::{Call, Deployed, Pool, PoolSettings, Refused, Reply, Start};
use store::Store;

/// A home of its own with the prepared runtimes' files behind it, and a pool over it.
struct World {
    folder: tempfile::TempDir,
    store: Store,
    pool: Pool,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().join("home");
        let store = Store::open(&home).unwrap();
        let prepared = std::env::var_os("FAASNAP_TEST_HOME").expect("run `cargo xtask test`");
        let from = PathBuf::from(prepared).join("runtimes/python3.11");
        let status = Command::new("cp").arg("-al").arg(from).arg(home.join("runtimes/")).status().unwrap();
        assert!(status.success());
        let settings = PoolSettings {
            worker_program: Some(env!("CARGO_BIN_EXE_faasnap").into()),
            ..PoolSettings::default()
        };
        let pool = Pool::start(settings, store.clone(), Arc::new(()));
        Self { folder, store, pool }
    }

    /// Stores a Python function and opens it.
    fn python(&self, name: &str, timeout: &str, code: &str) -> Arc<Deployed> {
        let folder = self.folder.path().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("app.py"), code).unwrap();
        self.create(name, timeout, &folder)
    }

    fn create(&self, name: &str, timeout: &str, folder: &Path) -> Arc<Deployed> {
        let line = ["function", "create", name, "--runtime", "python3.11", "--handler", "app.handler"];
        let rest = ["--memory", "256", "--timeout", timeout, "--code", folder.to_str().unwrap()];
        let mut command = Command::new(env!("CARGO_BIN_EXE_faasnap"));
        let status = command.args(line).args(rest).env("FAASNAP_HOME", self.store.path()).status().unwrap();
        assert!(status.success());
        let open = self.store.open_function(&name.parse().unwrap()).unwrap();
        let arn = format!("arn:aws:lambda:us-east-1:000000000000:function:{name}");
        Arc::new(Deployed::new(open, "$LATEST".to_owned(), arn, false, true))
    }

    async fn invoke(&self, target: &Arc<Deployed>, payload: &str) -> Result<Reply, Refused> {
        self.pool.invoke(target.clone(), call(target, payload)).await
    }

    /// Waits until the pool has taken a snapshot by itself.
    async fn snapshotted(&self, target: &Deployed) {
        while self.store.current_snapshot(&target.function).unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn call(target: &Deployed, payload: &str) -> Call {
    Call {
        request_id: uuid::Uuid::new_v4().to_string(),
        payload: payload.as_bytes().to_vec(),
        invoked_function_arn: target.arn.clone(),
        trace_id: None,
        client_context: None,
        tenant_id: None,
    }
}

const COUNTS: &str = "calls = []\ndef handler(event, context):\n    calls.append(1)\n    print('call', len(calls))\n    return len(calls)\n";

#[tokio::test]
#[ignore = "needs /dev/kvm and what `cargo xtask test` prepares"]
async fn a_function_boots_stays_warm_and_is_restored_from_then_on() {
    let world = World::new();
    let counts = world.python("counts", "10", COUNTS);
    let first = world.invoke(&counts, "{}").await.unwrap();
    assert_eq!((&*first.payload, first.function_error), (&b"1"[..], None));
    assert!(matches!(first.start, Start::Booted { .. }), "{:?}", first.start);
    let log = String::from_utf8(first.log_tail).unwrap();
    assert!(log.starts_with("START ") && log.contains("call 1\n") && log.contains("REPORT "), "{log}");
    let second = world.invoke(&counts, "{}").await.unwrap();
    assert_eq!((&*second.payload, second.start), (&b"2"[..], Start::Warm));
    world.snapshotted(&counts).await;
    world.pool.retire(counts.name(), None);
    let third = world.invoke(&counts, "{}").await.unwrap();
    assert_eq!(third.payload, b"1");
    assert!(matches!(third.start, Start::Restored { .. }), "{:?}", third.start);
    assert!(third.timeline.is_some());
    world.pool.shut_down().await;
    assert_eq!(world.pool.statistics().instances, instance_pool::Census::default());
}

#[tokio::test]
#[ignore = "needs /dev/kvm and what `cargo xtask test` prepares"]
async fn failures_are_answers_and_disturb_nobody() {
    let world = World::new();
    let counts = world.python("counts", "10", COUNTS);
    world.invoke(&counts, "{}").await.unwrap();
    let sleeps = world.python("sleeps", "1", "import time\ndef handler(event, context): time.sleep(60)\n");
    let exits = world.python("exits", "3", "import os\ndef handler(event, context): os._exit(3)\n");
    let broken = world.python("broken", "10", "raise ValueError('no')\n");
    let (timed_out, exited, unborn) =
        tokio::join!(world.invoke(&sleeps, "{}"), world.invoke(&exits, "{}"), world.invoke(&broken, "{}"));
    let text = |reply: Result<Reply, Refused>| {
        let reply = reply.unwrap();
        (reply.function_error.unwrap(), String::from_utf8(reply.payload).unwrap())
    };
    let (kind, payload) = text(timed_out);
    assert_eq!(kind, "Sandbox.Timedout");
    assert!(payload.contains("Task timed out after 1.00 seconds"), "{payload}");
    let (kind, payload) = text(exited);
    assert_eq!(kind, "Runtime.ExitError");
    assert!(payload.contains("exit status 3"), "{payload}");
    let (_, payload) = text(unborn);
    assert!(payload.contains("ValueError"), "{payload}");
    assert_eq!(world.invoke(&counts, "{}").await.unwrap().payload, b"2");
    world.pool.shut_down().await;
}
