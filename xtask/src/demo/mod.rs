//! The whole way of a function on this machine: made, booted, snapshotted, restored, and what each way to an answer took.

mod page_cache;
mod table;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::examples;
use crate::needs::{COMPILER, DPKG, HEADERS, ensure};
use crate::process::{self, command};
use crate::workspace::target;
use table::{Timeline, Way, parse, text};

/// The function that is shown: its source below `examples/python`.
const FUNCTION: &str = "hello";
const INVOKE: [&str; 5] = ["invoke", FUNCTION, "--json", "--payload", r#"{"name": "demo"}"#];
/// Cold boots take longest, so they are repeated least.
const COLD_BOOTS: usize = 3;
const RESTORES: usize = 9;

pub(crate) fn run() -> Result<()> {
    ensure(&[COMPILER, HEADERS, DPKG])?;
    let demo = Demo { faasnap: examples::binary("release")?, home: target().join("demo-home") };
    demo.step(&["doctor"])?;
    demo.step(&["runtime", "build", "python3.11"])?;
    let code = format!("examples/python/{FUNCTION}");
    let create = ["function", "create", FUNCTION, "--runtime", "python3.11", "--handler", "app.handler"];
    demo.step(&[&create[..], &["--code", &code, "--memory", "256", "--replace"]].concat())?;

    let cold = demo.repeat("cold boot", COLD_BOOTS, &["--from", "cold"], || Ok(()))?;
    demo.step(&["snapshot", "create", FUNCTION])?;
    let snapshot = demo.snapshot_folder()?;
    let lazily = ["--from", "snapshot", "--strategy", "on-demand"];
    let disk =
        demo.repeat("restore from disk, on demand", RESTORES, &lazily, || page_cache::drop_files(&snapshot))?;
    let cached = demo.repeat("restore from page cache, on demand", RESTORES, &lazily, || Ok(()))?;
    // One invocation is recorded; from then on its pages are loaded while the function runs.
    let faasnap = ["--from", "snapshot", "--strategy", "faasnap"];
    demo.output(&[&INVOKE[..], &faasnap, &["--record"]].concat())?;
    let loaded =
        demo.repeat("restore from disk, FaaSnap", RESTORES, &faasnap, || page_cache::drop_files(&snapshot))?;
    let hot = demo.repeat("restore from page cache, FaaSnap", RESTORES, &faasnap, || Ok(()))?;
    let warm = demo.repeat("warm", RESTORES, &[&faasnap[..], &["--repeat", "2"]].concat(), || Ok(()))?;
    println!("\n{}", text(&[cold, disk, loaded, cached, hot, warm]));
    Ok(())
}

struct Demo {
    faasnap: PathBuf,
    home: PathBuf,
}

impl Demo {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = command(&self.faasnap, arguments);
        command.env("FAASNAP_HOME", &self.home);
        command
    }

    /// Shows a command and what it says.
    fn step(&self, arguments: &[&str]) -> Result<()> {
        process::run(&mut self.command(arguments))
    }

    /// What a command prints, as JSON text.
    fn output(&self, arguments: &[&str]) -> Result<String> {
        let output = self.command(arguments).stderr(Stdio::inherit()).output().context("starting faasnap")?;
        let text = String::from_utf8(output.stdout).context("the output is no text")?;
        if !output.status.success() {
            bail!("faasnap {} ended with {}: {text}", arguments.join(" "), output.status);
        }
        Ok(text)
    }

    /// Invokes the function several times, `before` ahead of each, the first one not counted.
    fn repeat(
        &self,
        name: &'static str,
        times: usize,
        how: &[&str],
        before: impl Fn() -> Result<()>,
    ) -> Result<Way> {
        eprintln!("{name}, {times} times");
        let once = || -> Result<Timeline> {
            before()?;
            parse(&self.output(&[&INVOKE[..], how].concat())?)
        };
        once()?;
        let timelines = (0..times).map(|_| once()).collect::<Result<_>>()?;
        Ok(Way { name, timelines })
    }

    fn snapshot_folder(&self) -> Result<PathBuf> {
        let shown: Value = serde_json::from_str(&self.output(&["snapshot", "show", FUNCTION, "--json"])?)?;
        let path = shown.get("path").and_then(Value::as_str).context("the snapshot has no path")?;
        Ok(Path::new(path).to_owned())
    }
}
