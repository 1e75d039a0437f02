//! From a plan to a root file system.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use file_tree::{TreeLimits, TreeWriter, copy_folder};

use crate::certificates;
use crate::debian::{DebianPackage, unpack};
use crate::error::BuildError;
use crate::plan::{Plan, refreshed};
use crate::progress::Progress;
use crate::python::{Interpreter, PythonPackage, installed};
use crate::recipe::PythonRecipe;
use crate::skeleton;

/// Where the runtime client is, as on AWS.
const CLIENT: &str = "var/runtime";
/// Where Debian's Python looks for packages that the administrator installed.
const PACKAGES: &str = "usr/local/lib/python3.11/dist-packages";

/// What was built.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Built {
    /// [`Plan::inputs`] of what was really built.
    pub inputs: String,
    /// Debian packages in it.
    pub debian: Vec<DebianPackage>,
    /// Python packages in it.
    pub python: Vec<PythonPackage>,
    /// Environment variables for every function in it.
    pub environment: BTreeMap<String, String>,
}

/// Makes the root file system at `root`, which must not exist yet, and syncs it to disk. `scratch` is an empty folder for
/// what is needed on the way; `cache` keeps downloads.
///
/// # Errors
/// [`BuildError`]; `root` is then incomplete and of no use.
pub fn build(
    plan: &Plan,
    root: &Path,
    scratch: &Path,
    cache: &Path,
    progress: &dyn Progress,
) -> Result<Built, BuildError> {
    let debs = cache.join("debian");
    let newer;
    let plan = match fetch(plan, &debs, progress) {
        Ok(()) => plan,
        // The host's package lists may be older than the archive, which forgets old versions.
        Err(BuildError::Failed { .. }) => {
            newer = refreshed(&plan.recipe, cache, progress)?;
            fetch(&newer, &debs, progress)?;
            &newer
        }
        Err(other) => return Err(other),
    };
    let recipe = &plan.recipe;
    let mut tree = TreeWriter::create(root, TreeLimits::ROOT).map_err(BuildError::unpack("the root"))?;
    skeleton::prepare(&mut tree)?;
    unpack(&plan.packages, &debs, &mut tree, progress)?;
    skeleton::complete(recipe, &mut tree)?;
    certificates::install(&mut tree)?;
    let python = match &recipe.python {
        Some(python) => add_python(plan, python, &mut tree, scratch, &debs, progress)?,
        None => Vec::new(),
    };
    progress.step("Writing to disk");
    tree.sync().map_err(BuildError::unpack("the root"))?;
    let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    Ok(Built {
        inputs: plan.inputs(),
        debian: plan.packages.clone(),
        python,
        environment: recipe.environment.iter().map(own).collect(),
    })
}

fn fetch(plan: &Plan, debs: &Path, progress: &dyn Progress) -> Result<(), BuildError> {
    let all: Vec<_> = plan.packages.iter().chain(&plan.tools).cloned().collect();
    plan.apt.download(&all, debs, progress)
}

fn add_python(
    plan: &Plan,
    recipe: &PythonRecipe,
    tree: &mut TreeWriter,
    scratch: &Path,
    debs: &Path,
    progress: &dyn Progress,
) -> Result<Vec<PythonPackage>, BuildError> {
    let tools = scratch.join("tools");
    let mut tool_tree = TreeWriter::create(&tools, TreeLimits::ROOT).map_err(BuildError::unpack("pip"))?;
    unpack(&plan.tools, debs, &mut tool_tree, progress)?;

    let root = tree.root().to_owned();
    let interpreter = Interpreter::new(&root, recipe);
    let certificates = root.join("etc/ssl/certs/ca-certificates.crt");
    // Installed beside the root and copied by the tree's rules.
    let overlay = scratch.join("overlay");
    let mut found = Vec::new();
    let user: Vec<&str> = recipe.packages.iter().map(String::as_str).collect();
    for (requirements, place) in [(recipe.client, CLIENT), (&user, PACKAGES)] {
        if requirements.is_empty() {
            continue;
        }
        progress.step(&format!("Installing Python packages: {}", requirements.join(", ")));
        let target = overlay.join(place);
        fs::create_dir_all(&target).map_err(BuildError::io("creating", &target))?;
        interpreter.install(requirements, &tools, &certificates, &target)?;
        found.extend(installed(&target)?);
    }
    copy_folder(&overlay, tree).map_err(BuildError::unpack("the Python packages"))?;
    interpreter.compile(&["usr/lib/python3.11", CLIENT, PACKAGES], progress)?;
    found.sort();
    Ok(found)
}
