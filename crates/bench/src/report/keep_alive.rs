//! The table and the plot of `keep-alive`.

use std::fs;

use super::Report;
use super::table::Table;
use crate::error::BenchError;
use crate::experiments::keep_alive::{Family, KeepAliveOptions, Row, StartBy};
use crate::plot::{self, LineFigure, LinePanel, Series};

pub(crate) fn write(options: &KeepAliveOptions, rows: &[Row]) -> Result<Report, BenchError> {
    let folder = &options.into;
    fs::create_dir_all(folder).map_err(BenchError::io("creating", folder))?;
    let text = text(options, rows);
    let path = folder.join("report.txt");
    fs::write(&path, &text).map_err(BenchError::io("writing", &path))?;
    let json = folder.join("summary.json");
    let bytes = serde_json::to_vec_pretty(rows)
        .map_err(|source| BenchError::Damaged { path: json.clone(), source })?;
    fs::write(&json, bytes).map_err(BenchError::io("writing", &json))?;
    let csv = folder.join("policies.csv");
    fs::write(&csv, csv_of(rows)).map_err(BenchError::io("writing", &csv))?;
    let mut files = vec![path, json, csv];
    files.extend(plot::save(folder, "keep-alive", &figure(rows))?);
    Ok(Report { text, files })
}

fn text(options: &KeepAliveOptions, rows: &[Row]) -> String {
    let calls = rows.first().map_or(0, |row| row.calls);
    let mut text = format!(
        "a simulated day: {calls} calls of {} functions, costs from {}\n\n",
        options.functions,
        options.costs.display()
    );
    let waits = StartBy::ALL.map(|start| format!("wait, ms: {}", start.name()));
    let headings = ["policy", "cold starts, %", "GiB on average", "GiB at most"].map(str::to_owned);
    let mut table = Table::new(headings.into_iter().chain(waits));
    let by_faasnap = rows.iter().filter(|row| row.start == StartBy::FaaSnap);
    for row in by_faasnap {
        let wait = |start: StartBy| {
            let same = rows.iter().find(|other| other.policy == row.policy && other.start == start);
            same.map_or_else(|| "-".to_owned(), |row| format!("{:.3}", row.mean_wait_ms))
        };
        let figures = [
            row.policy.clone(),
            format!("{:.3}", row.cold_percent),
            format!("{:.2}", row.average_gib),
            format!("{:.2}", row.peak_gib),
        ];
        table.row(figures.into_iter().chain(StartBy::ALL.map(wait)));
    }
    text.push_str(&table.figures());
    text.push_str(
        "\nwait: for an instance, on average over all calls, when instances are started that way\n",
    );
    text
}

fn csv_of(rows: &[Row]) -> String {
    let mut csv = "policy,start,calls,cold_percent,average_gib,peak_gib,mean_wait_ms,throttled\n".to_owned();
    for row in rows {
        csv.push_str(&format!(
            "\"{}\",{},{},{:.4},{:.4},{:.4},{:.4},{}\n",
            row.policy,
            row.start.name(),
            row.calls,
            row.cold_percent,
            row.average_gib,
            row.peak_gib,
            row.mean_wait_ms,
            row.throttled
        ));
    }
    csv
}

fn figure(rows: &[Row]) -> String {
    let families = [
        (Family::Fixed, "kept for a fixed time", "#009e73"),
        (Family::Budget, "least recently used within a budget", "#e69f00"),
        (Family::Histogram, "histogram of idle times", "#cc79a7"),
    ];
    let starts = [
        (StartBy::FaaSnap, "fixed times, started by faasnap", "#0072b2"),
        (StartBy::OnDemand, "started on demand", "#56b4e9"),
        (StartBy::Boot, "booted", "#d55e00"),
    ];
    let points = |keep: &dyn Fn(&Row) -> bool, up: &dyn Fn(&Row) -> f64| {
        let mut points: Vec<(f64, f64)> =
            rows.iter().filter(|row| keep(row)).map(|row| (row.average_gib, up(row))).collect();
        points.sort_by(|one, other| one.0.total_cmp(&other.0));
        points
    };
    let cold = families.map(|(family, _, colour)| Series {
        colour: colour.to_owned(),
        points: points(&|row| row.family == family && row.start == StartBy::FaaSnap, &|row| row.cold_percent),
    });
    let wait = starts.map(|(start, _, colour)| Series {
        colour: colour.to_owned(),
        points: points(&|row| row.family == Family::Fixed && row.start == start, &|row| row.mean_wait_ms),
    });
    let legend = families
        .iter()
        .map(|(_, name, colour)| ((*name).to_owned(), (*colour).to_owned()))
        .chain(starts.iter().map(|(_, name, colour)| ((*name).to_owned(), (*colour).to_owned())));
    LineFigure {
        title: "A simulated day: memory held against cold starts".to_owned(),
        across: "memory of instances, GiB on average".to_owned(),
        up: String::new(),
        panels: vec![
            LinePanel { title: "cold starts, % of calls".to_owned(), series: cold.to_vec() },
            LinePanel { title: "mean wait of a call, ms".to_owned(), series: wait.to_vec() },
        ],
        legend: legend.collect(),
        columns: 2,
        logarithmic: (false, true),
    }
    .svg()
}
