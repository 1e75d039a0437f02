//! From a recipe to exact versions.

use std::path::Path;

use sha2::{Digest, Sha256};

use crate::debian::{Apt, Control, DebianPackage, resolve};
use crate::error::BuildError;
use crate::progress::Progress;
use crate::recipe::Recipe;

/// Raised when the way a root is made changes, so that an older result counts as outdated.
const BUILDER_VERSION: u32 = 2;

/// A recipe with the exact Debian packages for it.
#[derive(Clone, Debug)]
pub struct Plan {
    pub(crate) recipe: Recipe,
    pub(crate) packages: Vec<DebianPackage>,
    /// What is needed to build, but is not part of the result.
    pub(crate) tools: Vec<DebianPackage>,
    pub(crate) apt: Apt,
}

/// Resolves a recipe against the archive as apt sees it. Nothing but package lists is fetched. `cache` is a folder that is
/// kept between builds.
///
/// # Errors
/// [`BuildError::NoPackage`] when the archive has not what the recipe needs.
pub fn plan(recipe: &Recipe, cache: &Path, progress: &dyn Progress) -> Result<Plan, BuildError> {
    progress.step("Resolving Debian packages");
    match plan_with(recipe, Apt::Host) {
        // The host's lists may be empty or old.
        Err(BuildError::NoPackage { .. } | BuildError::Failed { .. }) => refreshed(recipe, cache, progress),
        other => other,
    }
}

/// The same with fresh package lists.
pub(crate) fn refreshed(recipe: &Recipe, cache: &Path, progress: &dyn Progress) -> Result<Plan, BuildError> {
    plan_with(recipe, Apt::update(&cache.join("apt"), progress)?)
}

fn plan_with(recipe: &Recipe, apt: Apt) -> Result<Plan, BuildError> {
    let archive = apt.archive()?;
    let find = |wanted: &[&str]| {
        let packages = resolve(wanted, recipe.leave_out, &archive)?;
        Ok(packages.into_iter().map(Control::package).collect())
    };
    let packages = find(&recipe.wanted())?;
    let tools = if recipe.python.is_some() { find(&["python3-pip-whl"])? } else { Vec::new() };
    Ok(Plan { recipe: recipe.clone(), packages, tools, apt })
}

impl Plan {
    /// A digest of everything that determines the result: the recipe, each Debian package's content, the Python packages as
    /// they were asked for. A version that pip chooses is not part of it.
    pub fn inputs(&self) -> String {
        let mut hash = Sha256::new();
        // The debug form shows every field, so a changed recipe is a changed input.
        hash.update(format!("{BUILDER_VERSION} {:?}", self.recipe));
        for package in self.packages.iter().chain(&self.tools) {
            hash.update(format!("{} {} {}\n", package.name, package.version, package.sha256));
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The Debian packages that go into the root, by name.
    pub fn packages(&self) -> &[DebianPackage] {
        &self.packages
    }
}
