//! The platform's lines in a function's log, as AWS writes them in the text format.
//!
//! Tools parse these lines, so fields are separated by tabs and a tab stands before the final line end where AWS has one.

use std::fmt::Write as _;
use std::time::Duration;

use crate::outcome;

/// What the REPORT lines say about how a phase ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Status {
    /// Nothing is said.
    Success,
    /// `Status: timeout`.
    Timeout,
    /// `Status: error`, with the error's type.
    Error(String),
}

/// How a cold start began; the first REPORT line of an instance says it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ColdStart {
    /// By a cold boot.
    Init {
        /// From the start of the instance to the first call for an invocation.
        duration: Duration,
    },
    /// By restoring a snapshot.
    Restore {
        /// From the request to the runtime's call for an invocation, after-restore hooks included.
        duration: Duration,
        /// The part that the function's own code took: runtime load and hooks.
        billed: Duration,
    },
}

/// The figures of a REPORT line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report<'a> {
    /// The invocation.
    pub request_id: &'a str,
    /// From delivery to the end of the invocation.
    pub duration: Duration,
    /// The function's configured memory, in MB of 2^20 bytes.
    pub memory_size_mb: u64,
    /// The most that it used, in MB of 2^20 bytes.
    pub max_memory_used_mb: u64,
    /// For the first invocation of an instance.
    pub cold_start: Option<ColdStart>,
    /// How the invocation ended.
    pub status: Status,
}

/// A phase that INIT_REPORT tells of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InitPhase {
    /// Init ahead of an invocation or a snapshot.
    Init,
    /// Init repeated inside an invocation, after it failed before.
    Invoke,
}

/// `START`: an invocation begins.
pub fn start(request_id: &str, version: &str) -> String {
    format!("START RequestId: {request_id} Version: {version}\n")
}

/// `END`: an invocation is over.
pub fn end(request_id: &str) -> String {
    format!("END RequestId: {request_id}\n")
}

/// `REPORT`: an invocation's figures.
pub fn report(report: &Report<'_>) -> String {
    let Report { request_id, duration, memory_size_mb, max_memory_used_mb, cold_start, status } = report;
    let mut line = format!(
        "REPORT RequestId: {request_id}\tDuration: {} ms\tBilled Duration: {} ms\tMemory Size: {memory_size_mb} MB\t\
         Max Memory Used: {max_memory_used_mb} MB\t",
        milliseconds(*duration),
        billed(*duration)
    );
    // Writing to a String can't fail.
    let _ = match cold_start {
        None => Ok(()),
        Some(ColdStart::Init { duration }) => write!(line, "Init Duration: {} ms\t", milliseconds(*duration)),
        Some(ColdStart::Restore { duration, billed: part }) => write!(
            line,
            "Restore Duration: {} ms\tBilled Restore Duration: {} ms\t",
            milliseconds(*duration),
            billed(*part)
        ),
    };
    line.push_str(&status_fields(status));
    line.push('\n');
    line
}

/// The line that a timeout leaves among the function's own output. `time` is RFC 3339 text with milliseconds.
pub fn timed_out(time: &str, request_id: &str, limit: Duration) -> String {
    format!("{time} {request_id} {}\n\n", outcome::timed_out(limit))
}

/// The line that an exit leaves among the function's own output.
pub fn exited(request_id: &str, reason: crate::ExitReason) -> String {
    format!("RequestId: {request_id} Error: {}\nRuntime.ExitError\n", reason.describe())
}

/// `INIT_START`: a cold boot begins.
pub fn init_start(runtime_version: &str, runtime_version_arn: &str) -> String {
    format!("INIT_START Runtime Version: {runtime_version}\tRuntime Version ARN: {runtime_version_arn}\n")
}

/// `INIT_REPORT`: an init ended for a snapshot, or failed.
pub fn init_report(duration: Duration, phase: InitPhase, status: &Status) -> String {
    let phase = match phase {
        InitPhase::Init => "init",
        InitPhase::Invoke => "invoke",
    };
    let status = status_fields(status);
    format!("INIT_REPORT Init Duration: {} ms\tPhase: {phase}\t{status}\n", milliseconds(duration))
}

/// `RESTORE_START`: a restore begins.
pub fn restore_start(runtime_version: &str, runtime_version_arn: &str) -> String {
    format!("RESTORE_START Runtime Version: {runtime_version}\tRuntime Version ARN: {runtime_version_arn}\n")
}

/// `RESTORE_REPORT`: a restore ended.
pub fn restore_report(duration: Duration, status: &Status) -> String {
    format!("RESTORE_REPORT Restore Duration: {} ms\t{}\n", milliseconds(duration), status_fields(status))
}

fn status_fields(status: &Status) -> String {
    match status {
        Status::Success => String::new(),
        Status::Timeout => "Status: timeout\t".to_owned(),
        Status::Error(error_type) => format!("Status: error\tError Type: {error_type}\t"),
    }
}

/// Milliseconds with two decimals.
fn milliseconds(duration: Duration) -> String {
    format!("{:.2}", duration.as_secs_f64() * 1e3)
}

/// Whole milliseconds, rounded up, at least one: what is charged for.
fn billed(duration: Duration) -> u128 {
    duration.as_nanos().div_ceil(1_000_000).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warm() -> Report<'static> {
        Report {
            request_id: "r",
            duration: Duration::from_micros(1230),
            memory_size_mb: 128,
            max_memory_used_mb: 39,
            cold_start: None,
            status: Status::Success,
        }
    }

    #[test]
    fn report_lines_have_the_recorded_shape() {
        let head = "REPORT RequestId: r\tDuration: 1.23 ms\tBilled Duration: 2 ms\tMemory Size: 128 MB\tMax Memory Used: 39 MB\t";
        assert_eq!(report(&warm()), format!("{head}\n"));
        let init = ColdStart::Init { duration: Duration::from_micros(80_120) };
        assert_eq!(
            report(&Report { cold_start: Some(init), ..warm() }),
            format!("{head}Init Duration: 80.12 ms\t\n")
        );
        let restore =
            ColdStart::Restore { duration: Duration::from_micros(4_501), billed: Duration::from_micros(500) };
        assert_eq!(
            report(&Report { cold_start: Some(restore), ..warm() }),
            format!("{head}Restore Duration: 4.50 ms\tBilled Restore Duration: 1 ms\t\n")
        );
        assert_eq!(
            report(&Report { status: Status::Timeout, ..warm() }),
            format!("{head}Status: timeout\t\n")
        );
    }

    #[test]
    fn billing_rounds_up() {
        for (nanoseconds, expected) in [(0, 1), (1, 1), (1_000_000, 1), (1_000_001, 2), (2_999_999, 3)] {
            assert_eq!(billed(Duration::from_nanos(nanoseconds)), expected);
        }
    }

    #[test]
    fn the_other_lines() {
        assert_eq!(start("r", "$LATEST"), "START RequestId: r Version: $LATEST\n");
        assert_eq!(end("r"), "END RequestId: r\n");
        assert_eq!(
            init_report(
                Duration::from_secs(10),
                InitPhase::Init,
                &Status::Error("Runtime.ExitError".to_owned())
            ),
            "INIT_REPORT Init Duration: 10000.00 ms\tPhase: init\tStatus: error\tError Type: Runtime.ExitError\t\n"
        );
        assert_eq!(
            restore_report(Duration::from_millis(3), &Status::Success),
            "RESTORE_REPORT Restore Duration: 3.00 ms\t\n"
        );
        assert_eq!(
            timed_out("2026-01-02T03:04:05.678Z", "r", Duration::from_secs(3)),
            "2026-01-02T03:04:05.678Z r Task timed out after 3.00 seconds\n\n"
        );
        assert_eq!(
            exited("r", crate::ExitReason::Signal(9)),
            "RequestId: r Error: Runtime exited with error: signal: killed\nRuntime.ExitError\n"
        );
    }
}
