//! The program and all its descendants in a control group of their own, so that they can be limited and stopped together.

use std::fs;
use std::io;
use std::thread;
use std::time::Duration;

use guest_init::wire::Start;

use crate::Failure;
use crate::system;

const ALL: &str = "/sys/fs/cgroup";
const PROGRAM: &str = "/sys/fs/cgroup/program";

fn write(path: &str, text: &str) -> Result<(), Failure> {
    fs::write(path, text).map_err(|error| format!("writing {path}: {error}"))
}

/// Makes the group, with its limits.
pub(crate) fn prepare(start: &Start) -> Result<(), Failure> {
    system::mount("cgroup2", ALL, "cgroup2", 0, "")?;
    match fs::create_dir(PROGRAM) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(format!("creating {PROGRAM}: {error}"));
        }
        _ => {}
    }
    let limits = [("memory", "memory.max", start.memory_limit), ("pids", "pids.max", start.task_limit)];
    for (controller, file, limit) in limits.into_iter().filter(|(_, _, limit)| *limit != 0) {
        write(&format!("{ALL}/cgroup.subtree_control"), &format!("+{controller}"))?;
        write(&format!("{PROGRAM}/{file}"), &limit.to_string())?;
    }
    if start.memory_limit != 0 {
        // Together, as a function is: what is left of a program that lost a process is of no use.
        write(&format!("{PROGRAM}/memory.oom.group"), "1")?;
    }
    Ok(())
}

/// Whether the kernel ended something in the group because it used too much memory.
pub(crate) fn ran_out_of_memory() -> bool {
    let events = fs::read_to_string(format!("{PROGRAM}/memory.events")).unwrap_or_default();
    let count = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.is_some_and(|count| count != "0")
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
