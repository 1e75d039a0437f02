//! docs/process-guest-syscalls.md against the dispatcher.

use super::*;
use crate::syscall::names::NAMES;

/// The rows of the page: number, name, state, what is said about it.
fn rows() -> Vec<(u64, String, String, String)> {
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/process-guest-syscalls.md");
    let text = std::fs::read_to_string(page).unwrap();
    let row = |line: &str| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, number, name, state, note, _] = cells.try_into().ok()?;
        let cell = str::to_owned;
        Some((number.parse().ok()?, cell(name), cell(state), cell(note)))
    };
    text.lines().filter_map(row).collect()
}

/// What the call answers with all arguments the same; whether nobody serves it.
fn probe(number: u64, argument: u64) -> (SysResult, bool) {
    let guest = Guest::new();
    guest.interrupt();
    let outcome = guest.call(number as i64, &[argument; 6]);
    let missing = guest.process.unsupported.counts().iter().any(|(missing, _)| *missing == number);
    (outcome, missing)
}

fn errno_named(name: &str) -> Errno {
    match name {
        "ENOSYS" => Errno::NOSYS,
        "EPERM" => Errno::PERM,
        "ECHILD" => Errno::CHILD,
        "EOPNOTSUPP" => Errno::OPNOTSUPP,
        other => panic!("{other} is not known to this test"),
    }
}

#[test]
fn the_page_says_what_the_dispatcher_does() {
    let rows = rows();
    let listed: Vec<(u16, &str)> = rows.iter().map(|row| (row.0 as u16, row.1.as_str())).collect();
    assert_eq!(listed, NAMES, "every call in the order of the numbers");
    for (number, name, state, note) in &rows {
        for argument in [0, u64::MAX] {
            let (outcome, missing) = probe(*number, argument);
            match state.as_str() {
                "none" => assert!(missing, "{name} is served: {outcome:?}"),
                "refused" => {
                    let errno = errno_named(note.split([';', ',', ' ']).next().unwrap());
                    assert_eq!(outcome, Err(Stop::Errno(errno)), "{name} with {argument:#x}");
                }
                "done" | "partly" => {
                    assert!(!missing || argument == 0, "{name} is not served");
                    assert_eq!(state == "partly", !note.is_empty(), "{name}: what is missing is said");
                }
                other => panic!("{name} has the unknown state {other:?}"),
            }
        }
    }
}

#[test]
fn calls_that_no_kernel_has_are_named_by_their_number() {
    assert_eq!(crate::syscall::syscall_name(0), "read");
    assert_eq!(crate::syscall::syscall_name(469), "file_setattr");
    assert_eq!(crate::syscall::syscall_name(u64::MAX), format!("number {}", u64::MAX));
}
