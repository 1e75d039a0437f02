//! What FaaSnap must show (issue 4's table, and that recording slows by no more than a tenth), computed from one run of `modes`.

use serde::Serialize;

use crate::experiments::burst::{self, Snapshots};
use crate::mode::Mode;
use crate::results::{Results, first_exit_ms, loader_bandwidth};
use crate::statistics::{geometric_mean, median, quantile};

/// The tested input.
const B: &str = "b";
/// Bytes of a page.
const PAGE: f64 = 4096.0;
/// Loading sets from here on count for the loader's bandwidth.
const LARGE_SET: f64 = (32 << 20) as f64;

/// A row of the table.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct Target {
    pub what: String,
    pub at_most: String,
    pub measured: String,
    /// What missed it, in full.
    pub missed: Vec<String>,
    /// None: it could not be measured.
    pub met: Option<bool>,
}

impl Target {
    fn at_most(what: &str, limit: f64, measured: Option<(f64, String)>) -> Self {
        let (measured, met) = match measured {
            Some((value, more)) => (format!("{value:.2}{more}"), Some(value <= limit)),
            None => ("not measured".to_owned(), None),
        };
        Self { what: what.to_owned(), at_most: format!("{limit:.2}"), measured, missed: Vec::new(), met }
    }
}

/// All rows.
pub(crate) fn targets(results: Results<'_>) -> Vec<Target> {
    let functions = results.functions();
    let ratio = |over: Mode, under: &dyn Fn(&str) -> Option<f64>, above: bool| {
        let ratios: Vec<f64> = functions
            .iter()
            .filter_map(|function| {
                let value = if above {
                    results.above_warm(function, over, B)
                } else {
                    results.total(function, over, B)
                };
                Some(value? / under(function)?)
            })
            .collect();
        let mean = geometric_mean(&ratios)?;
        let (least, most) = (quantile(&ratios, 0.0)?, quantile(&ratios, 1.0)?);
        Some((mean, format!(" ({least:.2} to {most:.2})")))
    };
    let cached = |function: &str| results.total(function, Mode::Cached, B);
    let on_demand = |function: &str| results.above_warm(function, results.best_on_demand(function, B)?, B);
    let reap = |function: &str| results.above_warm(function, Mode::Reap, B);
    let unrecorded = |function: &str| results.total(function, Mode::OnDemandRandom, B);
    let mut rows = bounds(results, &functions);
    rows.extend([
        files_cached(results, &functions),
        Target::at_most("faasnap / cached, mean of totals", 1.0, ratio(Mode::FaaSnap, &cached, false)),
        Target::at_most(
            "faasnap / on-demand at its best, mean above warm",
            0.4,
            ratio(Mode::FaaSnap, &on_demand, true),
        ),
        Target::at_most("faasnap / reap, mean above warm", 0.6, ratio(Mode::FaaSnap, &reap, true)),
        memory(results, &functions),
        Target::at_most(
            "recorded / the same unrecorded, mean of totals",
            1.1,
            ratio(Mode::Recorded, &unrecorded, false),
        ),
    ]);
    rows.extend(bursts(results));
    rows.extend(sizes(results, &functions));
    rows.push(loader(results, &functions));
    rows.extend(first_exit(results, &functions));
    rows
}

/// FaaSnap above warm, each function and the sum.
fn bounds(results: Results<'_>, functions: &[&str]) -> Vec<Target> {
    let (mut measured, mut bound, mut met) = (0.0, 0.0, Vec::new());
    for function in functions {
        let limit = || {
            let seconds =
                results.touched(function, B)? as f64 * PAGE / results.bandwidth(function)?.bytes_per_second;
            Some(4.0 + seconds * 1e3)
        };
        let (Some(above), Some(limit)) = (results.above_warm(function, Mode::FaaSnap, B), limit()) else {
            continue;
        };
        measured += above;
        bound += limit;
        met.push((*function, above, limit));
    }
    let missed: Vec<String> = met
        .iter()
        .filter(|(_, above, limit)| above > limit)
        .map(|(function, above, limit)| format!("{function} {above:.1} of {limit:.1} ms"))
        .collect();
    let held = met.len() - missed.len();
    let each = Target {
        what: "faasnap above warm, each function".to_owned(),
        at_most: "4 ms + touched / bandwidth".to_owned(),
        measured: match met.len() {
            0 => "not measured".to_owned(),
            all => format!("{held} of {all}"),
        },
        met: (!met.is_empty()).then_some(missed.is_empty()),
        missed,
    };
    let sum = (bound > 0.0).then(|| (measured / bound, format!(" ({measured:.1} of {bound:.1} ms)")));
    vec![each, Target::at_most("the sum of these / the sum of the bounds", 0.8, sum)]
}

/// The same with cached files.
fn files_cached(results: Results<'_>, functions: &[&str]) -> Target {
    let mut all = 0;
    let mut missed = Vec::new();
    for function in functions {
        let found =
            results.total(function, Mode::Warm, B).zip(results.total(function, Mode::FaaSnapCached, B));
        let Some((warm, total)) = found else { continue };
        all += 1;
        let limit = if warm < 50.0 { warm + 5.0 } else { warm * 1.1 };
        if total > limit {
            missed.push(format!("{function} {total:.1} of {limit:.1} ms"));
        }
    }
    Target {
        what: "faasnap, files cached, each function".to_owned(),
        at_most: "warm + 5 ms; from 50 ms on 1.1 warm".to_owned(),
        measured: match all {
            0 => "not measured".to_owned(),
            all => format!("{} of {all}", all - missed.len()),
        },
        met: (all > 0).then_some(missed.is_empty()),
        missed,
    }
}

/// The worst function counts.
fn memory(results: Results<'_>, functions: &[&str]) -> Target {
    let ratios: Vec<(f64, &str)> = functions
        .iter()
        .filter_map(|function| {
            let on_demand = results.memory(function, results.best_on_demand(function, B)?, B)?;
            Some((results.memory(function, Mode::FaaSnap, B)? / on_demand, *function))
        })
        .collect();
    let worst = ratios.iter().max_by(|one, other| one.0.total_cmp(&other.0));
    let mean = geometric_mean(&ratios.iter().map(|(ratio, _)| *ratio).collect::<Vec<_>>());
    let measured =
        worst.zip(mean).map(|((ratio, function), mean)| (*ratio, format!(" ({function}; mean {mean:.2})")));
    Target::at_most("memory of the instance / the on-demand one's, worst function", 1.2, measured)
}

fn bursts(results: Results<'_>) -> Vec<Target> {
    let ratio = |function: &str| {
        let last = |mode| median(&results.burst(function, &burst::name(mode, Snapshots::Same, 64)));
        let (faasnap, cached) = (last(Mode::FaaSnap)?, last(Mode::Cached)?);
        Some((faasnap / cached, format!(" ({faasnap:.0} of {cached:.0} ms)")))
    };
    let row = |function: &str| {
        let what = format!("64 of {function} at once, time to the last answer, faasnap / cached");
        Target::at_most(&what, 1.0, ratio(function))
    };
    vec![row("hello-world"), row("json")]
}

fn sizes(results: Results<'_>, functions: &[&str]) -> Vec<Target> {
    let worst = |what: &dyn Fn(&str) -> Option<f64>| {
        let all = functions.iter().filter_map(|function| Some((what(function)?, *function)));
        all.max_by(|one, other| one.0.total_cmp(&other.0))
            .map(|(ratio, function)| (ratio, format!(" ({function})")))
    };
    let disk = |function: &str| {
        let figures = results.figures(function)?;
        Some(figures.bytes_on_disk as f64 / figures.stored_bytes as f64)
    };
    let set = |function: &str| {
        let figures = results.figures(function)?;
        Some(figures.loading_file_bytes as f64 / (figures.working_set_pages as f64 * PAGE))
    };
    vec![
        Target::at_most("snapshot on disk / memory that is not zero, worst function", 1.05, worst(&disk)),
        Target::at_most("loading-set file / bytes touched, worst function", 1.3, worst(&set)),
    ]
}

fn loader(results: Results<'_>, functions: &[&str]) -> Target {
    let mut found: Option<(f64, String)> = None;
    for function in functions {
        let large =
            results.figures(function).is_some_and(|figures| figures.loading_pages as f64 * PAGE >= LARGE_SET);
        let loader = results.median_of(function, Mode::FaaSnap.name(), B, loader_bandwidth);
        if let (true, Some(loader), Some(disk)) = (large, loader, results.bandwidth(function)) {
            let ratio = loader / disk.bytes_per_second;
            // What is read compressed counts as what it becomes.
            let samples = results.samples(function, Mode::FaaSnap.name(), B);
            let is_decoded = samples
                .iter()
                .any(|measured| measured.timeline.loading_set.is_some_and(|used| used.decoded_bytes > 0));
            let name = if is_decoded { format!("{function}, decoded bytes") } else { (*function).to_owned() };
            if found.as_ref().is_none_or(|(least, _)| ratio < *least) {
                found = Some((ratio, name));
            }
        }
    }
    Target {
        what: "loader / bandwidth, loading sets from 32 MiB, worst function".to_owned(),
        at_most: "at least 0.85".to_owned(),
        measured: found
            .as_ref()
            .map_or_else(|| "not measured".to_owned(), |(ratio, name)| format!("{ratio:.2} ({name})")),
        missed: Vec::new(),
        met: found.map(|(ratio, _)| ratio >= 0.85),
    }
}

/// Over all requests of all functions.
fn first_exit(results: Results<'_>, functions: &[&str]) -> Vec<Target> {
    let all = |mode: Mode| -> Vec<f64> {
        let samples = functions.iter().flat_map(|function| results.samples(function, mode.name(), B));
        samples.filter_map(|measured| first_exit_ms(&measured.timeline)).collect()
    };
    let (ready, new) = (all(Mode::FaaSnap), all(Mode::FaaSnapNewWorker));
    let row = |share: f64, name: &str, limit: f64| {
        let without =
            quantile(&new, share).map_or_else(String::new, |value| format!(" (new worker {value:.2})"));
        let measured = quantile(&ready, share).map(|value| (value, without));
        Target::at_most(&format!("request to first exit, ready worker, {name}, ms"), limit, measured)
    };
    vec![row(0.5, "median", 3.0), row(0.99, "p99", 10.0)]
}

#[cfg(test)]
mod tests {
    use restore::Timeline;

    use super::*;
    use crate::attempt::Measured;
    use crate::bandwidth::Bandwidth;
    use crate::journal::{Entry, Key};

    fn sample(mode: Mode, total_ms: u64) -> Entry {
        let key =
            Key { function: "f".to_owned(), mode: mode.name().to_owned(), input: B.to_owned(), repeat: 1 };
        let measured = Measured { total_ns: total_ms * 1_000_000, timeline: Timeline::start(), memory: None };
        Entry::Sample { key, measured }
    }

    fn named<'a>(rows: &'a [Target], start: &str) -> &'a Target {
        rows.iter().find(|row| row.what.starts_with(start)).unwrap()
    }

    #[test]
    fn rows_say_what_is_met() {
        let bandwidth = Bandwidth { bytes_per_second: 4096.0 * 1000.0, shape: String::new() };
        let entries = [
            sample(Mode::Warm, 10),
            sample(Mode::Cached, 30),
            sample(Mode::FaaSnap, 20),
            sample(Mode::FaaSnapCached, 16),
            sample(Mode::Reap, 40),
            sample(Mode::OnDemand, 70),
            sample(Mode::OnDemandRandom, 50),
            Entry::Bandwidth { function: "f".to_owned(), bandwidth },
            // A page takes a millisecond.
            Entry::Touched { function: "f".to_owned(), input: B.to_owned(), pages: 8 },
        ];
        let rows = targets(Results(&entries));
        assert_eq!(named(&rows, "faasnap above warm").met, Some(true));
        assert_eq!(named(&rows, "the sum of these").measured, "0.83 (10.0 of 12.0 ms)");
        assert_eq!(named(&rows, "the sum of these").met, Some(false));
        assert_eq!(named(&rows, "faasnap, files cached").met, Some(false));
        assert_eq!(named(&rows, "faasnap / cached").measured, "0.67 (0.67 to 0.67)");
        assert_eq!(named(&rows, "faasnap / on-demand").measured, "0.25 (0.25 to 0.25)");
        assert_eq!(named(&rows, "faasnap / reap").met, Some(true));
        assert_eq!(named(&rows, "64 of json").met, None);
        assert_eq!(named(&rows, "loader").met, None);
    }
}
