//! The files beside the plots: every sample as CSV, the summary as JSON.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Kind;
use crate::environment::Environment;
use crate::error::BenchError;
use crate::journal::Entry;
use crate::results::{Results, first_exit_ms};
use crate::statistics::Median;
use crate::targets::{Target, targets};

/// The median of one function by one mode with one input.
#[derive(Serialize)]
struct Row<'a> {
    function: &'a str,
    mode: &'a str,
    input: &'a str,
    total_ms: Median,
}

#[derive(Serialize)]
struct Summary<'a> {
    environment: Option<&'a Environment>,
    left_out: Vec<(&'a str, &'a str)>,
    medians: Vec<Row<'a>>,
    targets: Vec<Target>,
}

pub(super) fn write(
    folder: &Path,
    results: Results<'_>,
    kind: Kind,
    environment: Option<&Environment>,
) -> Result<Vec<PathBuf>, BenchError> {
    let summary = Summary {
        environment,
        left_out: results.left_out(),
        medians: medians(results),
        targets: if kind == Kind::Modes { targets(results) } else { Vec::new() },
    };
    let json = folder.join("summary.json");
    let mut bytes = serde_json::to_vec_pretty(&summary)
        .map_err(|source| BenchError::Damaged { path: json.clone(), source })?;
    bytes.push(b'\n');
    fs::write(&json, bytes).map_err(BenchError::io("writing", &json))?;
    let csv = folder.join("samples.csv");
    fs::write(&csv, samples(results)).map_err(BenchError::io("writing", &csv))?;
    Ok(vec![json, csv])
}

fn medians(results: Results<'_>) -> Vec<Row<'_>> {
    let mut seen: Vec<(&str, &str, &str)> = Vec::new();
    for entry in results.0 {
        if let Entry::Sample { key, .. } = entry {
            let name = (key.function.as_str(), key.mode.as_str(), key.input.as_str());
            if !seen.contains(&name) {
                seen.push(name);
            }
        }
    }
    let row = |(function, mode, input)| {
        Some(Row { function, mode, input, total_ms: results.interval(function, mode, input)? })
    };
    seen.into_iter().filter_map(row).collect()
}

/// No cell needs quoting but those with commas: the names of bursts.
fn samples(results: Results<'_>) -> String {
    let mut csv =
        "function,mode,input,repeat,total_ms,first_exit_ms,minor_faults,major_faults,userfaults,bytes_read,\
                   own_bytes,snapshot_cache_bytes\n"
            .to_owned();
    let number = |value: Option<u64>| value.map_or_else(String::new, |value| value.to_string());
    for entry in results.0 {
        match entry {
            Entry::Sample { key, measured } => {
                let timeline = &measured.timeline;
                csv.push_str(&format!(
                    "{},\"{}\",{},{},{:.3},{},{},{},{},{},{},{}\n",
                    key.function,
                    key.mode,
                    key.input,
                    key.repeat,
                    measured.total_ns as f64 / 1e6,
                    first_exit_ms(timeline).map_or_else(String::new, |ms| format!("{ms:.3}")),
                    timeline.faults.minor,
                    timeline.faults.major,
                    timeline.faults.userfault,
                    number(timeline.bytes_read),
                    number(measured.memory.map(|memory| memory.own)),
                    number(measured.memory.map(|memory| memory.snapshot_cache)),
                ));
            }
            Entry::Burst { key, answered_ns } => {
                for answered in answered_ns {
                    let total = *answered as f64 / 1e6;
                    csv.push_str(&format!(
                        "{},\"{}\",{},{},{total:.3},,,,,,,\n",
                        key.function, key.mode, key.input, key.repeat
                    ));
                }
            }
            _ => {}
        }
    }
    csv
}
