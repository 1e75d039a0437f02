//! Starting a process in namespaces of its own.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::thread;

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::authority::{Authority, authority, map_user, user_namespace_of, user_outside};
use crate::cgroup::{Group, cgroups};
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
    let last_words = last_words().map_err(launching("making standard error"))?;
    let prepared = Prepared::new(program, namespaces, &last_words)?;
    let group = cgroups().make_group().map_err(launching("making a cgroup"))?;
    // A thread of its own, since it joins the group.
    let (pid, descriptor) = thread::scope(|scope| {
        let start = || prepared.start(group.as_ref());
        let starter = thread::Builder::new().name("starter".to_owned()).spawn_scoped(scope, start);
        let started = starter.map_err(launching("starting a thread"))?.join();
        started.map_err(|_| launching("starting a thread")(io::Error::other("it panicked")))?
    })?;
    // From here on the process ends with this value.
    let process = Process::new(pid, descriptor, last_words, group);
    let number = process.id();
    let user_namespace = match namespaces {
        Namespaces::None => None,
        _ => {
            map_user(number, user_outside(namespaces, number))
                .map_err(launching("mapping the user of a new process"))?;
            Some(user_namespace_of(number).map_err(launching("opening a user namespace"))?)
        }
    };
    prepared.let_go()?;
    Ok(Launched { process, passage: Passage::new(namespaces, user_namespace) })
}

/// All that a copy of this process needs to become the program, made before there is a copy, which must not allocate.
struct Prepared {
    namespaces: Namespaces,
    /// In the order of their numbers in the program.
    descriptors: Vec<OwnedFd>,
    strings: Strings,
    /// The copy waits at one end until this process writes to the other.
    go: OwnedFd,
    tell: OwnedFd,
    /// The copy says at one end why it could not become the program; this process reads the other to its end.
    report: OwnedFd,
    outcome: OwnedFd,
}

impl Prepared {
    fn new(program: Program<'_>, namespaces: Namespaces, last_words: &File) -> Result<Self, JailError> {
        let preparing = "preparing descriptors";
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map_err(launching("opening /dev/null"))?;
        let last_words = last_words.try_clone().map_err(launching(preparing))?.into();
        let (names, passed): (Vec<&str>, Vec<OwnedFd>) = program.passed.into_iter().unzip();
        let descriptors = [program.socket, null, last_words].into_iter().chain(passed);
        let descriptors = descriptors
            .map(|descriptor| fcntl_dupfd_cloexec(&descriptor, ABOVE).map_err(launching(preparing)))
            .collect::<Result<_, _>>()?;
        let confinement = match namespaces {
            Namespaces::None => Confinement::Weak,
            _ => Confinement::Namespaces,
        };
        let strings = Strings::new(program.path, program.arguments, confinement, &names)?;
        let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(launching("making a pipe"));
        let ((go, tell), (outcome, report)) = (pipe()?, pipe()?);
        Ok(Self { namespaces, descriptors, strings, go, tell, report, outcome })
    }

    /// Makes the copy, from a thread that serves for nothing else.
    fn start(&self, group: Option<&Group>) -> Result<sys::Child, JailError> {
        let entrance = group.map(Group::entrance).transpose().map_err(launching("entering a cgroup"))?;
        let entrance = entrance.flatten();
        let (arguments, environment) = self.strings.pointers();
        let child = || {
            let error = self.become_program(&arguments, &environment);
            let code = error.raw_os_error().unwrap_or(0);
            // If nobody reads it any more, nobody waits for this process either.
            let _ = rustix::io::write(&self.report, &code.to_ne_bytes());
            NOT_EXECUTED
        };
        // SAFETY: `child` makes system calls on what was prepared; it neither allocates nor locks nor panics.
        unsafe { sys::clone_process(self.namespaces.flags(), entrance.as_ref().map(AsFd::as_fd), child) }
            .map_err(launching("making a process in namespaces of its own"))
    }

    /// In the copy: gives why it is not the program now.
    fn become_program(
        &self,
        arguments: &[*const libc::c_char],
        environment: &[*const libc::c_char],
    ) -> io::Error {
        let steps = || -> io::Result<()> {
            let mut byte = [0];
            // Ends when this process is told to go on, or when who should tell it is gone.
            sys::close_in_copy(self.tell.as_fd())?;
            if rustix::io::read(&self.go, &mut byte)? == 0 {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            if self.namespaces == Namespaces::OwnUser {
                rustix::thread::set_thread_groups(&[])?;
            }
            if self.namespaces != Namespaces::None {
                become_inner_root()?;
            }
            for (number, descriptor) in self.descriptors.iter().enumerate() {
                sys::place(descriptor.as_fd(), number as RawFd)?;
            }
            sys::close_on_exec_from(self.descriptors.len() as RawFd)?;
            sys::unblock_signals()
        };
        match steps() {
            Err(error) => error,
            // SAFETY: `strings` made the pointers and is alive in this copy.
            Ok(()) => unsafe { sys::execute(&self.strings.program, arguments, environment) },
        }
    }

    /// Lets the copy go on, and waits until it is the program.
    fn let_go(self) -> Result<(), JailError> {
        let Self { tell, outcome, report, descriptors, .. } = self;
        drop((report, descriptors));
        File::from(tell).write_all(&[1]).map_err(launching("letting a new process go on"))?;
        let mut code = Vec::new();
        File::from(outcome).read_to_end(&mut code).map_err(launching("waiting for a new process"))?;
        match <[u8; 4]>::try_from(code.as_slice()) {
            Err(_) => Ok(()),
            Ok(code) => {
                let source = io::Error::from_raw_os_error(i32::from_ne_bytes(code));
                Err(JailError::Launch { step: "running the worker's program", source })
            }
        }
    }
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
    let (pid, descriptor) = unsafe { sys::clone_process(libc::CLONE_NEWUSER as u64, None, child) }
        .map_err(launching("making a user namespace"))?;
    let last_words = last_words().map_err(launching("making standard error"))?;
    let process = Process::new(pid, descriptor, last_words, None);
    map_user(process.id(), (user, user)).map_err(launching("mapping the user of a new process"))?;
    user_namespace_of(process.id()).map_err(launching("opening a user namespace"))
}

const _: () = assert!(FIRST_PASSED == 3, "after standard input, output and error");
