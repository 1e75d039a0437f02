//! What a pool and a queue hold now, and their own counts: read when somebody asks.

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Debug)]
pub(crate) struct Levels {
    instances: Family<[(&'static str, String); 1], Gauge>,
    pool: [Gauge; 10],
    queue: [Gauge; 7],
}

const POOL: [(&str, &str); 10] = [
    ("waiting_invocations", "Invocations that wait for an instance"),
    ("instances_bytes", "Memory that all instances are taken to need"),
    ("running_invocations", "Invocations that run or wait"),
    ("spare_workers", "Worker processes without a function"),
    ("instances_booted", "Instances booted since the start"),
    ("instances_restored", "Instances restored since the start"),
    ("instances_not_started", "Instances that could not be started, since the start"),
    ("instances_evicted", "Idle instances ended to make room, since the start"),
    ("workers_crashed", "Workers that ended or fell silent within an invocation, since the start"),
    ("snapshots_taken", "Snapshots taken since the start"),
];

const QUEUE: [(&str, &str); 7] = [
    ("events_queued", "Asynchronous events in the queue"),
    ("events_in_flight", "Events that are being delivered"),
    ("events_accepted", "Events acknowledged since the start"),
    ("events_succeeded", "Events that ended well, since the start"),
    ("events_given_up", "Events given up, since the start"),
    ("events_put_off", "Attempts that are repeated, since the start"),
    ("queue_commits", "Transactions of the queue since the start"),
];

impl Levels {
    pub fn register(registry: &mut Registry) -> Self {
        let instances = Family::default();
        registry.register("instances", "Instances by what they do", instances.clone());
        Self { instances, pool: gauges(registry, POOL), queue: gauges(registry, QUEUE) }
    }

    pub fn set(&self, pool: &instance_pool::Statistics, queue: Option<&event_queue::Statistics>) {
        let census = pool.instances;
        for (state, count) in [("starting", census.starting), ("idle", census.idle), ("busy", census.busy)] {
            self.instances.get_or_create(&[("state", state.to_owned())]).set(level(count as u64));
        }
        let values = [
            census.waiting as u64,
            census.bytes,
            pool.running.into(),
            pool.spare_workers as u64,
            pool.booted,
            pool.restored,
            pool.failed_starts,
            pool.evicted,
            pool.crashed,
            pool.snapshots,
        ];
        for (gauge, value) in self.pool.iter().zip(values) {
            gauge.set(level(value));
        }
        let Some(queue) = queue else { return };
        let values = [
            queue.queued,
            queue.in_flight,
            queue.accepted,
            queue.succeeded,
            queue.given_up,
            queue.put_off,
            queue.commits,
        ];
        for (gauge, value) in self.queue.iter().zip(values) {
            gauge.set(level(value));
        }
    }
}

fn gauges<const N: usize>(registry: &mut Registry, names: [(&str, &str); N]) -> [Gauge; N] {
    names.map(|(name, help)| {
        let gauge: Gauge = Gauge::default();
        registry.register(name, help, gauge.clone());
        gauge
    })
}

fn level(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
