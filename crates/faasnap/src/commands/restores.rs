//! `faasnap invoke --restores`: many cold starts of one snapshot, and what their time went into.

use anyhow::{Context, Result, bail};
use function_worker::{RecentRestores, RestoreOptions, Role, SpareWorker, machine_kind};
use restore::{ExitCounts, Phase, ReadyPages, RestoreStrategy, Timeline};
use serde::Serialize;
use store::{OpenFunction, SnapshotEntry, Store};
use uuid::Uuid;

use super::Outcome;
use super::invoke::{existing, invocation, restore_options, role};
use crate::args::{InvokeArguments, Way};
use crate::output::{Table, log_sink, note, print, print_json};

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    strategy: RestoreStrategy,
    /// Whether each worker was ready before its request.
    spare: bool,
    /// Whether the snapshot's files were dropped from the page cache before each restore.
    dropped_cache: bool,
    /// From the request to the first exit that an instruction of the guest caused.
    first_exit: Figures,
    /// From the request until the answer was back.
    answer: Figures,
    timelines: Vec<Timeline>,
}

/// Milliseconds.
#[derive(Serialize)]
struct Figures {
    median: f64,
    p99: f64,
    min: f64,
    max: f64,
}

impl Figures {
    fn of(nanoseconds: impl Iterator<Item = u64>) -> Self {
        let mut sorted: Vec<f64> = nanoseconds.map(|value| value as f64 / 1e6).collect();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let place = (share * sorted.len() as f64).ceil() as usize;
            sorted.get(place.saturating_sub(1)).copied().unwrap_or(0.0)
        };
        Self { median: at(0.5), p99: at(0.99), min: at(0.0), max: at(1.0) }
    }
}

pub(super) fn run(store: &Store, arguments: &InvokeArguments, times: u32, payload: &[u8]) -> Result<Outcome> {
    if matches!(arguments.strategy, Some(Way::Cold | Way::Warm)) {
        bail!("--restores restores a snapshot: give it a strategy that does");
    }
    let function = store.open_function(&arguments.name)?;
    let (entry, _lease) = existing(store, &function)?;
    let options = restore_options(arguments);
    let role = role(true, arguments.network.apply()?)?;
    // As a node: what its workers have ready follows from what was restored before.
    let mut recent = RecentRestores::of_home(store)?;
    let machine = machine_kind(&function.function.config);
    let mut restore_once = || {
        let pages = recent.likely_pages(machine);
        recent.note(&entry.path, machine);
        once(arguments, &function, &entry, &options, &role, payload, pages)
    };
    // The first may be recorded, and everything has its code in memory afterwards: it doesn't count.
    restore_once()?;
    let timelines = (0..times).map(|_| restore_once()).collect::<Result<Vec<_>>>()?;
    let until =
        |phase: Phase| Figures::of(timelines.iter().filter_map(move |timeline| timeline.end_of(phase)));
    let report = Report {
        strategy: options.strategy,
        spare: !arguments.no_spare,
        dropped_cache: arguments.drop_cache,
        first_exit: until(Phase::FirstExit),
        answer: until(Phase::Returned),
        timelines,
    };
    if arguments.json {
        print_json(&report)?
    } else {
        print(&text(&report))?
    }
    Ok(Outcome::Good)
}

fn once(
    arguments: &InvokeArguments,
    function: &OpenFunction,
    entry: &SnapshotEntry,
    options: &RestoreOptions,
    role: &Role,
    payload: &[u8],
    likely_pages: ReadyPages,
) -> Result<Timeline> {
    if arguments.drop_cache {
        let cached =
            restore::drop_cached(&entry.path).context("dropping the snapshot from the page cache")?;
        if cached.0 > 0 {
            bail!("{} pages of the snapshot stay in the page cache: another instance uses them", cached.0);
        }
    }
    let machine = machine_kind(&function.function.config);
    let spare = match arguments.no_spare {
        true => None,
        false => {
            let mut worker = SpareWorker::start(machine)?;
            match options.strategy {
                RestoreStrategy::FaaSnap => worker.wait_memory_ready(likely_pages)?,
                _ => worker.wait_ready()?,
            }
            Some(worker)
        }
    };
    let timeline = Timeline::start();
    let worker = spare.map_or_else(|| SpareWorker::start(machine), Ok)?;
    let mut worker = worker.configure(function, role, log_sink(arguments.log), timeline)?;
    let invoke = invocation(function, &Uuid::new_v4().to_string(), payload);
    let (restored, answer) = worker.restore_and_invoke(&entry.path, options, invoke)?;
    let mut timeline = worker.timeline(&answer.timeline)?;
    timeline.reached(Phase::Returned);
    restored.warnings.iter().for_each(|warning| note(warning));
    if answer.ending.is_function_error() {
        bail!("the function failed: {}", String::from_utf8_lossy(&answer.payload));
    }
    Ok(worker.stop_measured(timeline)?)
}

/// One row for each phase, in the order in which it came in most restores.
fn text(report: &Report) -> String {
    let mut phases: Vec<Phase> = Vec::new();
    for record in report.timelines.iter().flat_map(|timeline| &timeline.phases) {
        if !phases.contains(&record.phase) {
            phases.push(record.phase);
        }
    }
    let mut table = Table::new(&["PHASE", "TOOK", "UNTIL"]);
    for phase in phases {
        // A phase that comes in several pieces is their sum.
        let took = |timeline: &Timeline| {
            let pieces = timeline.phases.iter().filter(|record| record.phase == phase);
            pieces.map(|record| record.end_ns.saturating_sub(record.start_ns)).sum()
        };
        let took = Figures::of(report.timelines.iter().map(took));
        let until = Figures::of(report.timelines.iter().filter_map(|timeline| timeline.end_of(phase)));
        table.row([phase.to_string(), format!("{:.3} ms", took.median), format!("{:.3} ms", until.median)]);
    }
    let total = |name: &str, figures: &Figures| {
        let Figures { median, p99, min, max } = figures;
        format!("{name} median {median:.2} ms, p99 {p99:.2} ms, from {min:.2} to {max:.2} ms")
    };
    let median_of = |value: fn(&Timeline) -> u64| {
        let mut sorted: Vec<u64> = report.timelines.iter().map(value).collect();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied().unwrap_or(0)
    };
    let ready = match median_of(|timeline| timeline.ready.map_or(0, |ready| ready.bytes >> 10)) {
        0 => String::new(),
        kibibytes => {
            let used = median_of(|timeline| timeline.ready.map_or(0, |ready| ready.used_bytes >> 10));
            format!(", {kibibytes} KiB of memory ready, {used} KiB of it used")
        }
    };
    let exits = |of: fn(&ExitCounts) -> u64| {
        let mut sorted: Vec<u64> =
            report.timelines.iter().filter_map(|timeline| timeline.exits.as_ref().map(of)).collect();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied()
    };
    let left = match (exits(|exits| exits.system_calls), exits(|exits| exits.page_faults)) {
        (Some(calls), Some(faults)) => {
            format!("\nthe guest was left for {calls} system calls and {faults} page faults")
        }
        _ => String::new(),
    };
    format!(
        "{} restores by {}, {}, {}; medians\n{}\n{}\n{}\n{} minor and {} major faults, {} KiB read, {} mappings{ready}{left}",
        report.timelines.len(),
        report.strategy,
        if report.spare {
            "each in a worker that was ready"
        } else {
            "each in a worker started with the request"
        },
        if report.dropped_cache {
            "files dropped from the page cache"
        } else {
            "files as the page cache has them"
        },
        table.text(),
        total("request to first exit", &report.first_exit),
        total("request to answer    ", &report.answer),
        median_of(|timeline| timeline.faults.minor),
        median_of(|timeline| timeline.faults.major),
        median_of(|timeline| timeline.bytes_read.unwrap_or(0) >> 10),
        median_of(|timeline| timeline.regions_mapped),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_of_the_sorted_values() {
        let figures = Figures::of([3_000_000, 1_000_000, 2_000_000, 9_000_000].into_iter());
        assert_eq!((figures.min, figures.median, figures.p99, figures.max), (1.0, 2.0, 9.0, 9.0));
    }
}
