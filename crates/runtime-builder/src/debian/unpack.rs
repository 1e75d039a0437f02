//! Unpacking packages into a tree with the merged `/usr` layout.

use std::path::Path;
use std::process::Command;

use file_tree::{EntryPath, TreeWriter, unpack_tar};

use super::DebianPackage;
use crate::command::{Tool, pipe};
use crate::error::BuildError;
use crate::progress::Progress;

const DPKG_DEB: Tool = Tool { program: "dpkg-deb", package: "dpkg" };

/// Folders that were beside `/usr` once and are links into it today. Packages of Debian 12 still have files below them.
pub(crate) const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

/// What no function needs. Copyright files stay: licences ask for them.
const LEFT_OUT: [&str; 6] = [
    "usr/share/man",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/lintian",
    "usr/share/bug",
    "usr/share/doc-base",
];

/// Unpacks the packages' files from the cache `folder`. Their installation scripts are not run.
pub(crate) fn unpack(
    packages: &[DebianPackage],
    folder: &Path,
    tree: &mut TreeWriter,
    progress: &dyn Progress,
) -> Result<(), BuildError> {
    progress.step(&format!("Unpacking {} Debian packages", packages.len()));
    for (done, package) in packages.iter().enumerate() {
        let mut command = Command::new(DPKG_DEB.program);
        command.arg("--fsys-tarfile").arg(folder.join(&package.file));
        pipe(DPKG_DEB, &mut command, |stream| {
            unpack_tar(stream, tree, &place).map_err(BuildError::unpack(&package.name))
        })?;
        progress.advance(done + 1, packages.len());
    }
    Ok(())
}

/// Where a package's entry goes; `None` leaves it out.
fn place(path: EntryPath) -> Option<EntryPath> {
    let at = path.as_path();
    if LEFT_OUT.iter().any(|folder| at.starts_with(folder)) {
        return None;
    }
    let documentation = at.starts_with("usr/share/doc") && at.components().count() > 4;
    if documentation && path.name() != "copyright" {
        return None;
    }
    let merged = MERGED.iter().any(|folder| at.starts_with(folder));
    if merged { path.below("usr") } else { Some(path) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_go_where_the_merged_usr_has_them() {
        for (from, to) in [
            ("lib/x86_64-linux-gnu/libc.so.6", Some("usr/lib/x86_64-linux-gnu/libc.so.6")),
            ("bin/dash", Some("usr/bin/dash")),
            ("usr/bin/python3.11", Some("usr/bin/python3.11")),
            ("library/x", Some("library/x")),
            ("usr/share/man/man1/x.1.gz", None),
            ("usr/share/doc/libc6/changelog.gz", None),
            ("usr/share/doc/libc6/copyright", Some("usr/share/doc/libc6/copyright")),
            ("usr/share/doc/libc6", Some("usr/share/doc/libc6")),
        ] {
            let placed = place(EntryPath::parse(from.as_bytes()).unwrap());
            assert_eq!(placed.as_ref().map(|path| path.as_path()), to.map(Path::new), "{from}");
        }
    }
}
