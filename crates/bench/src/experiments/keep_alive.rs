//! Memory held against cold starts, over a generated day of calls: the pool's own decisions in virtual time, on costs that a run
//! of `modes` measured.

use std::path::PathBuf;
use std::time::Duration;

use instance_pool::policy::{HistogramSettings, Keep, Policy};
use instance_pool::simulation::{FunctionModel, Invocation, Report, simulate};
use serde::Serialize;

use crate::error::BenchError;
use crate::journal;
use crate::mode::Mode;
use crate::results::Results;
use crate::trace;

const SEED: u64 = 2020;
/// Invocations at once, as an AWS account has at first.
const CONCURRENCY: u32 = 1000;
const MINUTE: Duration = Duration::from_secs(60);
const GIB: f64 = (1u64 << 30) as f64;

/// What the simulation is told.
#[derive(Clone, Debug)]
pub struct KeepAliveOptions {
    /// The folder of a run of `modes`.
    pub costs: PathBuf,
    /// Where tables and plots go.
    pub into: PathBuf,
    /// Functions of the generated day.
    pub functions: u32,
}

/// How instances are started when none is warm.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum StartBy {
    #[serde(rename = "faasnap")]
    FaaSnap,
    OnDemand,
    Boot,
}

impl StartBy {
    pub const ALL: [Self; 3] = [Self::FaaSnap, Self::OnDemand, Self::Boot];

    pub const fn name(self) -> &'static str {
        match self {
            Self::FaaSnap => "faasnap",
            Self::OnDemand => "on-demand",
            Self::Boot => "boot",
        }
    }
}

/// Which policies are drawn as one line.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Family {
    Fixed,
    Budget,
    Histogram,
}

/// One policy with one way of starting.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct Row {
    pub policy: String,
    pub family: Family,
    pub start: StartBy,
    pub calls: u64,
    /// Of all calls.
    pub cold_percent: f64,
    /// Memory of all instances, on average over the day.
    pub average_gib: f64,
    pub peak_gib: f64,
    /// What a call waited for its instance, on average over all calls.
    pub mean_wait_ms: f64,
    pub throttled: u64,
}

/// What a function costs.
#[derive(Clone, Copy, Debug)]
struct Cost {
    memory: u64,
    warm: Duration,
    start: [Duration; 3],
}

/// Plays the day through every policy.
pub(crate) fn rows(options: &KeepAliveOptions) -> Result<Vec<Row>, BenchError> {
    let entries = journal::load(&options.costs)?;
    let costs = costs(Results(&entries));
    if costs.is_empty() {
        let reason = format!(
            "{} holds no run of `faasnap bench modes` with warm, faasnap, on-demand and cold",
            options.costs.display()
        );
        return Err(BenchError::Impossible { what: "the simulation", reason });
    }
    let day = trace::day(options.functions as usize, SEED);
    let cost = |function: usize| costs.get(function % costs.len()).copied();
    let calls: Vec<Invocation> = day
        .iter()
        .enumerate()
        .filter_map(|(function, calls)| Some((function, calls, cost(function)?)))
        .flat_map(|(function, calls, cost)| {
            calls.iter().map(move |at| Invocation { at: *at, function, duration: cost.warm })
        })
        .collect();
    let mut rows = Vec::new();
    for (index, start) in StartBy::ALL.into_iter().enumerate() {
        let model = |cost: Cost| FunctionModel {
            memory: cost.memory,
            start: cost.start.get(index).copied().unwrap_or_default(),
        };
        let models: Vec<FunctionModel> =
            (0..day.len()).filter_map(|function| cost(function).map(model)).collect();
        for (name, family, policy) in policies() {
            let report = simulate(policy, CONCURRENCY, &models, &calls).map_err(|problem| {
                BenchError::Impossible { what: "the simulation", reason: problem.to_string() }
            })?;
            rows.push(row(name, family, start, &report));
        }
    }
    Ok(rows)
}

fn policies() -> Vec<(String, Family, Policy)> {
    let fixed =
        [(10, "10 s"), (60, "1 min"), (300, "5 min"), (600, "10 min"), (1200, "20 min"), (3600, "60 min")];
    let mut policies: Vec<(String, Family, Policy)> = fixed
        .into_iter()
        .map(|(seconds, name)| {
            (format!("kept {name}"), Family::Fixed, Policy::fixed(Duration::from_secs(seconds)))
        })
        .collect();
    for gib in [1u64, 2, 4, 8] {
        let policy = Policy { keep: Keep::Forever, budget: Some(gib << 30) };
        policies.push((format!("least recently used, {gib} GiB"), Family::Budget, policy));
    }
    let histogram = Keep::Histogram(HistogramSettings::default());
    policies.push(("histogram".to_owned(), Family::Histogram, Policy { keep: histogram, budget: None }));
    policies.push(("kept for ever".to_owned(), Family::Fixed, Policy { keep: Keep::Forever, budget: None }));
    policies
}

fn row(policy: String, family: Family, start: StartBy, report: &Report) -> Row {
    let calls = report.warm + report.cold;
    // The day and what is kept behind its last call.
    let day = (24 * 60 * MINUTE).as_secs_f64();
    Row {
        policy,
        family,
        start,
        calls,
        cold_percent: report.cold_share() * 100.0,
        average_gib: report.byte_seconds / day / GIB,
        peak_gib: report.peak_bytes as f64 / GIB,
        mean_wait_ms: report.waited.as_secs_f64() * 1e3 / calls.max(1) as f64,
        throttled: report.throttled,
    }
}

/// The functions of a run for which everything is known.
fn costs(results: Results<'_>) -> Vec<Cost> {
    let input = "b";
    let milliseconds = |ms: f64| Duration::from_secs_f64(ms / 1e3);
    let cost = |function: &str| {
        let start = [
            results.above_warm(function, Mode::FaaSnap, input)?,
            results.above_warm(function, results.best_on_demand(function, input)?, input)?,
            results.above_warm(function, Mode::Cold, input)?,
        ];
        Some(Cost {
            memory: results.memory(function, Mode::FaaSnap, input)? as u64,
            warm: milliseconds(results.total(function, Mode::Warm, input)?),
            start: start.map(milliseconds),
        })
    };
    results.functions().into_iter().filter_map(cost).collect()
}
