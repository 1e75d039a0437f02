//! The demo's table: ways to an answer, each with the phases that it took.

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::Value;

/// What one invocation took, as `faasnap invoke --json` says it. Only what is shown is read.
#[derive(Clone, PartialEq, Debug, Deserialize)]
pub(super) struct Timeline {
    phases: Vec<Phase>,
    faults: Faults,
    bytes_read: Option<u64>,
    resident_bytes: u64,
}

/// A piece of the way, in nanoseconds since the request.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
struct Phase {
    phase: String,
    start_ns: u64,
    end_ns: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
struct Faults {
    minor: u64,
    major: u64,
}

/// One way to an answer with the timelines of its repeats.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Way {
    pub(super) name: &'static str,
    pub(super) timelines: Vec<Timeline>,
}

/// What `faasnap invoke --json` prints.
#[derive(Debug, Deserialize)]
struct Report {
    failed: bool,
    payload: Value,
    timeline: Option<Timeline>,
}

/// Reads the report of one invocation; a function that failed is an error, whatever it took.
pub(super) fn parse(text: &str) -> Result<Timeline> {
    let report: Report =
        serde_json::from_str(text).with_context(|| format!("reading the report {text:?}"))?;
    if report.failed {
        bail!("the function failed: {}", report.payload);
    }
    report.timeline.context("the report has no timeline")
}

/// What `faasnap invoke --restores --json` prints.
#[derive(Debug, Deserialize)]
struct Restores {
    timelines: Vec<Timeline>,
}

/// Reads the report of several restores, each in a worker that was ready.
pub(super) fn parse_restores(text: &str) -> Result<Vec<Timeline>> {
    let report: Restores =
        serde_json::from_str(text).with_context(|| format!("reading the report {text:?}"))?;
    Ok(report.timelines)
}

/// The time from the request to the complete answer; the teardown comes after it. A warm call's timeline has only its return.
fn total_ns(timeline: &Timeline) -> u64 {
    let end = |name: &str| timeline.phases.iter().rev().find(|phase| phase.phase == name);
    end("returned").or_else(|| end("answered")).map_or(0, |phase| phase.end_ns)
}

/// Medians of every way, then the phases of the repeat whose total is the median one.
pub(super) fn text(ways: &[Way]) -> String {
    let headings = ["", "total", "least", "most", "major faults", "minor faults", "read", "resident"];
    let mut rows = vec![headings.map(str::to_owned).to_vec()];
    for way in ways {
        let Some(typical) = typical(way) else { continue };
        let totals: Vec<u64> = way.timelines.iter().map(total_ns).collect();
        rows.push(vec![
            way.name.to_owned(),
            milliseconds(total_ns(typical)),
            milliseconds(totals.iter().copied().min().unwrap_or(0)),
            milliseconds(totals.iter().copied().max().unwrap_or(0)),
            typical.faults.major.to_string(),
            typical.faults.minor.to_string(),
            typical.bytes_read.map_or_else(|| "unknown".to_owned(), mebibytes),
            mebibytes(typical.resident_bytes),
        ]);
    }
    let mut text = aligned(&rows);
    text.push_str("\n\nphases of the median run:");
    for way in ways {
        let Some(typical) = typical(way) else { continue };
        let phases = typical.phases.iter().filter(|phase| phase.phase != "torn-down");
        let phases = phases.map(|phase| {
            let time = milliseconds(phase.end_ns.saturating_sub(phase.start_ns));
            format!("{} {time}", phase.phase.replace('-', " "))
        });
        text.push_str(&format!("\n  {}: {}", way.name, phases.collect::<Vec<_>>().join(", ")));
    }
    text
}

/// The timeline with the median total.
fn typical(way: &Way) -> Option<&Timeline> {
    let mut sorted: Vec<&Timeline> = way.timelines.iter().collect();
    sorted.sort_by_key(|timeline| total_ns(timeline));
    sorted.get(sorted.len().checked_sub(1)? / 2).copied()
}

fn milliseconds(nanoseconds: u64) -> String {
    let value = nanoseconds as f64 / 1e6;
    if value < 10.0 { format!("{value:.2} ms") } else { format!("{value:.0} ms") }
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// Columns as wide as their widest cell; names to the left, figures to the right.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|at| rows.iter().filter_map(|row| row.get(at)).map(String::len).max().unwrap_or(0))
        .collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate().map(|(at, (cell, &width))| {
            if at == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        cells.collect::<Vec<_>>().join("  ")
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(answered_ms: u64) -> String {
        format!(
            r#"{{"failed":false,"payload":{{"a":1}},"from":"snapshot","timeline":{{
                "request_at_ns":5,"strategy":"on-demand","phases":[
                {{"phase":"vm-created","start_ns":0,"end_ns":1500000}},
                {{"phase":"answered","start_ns":1500000,"end_ns":{}}},
                {{"phase":"torn-down","start_ns":0,"end_ns":99000000000}}],
                "faults":{{"minor":12,"major":3,"userfault":0}},"bytes_read":1048576,"resident_bytes":3145728}}}}"#,
            answered_ms * 1_000_000
        )
    }

    #[test]
    fn the_median_run_is_shown() {
        let timelines = [30, 10, 20].into_iter().map(|total| parse(&report(total)).unwrap()).collect();
        let text = text(&[Way { name: "restore from disk", timelines }]);
        let rows: Vec<&str> = text.lines().collect();
        let figures: Vec<&str> = rows[1].split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
        assert_eq!(
            figures,
            ["restore from disk", "20 ms", "10 ms", "30 ms", "3", "12", "1.0 MiB", "3.0 MiB"]
        );
        assert_eq!(rows[4], "  restore from disk: vm created 1.50 ms, answered 18 ms");
    }

    #[test]
    fn what_is_no_success_is_no_row() {
        assert!(!text(&[Way { name: "warm", timelines: Vec::new() }]).contains("warm"));
        assert!(parse("{}").is_err());
        let failed = report(1).replace("\"failed\":false", "\"failed\":true");
        assert!(parse(&failed).unwrap_err().to_string().contains("the function failed: {\"a\":1}"));
    }
}
