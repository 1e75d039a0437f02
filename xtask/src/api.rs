//! The node under AWS's own clients: the suite of tests/python, in a virtual environment below `target/`.

use std::fs;

use anyhow::{Context, Result};

use crate::examples::{self, Prepared};
use crate::needs::{self, Need};
use crate::process::{self, command};
use crate::workspace::{root, target};

const CURL: Need = Need { program: "curl", probe: &["--version"], package: "curl" };
const NPM: Need = Need { program: "npm", probe: &["--version"], package: "npm" };
const NODE: Need = Need { program: "node", probe: &["--version"], package: "nodejs" };

/// Runs the suite.
pub(crate) fn run(prepared: &Prepared) -> Result<()> {
    needs::ensure(&[needs::VENV, CURL, NPM, NODE])?;
    let python = environment()?;
    let npm = target().join("api-npm");
    fs::create_dir_all(&npm).with_context(|| format!("creating {}", npm.display()))?;
    let mut pytest = command(&python, &["-m", "pytest", "tests/python"]);
    pytest.env("FAASNAP_BIN", examples::binary("dev")?).env("FAASNAP_TEST_HOME", &prepared.home);
    process::run(pytest.env("FAASNAP_TEST_NPM", &npm))
}

/// The interpreter of a virtual environment with what the suite asks for; made anew when it asks for something else.
fn environment() -> Result<std::path::PathBuf> {
    let folder = target().join("api-venv");
    let python = folder.join("bin/python");
    let asked = root().join("tests/python/requirements.txt");
    let wanted = fs::read_to_string(&asked).with_context(|| format!("reading {}", asked.display()))?;
    let done = folder.join("requirements");
    if fs::read_to_string(&done).is_ok_and(|text| text == wanted) {
        return Ok(python);
    }
    process::run(command("python3", &["-m", "venv", "--clear"]).arg(&folder))?;
    process::run(command(&python, &["-m", "pip", "install", "--quiet", "-r"]).arg(&asked))?;
    fs::write(&done, wanted).with_context(|| format!("writing {}", done.display()))?;
    Ok(python)
}
