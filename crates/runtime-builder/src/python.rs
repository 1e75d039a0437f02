//! Python packages and compiled files, made by the interpreter that was just unpacked.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::{Tool, run};
use crate::error::BuildError;
use crate::progress::Progress;
use crate::recipe::PythonRecipe;

const PIP: Tool = Tool { program: "pip", package: "libc6" };
const COMPILER: Tool = Tool { program: "the compiler of Python modules", package: "libc6" };

/// A Python package that was installed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct PythonPackage {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// An interpreter inside a root file system, run on the host by the root's own dynamic loader and with the root's own
/// libraries: no chroot, and the host needs no Python.
#[derive(Debug)]
pub(crate) struct Interpreter<'a> {
    root: &'a Path,
    name: &'static str,
}

impl<'a> Interpreter<'a> {
    pub(crate) fn new(root: &'a Path, recipe: &PythonRecipe) -> Self {
        Self { root, name: recipe.interpreter }
    }

    fn command(&self) -> Command {
        let libraries = self.root.join("usr/lib/x86_64-linux-gnu");
        let mut command = Command::new(libraries.join("ld-linux-x86-64.so.2"));
        command.arg("--library-path").arg(&libraries).arg(self.root.join("usr/bin").join(self.name));
        // The user's settings for pip (an index of their own, a proxy, certificates) count; those for Python don't.
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("PYTHON") {
                command.env_remove(variable);
            }
        }
        command.env("PYTHONHOME", self.root.join("usr")).env("PYTHONDONTWRITEBYTECODE", "1");
        command.env_remove("LD_LIBRARY_PATH").env_remove("LD_PRELOAD");
        command
    }

    /// Installs wheels (nothing is built from source) into `target`, a folder that does not exist yet. `pip` is the folder
    /// that Debian's python3-pip-whl was unpacked to; `certificates` what to trust unless the user says otherwise.
    pub(crate) fn install(
        &self,
        requirements: &[&str],
        pip: &Path,
        certificates: &Path,
        target: &Path,
    ) -> Result<(), BuildError> {
        let wheel = find_pip(pip)?;
        let mut command = self.command();
        // A wheel is a zip that Python can run from.
        command.arg(wheel.join("pip")).args(["install", "--only-binary=:all:", "--no-compile", "--quiet"]);
        command.args([
            "--disable-pip-version-check",
            "--root-user-action=ignore",
            "--no-warn-script-location",
        ]);
        if std::env::var_os("SSL_CERT_FILE").is_none() {
            command.env("SSL_CERT_FILE", certificates);
        }
        command.arg("--target").arg(target).args(requirements);
        run(PIP, &mut command, |_| {}).map(drop)
    }

    /// Compiles every module below `folders` (relative to the root). The root is read-only for functions, so what is not
    /// compiled here would be compiled again at every cold boot. Sources are not looked at again when the compiled
    /// file is used: neither changes any more.
    pub(crate) fn compile(&self, folders: &[&str], progress: &dyn Progress) -> Result<(), BuildError> {
        progress.step("Compiling Python modules");
        let mut command = self.command();
        // The same bytes each time. What the compiler itself imports is not written by the import, which would put the path here
        // and the file's time into it; and one process compiles all, since what marshal writes depends on what the same process
        // has compiled before.
        command.env("PYTHONHASHSEED", "0");
        command.args(["-m", "compileall", "-q", "-j", "1", "--invalidation-mode", "unchecked-hash"]);
        // Tracebacks name files as the guest sees them.
        command.arg("-s").arg(self.root).args(["-p", "/"]);
        command.args(folders.iter().map(|folder| self.root.join(folder)).filter(|folder| folder.exists()));
        run(COMPILER, &mut command, |_| {}).map(drop)
    }
}

fn find_pip(folder: &Path) -> Result<PathBuf, BuildError> {
    let wheels = folder.join("usr/share/python-wheels");
    let entries = fs::read_dir(&wheels).map_err(BuildError::io("reading", &wheels))?;
    entries
        .flatten()
        .map(|entry| entry.path())
        .find(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("pip-") && name.ends_with(".whl")
        })
        .ok_or_else(|| BuildError::NoPackage { name: "python3-pip-whl".to_owned(), needed_by: None })
}

/// The packages in a folder of installed ones: each has a `NAME-VERSION.dist-info` folder.
pub(crate) fn installed(folder: &Path) -> Result<Vec<PythonPackage>, BuildError> {
    let mut packages = Vec::new();
    for entry in fs::read_dir(folder).map_err(BuildError::io("reading", folder))? {
        let name = entry.map_err(BuildError::io("reading", folder))?.file_name();
        let name = name.to_string_lossy();
        if let Some((name, version)) = name.strip_suffix(".dist-info").and_then(|name| name.split_once('-')) {
            packages.push(PythonPackage { name: name.to_owned(), version: version.to_owned() });
        }
    }
    packages.sort();
    Ok(packages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn installed_packages_are_listed() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["numpy-2.1.0.dist-info", "numpy", "awslambdaric-4.2.2.dist-info"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let found: Vec<_> = installed(folder.path())
            .unwrap()
            .into_iter()
            .map(|package| (package.name, package.version))
            .collect();
        let expected = [("awslambdaric", "4.2.2"), ("numpy", "2.1.0")];
        assert_eq!(found, expected.map(|(name, version)| (name.to_owned(), version.to_owned())));
    }
}
