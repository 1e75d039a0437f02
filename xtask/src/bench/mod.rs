//! The same programs natively and in a guest, by turns in one run.

mod figures;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::examples::{self, Prepared};
use crate::needs::{COMPILER, DPKG, HEADERS, VENV, ensure};
use crate::process::{self, command};
use crate::workspace::{root, target};
use figures::Samples;

/// Turns of native and guest; each program repeats its work on its own besides.
const TURNS: usize = 5;
/// Memory of a guest, in MB.
const MEMORY: &str = "1024";
/// One thread for matrix products: what is compared is a CPU's work, not how threads are spread.
const ENVIRONMENT: [(&str, &str); 2] = [("OPENBLAS_NUM_THREADS", "1"), ("LC_ALL", "C")];

pub(crate) fn run() -> Result<()> {
    ensure(&[COMPILER, HEADERS, VENV, DPKG])?;
    let faasnap = examples::binary("release")?;
    let prepared = examples::prepare()?;
    let programs = [costs()?, python(&prepared)?];
    for program in &programs {
        let mut samples = Samples::default();
        for turn in 1..=TURNS {
            eprintln!("{}: turn {turn} of {TURNS}", program.title);
            samples.add_native(&output(&mut program.natively())?)?;
            samples.add_guest(&output(&mut program.in_guest(&faasnap))?)?;
        }
        println!("\n{}, medians of {TURNS} turns:\n\n{}", program.title, samples.table());
    }
    Ok(())
}

/// A program that prints `name nanoseconds` lines, as both sides start it.
struct Program {
    title: &'static str,
    native: Vec<PathBuf>,
    native_environment: Vec<(&'static str, PathBuf)>,
    /// The guest's root; `None` for the host's.
    root: Option<PathBuf>,
    /// Folders that the guest sees, as `SRC:DST`.
    binds: Vec<String>,
    guest: Vec<&'static str>,
    guest_environment: Vec<&'static str>,
}

impl Program {
    fn natively(&self) -> Command {
        let mut words = self.native.iter();
        let mut command = command(words.next().map(PathBuf::as_path).unwrap_or(Path::new("true")), &[]);
        command.args(words).env_clear().envs(ENVIRONMENT);
        command.envs(self.native_environment.iter().map(|(name, value)| (*name, value)));
        command
    }

    fn in_guest(&self, faasnap: &Path) -> Command {
        let mut command = command(faasnap, &["exec", "--memory", MEMORY]);
        if let Some(root) = &self.root {
            command.arg("--root").arg(root);
        }
        command.args(self.binds.iter().flat_map(|bind| ["--bind", bind]));
        let common = ENVIRONMENT.map(|(name, value)| format!("{name}={value}"));
        command.args(common.iter().flat_map(|variable| ["--env", variable]));
        command.args(self.guest_environment.iter().flat_map(|variable| ["--env", variable]));
        command.arg("--").args(&self.guest);
        command
    }
}

/// What small things cost: `bench/costs.c`, linked statically so that it runs in any root.
fn costs() -> Result<Program> {
    let folder = target().join("bench");
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let binary = folder.join("costs");
    let mut compiler = command("cc", &["-O2", "-Wall", "-static", "-pthread", "-o"]);
    process::run(compiler.arg(&binary).arg(root().join("bench/costs.c")))?;
    Ok(Program {
        title: "Small things",
        native: vec![binary],
        native_environment: Vec::new(),
        root: None,
        binds: vec![format!("{}:/mnt", folder.display())],
        guest: vec!["/mnt/costs"],
        guest_environment: Vec::new(),
    })
}

/// CPU-bound work by one and the same interpreter and libraries: natively started by the root's own loader.
fn python(prepared: &Prepared) -> Result<Program> {
    let runtime = prepared.home.join("runtimes/python3.11/root");
    let libraries = runtime.join("usr/lib/x86_64-linux-gnu");
    let source = root().join("bench/python");
    let layer = |name: &str| prepared.examples.join("layers").join(name).join("content/python");
    let (numpy, pyaes) = (layer("numpy"), layer("pyaes"));
    let path = std::env::join_paths([&source, &numpy, &pyaes]).context("joining Python's path")?;
    Ok(Program {
        title: "CPU-bound work",
        native: vec![
            libraries.join("ld-linux-x86-64.so.2"),
            "--library-path".into(),
            libraries,
            runtime.join("usr/bin/python3.11"),
            "-B".into(),
            source.join("work.py"),
        ],
        native_environment: vec![("PYTHONPATH", path.into()), ("PYTHONHOME", runtime.join("usr"))],
        root: Some(runtime),
        binds: vec![
            format!("{}:/var/task", source.display()),
            format!("{}:/opt", numpy.display()),
            format!("{}:/mnt", pyaes.display()),
        ],
        guest: vec!["/usr/bin/python3.11", "-B", "/var/task/work.py"],
        guest_environment: vec!["PYTHONPATH=/var/task:/opt:/mnt"],
    })
}

fn output(command: &mut Command) -> Result<String> {
    let output =
        command.stderr(Stdio::inherit()).output().with_context(|| format!("starting {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} ended with {}", output.status);
    }
    String::from_utf8(output.stdout).context("the figures are no text")
}
