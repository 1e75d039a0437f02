//! The benchmark's functions (`examples/functions`), from packages and generated inputs to functions in a home directory.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::examples;
use crate::needs::{COMPILER, DPKG, HEADERS, VENV, ensure};
use crate::process::{self, command};
use crate::workspace::{root, target};

/// The runtime that all of them run in, and what pip adds to it: exact versions, since answers are compared.
const RUNTIME: &str = "functions";
const PACKAGES: [&str; 5] =
    ["numpy==2.2.6", "pillow==11.3.0", "chameleon==4.6.0", "igraph==0.11.9", "av==15.0.0"];
/// The one package that the index has as source only comes as a layer, to the function of its name.
const LAYER: &str = "pyaes";

/// One thread each: a function of this size has one processor, and threads that wait for each other for it make system calls of it.
const THREADS: [(&str, &str); 2] = [("OPENBLAS_NUM_THREADS", "1"), ("OMP_NUM_THREADS", "1")];

/// What is read of a function's `benchmark.json`.
#[derive(Deserialize)]
struct Described {
    memory: u32,
}

/// `cargo xtask functions`: `home` is where they are created, by default the user's own.
pub(crate) fn run(home: Option<&Path>) -> Result<()> {
    ensure(&[COMPILER, HEADERS, VENV, DPKG])?;
    let home = match home {
        Some(home) => std::path::absolute(home).context("finding the home directory")?,
        None => store::default_home()?,
    };
    let faasnap = examples::binary("release")?;
    let faasnap = |arguments: &[&str]| {
        let mut command = command(&faasnap, arguments);
        command.env("FAASNAP_HOME", &home);
        command
    };
    let mut build = faasnap(&["runtime", "build", "python3.11", "--name", RUNTIME]);
    process::run(build.args(PACKAGES.iter().flat_map(|package| ["--package", package])))?;
    let layer = examples::layer(LAYER)?;
    let runtime = home.join("runtimes").join(RUNTIME).join("root");
    let made = target().join("functions");
    let mut prepare = interpreter(&runtime, &layer);
    prepare.arg(root().join("examples/functions/prepare.py"));
    process::run(prepare.arg(root().join("examples/functions")).arg(&made))?;

    for name in names(&made)? {
        let folder = made.join(&name);
        let text = fs::read_to_string(folder.join("benchmark.json")).context("reading benchmark.json")?;
        let Described { memory } = serde_json::from_str(&text).context("reading benchmark.json")?;
        let mut create = faasnap(&["function", "create", &name, "--runtime", RUNTIME, "--replace"]);
        create.args(["--handler", "app.handler", "--timeout", "60"]);
        for (variable, value) in THREADS {
            create.args(["--env", &format!("{variable}={value}")]);
        }
        create.args(["--memory", &memory.to_string()]).arg("--code").arg(&folder);
        if name == LAYER {
            create.arg("--layer").arg(&layer);
        }
        process::run(&mut create)?;
    }
    println!("\nthe functions are in {}; now: faasnap bench modes --quick", home.display());
    Ok(())
}

/// The runtime's own interpreter on the host, by the runtime's own dynamic loader, so that the host needs no package.
fn interpreter(runtime: &Path, layer: &Path) -> Command {
    let libraries = runtime.join("usr/lib/x86_64-linux-gnu");
    let mut command = Command::new(libraries.join("ld-linux-x86-64.so.2"));
    command.arg("--library-path").arg(&libraries).arg(runtime.join("usr/bin/python3.11"));
    let packages = runtime.join("usr/local/lib/python3.11/dist-packages");
    let path = format!("{}:{}", packages.display(), layer.join("python").display());
    command.env("PYTHONHOME", runtime.join("usr")).env("PYTHONPATH", path);
    command.env("PYTHONDONTWRITEBYTECODE", "1").envs(THREADS);
    command.stdin(Stdio::null());
    command
}

/// The functions that were made.
fn names(made: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(made).with_context(|| format!("reading {}", made.display()))? {
        let entry = entry.context("reading a folder")?;
        if entry.path().join("benchmark.json").exists() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    if names.is_empty() { bail!("no function was made in {}", made.display()) } else { Ok(names) }
}
