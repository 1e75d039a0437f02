//! What the pool adds to a warm invocation, what it does at full load, and how it takes a burst.
//!
//! `cargo run --release -p instance-pool --example warm -- HOME FUNCTION FAASNAP`: a home directory, a function in it that answers
//! `{}`, and the faasnap executable to start workers from.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a program for whoever measures")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use function_worker::{INIT_LIMIT, Role, SpareWorker};
use instance_pool::{Call, Deployed, Pool, PoolSettings};
use restore::Timeline;
use serde_bytes::ByteBuf;
use store::Store;
use worker_protocol::Invoke;

const CALLS: usize = 2000;
const BURST: usize = 64;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().expect("usage: warm HOME FUNCTION FAASNAP");
    let (home, function, faasnap) = (next(), next(), next());
    let store = Store::open(Path::new(&home)).unwrap();
    let deployed = || {
        let open = store.open_function(&function.parse().unwrap()).unwrap();
        Arc::new(Deployed::new(open, "$LATEST".to_owned(), format!("arn:{function}"), false, true))
    };
    report("the worker driven straight", direct(&deployed(), Path::new(&faasnap)));
    let settings = PoolSettings { worker_program: Some(faasnap.into()), ..PoolSettings::default() };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let pool = Pool::start(settings, store.clone(), Arc::new(()));
        let target = deployed();
        report("by the pool, one after the other", sequence(&pool, &target).await);
        load(&pool, &target).await;
        while store.current_snapshot(&target.function).unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for round in ["recorded", "second", "third"] {
            pool.retire(target.name(), None);
            burst(&pool, &target, round).await;
        }
        pool.shut_down().await;
    });
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |share: usize| times[(times.len() - 1) * share / 100].as_secs_f64() * 1e3;
    println!("{what:36} median {:.3} ms, 99 of 100 within {:.3} ms, worst {:.3} ms", at(50), at(99), at(100));
}

fn direct(target: &Deployed, program: &Path) -> Vec<Duration> {
    let spare = SpareWorker::start_program(program, worker_protocol::MachineKind::Process).unwrap();
    let role = Role::latest(false);
    let mut worker =
        spare.configure(&target.function, &role, Box::new(|_, _| {}), Timeline::start()).unwrap();
    worker.boot(INIT_LIMIT).unwrap();
    let invoke = |n: usize| Invoke {
        request_id: n.to_string(),
        payload: ByteBuf::from(b"{}".to_vec()),
        timeout: Duration::from_secs(3),
        invoked_function_arn: target.arn.clone(),
        trace_id: None,
        client_context: None,
        cognito_identity: None,
        tenant_id: None,
        streaming: false,
    };
    let once = |n| {
        let begin = Instant::now();
        worker.invoke(invoke(n)).unwrap();
        begin.elapsed()
    };
    let times = (0..CALLS).map(once).collect();
    worker.stop().unwrap();
    times
}

fn call(target: &Deployed) -> Call {
    Call {
        request_id: uuid::Uuid::new_v4().to_string(),
        payload: b"{}".to_vec(),
        invoked_function_arn: target.arn.clone(),
        trace_id: None,
        client_context: None,
        tenant_id: None,
    }
}

async fn sequence(pool: &Pool, target: &Arc<Deployed>) -> Vec<Duration> {
    pool.invoke(target.clone(), call(target)).await.unwrap();
    let mut times = Vec::with_capacity(CALLS);
    for _ in 0..CALLS {
        let begin = Instant::now();
        let reply = pool.invoke(target.clone(), call(target)).await.unwrap();
        times.push(begin.elapsed());
        assert_eq!(reply.function_error, None);
    }
    times
}

async fn load(pool: &Pool, target: &Arc<Deployed>) {
    let begin = Instant::now();
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (pool, target) = (pool.clone(), target.clone());
        callers.spawn(async move {
            for _ in 0..CALLS {
                pool.invoke(target.clone(), call(&target)).await.unwrap();
            }
        });
    }
    callers.join_all().await;
    let per_second = 4.0 * CALLS as f64 / begin.elapsed().as_secs_f64();
    println!("four callers at once                 {per_second:.0} invocations a second");
}

async fn burst(pool: &Pool, target: &Arc<Deployed>, round: &str) {
    let before = pool.statistics();
    let begin = Instant::now();
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..BURST {
        let (pool, target) = (pool.clone(), target.clone());
        calls.spawn(async move {
            pool.invoke(target.clone(), call(&target)).await.unwrap();
            begin.elapsed()
        });
    }
    let times = calls.join_all().await;
    let after = pool.statistics();
    report(&format!("a burst of {BURST}, {round}"), times);
    let (restored, booted) = (after.restored - before.restored, after.booted - before.booted);
    println!("{:36} {restored} restored, {booted} booted", "");
}
