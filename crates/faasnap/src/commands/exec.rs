//! `faasnap exec`.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use instance::{HostBind, Program, ProgramEnd, ProgramError, program_mounts};
use process_kernel::task::{ExitStatus, Identity};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getgid, getpid, getuid, pidfd_getfd, pidfd_open};

use super::Outcome;
use crate::args::ExecArguments;
use crate::output;

/// Variables of the caller that a program gets without --root; the others may name things that it doesn't see.
const PASSED: [&str; 4] = ["PATH", "TERM", "LANG", "LC_ALL"];
/// Where a program may write without --root.
const HOME: &str = "/tmp";
/// The kernel's own limit on a signal's number; statuses beyond 128 say which one ended a program.
pub(super) const KILLED: u8 = 128;
/// Missing system calls that are named at most.
const NAMED: usize = 8;

/// Runs a program; `home` is where faasnap keeps its state, which programs don't see.
pub(super) fn run(home: Option<&Path>, arguments: ExecArguments) -> Result<Outcome> {
    // First of all, so that descriptors opened below are not among them.
    let descriptors = inherited().context("listing the open descriptors")?;
    let network = arguments.network || arguments.tap.is_some() || !arguments.reach.says_nothing();
    if arguments.tmp.is_some() || network {
        bail!(
            "--tmp, --network, --tap, --allow-network and --name-server are for linux guests (--guest linux): the /tmp of a process \
             guest is memory, and it has a network as a function only"
        );
    }
    let verbose = arguments.verbose;
    let program = program(home, arguments, descriptors)?;
    let (name, limit) = (program.program.clone(), program.memory_limit);
    let end = program.run().map_err(explained)?;
    say(&String::from_utf8_lossy(&name), limit, &end, verbose);
    Ok(Outcome::Status(match end.status {
        ExitStatus::Code(code) => code,
        ExitStatus::Signal(signal) => KILLED.saturating_add(u8::try_from(signal).unwrap_or(0)),
    }))
}

/// The error, with what to do where it is a matter of the command line.
fn explained(error: ProgramError) -> anyhow::Error {
    let directory = matches!(error, ProgramError::Directory { .. });
    let error = anyhow::Error::from(error);
    if directory {
        error.context("choose another directory by --cwd, or bring this one in by --bind: /tmp, /run and /dev/shm are the guest's own")
    } else {
        error
    }
}

fn program(
    home: Option<&Path>,
    arguments: ExecArguments,
    descriptors: BTreeMap<RawFd, OwnedFd>,
) -> Result<Program> {
    let ExecArguments { root, memory, environment, cwd, binds, program, .. } = arguments;
    let absolute =
        |path: &Path| std::fs::canonicalize(path).with_context(|| format!("looking for {}", path.display()));
    let binds = binds.into_iter().map(|bind| {
        let target = bind.target.into_os_string().into_string();
        let Ok(target) = target else { bail!("a folder's place in the guest has to be UTF-8") };
        Ok(HostBind { source: absolute(&bind.source)?, target })
    });
    let hidden: Vec<PathBuf> = home.and_then(|home| std::fs::canonicalize(home).ok()).into_iter().collect();
    let mounts = match &root {
        Some(root) => program_mounts(Some(&absolute(root)?), &hidden, &binds.collect::<Result<Vec<_>>>()?),
        None => program_mounts(None, &hidden, &binds.collect::<Result<Vec<_>>>()?),
    };
    let directory = match (cwd, &root) {
        (Some(cwd), _) => cwd,
        (None, Some(_)) => PathBuf::from("/"),
        (None, None) => env::current_dir().context("asking for the current directory")?,
    };
    let mut variables = variables(root.is_none());
    variables.extend(environment.into_iter().map(|(name, value)| (name.into_bytes(), value.into_bytes())));
    let arguments: Vec<Vec<u8>> = program.into_iter().map(OsString::into_vec).collect();
    let Some(name) = arguments.first().cloned() else { bail!("no program is given") };
    let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
    Ok(Program {
        mounts,
        identity: Identity {
            uid: getuid().as_raw(),
            gid: getgid().as_raw(),
            hostname,
            ..Identity::default()
        },
        memory_limit: u64::from(memory) << 20,
        program: name,
        arguments,
        environment: variables,
        directory: directory.into_os_string().into_vec(),
        descriptors,
    })
}

/// The environment before what --env adds.
fn variables(of_caller: bool) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let pair = |name: &str, value: &[u8]| (name.as_bytes().to_vec(), value.to_vec());
    let mut variables =
        BTreeMap::from([pair("PATH", b"/usr/local/bin:/usr/bin:/bin"), pair("HOME", b"/tmp")]);
    if of_caller {
        variables.insert(b"HOME".to_vec(), HOME.as_bytes().to_vec());
        for name in PASSED {
            if let Some(value) = env::var_os(name) {
                variables.insert(name.as_bytes().to_vec(), value.as_bytes().to_vec());
            }
        }
    }
    variables
}

/// Every descriptor that this process was started with, duplicated. Asked of the kernel by number (pidfd_getfd(2)), as a
/// descriptor that nobody in this program owns can be had in no other safe way.
fn inherited() -> Result<BTreeMap<RawFd, OwnedFd>> {
    let listed: Vec<RawFd> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok()?.parse().ok())
        .collect();
    let own = pidfd_open(getpid(), PidfdFlags::empty())?;
    let mut descriptors = BTreeMap::new();
    for number in listed {
        // What only the listing had open is gone by now.
        if let Ok(descriptor) = pidfd_getfd(&own, number, PidfdGetfdFlags::empty()) {
            descriptors.insert(number, descriptor);
        }
    }
    // The listing's number may have been taken by `own`.
    descriptors.remove(&std::os::fd::AsRawFd::as_raw_fd(&own));
    Ok(descriptors)
}

/// Says on standard error what the program's status alone doesn't.
fn say(name: &str, limit: u64, end: &ProgramEnd, verbose: bool) {
    let mut lines = Vec::new();
    if end.out_of_memory {
        lines.push(format!("{name} was ended: it used more than {} MB (see --memory)", limit >> 20));
    }
    if let Some(failure) = &end.failure {
        lines.push(format!("{name} can't go on in a process guest: {failure}"));
    }
    let killed = matches!(end.status, ExitStatus::Signal(_)) && !end.out_of_memory;
    if let ExitStatus::Signal(signal) = end.status
        && killed
        && end.failure.is_none()
    {
        lines.push(format!("{name} was killed by signal {signal}"));
    }
    if !end.unsupported.is_empty() && (verbose || end.status != ExitStatus::Code(0)) {
        let calls = end.unsupported.iter().take(NAMED).map(|(name, count)| format!("{name} ({count} times)"));
        let mut calls = calls.collect::<Vec<_>>().join(", ");
        if let Some(more) = end.unsupported.len().checked_sub(NAMED).filter(|more| *more > 0) {
            calls.push_str(&format!(" and {more} more"));
        }
        lines.push(format!("system calls that a process guest doesn't have answered ENOSYS: {calls}"));
    }
    for line in lines {
        output::note(&line);
    }
}
