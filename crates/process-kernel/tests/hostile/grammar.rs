//! From bytes to system calls.

use libc::c_long;
use process_kernel::mm::Mm;

/// A system call as registers hold it.
pub struct Call {
    pub number: u64,
    pub arguments: [u64; 6],
}

/// Bytes taken one after the other; zeros when there are no more.
pub struct Input<'bytes>(&'bytes [u8]);

impl<'bytes> Input<'bytes> {
    pub fn new(bytes: &'bytes [u8]) -> Self {
        Self(bytes)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take(&mut self, count: usize) -> &'bytes [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    fn word(&mut self) -> u64 {
        let mut word = [0; 8];
        let taken = self.take(8);
        word[..taken.len()].copy_from_slice(taken);
        u64::from_le_bytes(word)
    }

    fn short(&mut self) -> u16 {
        u16::from(self.byte()) << 8 | u16::from(self.byte())
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::from(self.byte()) % from.len()]
    }

    /// Where a stack pointer may be, among others.
    pub fn address(&mut self) -> u64 {
        if self.byte() & 1 == 0 { Memory::BASE + 0x8000 } else { self.pick(NASTY_ADDRESSES) }
    }
}

/// Addresses at edges: of pages, of mappings, of the user's half, of arithmetic.
const NASTY_ADDRESSES: &[u64] = &[
    0,
    1,
    0xfff,
    0x1000,
    0xffff,
    0x1_0000,
    Memory::BASE - 1,
    Memory::BASE,
    Memory::BASE + 1,
    Memory::BASE + 0xffe,
    Memory::BASE + Memory::LENGTH - 1,
    Memory::BASE + Memory::LENGTH - 8,
    Memory::BASE + Memory::LENGTH,
    0x40_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    // The supervisor window and its neighbours (docs/process-guest.md).
    0x7f7f_ef00_0000,
    0x7f7f_ffff_0000,
    0x7f7f_ffff_efff,
    0x7f7f_ffff_f000,
    0x7f80_0000_0000,
    0x7f80_0000_1000,
    0x7f80_0000_2000,
    0x7fff_ffff_f000,
    0x7fff_ffff_ffff,
    // Not canonical, the kernel's half, the last bytes.
    0x8000_0000_0000,
    0xffff_7fff_ffff_ffff,
    0xffff_8000_0000_0000,
    0xffff_ffff_8000_0000,
    0xffff_ffff_ff60_0000,
    i64::MAX as u64,
    i64::MIN as u64,
    u64::MAX - 0xfff,
    u64::MAX - 7,
    u64::MAX,
];

/// Lengths, counts and offsets at edges.
const SIZES: &[u64] = &[
    0,
    1,
    2,
    7,
    8,
    16,
    24,
    64,
    88,
    4095,
    4096,
    4097,
    0x8000,
    0x1_0000,
    0x1_0001,
    1 << 20,
    1 << 21,
    (1 << 21) + 4096,
    64 << 20,
    1 << 30,
    0x7fff_f000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_f000,
    0xffff_ffff,
    1 << 32,
    1 << 40,
    1 << 46,
    0x7f7f_0000_0000,
    i64::MAX as u64,
    i64::MIN as u64,
    u64::MAX - 4095,
    u64::MAX,
];

const PATHS: &[&str] = &[
    "",
    "/",
    ".",
    "..",
    "/file",
    "file/",
    "/bin/script",
    "/bin/program",
    "/sub",
    "/sub/../file",
    "/absolute",
    "/upwards",
    "/magic",
    "/loop",
    "/loop/x",
    "/../../../../../../etc/shadow",
    "/tmp",
    "/tmp/a",
    "/tmp/b",
    "/tmp/a/b",
    "/tmp/socket",
    "/etc/resolv.conf",
    "/proc/self/mem",
    "/proc/self/maps",
    "/proc/self/exe",
    "/proc/self/cwd",
    "/proc/self/root",
    "/proc/self/cwd/../outside",
    "/proc/self/fd",
    "/proc/self/fd/0",
    "/proc/self/fd/3",
    "/proc/self/fd/5/..",
    "/proc/1/environ",
    "/proc/1/task/1/stat",
    "/proc/2",
    "/proc/meminfo",
    "/proc/cpuinfo",
    "/proc/sys/kernel/core_pattern",
    "/sys/devices/system/cpu/online",
    "/dev/null",
    "/dev/zero",
    "/dev/urandom",
    "/dev/kvm",
    "/dev/mem",
    "/dev/fd/3",
    "/dev/shm/x",
    "/dev/ptmx",
];

/// What an argument is.
#[derive(Clone, Copy)]
enum Kind {
    Descriptor,
    Address,
    Buffer,
    Path,
    Structure,
    Vector,
    Message,
    Time,
    Size,
    Small,
    Flags,
    Any,
    Earlier,
    Here,
    Signal,
    Zero,
    Minus,
}

use Kind::*;

const KINDS: &[Kind] = &[
    Descriptor, Address, Buffer, Path, Structure, Vector, Message, Time, Size, Small, Flags, Any, Earlier,
    Here, Signal, Zero, Minus,
];

/// The kinds of arguments that calls expect, where random ones would hardly ever get beyond the first check.
const EXPECTED: &[(c_long, &[Kind])] = &[
    (libc::SYS_read, &[Descriptor, Buffer, Size]),
    (libc::SYS_write, &[Descriptor, Buffer, Size]),
    (libc::SYS_openat, &[Here, Path, Flags, Small]),
    (libc::SYS_open, &[Path, Flags, Small]),
    (libc::SYS_openat2, &[Here, Path, Structure, Size]),
    (libc::SYS_stat, &[Path, Buffer]),
    (libc::SYS_statx, &[Here, Path, Flags, Any, Buffer]),
    (libc::SYS_poll, &[Structure, Small, Minus]),
    (libc::SYS_ppoll, &[Structure, Small, Time, Structure, Size]),
    (libc::SYS_pselect6, &[Small, Structure, Structure, Structure, Time, Structure]),
    (libc::SYS_mmap, &[Earlier, Size, Small, Flags, Descriptor, Size]),
    (libc::SYS_mprotect, &[Earlier, Size, Small]),
    (libc::SYS_munmap, &[Earlier, Size]),
    (libc::SYS_mremap, &[Earlier, Size, Size, Small, Address]),
    (libc::SYS_madvise, &[Earlier, Size, Small]),
    (libc::SYS_brk, &[Earlier]),
    (libc::SYS_rt_sigaction, &[Signal, Structure, Buffer, Size]),
    (libc::SYS_rt_sigprocmask, &[Small, Structure, Buffer, Size]),
    (libc::SYS_rt_sigtimedwait, &[Structure, Buffer, Time, Size]),
    (libc::SYS_rt_sigqueueinfo, &[Small, Signal, Structure]),
    (libc::SYS_rt_sigreturn, &[]),
    (libc::SYS_sigaltstack, &[Structure, Buffer]),
    (libc::SYS_tgkill, &[Small, Small, Signal]),
    (libc::SYS_kill, &[Small, Signal]),
    (libc::SYS_ioctl, &[Descriptor, Any, Structure]),
    (libc::SYS_pread64, &[Descriptor, Buffer, Size, Size]),
    (libc::SYS_readv, &[Descriptor, Vector, Small]),
    (libc::SYS_writev, &[Descriptor, Vector, Small]),
    (libc::SYS_preadv2, &[Descriptor, Vector, Small, Size, Zero, Small]),
    (libc::SYS_pipe2, &[Buffer, Flags]),
    (libc::SYS_splice, &[Descriptor, Structure, Descriptor, Structure, Size, Small]),
    (libc::SYS_tee, &[Descriptor, Descriptor, Size, Small]),
    (libc::SYS_sendfile, &[Descriptor, Descriptor, Structure, Size]),
    (libc::SYS_copy_file_range, &[Descriptor, Structure, Descriptor, Structure, Size, Zero]),
    (libc::SYS_socket, &[Small, Small, Small]),
    (libc::SYS_socketpair, &[Small, Small, Zero, Buffer]),
    (libc::SYS_bind, &[Descriptor, Structure, Size]),
    (libc::SYS_connect, &[Descriptor, Structure, Size]),
    (libc::SYS_listen, &[Descriptor, Small]),
    (libc::SYS_accept4, &[Descriptor, Buffer, Structure, Flags]),
    (libc::SYS_sendto, &[Descriptor, Buffer, Size, Flags, Structure, Size]),
    (libc::SYS_recvfrom, &[Descriptor, Buffer, Size, Flags, Buffer, Structure]),
    (libc::SYS_sendmsg, &[Descriptor, Message, Flags]),
    (libc::SYS_recvmsg, &[Descriptor, Message, Flags]),
    (libc::SYS_sendmmsg, &[Descriptor, Message, Small, Flags]),
    (libc::SYS_recvmmsg, &[Descriptor, Message, Small, Flags, Time]),
    (libc::SYS_setsockopt, &[Descriptor, Small, Small, Structure, Size]),
    (libc::SYS_getsockopt, &[Descriptor, Small, Small, Buffer, Structure]),
    (libc::SYS_getsockname, &[Descriptor, Buffer, Structure]),
    (libc::SYS_fcntl, &[Descriptor, Small, Structure]),
    (libc::SYS_flock, &[Descriptor, Small]),
    (libc::SYS_ftruncate, &[Descriptor, Size]),
    (libc::SYS_fallocate, &[Descriptor, Small, Size, Size]),
    (libc::SYS_lseek, &[Descriptor, Size, Small]),
    (libc::SYS_getdents64, &[Descriptor, Buffer, Size]),
    (libc::SYS_chdir, &[Path]),
    (libc::SYS_rename, &[Path, Path]),
    (libc::SYS_renameat2, &[Here, Path, Here, Path, Small]),
    (libc::SYS_mkdir, &[Path, Small]),
    (libc::SYS_linkat, &[Here, Path, Here, Path, Flags]),
    (libc::SYS_symlink, &[Path, Path]),
    (libc::SYS_unlinkat, &[Here, Path, Flags]),
    (libc::SYS_readlink, &[Path, Buffer, Size]),
    (libc::SYS_utimensat, &[Here, Path, Time, Flags]),
    (libc::SYS_setxattr, &[Path, Path, Buffer, Size, Small]),
    (libc::SYS_getxattr, &[Path, Path, Buffer, Size]),
    (libc::SYS_execve, &[Path, Structure, Structure]),
    (libc::SYS_futex, &[Buffer, Small, Small, Time, Buffer, Small]),
    (libc::SYS_clone, &[Flags, Buffer, Buffer, Buffer, Any]),
    (libc::SYS_clone3, &[Structure, Size]),
    (libc::SYS_epoll_create1, &[Zero]),
    (libc::SYS_epoll_ctl, &[Descriptor, Small, Descriptor, Structure]),
    (libc::SYS_epoll_wait, &[Descriptor, Buffer, Small, Minus]),
    (libc::SYS_eventfd2, &[Small, Flags]),
    (libc::SYS_timerfd_create, &[Small, Flags]),
    (libc::SYS_timerfd_settime, &[Descriptor, Small, Time, Buffer]),
    (libc::SYS_signalfd4, &[Minus, Structure, Size, Flags]),
    (libc::SYS_memfd_create, &[Path, Small]),
    (libc::SYS_dup3, &[Descriptor, Descriptor, Flags]),
    (libc::SYS_close_range, &[Descriptor, Descriptor, Small]),
    (libc::SYS_clock_nanosleep, &[Small, Small, Time, Buffer]),
    (libc::SYS_setitimer, &[Small, Time, Buffer]),
    (libc::SYS_timer_create, &[Small, Structure, Buffer]),
    (libc::SYS_timer_settime, &[Small, Small, Time, Buffer]),
    (libc::SYS_prlimit64, &[Small, Small, Structure, Buffer]),
    (libc::SYS_prctl, &[Small, Buffer, Any, Any, Any]),
    (libc::SYS_arch_prctl, &[Any, Buffer]),
    (libc::SYS_process_vm_readv, &[Small, Vector, Small, Vector, Small, Zero]),
    (libc::SYS_getrandom, &[Buffer, Size, Small]),
];

/// The highest number that Linux 6.18 gives to a call, and some beyond.
const NUMBERS: u64 = 480;

/// Memory of the program that arguments are put into, and what calls returned.
#[derive(Default)]
pub struct Memory {
    /// Where the next argument goes.
    next: u64,
    results: Vec<u64>,
}

impl Memory {
    pub const BASE: u64 = 0x1000_0000;
    pub const LENGTH: u64 = 0x2_0000;
    /// mmap's arguments.
    pub const MAPPING: [u64; 6] = [
        Self::BASE,
        Self::LENGTH,
        3,
        (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED) as u64,
        u64::MAX,
        0,
    ];

    /// Whether the arguments' memory can still be written.
    pub fn is_there(&self, mm: &Mm) -> bool {
        [Self::BASE, Self::BASE + Self::LENGTH / 2, Self::BASE + Self::LENGTH - 1]
            .iter()
            .all(|address| mm.write(*address, &[0]).is_ok())
    }

    /// Keeps a call's value, for later arguments.
    pub fn remember(&mut self, value: u64) {
        if self.results.len() == 16 {
            self.results.remove(0);
        }
        self.results.push(value);
    }

    /// The next call.
    pub fn next_call(&mut self, input: &mut Input<'_>, mm: &Mm) -> Call {
        self.next = 0;
        let mut arguments = [0; 6];
        let form = input.byte();
        if form < 0xa0 {
            let (number, kinds) = EXPECTED[usize::from(input.byte()) % EXPECTED.len()];
            for (argument, kind) in arguments.iter_mut().zip(kinds) {
                // One in sixteen is of another kind.
                let kind = if input.byte() & 15 == 15 { input.pick(KINDS) } else { *kind };
                *argument = self.argument(kind, input, mm);
            }
            return Call { number: number as u64, arguments };
        }
        let number = if form < 0xfc { u64::from(input.short()) % NUMBERS } else { input.word() };
        for argument in &mut arguments {
            let kind = input.pick(KINDS);
            *argument = self.argument(kind, input, mm);
        }
        Call { number, arguments }
    }

    fn argument(&mut self, kind: Kind, input: &mut Input<'_>, mm: &Mm) -> u64 {
        match kind {
            Descriptor => match input.byte() {
                255 => u64::MAX,
                254 => i32::MAX as u64,
                253 => 0xdead_0000_0000_0003,
                small => u64::from(small % 20),
            },
            Address => input.pick(NASTY_ADDRESSES),
            Buffer => Self::BASE + 0x1_0000 + u64::from(input.short()),
            Path => {
                let path = input.pick(PATHS);
                self.put(mm, &[path.as_bytes(), &[0]].concat())
            }
            Structure => {
                let count = usize::from(input.byte());
                let bytes = input.take(count);
                self.put(mm, bytes)
            }
            Vector => {
                let mut words = Vec::new();
                for _ in 0..3 {
                    let base = if input.byte() & 1 == 0 { Buffer } else { Address };
                    words.push(self.argument(base, input, mm));
                    words.push(input.pick(SIZES));
                }
                self.put(mm, bytemuck::cast_slice(&words))
            }
            Message => self.message(input, mm),
            Time => {
                let mut words = [0_u64; 4];
                for word in &mut words {
                    *word = input.pick(&[0, 0, 1, 999_999_999, 1_000_000_000, u64::MAX, i64::MAX as u64]);
                }
                self.put(mm, bytemuck::cast_slice(&words))
            }
            Size => input.pick(SIZES),
            Small => u64::from(input.byte() % 40),
            Flags => u64::from(input.short()) << (input.byte() % 18),
            Any => input.word(),
            Earlier => {
                let index = usize::from(input.byte());
                match self.results.len() {
                    0 => Self::BASE,
                    count => self.results[index % count],
                }
            }
            Here => input.pick(&[libc::AT_FDCWD as u64, libc::AT_FDCWD as u64, 3, 4, 5, u64::MAX]),
            // Mostly one that is ignored: a program that has killed itself tells no more.
            Signal => match input.byte() {
                any @ 0..64 => u64::from(any) + 2,
                other => [0, 17, 18, 23, 28][usize::from(other % 5)],
            },
            Zero => 0,
            Minus => u64::MAX,
        }
    }

    /// `struct msghdr` with a name, vectors and control data.
    fn message(&mut self, input: &mut Input<'_>, mm: &Mm) -> u64 {
        let name = self.argument(Structure, input, mm);
        let name_length = input.pick(SIZES);
        let vector = self.argument(Vector, input, mm);
        let vectors = u64::from(input.byte() % 4);
        let descriptor = u32::from(input.byte() % 20);
        let length = input.pick(&[20_u64, 16, 24, 0, 1 << 40]);
        // struct cmsghdr with SCM_RIGHTS.
        let mut control = length.to_ne_bytes().to_vec();
        for word in [libc::SOL_SOCKET as u32, libc::SCM_RIGHTS as u32, descriptor, descriptor] {
            control.extend(word.to_ne_bytes());
        }
        let control = self.put(mm, &control);
        let control_length = input.pick(&[24_u64, 20, 0, 1 << 33]);
        let words = [name, name_length, vector, vectors, control, control_length, 0];
        self.put(mm, bytemuck::cast_slice(&words))
    }

    /// Puts an argument's bytes into memory; gives their address.
    fn put(&mut self, mm: &Mm, bytes: &[u8]) -> u64 {
        let address = Self::BASE + self.next % 0xf000;
        self.next += (bytes.len() as u64).next_multiple_of(16);
        // The program may have unmapped it: then the call gets a wild pointer.
        let _ = mm.write(address, bytes);
        address
    }
}
