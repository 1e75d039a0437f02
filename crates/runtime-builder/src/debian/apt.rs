//! apt as an ordinary user: asking its lists, downloading into a folder of ours.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use super::DebianPackage;
use super::control::Archive;
use crate::command::{Tool, run};
use crate::error::BuildError;
use crate::progress::Progress;

const APT_GET: Tool = Tool { program: "apt-get", package: "apt" };
const APT_CACHE: Tool = Tool { program: "apt-cache", package: "apt" };

/// Which package lists apt looks at.
#[derive(Clone, Debug)]
pub(crate) enum Apt {
    /// The host's own, as its last `apt-get update` left them.
    Host,
    /// Fresh lists of the host's sources, kept in a folder of ours: works without being root, for a host whose lists are
    /// empty (a new container) or so old that their files are gone from the archive.
    Private(PathBuf),
}

impl Apt {
    /// Fetches fresh lists into `folder`.
    pub(crate) fn update(folder: &Path, progress: &dyn Progress) -> Result<Self, BuildError> {
        progress.step("Fetching Debian's package lists");
        for part in ["state/lists/partial", "cache/archives/partial"] {
            let part = folder.join(part);
            fs::create_dir_all(&part).map_err(BuildError::io("creating", &part))?;
        }
        let apt = Self::Private(folder.to_owned());
        run(APT_GET, apt.command(APT_GET).arg("update"), |_| {})?;
        Ok(apt)
    }

    fn command(&self, tool: Tool) -> Command {
        let mut command = Command::new(tool.program);
        // The C locale, so that what is parsed is what it says.
        command.env("LC_ALL", "C").args(["-q", "-o", "Debug::NoLocking=1"]);
        // apt would switch to a user of its own when run by root; that one can't enter our folders.
        command.args(["-o", "APT::Sandbox::User=root"]);
        if let Self::Private(folder) = self {
            for (option, part) in [("Dir::State", "state"), ("Dir::Cache", "cache")] {
                command.arg("-o").arg(format!("{option}={}", folder.join(part).display()));
            }
            // What the host has installed must not count: an installed version may be in no archive any more.
            command.args(["-o", "Dir::State::status=/dev/null"]);
        }
        command
    }

    /// Every package that the lists offer, in the version that apt would choose.
    pub(crate) fn archive(&self) -> Result<Archive, BuildError> {
        // Asking for everything once takes no longer than asking for one package.
        let text = run(APT_CACHE, self.command(APT_CACHE).arg("dumpavail"), |_| {})?;
        Ok(Archive::parse(&text))
    }

    /// Downloads what `folder` does not have yet and checks every file.
    pub(crate) fn download(
        &self,
        packages: &[DebianPackage],
        folder: &Path,
        progress: &dyn Progress,
    ) -> Result<(), BuildError> {
        fs::create_dir_all(folder).map_err(BuildError::io("creating", folder))?;
        let missing: Vec<_> = packages
            .iter()
            .filter(|package| !has_checksum(&folder.join(&package.file), &package.sha256))
            .collect();
        if !missing.is_empty() {
            progress.step(&format!("Downloading {} Debian packages", missing.len()));
            let mut command = self.command(APT_GET);
            command.arg("download").current_dir(folder);
            command.args(missing.iter().map(|package| format!("{}={}", package.name, package.version)));
            let mut done = 0;
            run(APT_GET, &mut command, |line| {
                if line.starts_with("Get:") {
                    done += 1;
                    progress.advance(done, missing.len());
                }
            })?;
        }
        for package in missing {
            let path = folder.join(&package.file);
            if !has_checksum(&path, &package.sha256) {
                return Err(BuildError::Checksum { path });
            }
        }
        Ok(())
    }
}

fn has_checksum(path: &Path, sha256: &str) -> bool {
    let digest = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0u8; 128 << 10];
        loop {
            let count = file.read(&mut buffer)?;
            if count == 0 {
                return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect());
            }
            hash.update(buffer.get(..count).unwrap_or_default());
        }
    };
    digest().is_ok_and(|found| found == sha256)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_known_by_its_checksum() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.deb");
        fs::write(&path, "abc").unwrap();
        // FIPS 180-2, the example for "abc".
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert!(has_checksum(&path, abc));
        fs::write(&path, "abd").unwrap();
        assert!(!has_checksum(&path, abc));
        assert!(!has_checksum(&folder.path().join("none"), abc));
    }
}
