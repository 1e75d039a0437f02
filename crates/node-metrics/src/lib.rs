//! What a node measures of itself, as text that Prometheus reads.
//!
//! Invocations are counted as they end ([`Metrics::replied`], [`Metrics::refused`]); what the pool and the queue hold is read
//! when somebody asks ([`Metrics::render`]). Times are in seconds, sizes in bytes, as Prometheus has it. A function's name is a
//! label of counters only: histograms by function would cost a thousand functions a hundred thousand series.
#![forbid(unsafe_code)]

mod levels;

use std::time::Duration;

use instance_pool::{Refused, Reply, Start};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use restore::Timeline;

use levels::Levels;

/// The media type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type One = [(&'static str, String); 1];
type Two = [(&'static str, String); 2];

/// A node's measurements.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    invocations: Family<Two, Counter>,
    refused: Family<One, Counter>,
    durations: Family<One, Histogram>,
    starts: Family<One, Histogram>,
    phases: Family<Two, Histogram>,
    faults: Family<One, Counter>,
    read: Counter,
    loading_set: Family<One, Counter>,
    fell_back: Counter,
    levels: Levels,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// From 100 us to 1.7 minutes, each bucket twice the one before.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(1e-4, 2.0, 21))
}

impl Metrics {
    /// Nothing measured yet.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("faasnap");
        let mut metrics = Self {
            invocations: Family::default(),
            refused: Family::default(),
            durations: Family::new_with_constructor(seconds),
            starts: Family::new_with_constructor(seconds),
            phases: Family::new_with_constructor(seconds),
            faults: Family::default(),
            read: Counter::default(),
            loading_set: Family::default(),
            fell_back: Counter::default(),
            levels: Levels::register(&mut registry),
            registry: Registry::default(),
        };
        registry.register(
            "invocations",
            "Invocations that ended, by function and outcome (ok, or the type of the function's error)",
            metrics.invocations.clone(),
        );
        registry.register(
            "refused",
            "Invocations that were refused before the function ran, by reason",
            metrics.refused.clone(),
        );
        registry.register(
            "invocation_seconds",
            "From an event's delivery to the end of its invocation, by how its instance was started",
            metrics.durations.clone(),
        );
        registry.register(
            "start_seconds",
            "What it took to start an instance for an invocation, by how it was started",
            metrics.starts.clone(),
        );
        registry.register(
            "phase_seconds",
            "Pieces of the way from request to answer of first invocations, by restore strategy (none: a boot)",
            metrics.phases.clone(),
        );
        registry.register("page_faults", "Faults of first invocations, by kind", metrics.faults.clone());
        registry.register(
            "disk_read_bytes",
            "Bytes that first invocations caused to be read from disk",
            metrics.read.clone(),
        );
        registry.register(
            "loading_set_bytes",
            "Loading sets of restores: their size, what was loaded when the answer came, what is private",
            metrics.loading_set.clone(),
        );
        registry.register(
            "restores_without_recording",
            "Restores whose recording could not be used",
            metrics.fell_back.clone(),
        );
        metrics.registry = registry;
        metrics
    }

    /// An invocation of `function` came to an end.
    pub fn replied(&self, function: &str, reply: &Reply) {
        let outcome = reply.function_error.as_deref().map_or("ok", bounded).to_owned();
        let labels = [("function", function.to_owned()), ("outcome", outcome)];
        self.invocations.get_or_create(&labels).inc();
        let (start, took) = match reply.start {
            Start::Warm => ("warm", None),
            Start::Booted { init } => ("booted", Some(init)),
            Start::Restored { duration, .. } => ("restored", Some(duration)),
            Start::Failed => ("failed", None),
        };
        let labels = [("start", start.to_owned())];
        self.durations.get_or_create(&labels).observe(reply.duration.as_secs_f64());
        if let Some(took) = took {
            self.starts.get_or_create(&labels).observe(took.as_secs_f64());
        }
        if let Some(timeline) = &reply.timeline {
            self.timeline(timeline);
        }
    }

    fn timeline(&self, timeline: &Timeline) {
        let strategy = timeline.strategy.map_or("none", |strategy| strategy.name());
        for phase in &timeline.phases {
            let labels = [("phase", phase.phase.to_string()), ("strategy", strategy.to_owned())];
            let took = Duration::from_nanos(phase.end_ns.saturating_sub(phase.start_ns));
            self.phases.get_or_create(&labels).observe(took.as_secs_f64());
        }
        let faults = &timeline.faults;
        for (kind, count) in
            [("minor", faults.minor), ("major", faults.major), ("userfault", faults.userfault)]
        {
            self.faults.get_or_create(&[("kind", kind.to_owned())]).inc_by(count);
        }
        self.read.inc_by(timeline.bytes_read.unwrap_or(0));
        if let Some(set) = &timeline.loading_set {
            for (what, bytes) in
                [("size", set.bytes), ("loaded", set.loaded_bytes), ("private", set.private_bytes)]
            {
                self.loading_set.get_or_create(&[("what", what.to_owned())]).inc_by(bytes);
            }
        }
        if timeline.fell_back.is_some() {
            self.fell_back.inc();
        }
    }

    /// An invocation was refused.
    pub fn refused(&self, refused: &Refused) {
        let reason = match refused {
            Refused::Throttled(throttle) => match throttle {
                instance_pool::Throttle::Reserved => "reserved-concurrency",
                instance_pool::Throttle::Account => "account-concurrency",
                instance_pool::Throttle::Memory => "memory",
            },
            Refused::NotStarted { .. } => "not-started",
            Refused::RestoreHook { .. } => "restore-hook",
            Refused::RestoreTimeout => "restore-timeout",
            Refused::ShuttingDown => "shutting-down",
        };
        self.refused.get_or_create(&[("reason", reason.to_owned())]).inc();
    }

    /// Everything, as text of the type [`CONTENT_TYPE`].
    pub fn render(
        &self,
        pool: &instance_pool::Statistics,
        queue: Option<&event_queue::Statistics>,
    ) -> String {
        self.levels.set(pool, queue);
        let mut text = String::new();
        // Writing to a String can't fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

/// Types of errors are the function's own words: only those that the platform knows are labels.
fn bounded(error_type: &str) -> &str {
    match error_type {
        "Sandbox.Timedout"
        | "Sandbox.Failure"
        | "Runtime.ExitError"
        | "Function.ResponseSizeTooLarge"
        | "Runtime.TruncatedResponse"
        | "Runtime.ImportModuleError"
        | "Runtime.HandlerNotFound" => error_type,
        _ => "function-error",
    }
}

#[cfg(test)]
mod tests {
    use restore::{FaultCounts, LoadingSetUse, Phase, RestoreStrategy};

    use super::*;

    fn reply(function_error: Option<&str>, start: Start, timeline: Option<Timeline>) -> Reply {
        Reply {
            request_id: "r".to_owned(),
            payload: Vec::new(),
            function_error: function_error.map(str::to_owned),
            content_type: None,
            version: "$LATEST".to_owned(),
            log_tail: Vec::new(),
            start,
            duration: Duration::from_millis(3),
            max_memory: 0,
            timeline: timeline.map(Box::new),
        }
    }

    #[test]
    fn what_happened_is_in_the_text() {
        let metrics = Metrics::new();
        let mut timeline = Timeline::start();
        timeline.strategy = Some(RestoreStrategy::FaaSnap);
        timeline.record(Phase::Mapped, 0, 1_000_000);
        timeline.faults = FaultCounts { minor: 7, ..FaultCounts::default() };
        timeline.bytes_read = Some(4096);
        timeline.loading_set = Some(LoadingSetUse { bytes: 8192, ..LoadingSetUse::default() });
        let restored = Start::Restored { duration: Duration::from_millis(5), hooks: Duration::ZERO };
        metrics.replied("hello", &reply(None, restored, Some(timeline)));
        metrics.replied("hello", &reply(Some("My.Own"), Start::Warm, None));
        metrics.refused(&Refused::Throttled(instance_pool::Throttle::Memory));
        let pool = instance_pool::Statistics { booted: 3, running: 2, ..Default::default() };
        let queue = event_queue::Statistics { queued: 5, ..Default::default() };
        let text = metrics.render(&pool, Some(&queue));
        for line in [
            r#"faasnap_invocations_total{function="hello",outcome="ok"} 1"#,
            r#"faasnap_invocations_total{function="hello",outcome="function-error"} 1"#,
            r#"faasnap_refused_total{reason="memory"} 1"#,
            r#"faasnap_phase_seconds_count{phase="mapped",strategy="faasnap"} 1"#,
            r#"faasnap_start_seconds_sum{start="restored"} 0.005"#,
            r#"faasnap_page_faults_total{kind="minor"} 7"#,
            "faasnap_disk_read_bytes_total 4096",
            r#"faasnap_loading_set_bytes_total{what="size"} 8192"#,
            "faasnap_running_invocations 2",
            "faasnap_instances_booted 3",
            "faasnap_events_queued 5",
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
