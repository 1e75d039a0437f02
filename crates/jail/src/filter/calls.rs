//! Which system calls a worker makes, and why. Whatever is not here is stopped.
//!
//! Nothing here opens a socket, runs a program, changes a mount, a namespace, a user or another process. Files are reached by
//! descriptors that the node handed over; `openat` is there for the process's own folder of /proc.

use super::Role::{self, Guest, Loader, Microvm, Network, Running, StartUp};

/// One argument's condition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Condition {
    /// Argument `.0` is `.1` (its lower 32 bits).
    Is(u8, u64),
    /// Of argument `.0`, the bits of mask `.1` are `.2`.
    Bits(u8, u64, u64),
    /// Argument `.0` is not `.1`.
    IsNot(u8, u64),
    /// Argument `.0` is a null pointer.
    Null(u8),
    /// Argument `.0` is this process.
    ThisProcess(u8),
}

/// A system call; each list of conditions is one way in which it may be made, none at all means any.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call(pub i64, pub &'static [&'static [Condition]]);

/// Calls that are made for one reason.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group {
    #[cfg_attr(not(test), expect(dead_code, reason = "for readers; a test wants it to be there"))]
    pub reason: &'static str,
    pub roles: &'static [Role],
    pub calls: &'static [Call],
}

const ALL: &[Role] = &[StartUp, Running, Guest, Microvm, Loader, Network];
const NOT_LOADER: &[Role] = &[StartUp, Running, Guest];
const PROCESS: &[Role] = &[StartUp, Running];

const fn any(number: i64) -> Call {
    Call(number, &[])
}

/// The type of an ioctl's number (asm-generic/ioctl.h), and the types of linux/kvm.h and linux/userfaultfd.h. Each is used by
/// that one device only.
const IOCTL_TYPE: u64 = 0xff00;
const KVM: Condition = Condition::Bits(1, IOCTL_TYPE, 0xae00);
const USERFAULTFD: Condition = Condition::Bits(1, IOCTL_TYPE, 0xaa00);
/// KVM_CREATE_VM and USERFAULTFD_IOC_NEW.
const CREATE_VM: u64 = 0xae01;
/// What pthread_create(3) asks of clone(2), and nothing else: a thread, never a process or a namespace.
const THREAD: u64 = (libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID) as u64;
const NOT_EXECUTABLE: Condition = Condition::Bits(2, libc::PROT_EXEC as u64, 0);

/// `AT_FDCWD`, as the lower 32 bits of an argument.
const HERE: u64 = 0xffff_ff9c;
/// `PR_GET_AUXV` of linux/prctl.h.
const GET_AUXV: u64 = 0x4155_5856;
/// `cachestat`, newer than libc's list.
const CACHESTAT: i64 = 451;
/// Takes bytes out of a file and leaves its length.
const PUNCH_HOLE: u64 = (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE) as u64;
/// `SECCOMP_SET_MODE_FILTER` of linux/seccomp.h.
const SET_FILTER: u64 = 1;

/// Commands of fcntl(2) that concern a descriptor itself: no signals, leases or notifications.
const OF_DESCRIPTORS: &[&[Condition]] = &[
    &[Condition::Is(1, libc::F_GETFD as u64)],
    &[Condition::Is(1, libc::F_SETFD as u64)],
    &[Condition::Is(1, libc::F_GETFL as u64)],
    &[Condition::Is(1, libc::F_SETFL as u64)],
    &[Condition::Is(1, libc::F_DUPFD_CLOEXEC as u64)],
    &[Condition::Is(1, libc::F_ADD_SEALS as u64)],
    &[Condition::Is(1, libc::F_GET_SEALS as u64)],
    &[Condition::Is(1, libc::F_GETPIPE_SZ as u64)],
    &[Condition::Is(1, libc::F_SETPIPE_SZ as u64)],
];

pub(super) const GROUPS: &[Group] = &[
    Group {
        reason: "memory of the guest and of the process; nothing can be made executable",
        roles: ALL,
        calls: &[
            Call(libc::SYS_mmap, &[&[NOT_EXECUTABLE]]),
            Call(libc::SYS_mprotect, &[&[NOT_EXECUTABLE]]),
            any(libc::SYS_munmap),
            any(libc::SYS_mremap),
            any(libc::SYS_madvise),
            any(libc::SYS_brk),
            any(libc::SYS_mincore),
        ],
    },
    Group {
        reason: "copying guest memory so that a fault is an error and no signal: of this process only",
        roles: ALL,
        calls: &[
            Call(libc::SYS_process_vm_readv, &[&[Condition::ThisProcess(0)]]),
            Call(libc::SYS_process_vm_writev, &[&[Condition::ThisProcess(0)]]),
        ],
    },
    Group {
        reason: "reading what is open: snapshots, the function's files, pipes and events",
        roles: ALL,
        calls: &[
            any(libc::SYS_read),
            any(libc::SYS_pread64),
            any(libc::SYS_preadv),
            any(libc::SYS_fadvise64),
            any(libc::SYS_close),
            any(libc::SYS_ppoll),
            Call(libc::SYS_fcntl, OF_DESCRIPTORS),
        ],
    },
    Group {
        reason: "writing to what is open: events, the last words of a crash; files of the guest's /tmp, which are memory",
        roles: ALL,
        calls: &[any(libc::SYS_write), any(libc::SYS_rename), any(libc::SYS_renameat2)],
    },
    Group {
        reason: "threads of this process",
        roles: ALL,
        calls: &[
            any(libc::SYS_futex),
            any(libc::SYS_exit),
            any(libc::SYS_exit_group),
            any(libc::SYS_gettid),
            any(libc::SYS_getpid),
            any(libc::SYS_sched_yield),
            any(libc::SYS_sched_getaffinity),
            // How soon the thread itself runs; more than its share of a processor takes a capability.
            Call(libc::SYS_sched_getattr, &[&[Condition::Is(0, 0)]]),
            Call(libc::SYS_sched_setattr, &[&[Condition::Is(0, 0)]]),
            any(libc::SYS_rseq),
            any(libc::SYS_set_robust_list),
            any(libc::SYS_sigaltstack),
            any(libc::SYS_rt_sigaction),
            any(libc::SYS_rt_sigprocmask),
            any(libc::SYS_rt_sigreturn),
            any(libc::SYS_restart_syscall),
            Call(libc::SYS_tgkill, &[&[Condition::ThisProcess(0)]]),
            Call(
                libc::SYS_prctl,
                &[
                    &[Condition::Is(0, libc::PR_SET_NAME as u64)],
                    &[Condition::Is(0, GET_AUXV)],
                    // Set already; the filter's library sets it again before a narrower filter.
                    &[Condition::Is(0, libc::PR_SET_NO_NEW_PRIVS as u64)],
                ],
            ),
            // A thread gives itself a narrower filter; a wider one is impossible.
            Call(libc::SYS_seccomp, &[&[Condition::Is(0, SET_FILTER)]]),
        ],
    },
    Group {
        reason: "more threads; clone3 is answered ENOSYS, since a filter can't see its flags",
        roles: NOT_LOADER,
        calls: &[Call(libc::SYS_clone, &[&[Condition::Is(0, THREAD)]]), any(libc::SYS_clone3)],
    },
    Group {
        reason: "time and chance",
        roles: ALL,
        calls: &[
            any(libc::SYS_clock_gettime),
            any(libc::SYS_clock_getres),
            any(libc::SYS_clock_nanosleep),
            any(libc::SYS_nanosleep),
            any(libc::SYS_getrandom),
            any(libc::SYS_getrusage),
        ],
    },
    Group {
        reason: "making the virtual machine, before anything is known of the function",
        roles: &[StartUp],
        calls: &[Call(libc::SYS_ioctl, &[&[KVM]])],
    },
    Group {
        reason: "running it; a worker has one machine and makes no other",
        roles: &[Running, Guest, Microvm],
        calls: &[Call(libc::SYS_ioctl, &[&[KVM, Condition::IsNot(1, CREATE_VM)]])],
    },
    Group {
        reason: "serving faults of guest memory; the system call is answered ENOSYS, the device was handed over or there is none",
        roles: &[StartUp, Running, Loader],
        calls: &[Call(libc::SYS_ioctl, &[&[USERFAULTFD]]), any(libc::SYS_userfaultfd)],
    },
    Group {
        reason: "files of the function and of the snapshot, below directories that were handed over; /proc/self",
        roles: NOT_LOADER,
        calls: &[
            any(libc::SYS_openat),
            any(libc::SYS_openat2),
            any(libc::SYS_fstat),
            any(libc::SYS_newfstatat),
            any(libc::SYS_statx),
            any(libc::SYS_fstatfs),
            any(libc::SYS_readlinkat),
            any(libc::SYS_getdents64),
            any(libc::SYS_lseek),
            any(libc::SYS_readv),
            any(libc::SYS_preadv2),
            any(CACHESTAT),
        ],
    },
    Group {
        reason: "the C library asks for the number of processors when a thread first allocates; the root is empty",
        roles: &[Loader, Network],
        calls: &[Call(libc::SYS_openat, &[&[Condition::Is(0, HERE)]])],
    },
    Group {
        reason: "what else a thread asks about itself",
        roles: NOT_LOADER,
        calls: &[
            any(libc::SYS_uname),
            any(libc::SYS_sysinfo),
            any(libc::SYS_getuid),
            any(libc::SYS_geteuid),
            any(libc::SYS_getgid),
            any(libc::SYS_getegid),
            // Reading a limit, not setting one.
            Call(libc::SYS_prlimit64, &[&[Condition::Null(2)]]),
        ],
    },
    Group {
        reason: "descriptors of the worker's own: the guest's files in memory, events, timers, pipes",
        roles: NOT_LOADER,
        calls: &[
            any(libc::SYS_memfd_create),
            any(libc::SYS_ftruncate),
            any(libc::SYS_fallocate),
            any(libc::SYS_pwrite64),
            any(libc::SYS_pwritev),
            any(libc::SYS_pwritev2),
            any(libc::SYS_writev),
            any(libc::SYS_eventfd2),
            any(libc::SYS_timerfd_create),
            any(libc::SYS_timerfd_settime),
            any(libc::SYS_epoll_create1),
            any(libc::SYS_epoll_ctl),
            any(libc::SYS_epoll_wait),
            any(libc::SYS_epoll_pwait),
            any(libc::SYS_pipe2),
            any(libc::SYS_dup),
            any(libc::SYS_poll),
        ],
    },
    Group {
        reason: "who else records or reads a snapshot: locks on files that are open",
        roles: ALL,
        calls: &[any(libc::SYS_flock)],
    },
    Group {
        reason: "a linux guest's connections: asking the relay for them, ending one of their directions",
        roles: &[Network],
        calls: &[any(libc::SYS_sendmsg), any(libc::SYS_recvmsg), any(libc::SYS_shutdown)],
    },
    Group {
        reason: "the node: messages out of every thread, messages in",
        roles: NOT_LOADER,
        calls: &[any(libc::SYS_sendmsg), any(libc::SYS_recvmsg), any(libc::SYS_shutdown)],
    },
    Group {
        reason: "streams between a linux guest's devices and the worker: pairs of Unix sockets that lead nowhere else",
        roles: &[StartUp, Running, Microvm],
        calls: &[Call(libc::SYS_socketpair, &[&[Condition::Is(0, libc::AF_UNIX as u64)]])],
    },
    Group {
        reason: "what else the devices of a linux guest do: disks, events, the ends of streams",
        roles: &[Microvm],
        calls: &[
            any(libc::SYS_preadv2),
            any(libc::SYS_pwrite64),
            any(libc::SYS_fdatasync),
            // What a guest discards of its disk.
            Call(libc::SYS_fallocate, &[&[Condition::Is(1, PUNCH_HOLE)]]),
            any(libc::SYS_epoll_ctl),
            any(libc::SYS_epoll_wait),
            any(libc::SYS_epoll_pwait),
            any(libc::SYS_shutdown),
        ],
    },
    Group {
        reason: "writing a snapshot or a recording where the node lets it be written",
        roles: PROCESS,
        calls: &[
            any(libc::SYS_mkdir),
            any(libc::SYS_mkdirat),
            any(libc::SYS_renameat),
            any(libc::SYS_unlink),
            any(libc::SYS_unlinkat),
            any(libc::SYS_rmdir),
            any(libc::SYS_fchmod),
            any(libc::SYS_fsync),
            any(libc::SYS_fdatasync),
            any(libc::SYS_sync_file_range),
            any(libc::SYS_copy_file_range),
        ],
    },
];
