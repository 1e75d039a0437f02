//! What a command needs on the machine, and installing it.

use anyhow::{Result, bail};
pub(crate) use rig::Need;

use crate::process::{command, run, succeeds};

/// Compiling crates with C parts, and the small C programs that tests run in guests.
pub(crate) const COMPILER: Need = Need { program: "cc", probe: &["--version"], package: "gcc" };
/// C headers: a compiler alone may come without.
pub(crate) const HEADERS: Need =
    Need { program: "sh", probe: &["-c", "echo '#include <stdio.h>' | cc -E -x c - "], package: "libc6-dev" };
/// `faasnap runtime build` unpacks with it.
pub(crate) const DPKG: Need = Need { program: "dpkg-deb", probe: &["--version"], package: "dpkg" };
/// A virtual environment with pip: `venv` alone is a package of its own on Debian.
pub(crate) const VENV: Need =
    Need { program: "python3", probe: &["-c", "import venv, ensurepip"], package: "python3-venv" };

/// Makes sure that everything is there.
///
/// As root, what is missing is installed by apt-get, whose package lists are fetched first when they don't know a
/// package. Otherwise the line to run is shown.
pub(crate) fn ensure(needs: &[Need]) -> Result<()> {
    let missing = missing(needs);
    if missing.is_empty() {
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() {
        bail!("something is missing; run this and try again:\n\n  {}\n", line_to_run(&missing));
    }
    eprintln!("installing what is missing: {}", missing.join(" "));
    update_lists_unless_known(&missing)?;
    let mut install = command("apt-get", &["install", "--yes", "--no-install-recommends"]);
    run(install.args(&missing).env("DEBIAN_FRONTEND", "noninteractive"))?;
    let still = self::missing(needs);
    if still.is_empty() { Ok(()) } else { bail!("installed, but still not usable: {}", still.join(" ")) }
}

/// Fetches apt's package lists when they don't know all of `packages`; only root can.
fn update_lists_unless_known(packages: &[&str]) -> Result<()> {
    if packages.iter().all(|package| succeeds("apt-cache", &["show", package])) {
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() {
        bail!(
            "apt does not know {}; run this and try again:\n\n  sudo apt-get update\n",
            packages.join(", ")
        );
    }
    run(&mut command("apt-get", &["update"]))
}

fn missing(needs: &[Need]) -> Vec<&'static str> {
    needs.iter().filter(|need| !succeeds(need.program, need.probe)).map(|need| need.package).collect()
}

fn line_to_run(packages: &[&str]) -> String {
    format!("sudo apt-get update && sudo apt-get install {}", packages.join(" "))
}

/// Makes sure of a component of the Rust toolchain.
pub(crate) fn ensure_component(subcommand: &str, component: &str) -> Result<()> {
    if succeeds("cargo", &[subcommand, "--version"]) {
        return Ok(());
    }
    if succeeds("rustup", &["--version"]) {
        return run(&mut command("rustup", &["component", "add", component]));
    }
    bail!("cargo {subcommand} is missing; with rustup: rustup component add {component}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_not_missing() {
        let there = Need { program: "true", probe: &[], package: "coreutils" };
        let absent = Need { program: "no-such-program", probe: &[], package: "a" };
        let broken = Need { program: "false", probe: &[], package: "b" };
        assert_eq!(missing(&[there, absent, broken]), ["a", "b"]);
        assert_eq!(line_to_run(&["a", "b"]), "sudo apt-get update && sudo apt-get install a b");
    }
}
