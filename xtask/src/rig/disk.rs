//! The disk that the rig boots into: an ext4 image made from a folder, without being root and without mounting anything.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use walkdir::WalkDir;

use super::debian::{self, Kernel};
use super::{Load, Step, What, programs};
use crate::process::{self, command};
use crate::workspace::root;

/// Size of the image; what holds nothing takes no space.
const SIZE: &str = "4G";

/// Makes the image anew.
pub(super) fn make(folder: &Path, load: &Load<'_>, kernel: &Kernel, steps: &[Step]) -> Result<PathBuf> {
    let staging = folder.join("root");
    if staging.exists() {
        fs::remove_dir_all(&staging).with_context(|| format!("removing {}", staging.display()))?;
    }
    let inside = |path: &Path| staging.join(path.strip_prefix("/").unwrap_or(path));
    link_tree(&load.home.join("runtimes/python3.11/root"), &staging, &[])?;
    link_tree(load.home, &inside(load.home), &["cache"])?;
    for runtime in &load.more {
        let name = runtime.file_name().context("a runtime without a name")?;
        link_tree(runtime, &inside(&load.home.join("runtimes").join(name)), &[])?;
    }
    for part in
        load.examples.iter().flat_map(|examples| ["functions", "layers"].map(|part| examples.join(part)))
    {
        link_tree(&part, &inside(&part), &[])?;
    }
    link_tree(&root().join("examples"), &inside(&root().join("examples")), &["target"])?;
    // Tests name the examples by way of their crate's folder.
    for manifest in ["crates/faasnap", "crates/process-guest"] {
        create(&inside(&root().join(manifest)))?;
    }
    let rig = staging.join("rig");
    create(&rig)?;
    // What linux guests boot, and what of it they load.
    create(&rig.join("kernel"))?;
    copy(&kernel.image, &rig.join("kernel/image"))?;
    link_tree(&kernel.modules, &rig.join("kernel/modules"), &[])?;
    copy(&debian::busybox(folder)?, &staging.join("usr/bin/busybox"))?;

    let tests: Vec<_> = steps.iter().filter_map(test).collect();
    let executables = if tests.is_empty() { Vec::new() } else { programs::build(&tests)? };
    for (test, executable) in tests.iter().zip(&executables) {
        without_debug_information(executable, &rig.join(test))?;
    }
    for executable in std::iter::once(load.faasnap).chain(load.xtask) {
        create(inside(executable).parent().context("no folder")?)?;
        without_debug_information(executable, &inside(executable))?;
    }
    write(&rig.join("run"), include_str!("inside.sh"))?;
    write(&rig.join("figures.py"), include_str!("figures.py"))?;
    write(&rig.join("worker-memory.py"), include_str!("../../../scripts/worker-memory.py"))?;
    write(&rig.join("cgroup2.py"), include_str!("cgroup2.py"))?;
    write(&rig.join("figures_linux.py"), include_str!("figures_linux.py"))?;
    write(&rig.join("environment"), &environment(load))?;
    write(&rig.join("steps"), &steps.iter().map(line).collect::<String>())?;
    image(&folder.join("disk"), &staging)
}

fn test(step: &Step) -> Option<&'static str> {
    match step.what {
        What::Test(name, _) => Some(name),
        What::Line(_) => None,
    }
}

/// A step as the script inside reads it: name, then what the shell runs.
fn line(step: &Step) -> String {
    match step.what {
        What::Line(line) => format!("{} {line}\n", step.name),
        What::Test(test, arguments) => {
            format!("{} /rig/{test} --include-ignored {arguments}\n", step.name)
        }
    }
}

fn environment(load: &Load<'_>) -> String {
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

/// Makes an empty disk anew, for what is measured on a slow one.
pub(super) fn empty(folder: &Path) -> Result<PathBuf> {
    let staging = folder.join("empty");
    create(&staging)?;
    image(&folder.join("slow-disk"), &staging)
}

fn image(image: &Path, staging: &Path) -> Result<PathBuf> {
    let _ = fs::remove_file(image);
    let mut make = command("mke2fs", &["-q", "-F", "-t", "ext4", "-m", "0", "-O", "^has_journal"]);
    make.args(["-E", "lazy_itable_init=1", "-d"]).arg(staging).arg(image).arg(SIZE);
    let path = std::env::var("PATH").unwrap_or_default();
    process::run(make.env("PATH", format!("{path}:/usr/sbin:/sbin")))?;
    Ok(image.to_owned())
}

/// Makes the tree below `from` appear below `to`, its files as further names of the same files. Entries of `from` itself
/// with a name in `without` are left out.
fn link_tree(from: &Path, to: &Path, without: &[&str]) -> Result<()> {
    let walk = WalkDir::new(from)
        .into_iter()
        .filter_entry(|entry| entry.depth() != 1 || !without.iter().any(|name| entry.file_name() == *name));
    for entry in walk {
        let entry = entry.context("reading a folder")?;
        let relative = entry.path().strip_prefix(from).unwrap_or(entry.path());
        let target = to.join(relative);
        let kind = entry.file_type();
        if kind.is_dir() {
            create(&target)?;
            let mode = entry.metadata().context("reading a folder")?.permissions().mode();
            fs::set_permissions(&target, fs::Permissions::from_mode(mode | 0o700))
                .with_context(|| format!("changing {}", target.display()))?;
        } else if kind.is_symlink() {
            let link = fs::read_link(entry.path()).context("reading a link")?;
            symlink(link, &target).with_context(|| format!("creating {}", target.display()))?;
        } else if kind.is_file() && fs::hard_link(entry.path(), &target).is_err() {
            copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

fn without_debug_information(from: &Path, to: &Path) -> Result<()> {
    process::run(command("strip", &["--strip-debug", "-o"]).arg(to).arg(from))
}

fn create(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).map(drop).with_context(|| format!("copying {} to {}", from.display(), to.display()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_one_line_for_the_script() {
        let step = Step { name: "n", what: What::Test("programs", "lua"), default: true };
        assert_eq!(line(&step), "n /rig/programs --include-ignored lua\n");
        let step = Step { name: "d", what: What::Line("$FAASNAP doctor"), default: true };
        assert_eq!(line(&step), "d $FAASNAP doctor\n");
    }
}
