//! The system calls that rustix does not offer, each as a safe function where it can be one.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// `struct clone_args` of linux/sched.h, version 2.
#[repr(C)]
#[derive(Default)]
struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// `struct mount_attr` of linux/mount.h.
#[repr(C)]
#[derive(Default)]
pub(crate) struct MountAttributes {
    pub set: u64,
    pub clear: u64,
    pub propagation: u64,
    pub user_namespace: u64,
}

/// Of linux/sched.h: the new process is born in a version 2 cgroup.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// A process and a descriptor of it.
pub(crate) type Child = (rustix::process::Pid, OwnedFd);

/// Starts a copy of this process with `flags` of clone(2), in the version 2
/// `cgroup` if one is given, which runs `child` and nothing else.
///
/// # Safety
/// The copy has one thread and memory as it was at some moment: locks may be held for ever. `child` must not allocate, lock
/// or panic; it may make system calls on descriptors and memory prepared before.
pub(crate) unsafe fn clone_process(
    flags: u64,
    cgroup: Option<BorrowedFd<'_>>,
    child: impl FnOnce() -> u8,
) -> io::Result<Child> {
    let mut pidfd: RawFd = -1;
    let arguments = CloneArguments {
        flags: flags | libc::CLONE_PIDFD as u64 | cgroup.map_or(0, |_| CLONE_INTO_CGROUP),
        cgroup: cgroup.map_or(0, |cgroup| u64::from(cgroup.as_raw_fd().unsigned_abs())),
        pidfd: (&raw mut pidfd) as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArguments::default()
    };
    // SAFETY: without CLONE_VM and with no stack given, clone3 behaves as fork(2); the arguments are laid out as documented
    // and live across the call. What the copy may do is this function's own contract.
    let result =
        unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<CloneArguments>()) };
    match result {
        0 => {
            let status = child();
            // SAFETY: ends the copy at once; no destructor of the original runs in it.
            unsafe { libc::_exit(status.into()) }
        }
        pid => {
            // glibc's own convention: -1 with errno.
            let pid = i32::try_from(pid).ok().filter(|pid| *pid > 0).and_then(rustix::process::Pid::from_raw);
            let Some(pid) = pid else { return Err(io::Error::last_os_error()) };
            // SAFETY: CLONE_PIDFD has stored a new descriptor there, which nobody else owns.
            Ok((pid, unsafe { OwnedFd::from_raw_fd(pidfd) }))
        }
    }
}

/// Makes `to` a copy of `from` that stays open in the next program. Only for a process that has just been copied.
pub(crate) fn place(from: BorrowedFd<'_>, to: RawFd) -> io::Result<()> {
    // SAFETY: takes numbers and returns one; whatever `to` was belonged to the process this one is a copy of.
    if unsafe { libc::dup2(from.as_raw_fd(), to) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Replaces the program. Returns only when that fails.
///
/// # Safety
/// `arguments` and `environment` must end with a null pointer and point to strings that are alive.
pub(crate) unsafe fn execute(
    program: &CStr,
    arguments: &[*const libc::c_char],
    environment: &[*const libc::c_char],
) -> io::Error {
    // SAFETY: by this function's own contract.
    unsafe { libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}

/// Marks every descriptor from `first` on to be closed in the next program.
pub(crate) fn close_on_exec_from(first: RawFd) -> io::Result<()> {
    // SAFETY: changes flags of descriptors, by number, and touches no memory.
    let result =
        unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Takes over descriptor `number` of this process.
///
/// # Safety
/// Nobody else may own it.
pub(crate) unsafe fn take(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: asks about a number.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and by this function's own contract nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Changes the attributes of the mount at whose root `mount` is.
pub(crate) fn set_mount_attributes(mount: BorrowedFd<'_>, attributes: &MountAttributes) -> io::Result<()> {
    // SAFETY: the path is a string, the structure is laid out as documented and both live across the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            std::ptr::from_ref(attributes),
            size_of::<MountAttributes>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Gives this thread new namespaces; `flags` are those of unshare(2) that concern namespaces, so that no descriptor table or
/// memory of Rust's is unshared.
pub(crate) fn unshare_namespaces(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: takes flags; namespaces have no influence on memory or on descriptors.
    if unsafe { libc::unshare(flags) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Takes a capability out of the bounding set; false when the kernel has no such capability.
pub(crate) fn drop_from_bounding_set(capability: u32) -> io::Result<bool> {
    // SAFETY: takes numbers.
    if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability), 0, 0, 0) } == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::EINVAL) { Ok(false) } else { Err(error) }
}

/// Closes this copy's `descriptor` without touching the value that owns it in the original.
pub(crate) fn close_in_copy(descriptor: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: only called in a process that was copied and runs no destructors.
    if unsafe { libc::close(descriptor.as_raw_fd()) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes `device`, /dev/net/tun just opened, the tap device `name`: whole frames, nothing before them.
pub(crate) fn attach_tap(device: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    /// `struct ifreq` of linux/if.h, as TUNSETIFF reads it.
    #[repr(C)]
    struct Request {
        name: [u8; libc::IFNAMSIZ],
        flags: libc::c_short,
        rest: [u8; 22],
    }
    let mut request = Request {
        name: [0; libc::IFNAMSIZ],
        flags: (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short,
        rest: [0; 22],
    };
    // The last byte stays zero.
    let Some(place) = request.name.get_mut(..name.len()).filter(|place| place.len() < libc::IFNAMSIZ) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    place.copy_from_slice(name.as_bytes());
    // SAFETY: the structure has the size and layout of the request's argument and lives across the call.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF as libc::Ioctl, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Lets every signal through, for a program that is about to start.
pub(crate) fn unblock_signals() -> io::Result<()> {
    let mut none = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the first call initialises the set, the second reads it.
    let result = unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Segments of this process's executable and libraries that are mapped from their files and can't be written: address and
/// bytes, in whole pages.
pub(crate) fn read_only_segments() -> Vec<(usize, usize)> {
    unsafe extern "C" fn visit(info: *mut libc::dl_phdr_info, _: usize, found: *mut libc::c_void) -> i32 {
        // SAFETY: dl_iterate_phdr(3) passes a valid object, and `found` is the vector that the caller below passes.
        let (info, found) = unsafe { (&*info, &mut *found.cast::<Vec<(usize, usize)>>()) };
        if info.dlpi_phdr.is_null() {
            return 0;
        }
        // SAFETY: the program headers of a loaded object, `dlpi_phnum` of them, stay where they are while it is visited.
        let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
        let read_only = |header: &&libc::Elf64_Phdr| {
            header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0 && header.p_filesz != 0
        };
        for header in headers.iter().filter(read_only) {
            let start = (info.dlpi_addr + header.p_vaddr) as usize;
            let end = start + header.p_filesz as usize;
            let page = rustix::param::page_size();
            let first = start / page * page;
            found.push((first, end.next_multiple_of(page) - first));
        }
        0
    }
    let mut found: Vec<(usize, usize)> = Vec::new();
    // SAFETY: `visit` fits what dl_iterate_phdr(3) calls, and the vector outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut found).cast()) };
    found
}

/// Takes the pages of a segment that [`read_only_segments`] gave out of this process's page tables.
pub(crate) fn let_go((start, length): (usize, usize)) {
    // SAFETY: a private mapping of a file that nobody has written: its pages read the same again from the file
    // (MADV_DONTNEED, madvise(2)), also those that other threads are executing. A refusal changes nothing.
    unsafe { libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED) };
}

/// Asks for turns of `nanoseconds` for this thread and those that it starts. A refusal changes nothing.
pub(crate) fn set_turn(nanoseconds: u64) {
    // SAFETY: plain numbers, for which zero is a value.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    let size = size_of_val(&attributes) as libc::c_uint;
    // SAFETY: the kernel writes at most `size` bytes of the structure, which outlives the call.
    if unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) } != 0 {
        return;
    }
    attributes.sched_runtime = nanoseconds;
    // SAFETY: the kernel reads the structure, which says its size. Policy and nice value stay as they were.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
}
