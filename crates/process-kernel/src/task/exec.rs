//! Starting a program: for a new process, and for execve.

use std::sync::Arc;

use rustix::io::Errno;
use thiserror::Error;

use super::initial_stack::InitialStack;
use super::process::{Process, ProgramImage};
use super::program::ProgramFile;
use super::signal::ThreadSignals;
use super::{CpuState, Thread};
use crate::file::{Destination, OpenFile};
use crate::fs::{Caller, Walk};
use crate::mm::{Access, Backing, MapRequest, Placement, layout};
use crate::{host, vdso};

/// A program to start.
#[derive(Clone, Debug, Default)]
pub struct ExecRequest {
    /// Path inside the guest; absolute, or relative to the current directory.
    pub path: Vec<u8>,
    /// Arguments, the program's name first.
    pub arguments: Vec<Vec<u8>>,
    /// NAME=VALUE strings.
    pub environment: Vec<Vec<u8>>,
}

/// A program that can't be started.
#[derive(Debug, Error)]
#[error("{}: {}", String::from_utf8_lossy(path), reason(*errno))]
pub struct ExecError {
    /// The program's path.
    pub path: Vec<u8>,
    /// What went wrong.
    pub errno: Errno,
}

fn reason(errno: Errno) -> &'static str {
    match errno {
        Errno::NOENT => "no such file in the guest's root, or its interpreter is missing",
        Errno::ACCESS => "not an executable regular file",
        Errno::NOEXEC => "not an x86-64 Linux program, nor a script that starts with #!",
        Errno::TOOBIG => "arguments and environment are too large",
        Errno::NOMEM => "not enough memory to load it",
        _ => "can't be loaded",
    }
}

/// How many scripts may name each other as interpreter.
const MAX_SCRIPT_DEPTH: usize = 5;
/// The part of a script's first line that counts (BINPRM_BUF_SIZE).
const SCRIPT_LINE: usize = 256;

/// The program itself, after following `#!` lines.
struct Resolved {
    path: Vec<u8>,
    arguments: Vec<Vec<u8>>,
    program: ProgramFile,
    interpreter: Option<ProgramFile>,
}

fn resolve(process: &Process, request: &ExecRequest) -> Result<Resolved, Errno> {
    let mut path = request.path.clone();
    let mut arguments = request.arguments.clone();
    for _ in 0..=MAX_SCRIPT_DEPTH {
        let file = process.open_program(&path)?;
        let mut start = [0; SCRIPT_LINE];
        let count = file.object.read(Some(0), &mut Destination::Own(&mut start))?;
        if let Some(line) = start[..count].strip_prefix(b"#!") {
            let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
            let line = line.trim_ascii();
            let split = line.iter().position(|byte| *byte == b' ' || *byte == b'\t');
            let (interpreter, option) = line.split_at(split.unwrap_or(line.len()));
            if interpreter.is_empty() {
                return Err(Errno::NOEXEC);
            }
            let mut next = vec![interpreter.to_vec()];
            if !option.trim_ascii().is_empty() {
                next.push(option.trim_ascii().to_vec());
            }
            next.push(path);
            next.extend(arguments.into_iter().skip(1));
            path = interpreter.to_vec();
            arguments = next;
            continue;
        }
        let program = ProgramFile::open(&file)?;
        let interpreter = match &program.interpreter {
            Some(path) => Some(ProgramFile::open(&process.open_program(path)?)?),
            None => None,
        };
        return Ok(Resolved { path, arguments, program, interpreter });
    }
    Err(Errno::LOOP)
}

/// Puts the resolved program into the (empty) address space and returns the registers that it starts with.
fn install(process: &Process, request: &ExecRequest, resolved: &Resolved) -> Result<CpuState, Errno> {
    let mm = &process.mm;
    let stack_size = process.limits.stack().clamp(1 << 17, 1 << 30) & !0xfff;
    mm.map(MapRequest {
        placement: Placement::Fixed(layout::STACK_TOP - stack_size),
        length: stack_size,
        access: Access::READ | Access::WRITE,
        backing: Backing::Anonymous,
        name: layout::STACK_NAME,
    })?;
    let loaded = resolved.program.load(mm, layout::PROGRAM_BASE)?;
    let mut entry = loaded.entry;
    let mut interpreter_base = 0;
    if let Some(interpreter) = &resolved.interpreter {
        let loaded = interpreter.load(mm, layout::INTERPRETER_BASE)?;
        entry = loaded.entry;
        interpreter_base = loaded.bias;
    }
    mm.place_heap(loaded.end);
    let vdso = vdso::install(mm)?;
    let mut random = [0; 16];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    let stack = InitialStack {
        arguments: &resolved.arguments,
        environment: &request.environment,
        path: &request.path,
        program: loaded,
        interpreter_base,
        vdso,
        identity: &process.identity,
        random,
        hardware: u64::from(host::cpuid(1, 0).edx),
    };
    let (stack_pointer, auxiliary) = stack.write(mm, layout::STACK_TOP, stack_size)?;
    *process.program.lock() = ProgramImage {
        path: resolved.path.clone(),
        arguments: resolved.arguments.clone(),
        environment: request.environment.clone(),
        vdso,
        auxiliary,
    };
    let mut cpu = CpuState { original_rax: -1, ..CpuState::default() };
    cpu.registers.rip = entry;
    cpu.registers.rsp = stack_pointer;
    cpu.registers.rflags = super::frame::FIXED_FLAGS;
    Ok(cpu)
}

fn thread_name(path: &[u8]) -> Vec<u8> {
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    name[..name.len().min(15)].to_vec()
}

/// Loads a program into a process without threads and makes its main thread, which the caller then spawns with the
/// returned registers and a fresh vector state.
///
/// # Errors
/// [`ExecError`].
pub fn start_main_thread(
    process: &Arc<Process>,
    request: &ExecRequest,
) -> Result<(Arc<Thread>, CpuState), ExecError> {
    let failed = |errno| ExecError { path: request.path.clone(), errno };
    let resolved = resolve(process, request).map_err(failed)?;
    let cpu = install(process, request, &resolved).map_err(failed)?;
    process.refresh_vdso();
    vdso::keep_fresh(process);
    let thread = Thread::new(process.new_tid(), thread_name(&resolved.path), ThreadSignals::default());
    process.add_thread(&thread).map_err(failed)?;
    Ok((thread, cpu))
}

/// execve(2): replaces the program in place. The other threads end first; the caller goes on as the only one.
///
/// `Ok(Err(errno))` means that the old program is gone and the new one could not be put in place: the process has to end.
///
/// # Errors
/// The errno for the calling program, which is still whole.
pub fn exec(
    process: &Arc<Process>,
    thread: &Thread,
    request: &ExecRequest,
) -> Result<Result<CpuState, Errno>, Errno> {
    let resolved = resolve(process, request)?;
    let _executing = process.begin_exec()?;
    for other in process.threads() {
        if other.tid != thread.tid {
            other.end();
        }
    }
    process.wait_alone()?;
    process.files.close_for_exec();
    process.signals.reset_handlers();
    process.delete_posix_timers();
    {
        let mut signals = thread.signals.lock();
        signals.alt_stack = super::signal::AltStack::default();
    }
    thread.clear_child_tid.store(0, std::sync::atomic::Ordering::SeqCst);
    thread.robust_list.store(0, std::sync::atomic::Ordering::SeqCst);
    *thread.name.lock() = thread_name(&resolved.path);
    let installed = process.mm.clear().and_then(|()| install(process, request, &resolved));
    process.refresh_vdso();
    Ok(installed)
}

impl Process {
    /// Opens a program by its path, relative to the current directory.
    fn open_program(&self, path: &[u8]) -> Result<Arc<OpenFile>, Errno> {
        let caller = Caller { tid: self.identity.pid, uid: self.identity.uid, gid: self.identity.gid };
        self.vfs.open_program(&caller, &self.fs.directory(), path, Walk::FOLLOW)
    }
}
