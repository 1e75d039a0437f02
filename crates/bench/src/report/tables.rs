//! The tables on the terminal.

use restore::Technique;

use super::Kind;
use super::table::Table;
use crate::environment::Environment;
use crate::experiments::{ablation, burst, inputs, slow_disk};
use crate::journal::Entry;
use crate::mode::Mode;
use crate::results::{Results, first_exit_ms};
use crate::statistics::{Median, geometric_mean};
use crate::targets::targets;

pub(super) fn text(results: Results<'_>, kind: Kind, environment: Option<&Environment>) -> String {
    let mut text = String::new();
    if let Some(environment) = environment {
        text.push_str(&format!("{environment}\n"));
    }
    if !matches!(results.0.last(), Some(Entry::Ended)) {
        text.push_str("the run is not complete: this is what was measured so far\n");
    }
    for (what, reason) in results.left_out() {
        text.push_str(&format!("left out: {what}: {reason}\n"));
    }
    text.push('\n');
    text.push_str(&match kind {
        Kind::Modes => modes(results),
        Kind::Inputs => inputs(results),
        Kind::Burst => bursts(results),
        Kind::SlowDisk => totals(results, &slow_disk::MODES, "b"),
        Kind::Ablation => without(results),
    });
    text
}

/// Milliseconds with as many digits as mean something.
pub(super) fn ms(value: f64) -> String {
    match value {
        value if value < 10.0 => format!("{value:.2}"),
        value if value < 100.0 => format!("{value:.1}"),
        value => format!("{value:.0}"),
    }
}

/// A median with half of its interval.
fn interval(median: Median) -> String {
    let half = (median.high - median.low) / 2.0;
    format!("{} ±{}", ms(median.value), ms(half))
}

fn none() -> String {
    "-".to_owned()
}

fn totals(results: Results<'_>, modes: &[Mode], input: &str) -> String {
    let mut table = Table::new(std::iter::once("").chain(modes.iter().map(|mode| mode.name())));
    for function in results.functions() {
        let cells = modes
            .iter()
            .map(|mode| results.interval(function, mode.name(), input).map_or_else(none, interval));
        table.row(std::iter::once(function.to_owned()).chain(cells));
    }
    format!(
        "milliseconds from request to answer, input {}: medians, half of their 95% intervals\n{}\n",
        input.to_uppercase(),
        table.figures()
    )
}

fn modes(results: Results<'_>) -> String {
    let measured = |mode: &Mode, input: &str| {
        results.functions().iter().any(|function| results.total(function, *mode, input).is_some())
    };
    let mut text = String::new();
    for input in ["b", "a"] {
        let modes: Vec<Mode> = Mode::ALL.into_iter().filter(|mode| measured(mode, input)).collect();
        if !modes.is_empty() {
            text.push_str(&totals(results, &modes, input));
            text.push('\n');
        }
    }
    for mode in Mode::ALL {
        text.push_str(&format!("{:<18}  {}\n", mode.name(), mode.about()));
    }
    text.push_str(&format!("\n{}\n{}\n", details(results), above_warm(results)));
    let mut table = Table::new(["target", "at most", "measured", ""]);
    let targets = targets(results);
    for target in &targets {
        let met = match target.met {
            Some(true) => "met",
            Some(false) => "NOT MET",
            None => "",
        };
        table.row([target.what.as_str(), &target.at_most, &target.measured, met]);
    }
    text.push_str(&table.words());
    for target in targets.iter().filter(|target| !target.missed.is_empty()) {
        text.push_str(&format!("\nnot met, {}: {}", target.what, target.missed.join(", ")));
    }
    text
}

/// What a FaaSnap restore of each function is made of.
fn details(results: Results<'_>) -> String {
    let mut table = Table::new([
        "faasnap, input B",
        "snapshot",
        "loading set",
        "regions",
        "touched",
        "disk MiB/s",
        "first exit",
        "major",
        "minor",
        "memory MiB",
        "on-demand's",
    ]);
    let mebibytes = |bytes: f64| format!("{:.1}", bytes / f64::from(1 << 20));
    for function in results.functions() {
        let figures = results.figures(function);
        let faasnap = Mode::FaaSnap;
        let median = |what: &dyn Fn(&restore::Timeline) -> Option<f64>| {
            results.median_of(function, faasnap.name(), "b", what)
        };
        let memory = |mode: Option<Mode>| mode.and_then(|mode| results.memory(function, mode, "b"));
        table.row([
            function.to_owned(),
            figures.map_or_else(none, |figures| mebibytes(figures.stored_bytes as f64)),
            figures.map_or_else(none, |figures| mebibytes(figures.loading_pages as f64 * 4096.0)),
            figures.map_or_else(none, |figures| figures.loading_regions.to_string()),
            results.touched(function, "b").map_or_else(none, |pages| mebibytes(pages as f64 * 4096.0)),
            results
                .bandwidth(function)
                .map_or_else(none, |found| format!("{:.0}", found.bytes_per_second / 1048576.0)),
            median(&first_exit_ms).map_or_else(none, ms),
            median(&|timeline| Some(timeline.faults.major as f64))
                .map_or_else(none, |count| format!("{count:.0}")),
            median(&|timeline| Some(timeline.faults.minor as f64))
                .map_or_else(none, |count| format!("{count:.0}")),
            memory(Some(faasnap)).map_or_else(none, mebibytes),
            memory(results.best_on_demand(function, "b")).map_or_else(none, mebibytes),
        ]);
    }
    table.figures()
}

fn above_warm(results: Results<'_>) -> String {
    let modes = [Mode::FaaSnap, Mode::FaaSnapCached, Mode::Cached, Mode::Reap, Mode::Eager, Mode::Cold];
    let headings = ["above warm, input B", "on-demand, best"].into_iter().map(str::to_owned);
    let mut table =
        Table::new(headings.chain(modes.iter().map(|mode| mode.to_string())).chain(["bound".to_owned()]));
    for function in results.functions() {
        let best = results.best_on_demand(function, "b");
        let above = |mode| results.above_warm(function, mode, "b").map_or_else(none, ms);
        let bound = results
            .touched(function, "b")
            .zip(results.bandwidth(function))
            .map(|(pages, disk)| 4.0 + pages as f64 * 4096.0 / disk.bytes_per_second * 1e3);
        let mut cells =
            vec![function.to_owned(), best.map_or_else(none, |mode| format!("{} ({mode})", above(mode)))];
        cells.extend(modes.iter().map(|mode| above(*mode)));
        cells.push(bound.map_or_else(none, ms));
        table.row(cells);
    }
    table.figures()
}

fn inputs(results: Results<'_>) -> String {
    let mut text = String::new();
    for function in results.functions() {
        let mut table = Table::new(std::iter::once(function).chain(inputs::LABELS));
        for mode in inputs::MODES {
            let cells = inputs::LABELS
                .iter()
                .map(|label| results.interval(function, mode.name(), label).map_or_else(none, interval));
            table.row(std::iter::once(mode.to_string()).chain(cells));
        }
        text.push_str(&format!("{}\n", table.figures()));
    }
    text
}

fn bursts(results: Results<'_>) -> String {
    let mut text =
        "milliseconds until the last of so many requests at once is answered: medians\n\n".to_owned();
    for function in results.functions() {
        for snapshots in burst::Snapshots::ALL {
            let heading = format!(
                "{function}, {} snapshot{}",
                snapshots.name(),
                match snapshots {
                    burst::Snapshots::Same => "",
                    burst::Snapshots::Different => "s",
                }
            );
            let sizes = burst::SIZES.iter().map(ToString::to_string);
            let mut table = Table::new(std::iter::once(heading).chain(sizes));
            for mode in burst::MODES {
                let cells = burst::SIZES.iter().map(|size| {
                    let times = results.burst(function, &burst::name(mode, snapshots, *size));
                    crate::statistics::median(&times).map_or_else(none, ms)
                });
                table.row(std::iter::once(mode.to_string()).chain(cells));
            }
            text.push_str(&format!("{}\n", table.figures()));
        }
    }
    text
}

fn without(results: Results<'_>) -> String {
    let functions = results.functions();
    let headings = functions.iter().map(|function| (*function).to_owned());
    let mut table = Table::new(
        std::iter::once("above warm, ms".to_owned()).chain(headings).chain(["mean / faasnap".to_owned()]),
    );
    let above = |function: &str, name: &str| {
        let warm = results.total(function, Mode::Warm, "b")?;
        let total = crate::statistics::median(&results.totals(function, name, "b"))?;
        Some((total - warm).max(0.05))
    };
    let names = std::iter::once(Mode::FaaSnap.name().to_owned()).chain(Technique::ALL.map(ablation::name));
    for name in names {
        let ratios: Vec<f64> = functions
            .iter()
            .filter_map(|function| Some(above(function, &name)? / above(function, Mode::FaaSnap.name())?))
            .collect();
        let cells = functions.iter().map(|function| above(function, &name).map_or_else(none, ms));
        let mean = geometric_mean(&ratios).map_or_else(none, |mean| format!("{mean:.2}"));
        table.row(std::iter::once(name.clone()).chain(cells).chain([mean]));
    }
    table.figures()
}
