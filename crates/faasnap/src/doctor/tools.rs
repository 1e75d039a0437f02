//! Programs that `faasnap runtime build` uses.

use std::env;
use std::path::{Path, PathBuf};

use super::{Finding, State};

const GROUP: &str = "building runtimes";

pub(super) fn examine() -> Vec<Finding> {
    let mut findings: Vec<Finding> = [("apt-get", "apt"), ("apt-cache", "apt"), ("dpkg-deb", "dpkg")]
        .into_iter()
        .map(|(program, package)| tool_finding(program, package, find(program, env::var_os("PATH"))))
        .collect();
    if findings.iter().all(|finding| finding.state == State::Good) {
        let found = "comes with the runtime: pip and the interpreter are taken from the packages themselves";
        findings.push(Finding::good(GROUP, "python, pip", found));
    }
    findings
}

fn tool_finding(program: &'static str, package: &str, found: Option<PathBuf>) -> Finding {
    match found {
        Some(path) => Finding::good(GROUP, program, path.display().to_string()),
        None => {
            let meaning = "runtimes can't be built here, only imported";
            Finding::limited(GROUP, program, "not there", meaning)
                .mend(format!("as root: apt-get install {package}; elsewhere than on Debian and Ubuntu use `faasnap runtime import`"))
        }
    }
}

fn find(program: &str, path: Option<std::ffi::OsString>) -> Option<PathBuf> {
    env::split_paths(&path?).map(|folder| folder.join(program)).find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    file.is_file() && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_on_the_path() {
        assert!(find("sh", Some("/nonexistent:/bin".into())).is_some());
        assert_eq!(find("sh", Some("/nonexistent".into())), None);
        assert_eq!(find("sh", None), None);
        assert!(tool_finding("apt-get", "apt", None).mend.unwrap().contains("apt-get install apt"));
    }
}
