//! Every check and every test, the tests last: the closing line is their summary.

use std::process::Command;

use anyhow::Result;

use crate::examples::{self, Prepared};
use crate::{api, check, kvm, needs, process, rig};

pub(crate) fn run() -> Result<()> {
    let obstacle = kvm::obstacle();
    if let Some(obstacle) = &obstacle {
        eprintln!(
            "no virtual machines here: {obstacle}. What needs them runs as a smoke set in the rig, QEMU's emulated host; \
             the tests of the API and the others that need them are left out."
        );
    }
    check::run()?;
    needs::ensure(&[needs::DPKG, needs::VENV])?;
    process::run(&mut process::command("cargo", &["test", "--workspace", "--doc", "--locked", "--quiet"]))?;
    let prepared = examples::prepare()?;
    rig::run(&prepared, &[])?;
    let with_nextest = process::succeeds("cargo", &["nextest", "--version"]);
    match obstacle {
        None => {
            api::run(&prepared)?;
            process::run(&mut test_command(with_nextest, &prepared))
        }
        Some(obstacle) => {
            process::run(&mut command_without_kvm(with_nextest))?;
            eprintln!("these were not all the tests: {obstacle}");
            Ok(())
        }
    }
}

/// Only what runs on hardware KVM, in QEMU's emulated host.
pub(crate) fn on_hardware_kvm(steps: &[String]) -> Result<()> {
    rig::run(&examples::prepare()?, steps)
}

/// "Tests" that write a stored format's golden files anew: run by hand when the format gets a new version.
const GENERATOR: &str = "write_golden";
/// How the names of tests begin that need hardware KVM: the rig runs them.
const HARDWARE: &str = "on_hardware";

/// Test executables that need /dev/kvm without being marked `#[ignore]`, as nextest names them.
const NEED_KVM: [&str; 3] = ["faasnap::hostile", "instance-pool::fake", "process-guest::save_and_restore"];

/// The tests that need neither /dev/kvm nor what was prepared for those that do.
fn command_without_kvm(with_nextest: bool) -> Command {
    if !with_nextest {
        return process::command(
            "cargo",
            &["test", "--workspace", "--lib", "--bins", "--locked", "--no-fail-fast"],
        );
    }
    let mut command =
        process::command("cargo", &["nextest", "run", "--workspace", "--locked", "--filterset"]);
    command.arg(NEED_KVM.map(|executable| format!("not binary_id({executable})")).join(" and "));
    command
}

/// Tests that need what was prepared are marked `#[ignore]`, so that a plain `cargo test` says that it leaves them out;
/// here they run too.
fn test_command(with_nextest: bool, prepared: &Prepared) -> Command {
    let mut command = if with_nextest {
        process::command("cargo", &["nextest", "run", "--workspace", "--locked", "--run-ignored", "all"])
    } else {
        process::command("cargo", &["test", "--workspace", "--all-targets", "--locked", "--no-fail-fast"])
    };
    if with_nextest {
        command.arg("--filterset").arg(format!("not test({GENERATOR}) and not test({HARDWARE})"));
    } else {
        command.args(["--", "--include-ignored", "--skip", GENERATOR, "--skip", HARDWARE]);
    }
    command.env("FAASNAP_TEST_HOME", &prepared.home).env("FAASNAP_TEST_EXAMPLES", &prepared.examples);
    command
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn both_runners_run_the_ignored_tests_too() {
        let prepared = Prepared { home: PathBuf::from("/h"), examples: PathBuf::from("/e") };
        let words = |with_nextest| {
            let command = test_command(with_nextest, &prepared);
            command.get_args().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            words(true),
            "nextest run --workspace --locked --run-ignored all --filterset not test(write_golden) and not test(on_hardware)"
        );
        assert!(words(false).ends_with("-- --include-ignored --skip write_golden --skip on_hardware"));
    }

    #[test]
    fn without_kvm_what_needs_it_is_left_out() {
        let command = command_without_kvm(true);
        let filter = command.get_args().last().unwrap().to_string_lossy().into_owned();
        assert!(filter.starts_with("not binary_id(faasnap::hostile) and not binary_id("), "{filter}");
    }
}
