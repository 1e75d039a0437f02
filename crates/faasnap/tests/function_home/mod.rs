//! A home directory for the tests of functions, with the runtimes that `cargo xtask test` prepares.
// Each file of tests uses a part of it.
#![allow(dead_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// A home of its own with the prepared runtimes' files behind it.
pub struct Home(pub tempfile::TempDir);

pub fn prepared(variable: &str) -> PathBuf {
    std::env::var_os(variable).expect("run `cargo xtask test`, which prepares runtimes and examples").into()
}

pub fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples")
}

/// What an invocation gave: its exit status and what it wrote.
pub struct Ran {
    pub status: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ran {
    pub fn of(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { status: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
    }

    #[track_caller]
    pub fn good(self) -> String {
        assert_eq!(self.status, Some(0), "{}{}", self.out, self.err);
        self.out
    }

    /// The error that a function's caller gets.
    #[track_caller]
    pub fn function_error(self) -> Value {
        assert_eq!(self.status, Some(1), "{}{}", self.out, self.err);
        serde_json::from_str(&self.out).unwrap()
    }
}

impl Home {
    pub fn new() -> Self {
        let home = Self(tempfile::tempdir().unwrap());
        // The same runtimes without copying them: links of the same files, then records as faasnap makes them.
        home.run(&["function", "list"]).good();
        for runtime in ["python3.11", "provided.al2023", "nodejs"] {
            let from = prepared("FAASNAP_TEST_HOME").join("runtimes").join(runtime);
            let to = home.0.path().join("home/runtimes").join(runtime);
            let status = Command::new("cp").arg("-al").arg(from).arg(to).status().unwrap();
            assert!(status.success());
        }
        home
    }

    pub fn run(&self, line: &[&str]) -> Ran {
        let mut command = Command::new(env!("CARGO_BIN_EXE_faasnap"));
        Ran::of(command.args(line).env("FAASNAP_HOME", self.0.path().join("home")).output().unwrap())
    }

    pub fn create(&self, name: &str, runtime: &str, handler: &str, code: &Path, more: &[&str]) {
        let create = ["function", "create", name, "--runtime", runtime, "--handler", handler, "--code"];
        self.run(&[&create[..], &[code.to_str().unwrap(), "--replace"], more].concat()).good();
    }

    /// A Python function from its source.
    pub fn python(&self, name: &str, code: &str, more: &[&str]) {
        let folder = self.0.path().join("code").join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("app.py"), code).unwrap();
        self.create(name, "python3.11", "app.handler", &folder, &[&["--memory", "256"], more].concat());
    }

    pub fn invoke(&self, name: &str, from: &str, payload: &str) -> Ran {
        self.run(&["invoke", name, "--from", from, "--payload", payload])
    }

    #[track_caller]
    pub fn answer(&self, name: &str, from: &str, payload: &str) -> Value {
        serde_json::from_str(&self.invoke(name, from, payload).good()).unwrap()
    }
}

/// The answers of a function booted cold and restored twice from one snapshot.
#[track_caller]
pub fn three_ways(home: &Home, name: &str, payload: &str) -> [Value; 3] {
    let cold = home.answer(name, "cold", payload);
    home.run(&["snapshot", "create", name]).good();
    home.run(&["snapshot", "verify", name]).good();
    [cold, home.answer(name, "snapshot", payload), home.answer(name, "snapshot", payload)]
}
