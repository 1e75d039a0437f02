//! The benchmark from functions to files: every way to an answer, a run that goes on, an answer that is wrong.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

const CODE: &str = "import zlib\ndef handler(event, context):\n    \
                    return {'checksum': f'{zlib.crc32(event[\"name\"].encode()):08x}'}\n";

/// A home with one function for benchmarks, and a folder for runs on the same disk.
struct Bench(tempfile::TempDir);

impl Bench {
    fn new(checksum_b: &str) -> Self {
        // Not in /tmp, which may be memory: files have to be droppable from the page cache.
        let prepared =
            std::env::var_os("FAASNAP_TEST_HOME").expect("run `cargo xtask test`, which prepares it");
        let prepared = PathBuf::from(prepared);
        let bench = Self(tempfile::tempdir_in(prepared.parent().unwrap()).unwrap());
        let code = bench.0.path().join("code");
        fs::create_dir(&code).unwrap();
        fs::write(code.join("app.py"), CODE).unwrap();
        let description = format!(
            r#"{{"memory": 128, "inputs": [
                {{"label": "a", "size": "1", "event": {{"name": "A"}}, "checksum": "d3d99e8b"}},
                {{"label": "b", "size": "2", "event": {{"name": "BB"}}, "checksum": "{checksum_b}"}}]}}"#
        );
        fs::write(code.join("benchmark.json"), description).unwrap();
        assert!(bench.run(&["function", "list"]).status.success());
        let runtimes = bench.0.path().join("home/runtimes");
        let mut copy = Command::new("cp");
        copy.arg("-al").arg(prepared.join("runtimes/python3.11")).arg(runtimes.join("python3.11"));
        assert!(copy.status().unwrap().success());
        let create =
            ["function", "create", "tiny", "--runtime", "python3.11", "--handler", "app.handler", "--code"];
        let created = bench.run(&[&create[..], &[code.to_str().unwrap()]].concat());
        assert!(created.status.success(), "{created:?}");
        bench
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_faasnap"));
        command.args(arguments).env("FAASNAP_HOME", self.0.path().join("home"));
        command.output().unwrap()
    }

    fn modes(&self, more: &[&str]) -> Output {
        let into = self.0.path().join("run");
        let modes = ["bench", "modes", "--quick", "--into", into.to_str().unwrap()];
        self.run(&[&modes[..], more].concat())
    }

    fn summary(&self) -> Value {
        serde_json::from_slice(&fs::read(self.0.path().join("run/summary.json")).unwrap()).unwrap()
    }
}

#[test]
#[ignore = "needs /dev/kvm and what `cargo xtask test` prepares"]
fn modes_are_measured_once_and_reported_again() {
    let bench = Bench::new("1b441fc4");
    let first = bench.modes(&["--function", "tiny", "--repeats", "1"]);
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
    let text = String::from_utf8(first.stdout).unwrap();
    assert!(text.contains("faasnap / cached, mean of totals"), "{text}");
    let summary = bench.summary();
    let medians = summary["medians"].as_array().unwrap();
    for mode in [
        "warm",
        "cached",
        "faasnap",
        "faasnap-cached",
        "on-demand-random",
        "recorded",
        "eager",
        "cold",
        "process",
    ] {
        let row = medians.iter().find(|row| row["mode"] == mode && row["input"] == "b");
        assert!(row.is_some_and(|row| row["total_ms"]["value"].as_f64().unwrap() > 0.0), "{mode}: {summary}");
    }
    let run = bench.0.path().join("run");
    for file in ["samples.csv", "report.txt", "totals.svg", "totals.png", "phases.png", "memory/tiny.png"] {
        assert!(fs::metadata(run.join(file)).unwrap().len() > 100, "{file}");
    }
    assert!(!run.join("snapshots").exists(), "snapshots go when a run is complete");

    let journal = || fs::read_to_string(run.join("journal.jsonl")).unwrap();
    let before = journal();
    // A run that lost its last lines goes on: only what is missing is measured.
    let kept: Vec<&str> = before.lines().take(before.lines().count() - 3).collect();
    fs::write(run.join("journal.jsonl"), kept.join("\n") + "\n").unwrap();
    assert!(bench.modes(&["--function", "tiny", "--repeats", "1"]).status.success());
    assert!(journal().starts_with(&kept.join("\n")));
    assert_eq!(journal().lines().count(), before.lines().count());
    // With other settings it is another run.
    let other = bench.modes(&["--function", "tiny", "--repeats", "2"]);
    assert_eq!(other.status.code(), Some(3), "{other:?}");
    assert!(String::from_utf8_lossy(&other.stderr).contains("--again"), "{other:?}");
}

#[test]
#[ignore = "needs /dev/kvm and what `cargo xtask test` prepares"]
fn a_disk_is_slow_by_a_reader_too_and_the_run_says_so() {
    let bench = Bench::new("1b441fc4");
    let into = bench.0.path().join("run");
    let line =
        ["bench", "slow-disk", "--function", "tiny", "--repeats", "1", "--into", into.to_str().unwrap()];
    let by = |by: &'static str| bench.run(&[&line[..], &["--throttle", by]].concat());
    let ran = by("reader");
    let log = String::from_utf8_lossy(&ran.stderr).into_owned();
    if log.contains("a slow disk is not possible here") {
        eprintln!("NOT TESTED: {log}");
        return;
    }
    assert!(ran.status.success(), "{log}");
    assert!(log.contains("by a throttled reader (a file system in user space), not by the kernel"), "{log}");
    let medians = bench.summary()["medians"].as_array().unwrap().clone();
    for mode in ["warm", "cached", "faasnap", "reap", "on-demand-random", "on-demand"] {
        assert!(medians.iter().any(|row| row["mode"] == mode), "{mode}: {medians:?}");
    }
    assert!(!into.join("snapshots").exists(), "snapshots go when a run is complete");
    // What slows the disk down belongs to the run.
    let other = by("cgroup");
    assert_eq!(other.status.code(), Some(3), "{other:?}");
    assert!(String::from_utf8_lossy(&other.stderr).contains("--again"), "{other:?}");
}

#[test]
#[ignore = "needs /dev/kvm and what `cargo xtask test` prepares"]
fn a_wrong_answer_ends_the_benchmark() {
    let bench = Bench::new("00000000");
    let refused = bench.modes(&["--function", "tiny", "--repeats", "1"]);
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(error.contains("checksum 00000000 was expected, the answer is"), "{error}");
}
