//! Starting a process in namespaces of its own.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::authority::{Authority, authority, map_user, user_namespace_of, user_outside};
use crate::enter::Confinement;
use crate::error::{JailError, launching};
use crate::inherited::{FIRST_PASSED, PASSED_ARGUMENT};
use crate::passage::Passage;
use crate::process::Process;
use crate::sys;

/// Descriptors are moved here and above first, out of the way of the numbers that the child gives them.
const ABOVE: RawFd = 64;
/// Bytes that a jailed process may write to standard error; for the last words of a crash.
const LAST_WORDS: u64 = 16 << 10;
/// Variables that pass from this process to a jailed one. Everything else may be a secret.
const VARIABLES: [&str; 1] = ["RUST_BACKTRACE"];
/// What the copy ends with when it can't become the program; the reason goes through a pipe.
const NOT_EXECUTED: u8 = 127;

/// What to start.
#[derive(Debug)]
pub struct Program<'a> {
    /// The executable. Others than its owner must be allowed to run it.
    pub path: &'a Path,
    /// Arguments, the program's own name first. Those that tell the process of its jail are added.
    pub arguments: &'a [&'a str],
    /// Standard input: the one way between the two.
    pub socket: OwnedFd,
    /// Further descriptors with their names; taken out by [`Inherited`](crate::Inherited).
    pub passed: Vec<(&'a str, OwnedFd)>,
}

/// A process in its jail.
#[derive(Debug)]
pub struct Launched {
    /// The process.
    pub process: Process,
    /// How directories are handed to it.
    pub passage: Passage,
}

/// Which namespaces a process gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Namespaces {
    /// All, and a user of its own.
    OwnUser,
    /// All; outside, its user is that of this process.
    SameUser,
    /// None.
    None,
}

impl Namespaces {
    fn of(authority: &Authority) -> Self {
        match authority {
            Authority::Root => Self::OwnUser,
            Authority::RootOneUser { .. } | Authority::User => Self::SameUser,
            Authority::Weak { .. } => Self::None,
        }
    }

    fn flags(self) -> u64 {
        let all = libc::CLONE_NEWUSER
            | libc::CLONE_NEWNS
            | libc::CLONE_NEWPID
            | libc::CLONE_NEWNET
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWUTS
            | libc::CLONE_NEWCGROUP;
        if self == Self::None { 0 } else { all as u64 }
    }
}

/// Starts `program` in a jail as strong as [`authority`] allows. The program has to call [`enter`](crate::enter) before it
/// does anything else: until then it sees this process's files, as a user without rights to them.
///
/// The process is a copy of this one until it runs its program: the larger this one, the longer that takes (some 10 us for
/// each MiB that is resident), so it belongs off a request's path.
///
/// # Errors
/// [`JailError::Launch`].
pub fn launch(program: Program<'_>) -> Result<Launched, JailError> {
    let namespaces = Namespaces::of(authority());
    let preparing = "preparing descriptors";
    let last_words = last_words().map_err(launching("making standard error"))?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(launching("opening /dev/null"))?;
    let (names, passed): (Vec<&str>, Vec<OwnedFd>) = program.passed.into_iter().unzip();
    let mut descriptors = Vec::new();
    for descriptor in [program.socket, null, last_words.try_clone().map_err(launching(preparing))?.into()]
        .into_iter()
        .chain(passed)
    {
        descriptors.push(fcntl_dupfd_cloexec(&descriptor, ABOVE).map_err(launching(preparing))?);
    }
    let confinement = match namespaces {
        Namespaces::None => Confinement::Weak,
        _ => Confinement::Namespaces,
    };
    let strings = Strings::new(program.path, program.arguments, confinement, &names)?;
    let (arguments, environment) = strings.pointers();
    let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(launching("making a pipe"));
    let ((go, tell), (outcome, report)) = (pipe()?, pipe()?);
    let child = || {
        let become_program = || -> io::Result<()> {
            let mut byte = [0];
            // Ends when this process is told to go on, or when who should tell it is gone.
            sys::close_in_copy(tell.as_fd())?;
            if rustix::io::read(&go, &mut byte)? == 0 {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            if namespaces == Namespaces::OwnUser {
                rustix::thread::set_thread_groups(&[])?;
            }
            if namespaces != Namespaces::None {
                become_inner_root()?;
            }
            for (number, descriptor) in descriptors.iter().enumerate() {
                sys::place(descriptor.as_fd(), number as RawFd)?;
            }
            sys::close_on_exec_from(descriptors.len() as RawFd)?;
            sys::unblock_signals()?;
            // SAFETY: `strings` made the pointers and is alive in this copy.
            Err(unsafe { sys::execute(&strings.program, &arguments, &environment) })
        };
        let code = become_program().err().and_then(|error| error.raw_os_error()).unwrap_or(0);
        // If nobody reads it any more, nobody waits for this process either.
        let _ = rustix::io::write(&report, &code.to_ne_bytes());
        NOT_EXECUTED
    };
    // SAFETY: `child` makes system calls on what was prepared above; it neither allocates nor locks nor panics.
    let (pid, descriptor) = unsafe { sys::clone_process(namespaces.flags(), child) }
        .map_err(launching("making a process in namespaces of its own"))?;
    // From here on the process ends with this value.
    let process = Process::new(pid, descriptor, last_words);
    drop(report);
    drop(go);
    let number = process.id();
    let user_namespace = match namespaces {
        Namespaces::None => None,
        _ => {
            map_user(number, user_outside(namespaces, number))
                .map_err(launching("mapping the user of a new process"))?;
            Some(user_namespace_of(number).map_err(launching("opening a user namespace"))?)
        }
    };
    File::from(tell).write_all(&[1]).map_err(launching("letting a new process go on"))?;
    let mut code = Vec::new();
    File::from(outcome).read_to_end(&mut code).map_err(launching("waiting for a new process"))?;
    if let Ok(code) = <[u8; 4]>::try_from(code.as_slice()) {
        let source = io::Error::from_raw_os_error(i32::from_ne_bytes(code));
        return Err(JailError::Launch { step: "running the worker's program", source });
    }
    let passage = Passage::new(namespaces, user_namespace);
    Ok(Launched { process, passage })
}

/// Takes user and group 0 of a new user namespace: what they are outside was mapped by whoever made it.
fn become_inner_root() -> io::Result<()> {
    let (user, group) = (rustix::process::Uid::ROOT, rustix::process::Gid::ROOT);
    rustix::thread::set_thread_res_gid(group, group, group)?;
    rustix::thread::set_thread_res_uid(user, user, user)?;
    Ok(())
}

/// A file in memory that can't grow.
fn last_words() -> io::Result<File> {
    let file = rustix::fs::memfd_create("last-words", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&file, LAST_WORDS)?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(file.into())
}

/// What execve(2) takes, made before there is a copy that must not allocate.
struct Strings {
    program: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

impl Strings {
    fn new(
        path: &Path,
        arguments: &[&str],
        confinement: Confinement,
        passed: &[&str],
    ) -> Result<Self, JailError> {
        let string = |bytes: &[u8]| CString::new(bytes).map_err(launching("preparing arguments"));
        let mut all = Vec::new();
        for argument in arguments.iter().copied().chain([Confinement::ARGUMENT, confinement.name()]) {
            all.push(string(argument.as_bytes())?);
        }
        for name in passed {
            all.push(string(PASSED_ARGUMENT.as_bytes())?);
            all.push(string(name.as_bytes())?);
        }
        let mut environment = Vec::new();
        for name in VARIABLES {
            if let Some(value) = std::env::var_os(name) {
                environment
                    .push(string([name.as_bytes(), b"=", OsStr::as_bytes(&value)].concat().as_slice())?);
            }
        }
        Ok(Self { program: string(path.as_os_str().as_bytes())?, arguments: all, environment })
    }

    fn pointers(&self) -> (Vec<*const libc::c_char>, Vec<*const libc::c_char>) {
        let pointers =
            |strings: &[CString]| strings.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect();
        (pointers(&self.arguments), pointers(&self.environment))
    }
}

/// A user namespace whose user 0 is `user` outside, for showing files as that user's.
pub(crate) fn hold_user_namespace(user: u32) -> Result<OwnedFd, JailError> {
    let (wait, release) = pipe_with(PipeFlags::CLOEXEC).map_err(launching("making a pipe"))?;
    let held = wait.as_fd();
    let release = &release;
    let child = || {
        // Its own copy of the writing end must go, or it would wait for itself.
        let _ = sys::close_in_copy(release.as_fd());
        let mut byte = [0];
        let _ = rustix::io::read(held, &mut byte);
        0
    };
    // SAFETY: `child` closes, reads and ends.
    let (pid, descriptor) = unsafe { sys::clone_process(libc::CLONE_NEWUSER as u64, child) }
        .map_err(launching("making a user namespace"))?;
    let process = Process::new(pid, descriptor, last_words().map_err(launching("making standard error"))?);
    map_user(process.id(), (user, user)).map_err(launching("mapping the user of a new process"))?;
    user_namespace_of(process.id()).map_err(launching("opening a user namespace"))
}

const _: () = assert!(FIRST_PASSED == 3, "after standard input, output and error");
