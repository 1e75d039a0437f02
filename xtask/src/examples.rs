//! The example functions, with the packages that they need, as folders that `faasnap function create` takes; and a home
//! directory with runtimes for the tests.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::needs::{COMPILER, DPKG, HEADERS, VENV, ensure};
use crate::process::{self, command};
use crate::workspace::{root, target};

/// A layer of one Python package.
struct Layer {
    name: &'static str,
    /// What pip is asked for: an exact version, since the examples check their own answers.
    requirement: &'static str,
    form: Form,
}

/// In what form the Python package index has a package.
enum Form {
    /// Wheels, compiled.
    Wheel,
    /// Source only, plain Python.
    Source,
}

const LAYERS: [Layer; 3] = [
    Layer { name: "numpy", requirement: "numpy==2.2.6", form: Form::Wheel },
    Layer { name: "pillow", requirement: "pillow==11.3.0", form: Form::Wheel },
    Layer { name: "pyaes", requirement: "pyaes==1.6.1", form: Form::Source },
];

/// The platforms of wheels that fit Debian 12's C library, newest first.
const PLATFORMS: [&str; 3] = ["manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64"];

/// The runtimes of the integration tests, as arguments of `faasnap runtime build`.
const RUNTIMES: &[&[&str]] = &[
    &["python3.11"],
    &["provided.al2023"],
    &["nodejs"],
    &["provided.al2023", "--name", "tools", "--debian", "sqlite3", "--debian", "lua5.4"],
];

/// What the integration tests run on.
pub(crate) struct Prepared {
    /// A home directory with the runtimes `python3.11`, `provided.al2023`, `nodejs` and `tools` (SQLite, Lua).
    pub(crate) home: PathBuf,
    /// A folder with `functions/rust/` and `layers/{numpy,pillow,pyaes}/content/`.
    pub(crate) examples: PathBuf,
}

/// `cargo xtask examples`.
pub(crate) fn run() -> Result<()> {
    ensure(&[COMPILER, HEADERS, VENV])?;
    let folder = build()?;
    println!("the examples are in {}", folder.display());
    Ok(())
}

/// Builds the examples, and the runtimes in a home below `target/`.
pub(crate) fn prepare() -> Result<Prepared> {
    ensure(&[COMPILER, HEADERS, VENV, DPKG])?;
    let examples = build()?;
    let home = target().join("test-home");
    let faasnap = binary("dev")?;
    RUNTIMES.iter().try_for_each(|arguments| build_runtime(&faasnap, &home, arguments))?;
    Ok(Prepared { home, examples })
}

/// Builds a runtime in a home, unless it is there.
pub(crate) fn build_runtime(faasnap: &Path, home: &Path, arguments: &[&str]) -> Result<()> {
    let mut build = command(faasnap, &["runtime", "build"]);
    process::run(build.args(arguments).env("FAASNAP_HOME", home))
}

/// Builds `faasnap` and says where it is.
pub(crate) fn binary(profile: &str) -> Result<PathBuf> {
    process::run(&mut command(
        "cargo",
        &["build", "--locked", "--package", "faasnap", "--profile", profile],
    ))?;
    let folder = if profile == "dev" { "debug" } else { profile };
    Ok(target().join(folder).join("faasnap"))
}

/// Makes `target/examples`: the sources as they are, the layers, and the compiled bootstrap.
fn build() -> Result<PathBuf> {
    let folder = target().join("examples");
    for layer in &LAYERS {
        make_layer(&folder.join("layers").join(layer.name), layer)?;
    }
    rust_bootstrap(&folder.join("functions/rust"))?;
    Ok(folder)
}

/// Makes one of the layers and says where its content is.
pub(crate) fn layer(name: &str) -> Result<PathBuf> {
    let layer = LAYERS.iter().find(|layer| layer.name == name).context("there is no such layer")?;
    let folder = target().join("examples/layers").join(name);
    make_layer(&folder, layer)?;
    Ok(folder.join("content"))
}

/// Installs a package with pip below `python/`, where the runtime looks in a layer. Done once for each version.
fn make_layer(folder: &Path, layer: &Layer) -> Result<()> {
    let done = folder.join("requirement");
    if fs::read_to_string(&done).is_ok_and(|text| text == layer.requirement) {
        return Ok(());
    }
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    let content = folder.join("content/python");
    fs::create_dir_all(&content).with_context(|| format!("creating {}", content.display()))?;
    let mut pip = command(venv()?.join("bin/python"), &["-m", "pip", "install", "--quiet", "--no-deps"]);
    pip.arg("--no-compile");
    if matches!(layer.form, Form::Wheel) {
        pip.args(["--only-binary=:all:", "--implementation=cp", "--python-version=3.11"]);
        pip.args(PLATFORMS.iter().flat_map(|platform| ["--platform", platform]));
    }
    process::run(pip.arg("--target").arg(&content).arg(layer.requirement))?;
    fs::write(&done, layer.requirement).with_context(|| format!("writing {}", done.display()))
}

/// A virtual environment below `target/`, so that nothing is installed into the machine's own Python.
fn venv() -> Result<PathBuf> {
    let folder = target().join("venv");
    if !folder.join("bin/pip").exists() {
        process::run(command("python3", &["-m", "venv"]).arg(&folder))?;
    }
    Ok(folder)
}

/// Builds the Rust example: a workspace of its own, since a function is no part of this project.
fn rust_bootstrap(folder: &Path) -> Result<()> {
    let source = root().join("examples/rust");
    let built = target().join("examples/rust-target");
    let manifest = source.join("Cargo.toml");
    let mut cargo = command("cargo", &["build", "--locked", "--release", "--manifest-path"]);
    process::run(cargo.arg(&manifest).arg("--target-dir").arg(&built))?;
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    let (from, to) = (built.join("release/bootstrap"), folder.join("bootstrap"));
    fs::copy(&from, &to).with_context(|| format!("copying {}", from.display()))?;
    Ok(())
}
