//! What is carried into the rig: the executables at the same paths as here, the prepared runtimes, and a root of Python.

use std::path::Path;

use anyhow::Result;
use rig::Staging;

use super::{Load, Step, What, programs};
use crate::workspace::root;

/// Carries in what `steps` need.
pub(super) fn carry(staging: &Staging, load: &Load<'_>, steps: &[Step]) -> Result<()> {
    staging.tree(&load.home.join("runtimes/python3.11/root"), Path::new("/"), &[])?;
    staging.tree(load.home, load.home, &["cache"])?;
    for runtime in &load.more {
        staging.tree(
            runtime,
            &load.home.join("runtimes").join(runtime.file_name().unwrap_or_default()),
            &[],
        )?;
    }
    for part in
        load.examples.iter().flat_map(|examples| ["functions", "layers"].map(|part| examples.join(part)))
    {
        staging.tree(&part, &part, &[])?;
    }
    staging.tree(&root().join("examples"), &root().join("examples"), &["target"])?;
    // Tests name the examples by way of their crate's folder.
    for manifest in ["crates/faasnap", "crates/process-guest"] {
        staging.folder(&root().join(manifest))?;
    }
    let rig = Path::new("/rig");
    let tests: Vec<_> = steps.iter().filter_map(test).collect();
    let executables = if tests.is_empty() { Vec::new() } else { programs::build(&tests)? };
    for (test, executable) in tests.iter().zip(&executables) {
        staging.executable(executable, &rig.join(test))?;
    }
    for executable in std::iter::once(load.faasnap).chain(load.xtask) {
        staging.executable(executable, executable)?;
    }
    staging.text(&rig.join("figures.py"), include_str!("figures.py"))?;
    staging.text(&rig.join("worker-memory.py"), include_str!("../../../scripts/worker-memory.py"))?;
    staging.text(&rig.join("cgroup2.py"), include_str!("cgroup2.py"))?;
    staging.text(&rig.join("linux_exec.py"), include_str!("linux_exec.py"))?;
    staging.text(&rig.join("linux_costs.py"), include_str!("linux_costs.py"))?;
    staging.text(&rig.join("linux.py"), include_str!("../../../crates/bench/src/in_rig/linux.py"))?;
    Ok(())
}

fn test(step: &Step) -> Option<&'static str> {
    match step.what {
        What::Test(name, _) => Some(name),
        What::Line(_) => None,
    }
}

/// A step as the rig takes it.
pub(super) fn step(step: &Step) -> rig::Step {
    let line = match step.what {
        What::Line(line) => line.to_owned(),
        What::Test(test, arguments) => format!("/rig/{test} --include-ignored {arguments}"),
    };
    rig::Step { name: step.name.to_owned(), line }
}

/// What the steps find in their environment, as lines for the shell.
pub(super) fn environment(load: &Load<'_>) -> String {
    let kernel = Path::new("/rig/kernel");
    // On the same file system as the prepared home: tests make hard links of its files.
    let temporary = load.home.join("tmp");
    let sources = root().join("examples");
    let variables = [
        ("FAASNAP", Some(load.faasnap)),
        ("XTASK", load.xtask),
        ("FAASNAP_TEST_HOME", Some(load.home)),
        ("FAASNAP_TEST_EXAMPLES", load.examples),
        ("EXAMPLES", Some(&sources)),
        ("FAASNAP_TEST_KERNEL", Some(kernel)),
        ("TMPDIR", Some(&temporary)),
    ];
    let known = variables.iter().filter_map(|(name, path)| Some((name, (*path)?)));
    known.map(|(name, path)| format!("export {name}='{}'\n", path.display())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_one_line_for_the_script() {
        let test = Step { name: "n", what: What::Test("programs", "lua"), default: true };
        assert_eq!(step(&test).line, "/rig/programs --include-ignored lua");
        let line = Step { name: "d", what: What::Line("$FAASNAP doctor"), default: true };
        assert_eq!(step(&line).line, "$FAASNAP doctor");
    }
}
