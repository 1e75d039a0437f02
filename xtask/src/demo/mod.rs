//! The whole way of a function on this machine, shown step by step.

use anyhow::Result;

use crate::examples;
use crate::needs::{COMPILER, DPKG, HEADERS, ensure};
use crate::process::{self, command};
use crate::workspace::target;

/// The function that is shown: its source below `examples/python`.
const FUNCTION: &str = "hello";

pub(crate) fn run() -> Result<()> {
    ensure(&[COMPILER, HEADERS, DPKG])?;
    let faasnap = examples::binary("release")?;
    let home = target().join("demo-home");
    let step = |arguments: &[&str]| process::run(command(&faasnap, arguments).env("FAASNAP_HOME", &home));
    step(&["doctor"])?;
    step(&["runtime", "build", "python3.11"])?;
    let code = format!("examples/python/{FUNCTION}");
    let create = ["function", "create", FUNCTION, "--runtime", "python3.11", "--handler", "app.handler"];
    step(&[&create[..], &["--code", &code, "--memory", "256", "--replace"]].concat())?;
    step(&["function", "show", FUNCTION])
}
