//! Formatting, lints, and the rules of `tidy`.

use anyhow::Result;

use crate::needs::{COMPILER, HEADERS, ensure, ensure_component};
use crate::{process, tidy};

pub(crate) fn run() -> Result<()> {
    ensure(&[COMPILER, HEADERS])?;
    ensure_component("fmt", "rustfmt")?;
    ensure_component("clippy", "clippy")?;
    cargo(&["fmt", "--all", "--check"])?;
    tidy::run()?;
    cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--", "--deny", "warnings"])
}

fn cargo(arguments: &[&str]) -> Result<()> {
    process::run(&mut process::command("cargo", arguments))
}
