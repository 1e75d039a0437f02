//! How results are shown: tables and JSON on standard output, errors on standard error.

use std::io::{self, Write};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result};
use function_worker::LogSink;
use serde::Serialize;
use worker_protocol::LogStream;

/// Writes a line, or several, to standard output. Unlike `println!` it reports a closed pipe instead of panicking.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{}", text.trim_end_matches('\n'))
        .and_then(|()| stdout.flush())
        .context("writing the output")
}

/// Writes a value as indented JSON.
pub(crate) fn print_json(value: &impl Serialize) -> Result<()> {
    print(&serde_json::to_string_pretty(value).context("encoding the output")?)
}

/// An error with its chain of causes, each once.
pub(crate) fn report(error: &anyhow::Error) {
    // Nothing is left to do when even standard error is gone.
    let _ = writeln!(io::stderr(), "{}", chain(error));
}

/// A line on standard error, for what a result alone doesn't say.
pub(crate) fn note(text: &str) {
    // Nothing is left to do when even standard error is gone.
    let _ = writeln!(io::stderr(), "faasnap: {text}");
}

fn chain(error: &anyhow::Error) -> String {
    let mut text = format!("error: {error}");
    for cause in error.chain().skip(1) {
        text.push_str(&format!("\n  because: {}", cause.to_string().replace('\n', "\n  ")));
    }
    text
}

/// Whether the error is that nobody reads our output any more.
pub(crate) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

/// A table with left-aligned columns as wide as their widest cell.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings.
    pub(crate) fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(|heading| (*heading).to_owned()).collect()] }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The table as text.
    pub(crate) fn text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let line = |row: &Vec<String>| {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        self.rows.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

/// Bytes for people: binary units, three digits.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let name = UNITS.get(unit).copied().unwrap_or_default();
    if unit == 0 || value >= 99.95 { format!("{value:.0} {name}") } else { format!("{value:.1} {name}") }
}

/// A number of things.
pub(crate) fn count(number: u64, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{plural}")
}

/// Seconds since 1970 as a date and time in UTC.
pub(crate) fn time(seconds: u64) -> String {
    // Beyond the year 9999 the format has no text; records are checked, but not for that.
    let latest = 253_402_300_799;
    let at = UNIX_EPOCH + Duration::from_secs(seconds.min(latest));
    humantime::format_rfc3339_seconds(at).to_string()
}

/// Where a function's log goes: to standard error when `show` says so. What the worker itself has to say is no part of the
/// function's log and always shown.
pub(crate) fn log_sink(show: bool) -> LogSink {
    Box::new(move |stream, bytes| {
        if show || stream == LogStream::Worker {
            // A log that nobody reads is no reason to stop.
            let _ = io::stderr().write_all(bytes);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["NAME", "SIZE"]);
        table.row(["a-long-name".to_owned(), "1".to_owned()]);
        table.row(["é".to_owned(), "22".to_owned()]);
        assert_eq!(table.text(), "NAME         SIZE\na-long-name  1\né            22");
    }

    #[test]
    fn sizes_read_well() {
        let texts = [0, 999, 1000, 1024, 99 << 20, 100 << 20, 262_144_000, u64::MAX].map(bytes);
        let expected =
            ["0 B", "999 B", "1.0 KiB", "1.0 KiB", "99.0 MiB", "100 MiB", "250 MiB", "16777216 TiB"];
        assert_eq!(texts, expected);
    }

    #[test]
    fn one_is_no_plural() {
        assert_eq!([0, 1, 2].map(|number| count(number, "file")), ["0 files", "1 file", "2 files"]);
    }

    #[test]
    fn times_are_utc() {
        assert_eq!(time(0), "1970-01-01T00:00:00Z");
        assert_eq!(time(u64::MAX), "9999-12-31T23:59:59Z");
    }

    #[test]
    fn causes_are_shown_once() {
        let error =
            anyhow::Error::new(io::Error::other("the disk is full")).context("can't store the function");
        assert_eq!(chain(&error), "error: can't store the function\n  because: the disk is full");
    }

    #[test]
    fn a_closed_pipe_is_known_below_its_context() {
        let closed = io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(is_closed_pipe(&anyhow::Error::new(closed).context("writing the output")));
        assert!(!is_closed_pipe(&anyhow::anyhow!("something else")));
    }
}
