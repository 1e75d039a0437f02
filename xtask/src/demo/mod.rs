//! The whole way of a function on this machine: made, booted, snapshotted, restored, and what each way to an answer took.

mod page_cache;
mod table;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::needs::{COMPILER, DPKG, HEADERS, ensure};
use crate::process::{self, command};
use crate::workspace::target;
use crate::{examples, kvm, rig};
use table::{Timeline, Way, parse, parse_restores, text};

/// The function that is shown: its source below `examples/python`.
const FUNCTION: &str = "hello";
const INVOKE: [&str; 5] = ["invoke", FUNCTION, "--json", "--payload", r#"{"name": "demo"}"#];

/// How often each way to an answer is gone, the first time not counted.
#[derive(Clone, Copy)]
struct Repeats {
    /// Cold boots take longest, so they are repeated least.
    cold_boots: usize,
    restores: usize,
}

const HERE: Repeats = Repeats { cold_boots: 3, restores: 9 };
/// In the rig everything takes some fifty times longer.
const IN_THE_RIG: Repeats = Repeats { cold_boots: 1, restores: 3 };

/// The whole demo; in the rig where `rig` says so or this machine can't run virtual machines.
pub(crate) fn run(rig: bool) -> Result<()> {
    ensure(&[COMPILER, HEADERS, DPKG])?;
    let obstacle = kvm::obstacle();
    let demo = Demo { faasnap: examples::binary("release")?, home: target().join("demo-home") };
    if obstacle.is_none() {
        demo.step(&["doctor"])?;
    }
    demo.step(&["runtime", "build", "python3.11"])?;
    let code = format!("examples/python/{FUNCTION}");
    let create = ["function", "create", FUNCTION, "--runtime", "python3.11", "--handler", "app.handler"];
    demo.step(&[&create[..], &["--code", &code, "--memory", "256", "--replace"]].concat())?;
    if let Some(obstacle) = &obstacle {
        eprintln!("no virtual machines here: {obstacle}. The demo goes on in the rig, QEMU's emulated host.");
    }
    if rig || obstacle.is_some() {
        rig::demo(&demo.home, &demo.faasnap)?;
        println!(
            "\ntimes in an emulated host are some fifty times those of a real one: only their ratios mean something"
        );
        return Ok(());
    }
    demo.measure(HERE)
}

/// What is left to do once the function is made, inside the rig.
pub(crate) fn measure(faasnap: PathBuf, home: PathBuf) -> Result<()> {
    let demo = Demo { faasnap, home };
    demo.step(&["doctor"])?;
    demo.measure(IN_THE_RIG)
}

struct Demo {
    faasnap: PathBuf,
    home: PathBuf,
}

impl Demo {
    /// Goes each way to an answer and shows what it took.
    fn measure(&self, repeats: Repeats) -> Result<()> {
        let Repeats { cold_boots, restores } = repeats;
        let cold = self.repeat("cold boot", cold_boots, &["--from", "cold"], || Ok(()))?;
        self.step(&["snapshot", "create", FUNCTION])?;
        let snapshot = self.snapshot_folder()?;
        let drop = || page_cache::drop_files(&snapshot);
        let lazily = ["--from", "snapshot", "--strategy", "on-demand"];
        let disk = self.repeat("restore from disk, on demand", restores, &lazily, drop)?;
        let cached = self.repeat("restore from page cache, on demand", restores, &lazily, || Ok(()))?;
        // One invocation is recorded; from then on its pages are loaded while the function runs.
        let faasnap = ["--from", "snapshot", "--strategy", "faasnap"];
        self.output(&[&INVOKE[..], &faasnap, &["--record"]].concat())?;
        let loaded = self.repeat("restore from disk, FaaSnap", restores, &faasnap, drop)?;
        let hot = self.repeat("restore from page cache, FaaSnap", restores, &faasnap, || Ok(()))?;
        let ready_disk = self.restores(
            "restore from disk, FaaSnap, ready worker",
            restores,
            &[&faasnap[..], &["--drop-cache"]].concat(),
        )?;
        let ready_hot =
            self.restores("restore from page cache, FaaSnap, ready worker", restores, &faasnap)?;
        let warm = self.repeat("warm", restores, &[&faasnap[..], &["--repeat", "2"]].concat(), || Ok(()))?;
        println!("\n{}", text(&[cold, disk, loaded, ready_disk, cached, hot, ready_hot, warm]));
        Ok(())
    }

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
        announce(name, times);
        let once = || -> Result<Timeline> {
            before()?;
            parse(&self.output(&[&INVOKE[..], how].concat())?)
        };
        once()?;
        let timelines = (0..times).map(|_| once()).collect::<Result<_>>()?;
        Ok(Way { name, timelines })
    }

    /// Restores the function several times, each time in a worker that has been waiting for a request, as those of a node do.
    fn restores(&self, name: &'static str, times: usize, how: &[&str]) -> Result<Way> {
        announce(name, times);
        let count = times.to_string();
        let report = self.output(&[&INVOKE[..], &["--restores", &count], how].concat())?;
        Ok(Way { name, timelines: parse_restores(&report)? })
    }

    fn snapshot_folder(&self) -> Result<PathBuf> {
        let shown: Value = serde_json::from_str(&self.output(&["snapshot", "show", FUNCTION, "--json"])?)?;
        let path = shown.get("path").and_then(Value::as_str).context("the snapshot has no path")?;
        Ok(Path::new(path).to_owned())
    }
}

fn announce(name: &str, times: usize) {
    eprintln!("{name}, {}", if times == 1 { "once".to_owned() } else { format!("{times} times") });
}
