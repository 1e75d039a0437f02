//! The program and all its descendants in a control group of their own, so that they can be stopped together without noticing.

use std::fs;
use std::io;
use std::thread;
use std::time::Duration;

use crate::Failure;
use crate::system;

const ALL: &str = "/sys/fs/cgroup";
const PROGRAM: &str = "/sys/fs/cgroup/program";

fn write(path: &str, text: &str) -> Result<(), Failure> {
    fs::write(path, text).map_err(|error| format!("writing {path}: {error}"))
}

/// Makes the group.
pub(crate) fn prepare() -> Result<(), Failure> {
    system::mount("cgroup2", ALL, "cgroup2", 0, "")?;
    match fs::create_dir(PROGRAM) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(format!("creating {PROGRAM}: {error}"))
        }
        _ => Ok(()),
    }
}

/// Starts something in the group: what a process starts is in its group, so this one goes there for a moment.
pub(crate) fn start_inside<T>(start: impl FnOnce() -> T) -> Result<T, Failure> {
    write(&format!("{PROGRAM}/cgroup.procs"), "1")?;
    let started = start();
    write(&format!("{ALL}/cgroup.procs"), "1")?;
    Ok(started)
}

/// Stops everything in the group; returns when it stands still.
pub(crate) fn freeze() -> Result<(), Failure> {
    write(&format!("{PROGRAM}/cgroup.freeze"), "1")?;
    loop {
        let events = fs::read_to_string(format!("{PROGRAM}/cgroup.events"));
        let events = events.map_err(|error| format!("reading the group's state: {error}"))?;
        if events.lines().any(|line| line == "frozen 1") {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// Lets everything in the group go on.
pub(crate) fn thaw() -> Result<(), Failure> {
    write(&format!("{PROGRAM}/cgroup.freeze"), "0")
}
