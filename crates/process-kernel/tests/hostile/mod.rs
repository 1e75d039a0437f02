//! A hostile program, without a processor: it makes system calls that bytes decide, straight at the dispatcher.
//!
//! # Threat model
//! The program controls every register at a `syscall` instruction and every byte of its own memory, also while a call is
//! being served. It wants to crash the worker, make it hang, make it use memory without bound, or read and write what is
//! not its own: the worker's memory, files outside the guest's tree, the host's devices, processes and sockets. It may
//! call anything in any order, with any number, also a number that no kernel has.
//!
//! # Input grammar
//! A sequence of calls; see [`grammar`]. Bytes decide the number of a call, whether its arguments are of the kinds that it
//! expects, and each argument: a descriptor, an address from the table of nasty ones, a path, a size, flags, a structure
//! filled with what follows, or 64 arbitrary bits. The same bytes always make the same calls.
//!
//! # What has to hold
//! - No panic, no crash: a call gives a value, an errno, or ends the program.
//! - No hang: the thread is told that it is wanted before each call, so whatever would wait is given up as interrupted.
//! - The safe point after each call (signals, frames on a stack wherever the program put it) obeys the same.
//! - Wherever the program got to, it can be saved, and what was saved can be read back.
//! - Nothing stays: no descriptor of the host is left when the program is gone; files outside are as they were.

mod grammar;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use guest_memory::GuestMemory;
use pages::PageCount;
use process_kernel::fs::{MountEntry, MountSource, MountTable, Vfs, open_by_path};
use process_kernel::mm::{Mm, NoSlots};
use process_kernel::syscall::{Cx, Restart, Stop, dispatch};
use process_kernel::task::signal::ThreadSignals;
use process_kernel::task::{
    CpuState, ExecRequest, ExitStatus, Fpu, Hooks, Next, Process, ProcessParts, Revival, SavedProcess,
    Thread, exec, safe_point,
};
use rustix::io::Errno;

use grammar::{Call, Input, Memory};

/// Host memory behind a guest.
const PAGES: PageCount = PageCount(16_384);
/// What a file outside the guest's tree says before and after.
const SECRET: &str = "out of reach";

/// Can't run a second thread.
struct NoThreads;

impl Hooks for NoThreads {
    fn spawn(&self, _: &Arc<Process>, _: &Arc<Thread>, _: CpuState, _: Vec<u8>) -> Result<(), Errno> {
        Err(Errno::AGAIN)
    }
}

/// Vector registers with nothing in them but the legacy area and the header.
struct PlainFpu(Vec<u8>);

impl Fpu for PlainFpu {
    fn xsave(&mut self) -> Vec<u8> {
        self.0.clone()
    }

    fn load(&mut self, area: &[u8]) -> bool {
        let fits = area.len() == self.0.len();
        if fits {
            self.0.copy_from_slice(area);
        }
        fits
    }

    fn reset(&mut self) {
        self.0.fill(0);
    }

    fn user_size(&self) -> usize {
        self.0.len()
    }

    fn features(&self) -> u64 {
        3
    }
}

/// The host's side: a folder that is the guest's root, and one beside it that it must not reach.
pub struct World {
    folder: tempfile::TempDir,
}

impl World {
    /// Makes the folders.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir_all(path("root/bin")).unwrap();
        fs::create_dir(path("root/sub")).unwrap();
        fs::write(path("outside"), SECRET).unwrap();
        fs::write(path("root/file"), vec![b'x'; 10_000]).unwrap();
        fs::write(path("root/bin/script"), "#!/bin/program -x\n").unwrap();
        fs::write(path("root/bin/program"), program()).unwrap();
        for name in ["root/bin/script", "root/bin/program"] {
            let all = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            fs::set_permissions(path(name), all).unwrap();
        }
        symlink(path("outside"), path("root/absolute")).unwrap();
        symlink("../outside", path("root/upwards")).unwrap();
        symlink("/proc/self/mem", path("root/magic")).unwrap();
        symlink("loop", path("root/loop")).unwrap();
        Self { folder }
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// Lives one program's life as `bytes` say; returns how many calls it made.
    pub fn live(&self, bytes: &[u8]) -> usize {
        let before = descriptors();
        let mounts = mounts(&self.root());
        let mut program = Program::new(&mounts);
        let mut input = Input::new(bytes);
        let mut calls = 0;
        while !input.is_empty() && calls < 4096 {
            calls += 1;
            if !program.step(&mut input) {
                break;
            }
        }
        if let Some(saved) = program.save() {
            read_back(&saved, &mounts);
        }
        drop(program);
        assert_eq!(fs::read_to_string(self.folder.path().join("outside")).unwrap(), SECRET);
        assert_closed(&before);
        calls
    }
}

impl World {
    /// Executes a program file of these bytes, in a process of its own.
    pub fn load(&self, bytes: &[u8]) {
        let before = descriptors();
        let mut program = Program::new(&mounts(&self.root()));
        let process = program.process.clone();
        program.put_file(b"/tmp/program", bytes);
        let request = ExecRequest { path: b"/tmp/program".to_vec(), ..ExecRequest::default() };
        if exec(&process, &program.thread, &request).is_ok() {
            // Whatever was mapped can be saved.
            program.save();
        }
        drop((program, process));
        assert_closed(&before);
    }
}

/// Waits until nothing is open that was not `before`: a timer that is just running may hold the process a little longer.
fn assert_closed(before: &BTreeSet<String>) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let left: Vec<_> = descriptors().difference(before).cloned().collect();
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "descriptors stay open: {left:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What this process has open, but for what belongs to the test itself.
fn descriptors() -> BTreeSet<String> {
    let entries = fs::read_dir("/proc/self/fd").unwrap();
    entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let target = fs::read_link(&path).ok()?.display().to_string();
            // The listing itself.
            (!target.ends_with("/fd")).then(|| format!("{} -> {target}", path.display()))
        })
        .collect()
}

fn mounts(root: &Path) -> MountTable {
    let mount = |at: &str, source, writable| MountEntry { at: at.to_owned(), source, writable };
    let host = MountSource::HostDirectory {
        path: root.to_owned(),
        hidden: vec![root.join("sub")],
        cross_devices: false,
    };
    MountTable(vec![
        mount("/", host, false),
        mount("/tmp", MountSource::Tmpfs { bytes: 1 << 20, inodes: 64, mode: 0o1777 }, true),
        mount("/etc/resolv.conf", MountSource::Text("nameserver 127.0.0.1\n".to_owned()), false),
        mount("/proc", MountSource::Proc, false),
        mount("/sys", MountSource::Sys, false),
        mount("/dev", MountSource::Dev, true),
    ])
}

/// The smallest static program: an ELF header, one loadable segment, `exit(0)`.
pub fn program() -> Vec<u8> {
    let base = 0x40_0000_u64;
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    elf.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    elf.extend((base + 120).to_le_bytes());
    elf.extend(64_u64.to_le_bytes());
    elf.extend([0; 12]);
    elf.extend([64, 0, 56, 0, 1, 0, 64, 0, 0, 0, 0, 0]);
    elf.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    for word in [0, base, base, 132, 132, 4096] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend([0x31, 0xff, 0xb8, 0x3c, 0, 0, 0, 0x0f, 0x05, 0x90, 0x90, 0x90]);
    elf
}

/// A guest program with one thread.
struct Program {
    process: Arc<Process>,
    thread: Arc<Thread>,
    cpu: CpuState,
    fpu: PlainFpu,
    memory: Memory,
}

impl Program {
    fn new(mounts: &MountTable) -> Self {
        let memory = Arc::new(GuestMemory::reserve(PAGES).unwrap());
        let vfs = Vfs::new(mounts, &open_by_path).unwrap();
        let mm = Mm::new(memory, Arc::new(NoSlots)).unwrap();
        let process = Process::new(ProcessParts::new(mm, vfs, 64 << 20, Arc::new(NoThreads)));
        let thread = Thread::new(process.new_tid(), b"hostile".to_vec(), ThreadSignals::default());
        process.add_thread(&thread).unwrap();
        let mut program = Self {
            process,
            thread,
            cpu: CpuState { original_rax: -1, ..CpuState::default() },
            fpu: PlainFpu(vec![0; 576]),
            memory: Memory::default(),
        };
        program.map_arguments();
        program
    }

    /// Makes the next call that the input says; returns whether the program goes on.
    fn step(&mut self, input: &mut Input<'_>) -> bool {
        let call = self.memory.next_call(input, &self.process.mm);
        self.cpu.registers.rsp = input.address();
        if std::env::var_os("HOSTILE_TRACE").is_some() {
            eprintln!("call {} {:x?}", call.number, call.arguments);
        }
        let interrupted = match self.call(&call) {
            Ok(value) => {
                self.memory.remember(value);
                None
            }
            Err(Stop::Interrupted(restart)) => Some(restart),
            Err(Stop::Errno(_) | Stop::RegistersSet) => None,
            Err(Stop::ThreadExit) => return false,
        };
        if call.number == libc::SYS_execve as u64 || !self.memory.is_there(&self.process.mm) {
            self.map_arguments();
        }
        self.safe_point(interrupted) == Next::Run
    }

    /// Writes an executable file by system calls.
    fn put_file(&mut self, path: &[u8], bytes: &[u8]) {
        let at = Memory::BASE;
        self.process.mm.write(at, &[path, &[0]].concat()).unwrap();
        let flags = (libc::O_CREAT | libc::O_WRONLY) as u64;
        let fd = self
            .call(&Call { number: libc::SYS_open as u64, arguments: [at, flags, 0o755, 0, 0, 0] })
            .unwrap();
        for piece in bytes.chunks(0x1_0000) {
            self.process.mm.write(at, piece).unwrap();
            let arguments = [fd, at, piece.len() as u64, 0, 0, 0];
            // The file system may be full.
            let _ = self.call(&Call { number: libc::SYS_write as u64, arguments });
        }
        self.call(&Call { number: libc::SYS_close as u64, arguments: [fd, 0, 0, 0, 0, 0] }).unwrap();
    }

    /// Maps the arguments' memory; where the program has used up its memory, its arguments are wild pointers from now on.
    fn map_arguments(&mut self) {
        let _ = self.call(&Call { number: libc::SYS_mmap as u64, arguments: Memory::MAPPING });
    }

    fn call(&mut self, call: &Call) -> Result<u64, Stop> {
        self.thread.notify();
        self.cpu.original_rax = call.number as i64;
        let mut cx =
            Cx { process: &self.process, thread: &self.thread, cpu: &mut self.cpu, fpu: &mut self.fpu };
        let outcome = dispatch(&mut cx, call.number, call.arguments);
        self.thread.forget_call_deadline();
        outcome
    }

    fn safe_point(&mut self, interrupted: Option<Restart>) -> Next {
        let mut cx =
            Cx { process: &self.process, thread: &self.thread, cpu: &mut self.cpu, fpu: &mut self.fpu };
        safe_point(&mut cx, interrupted)
    }

    /// Saves the program if it still lives and holds nothing that can't be saved, and ends it.
    fn save(&mut self) -> Option<Vec<u8>> {
        let process = self.process.clone();
        let saved = std::thread::scope(|scope| {
            scope.spawn(|| while self.safe_point(None) == Next::Run {});
            let saved = process.pause(Duration::from_secs(60)).ok().and_then(|()| process.save().ok());
            process.exit(ExitStatus::Code(0));
            saved
        });
        self.process.remove_thread(self.thread.tid, ExitStatus::Code(0));
        saved.map(|(saved, _)| postcard::to_stdvec(&saved).unwrap())
    }
}

/// Reads a saved program back as far as its objects. A file that is no longer what it was is refused, which is fine.
fn read_back(saved: &[u8], mounts: &MountTable) {
    let saved: SavedProcess = postcard::from_bytes(saved).unwrap();
    let vfs = Vfs::new(mounts, &open_by_path).unwrap();
    if let Err(error) = Revival::begin(saved, vfs) {
        panic!("what was saved can't be restored: {error:?}");
    }
}
