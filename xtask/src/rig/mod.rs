//! What the project runs in the rig, an emulated host with hardware KVM (crate `rig`): tests, the demo, figures.

mod disk;
mod programs;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rig::{NEEDS, Rig, Shown};

use crate::examples::{self, Prepared};
use crate::needs;
use crate::workspace::target;

/// After this long a run is ended and has failed; one that measures or takes long may take twice as long.
const LIMIT: Duration = Duration::from_secs(10 * 60);

/// Something that is run inside; it has succeeded when its exit status is 0.
#[derive(Clone, Copy, Debug)]
struct Step {
    name: &'static str,
    what: What,
    /// Whether it runs when no step is named.
    default: bool,
}

#[derive(Clone, Copy, Debug)]
enum What {
    /// A line for the shell; `$FAASNAP` is the executable.
    Line(&'static str),
    /// An integration test's executable, with arguments for the test runner.
    Test(&'static str, &'static str),
}

/// Those of the functions' tests that use the virtual machine most; one at a time, since a function's init has ten
/// seconds by the clock.
const FUNCTIONS: &str = "--test-threads 1 hello rust_and_shell two_instances snap_start recorded raised";

/// The command line's way to a linux guest.
const LINUX_EXEC: &str = "FAASNAP_HOME=$TMPDIR/linux python3 /rig/linux_exec.py";

/// What system calls and pages cost in each kind of guest, beside the emulated host: only their ratios mean anything.
const FIGURES: &str = "export FAASNAP_HOME=$TMPDIR/linux; script=$(cat /rig/figures.py); \
    root=$FAASNAP_TEST_HOME/runtimes/python3.11/root; \
    $FAASNAP kernel import /rig/kernel/image --modules /rig/kernel/modules --replace && \
    python3 /rig/figures.py host && \
    $FAASNAP exec --root $root -- python3 -c \"$script\" process-guest && \
    $FAASNAP exec --guest linux --memory 256 --root $root -- python3 -c \"$script\" linux-guest";

/// What functions in linux guests take, on the slow disk.
const LINUX_FIGURES: &str = "mkdir -p /slow && mount -t ext4 -o noinit_itable /dev/vdb /slow && \
    export FAASNAP_HOME=/slow/home && $FAASNAP runtime list && \
    cp -a $FAASNAP_TEST_HOME/runtimes/python3.11 $FAASNAP_TEST_HOME/runtimes/graphs $FAASNAP_HOME/runtimes/ && \
    python3 /rig/linux.py $EXAMPLES 2 hello,json,pagerank --times";

/// What else a linux guest costs: a cold start by phases, free memory in a snapshot, a worker's own memory.
const LINUX_COSTS: &str = "export FAASNAP_HOME=$TMPDIR/costs; $FAASNAP runtime list && \
    cp -a $FAASNAP_TEST_HOME/runtimes/python3.11 $FAASNAP_HOME/runtimes/ && python3 /rig/linux_costs.py $EXAMPLES";

/// The steps that measure, with the release build where nothing else runs with them.
const MEASURING: [&str; 3] = ["figures", "linux-costs", "linux-figures"];

/// The steps that take long by themselves.
const LONG: [&str; 1] = ["linux-soak"];

/// Runtimes that single steps need beside those of the tests: the step, the runtime, and what `faasnap runtime build` is told.
const MORE_RUNTIMES: [(&str, &str, &[&str]); 2] = [
    ("linux-stress", "stress", &["python3.11", "--name", "stress", "--debian", "stress-ng"]),
    (
        "linux-figures",
        "graphs",
        &["python3.11", "--name", "graphs", "--package", "igraph==0.11.9", "--package", "numpy==2.2.6"],
    ),
];

/// A node's workers below a version 2 control group, as on most machines of today.
const CGROUP_2: &str = "export FAASNAP_HOME=$TMPDIR/cgroup2; $FAASNAP runtime list && \
    cp -a $FAASNAP_TEST_HOME/runtimes/provided.al2023 $FAASNAP_HOME/runtimes/ && \
    python3 /rig/cgroup2.py $FAASNAP $EXAMPLES";

/// All steps, in the order in which they run.
const STEPS: [Step; 16] = [
    Step { name: "doctor", what: What::Line("$FAASNAP doctor"), default: true },
    Step {
        name: "static-program",
        what: What::Line("$FAASNAP exec --root / -- /usr/bin/busybox sh -c 'exit 0'"),
        default: true,
    },
    Step {
        name: "dynamic-program",
        what: What::Line("test \"$($FAASNAP exec --root / -- /usr/bin/python3 -c 'print(6 * 7)')\" = 42"),
        default: true,
    },
    Step { name: "save-and-restore", what: What::Test("save_and_restore", ""), default: true },
    Step { name: "programs", what: What::Test("programs", ""), default: true },
    Step { name: "functions", what: What::Test("functions", FUNCTIONS), default: true },
    Step { name: "cgroup-v2", what: What::Line(CGROUP_2), default: true },
    Step { name: "linux-exec", what: What::Line(LINUX_EXEC), default: true },
    Step { name: "linux-functions", what: What::Test("linux_functions", "--test-threads 1"), default: true },
    Step { name: "linux-guest", what: What::Test("hardware_kvm", "--test-threads 1"), default: true },
    Step {
        name: "linux-stress",
        what: What::Test("hardware_soak", "--test-threads 1 --nocapture stress_ng"),
        default: true,
    },
    // By name only: they take long.
    Step {
        name: "linux-soak",
        what: What::Test("hardware_soak", "--test-threads 1 --nocapture generations"),
        default: false,
    },
    Step {
        name: "linux-clones",
        what: What::Test("hardware_soak", "--test-threads 1 --nocapture clones"),
        default: false,
    },
    Step { name: "figures", what: What::Line(FIGURES), default: false },
    Step { name: "linux-costs", what: What::Line(LINUX_COSTS), default: false },
    Step { name: "linux-figures", what: What::Line(LINUX_FIGURES), default: false },
];

/// What is carried in beside the steps' own executables.
struct Load<'a> {
    /// A home with the runtime `python3.11`, whose root is the emulated host's own.
    home: &'a Path,
    /// Further runtimes, put into it.
    more: Vec<PathBuf>,
    /// The prepared example functions and layers.
    examples: Option<&'a Path>,
    /// `$FAASNAP` inside.
    faasnap: &'a Path,
    /// `$XTASK` inside.
    xtask: Option<&'a Path>,
}

/// Runs the steps with the given names; without names, those that a test run consists of.
pub(crate) fn run(prepared: &Prepared, names: &[String]) -> Result<()> {
    let steps = choose(names)?;
    let is_measuring = steps.iter().all(|step| MEASURING.contains(&step.name));
    let faasnap = examples::binary(if is_measuring { "release" } else { "dev" })?;
    // In a home of their own: what is in the tests' own is carried in by every run.
    let (home, mut more) = (target().join("rig-home"), Vec::new());
    let wanted = |name: &str| steps.iter().any(|step| step.name == name);
    for (_, runtime, arguments) in MORE_RUNTIMES.iter().filter(|(name, ..)| wanted(name)) {
        examples::build_runtime(&faasnap, &home, arguments)?;
        more.push(home.join("runtimes").join(runtime));
    }
    let load = Load {
        home: &prepared.home,
        examples: Some(&prepared.examples),
        more,
        faasnap: &faasnap,
        xtask: None,
    };
    let takes_long = is_measuring || steps.iter().any(|step| LONG.contains(&step.name));
    carry_out(&load, &steps, if takes_long { 2 * LIMIT } else { LIMIT })
}

/// Runs the demo's measurements, on a home with its function.
pub(crate) fn demo(home: &Path, faasnap: &Path) -> Result<()> {
    let xtask = std::env::current_exe().context("finding this executable")?;
    let load = Load { home, examples: None, more: Vec::new(), faasnap, xtask: Some(&xtask) };
    let line = "$XTASK measure-demo $FAASNAP $FAASNAP_TEST_HOME";
    carry_out(&load, &[Step { name: "demo", what: What::Line(line), default: false }], LIMIT)
}

fn carry_out(load: &Load<'_>, steps: &[Step], limit: Duration) -> Result<()> {
    let mut needed = NEEDS.to_vec();
    needed.push(needs::COMPILER);
    needs::ensure(&needed)?;
    let rig = Rig::new(&target().join("rig"))?;
    let carry = |staging: &_, rest: &[rig::Step]| {
        let still = steps.iter().filter(|step| rest.iter().any(|one| one.name == step.name));
        disk::carry(staging, load, &still.copied().collect::<Vec<_>>())
    };
    let lines: Vec<_> = steps.iter().map(disk::step).collect();
    rig.run(&lines, &disk::environment(load), limit, carry, &mut |shown| match shown {
        // What can't be shown is in the log.
        Shown::Line(line) => drop(writeln!(std::io::stdout(), "  {line}")),
        Shown::Rig(text) | Shown::Ended(text) => eprintln!("{text}"),
    })
    .context("hardware KVM")
}

fn choose(names: &[String]) -> Result<Vec<Step>> {
    if let Some(unknown) = names.iter().find(|name| STEPS.iter().all(|step| step.name != name.as_str())) {
        let known: Vec<_> = STEPS.iter().map(|step| step.name).collect();
        bail!("there is no step {unknown}; there are {}", known.join(", "));
    }
    let wanted =
        |step: &&Step| (names.is_empty() && step.default) || names.iter().any(|name| name == step.name);
    Ok(STEPS.iter().filter(wanted).copied().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_chosen_by_name() {
        assert_eq!(choose(&[]).unwrap().len(), STEPS.iter().filter(|step| step.default).count());
        let some = choose(&["programs".to_owned(), "doctor".to_owned()]).unwrap();
        assert_eq!(some.iter().map(|step| step.name).collect::<Vec<_>>(), ["doctor", "programs"]);
        assert!(choose(&["none".to_owned()]).unwrap_err().to_string().contains("there are doctor"));
    }
}
