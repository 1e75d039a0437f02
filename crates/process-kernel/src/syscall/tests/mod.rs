//! System calls as a program makes them: numbers, registers, guest memory; without a vCPU.

mod polling;
mod sockets;
mod table;
mod timers;

use std::sync::Arc;

use guest_memory::GuestMemory;
use pages::PageCount;
use rustix::io::Errno;

use super::{Cx, Stop, SysResult, dispatch};
use crate::fs::{MountEntry, MountSource, MountTable, Vfs};
use crate::mm::{Mm, NoSlots};
use crate::task::signal::ThreadSignals;
use crate::task::{CpuState, Fpu, Hooks, Process, ProcessParts, Thread};

/// Runs no threads.
struct NoHooks;

impl Hooks for NoHooks {
    fn spawn(&self, _: &Arc<Process>, _: &Arc<Thread>, _: CpuState, _: Vec<u8>) -> Result<(), Errno> {
        Err(Errno::AGAIN)
    }
}

struct NoFpu;

impl Fpu for NoFpu {
    fn xsave(&mut self) -> Vec<u8> {
        Vec::new()
    }

    fn load(&mut self, _: &[u8]) -> bool {
        false
    }

    fn reset(&mut self) {}

    fn user_size(&self) -> usize {
        0
    }

    fn features(&self) -> u64 {
        0
    }
}

/// A process with an empty /tmp and some memory to put arguments in.
#[derive(Clone)]
pub(super) struct Guest {
    pub process: Arc<Process>,
    thread: Arc<Thread>,
    /// 64 KiB of guest memory.
    pub memory: u64,
}

const MEMORY: u64 = 64 << 10;

impl Guest {
    pub fn new() -> Self {
        let memory = Arc::new(GuestMemory::reserve(PageCount(16_384)).unwrap());
        let root = MountSource::Tmpfs { bytes: 1 << 20, inodes: 100, mode: 0o777 };
        let mounts = MountTable(vec![MountEntry { at: "/".to_owned(), source: root, writable: true }]);
        let refuse = |_: &std::path::Path| Err(std::io::Error::other("no host directory here"));
        let vfs = Vfs::new(&mounts, &refuse).unwrap();
        let mm = Mm::new(memory, Arc::new(NoSlots)).unwrap();
        let process = Process::new(ProcessParts::new(mm, vfs, 1 << 30, Arc::new(NoHooks)));
        let mut guest = Self { thread: Self::thread(&process), process, memory: 0 };
        let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
        guest.memory = guest.ok(libc::SYS_mmap, &[0, MEMORY, 3, flags, u64::MAX, 0]);
        guest
    }

    fn thread(process: &Arc<Process>) -> Arc<Thread> {
        let thread = Thread::new(process.new_tid(), b"test".to_vec(), ThreadSignals::default());
        process.add_thread(&thread).unwrap();
        thread
    }

    /// The same process seen by another of its threads, with memory of its own for arguments.
    pub fn another_thread(&self) -> Self {
        let mut other = Self { thread: Self::thread(&self.process), ..self.clone() };
        let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
        other.memory = other.ok(libc::SYS_mmap, &[0, MEMORY, 3, flags, u64::MAX, 0]);
        other
    }

    /// Makes a call as the dispatcher gets it.
    pub fn call(&self, number: libc::c_long, arguments: &[u64]) -> SysResult {
        let mut cpu = CpuState::default();
        let mut registers = [0; 6];
        registers[..arguments.len()].copy_from_slice(arguments);
        let (process, thread) = (&self.process, &self.thread);
        let mut cx = Cx { process, thread, cpu: &mut cpu, fpu: &mut NoFpu };
        let outcome = dispatch(&mut cx, number as u64, registers);
        thread.forget_call_deadline();
        outcome
    }

    /// A call that has to succeed.
    pub fn ok(&self, number: libc::c_long, arguments: &[u64]) -> u64 {
        self.call(number, arguments).unwrap()
    }

    /// A call that has to fail.
    pub fn errno(&self, number: libc::c_long, arguments: &[u64]) -> Errno {
        match self.call(number, arguments) {
            Err(Stop::Errno(errno)) => errno,
            outcome => panic!("{outcome:?}"),
        }
    }

    /// Puts bytes at an offset of the argument memory and gives their address.
    pub fn put(&self, offset: u64, bytes: &[u8]) -> u64 {
        self.process.mm.write(self.memory + offset, bytes).unwrap();
        self.memory + offset
    }

    /// The bytes at an offset of the argument memory.
    pub fn get(&self, offset: u64, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.process.mm.read(self.memory + offset, &mut bytes).unwrap();
        bytes
    }

    /// The 32-bit number at an offset of the argument memory.
    pub fn number(&self, offset: u64) -> i32 {
        i32::from_ne_bytes(self.get(offset, 4).try_into().unwrap())
    }

    /// A call that makes two descriptors and writes them to its last argument.
    pub fn pair(&self, number: libc::c_long, arguments: &[u64]) -> [u64; 2] {
        let mut all = arguments.to_vec();
        all.push(self.memory + 60_000);
        self.ok(number, &all);
        [self.number(60_000) as u64, self.number(60_004) as u64]
    }

    /// write(2) of `bytes`.
    pub fn write(&self, fd: u64, bytes: &[u8]) -> SysResult {
        let from = self.put(32_768, bytes);
        self.call(libc::SYS_write, &[fd, from, bytes.len() as u64])
    }

    /// read(2) of up to `count` bytes.
    pub fn read(&self, fd: u64, count: usize) -> Result<Vec<u8>, Stop> {
        let got = self.call(libc::SYS_read, &[fd, self.memory + 32_768, count as u64])?;
        Ok(self.get(32_768, got as usize))
    }

    /// Signals that wait for this thread.
    pub fn pending(&self) -> u64 {
        self.process.pending_for(&self.thread)
    }

    /// Makes the thread look up from its wait, as a signal or a pause does.
    pub fn interrupt(&self) {
        self.thread.notify();
    }
}
