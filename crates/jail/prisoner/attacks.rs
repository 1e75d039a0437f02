//! What an attacker tries from inside a worker's process. Each attack gives a text: what it got, or the error.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// Whom to attack.
pub struct Target {
    /// Another worker, by its number outside.
    pub sibling: i32,
    /// The node's home directory.
    pub home: String,
    /// The one directory that was handed over.
    pub handed: Option<OwnedFd>,
}

impl Target {
    fn handed(&self) -> i32 {
        self.handed.as_ref().unwrap().as_raw_fd()
    }
}

/// The error of a call that gives -1, or what it gave.
fn call(number: i64, arguments: [usize; 6]) -> String {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: the attacks pass numbers and pointers to memory that is alive; the process ends afterwards.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if result < 0 { error(&io::Error::last_os_error()) } else { format!("GOT {result}") }
}

pub fn error(error: &io::Error) -> String {
    error.raw_os_error().and_then(name).map_or_else(|| error.to_string(), str::to_owned)
}

fn name(number: i32) -> Option<&'static str> {
    Some(match number {
        libc::EPERM => "EPERM",
        libc::ENOENT => "ENOENT",
        libc::ESRCH => "ESRCH",
        libc::EACCES => "EACCES",
        libc::EINVAL => "EINVAL",
        libc::ENOSYS => "ENOSYS",
        libc::EROFS => "EROFS",
        libc::EAGAIN => "EAGAIN",
        libc::ENOTTY => "ENOTTY",
        libc::ECONNREFUSED => "ECONNREFUSED",
        libc::ENETUNREACH => "ENETUNREACH",
        libc::ENOKEY => "ENOKEY",
        libc::ENODEV => "ENODEV",
        libc::EXDEV => "EXDEV",
        libc::ENOTDIR => "ENOTDIR",
        libc::EBADF => "EBADF",
        libc::ENOSPC => "ENOSPC",
        libc::ENOMEM => "ENOMEM",
        libc::ESTALE => "ESTALE",
        libc::EBUSY => "EBUSY",
        _ => return None,
    })
}

fn text(result: io::Result<impl AsRef<[u8]>>) -> String {
    match result {
        Ok(bytes) => format!("GOT {}", String::from_utf8_lossy(bytes.as_ref())),
        Err(problem) => error(&problem),
    }
}

fn address(text: &std::ffi::CStr) -> usize {
    text.as_ptr() as usize
}

/// Opens `path` from the directory that was handed over.
fn from_handed(target: &Target, path: &str, flags: i32) -> String {
    let path = CString::new(path).unwrap();
    call(libc::SYS_openat, [target.handed() as usize, address(&path), flags as usize, 0o600, 0, 0])
}

/// Connects to an Internet address, of a protocol and port.
fn connect(kind: i32, to: [u8; 4], port: u16) -> String {
    // SAFETY: takes numbers.
    let socket = unsafe { libc::socket(libc::AF_INET, kind, 0) };
    if socket < 0 {
        return error(&io::Error::last_os_error());
    }
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(to) },
        sin_zero: [0; 8],
    };
    let size = size_of::<libc::sockaddr_in>();
    call(libc::SYS_connect, [socket as usize, &raw const address as usize, size, 0, 0, 0])
}

/// Connects to the abstract Unix socket called `faasnap-test-victim`.
fn connect_abstract() -> String {
    // SAFETY: takes numbers.
    let socket = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0) };
    if socket < 0 {
        return error(&io::Error::last_os_error());
    }
    let mut bytes = [0u8; 110];
    bytes[..2].copy_from_slice(&(libc::AF_UNIX as u16).to_ne_bytes());
    let name = b"\0faasnap-test-victim";
    bytes[2..2 + name.len()].copy_from_slice(name);
    call(libc::SYS_connect, [socket as usize, bytes.as_ptr() as usize, 2 + name.len(), 0, 0, 0])
}

/// How many processes come of forking until it fails. The children wait for the end.
fn fork_bomb() -> String {
    for count in 0..100_000 {
        // SAFETY: the child only waits.
        match unsafe { libc::fork() } {
            0 => loop {
                // SAFETY: waits for a signal.
                unsafe { libc::pause() };
            },
            -1 => return format!("stopped after {count}"),
            _ => {}
        }
    }
    "GOT 100000 processes".to_owned()
}

/// How many threads come of starting them until it fails.
fn thread_bomb() -> String {
    for count in 0..100_000 {
        let thread = std::thread::Builder::new().stack_size(16 << 10).spawn(std::thread::park);
        if thread.is_err() {
            return format!("stopped after {count}");
        }
    }
    "GOT 100000 threads".to_owned()
}

/// Touches memory without end, 64 GiB at most.
fn memory_bomb() -> String {
    let size = 1 << 30;
    for count in 0..64u64 {
        // SAFETY: new anonymous memory.
        let at = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
            libc::mmap(std::ptr::null_mut(), size, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
        };
        if at == libc::MAP_FAILED {
            return format!("stopped after {count} GiB");
        }
        for page in (0..size).step_by(4096) {
            // SAFETY: inside of what was mapped.
            unsafe { at.cast::<u8>().add(page).write_volatile(1) };
        }
    }
    "GOT 64 GiB".to_owned()
}

fn names(path: &str) -> String {
    let entries = fs::read_dir(path).map(|entries| {
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names.join(" ")
    });
    text(entries)
}

/// Lines of /proc/self/status that start with one of `fields`.
fn status(fields: &[&str]) -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let wanted = status.lines().filter(|line| fields.iter().any(|field| line.starts_with(field)));
    wanted.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>().join("; ")
}

/// What is open, as /proc/self/fd says.
fn open_descriptors() -> String {
    let mut found = Vec::new();
    for number in 0..4096 {
        if let Ok(path) =
            rustix::fs::readlinkat(rustix::fs::CWD, format!("/proc/self/fd/{number}"), Vec::new())
        {
            let path = path.to_string_lossy().into_owned();
            found.push(format!("{number}={}", path.split(':').next().unwrap_or_default()));
        }
    }
    found.join(" ")
}

pub fn run(attack: &str, target: &Target) -> String {
    files(attack, target)
        .or_else(|| snapshot(attack, target))
        .or_else(|| processes(attack, target))
        .or_else(|| privileges(attack, target))
        .or_else(|| network(attack))
        .unwrap_or_else(|| format!("no such attack: {attack}"))
}

fn files(attack: &str, target: &Target) -> Option<String> {
    let home = &target.home;
    Some(match attack {
        "home" => text(fs::read(format!("{home}/trees/other/secret"))),
        "snapshots" => text(fs::read(format!("{home}/snapshots/other/memory"))),
        "host-file" => text(fs::read("/etc/passwd")),
        "host-binary" => text(fs::read("/bin/sh")),
        "device" => text(fs::read("/dev/mem")),
        "kvm" => text(fs::read("/dev/kvm")),
        "root" => names("/"),
        "proc" => names("/proc"),
        "own-file" => text(fs::read(format!("/proc/self/fd/{}/app", target.handed()))),
        "up" => from_handed(target, "../other/secret", libc::O_RDONLY),
        "up-far" => from_handed(target, "../../../../../../../../etc/passwd", libc::O_RDONLY),
        "up-is-itself" => names(&format!("/proc/self/fd/{}/..", target.handed())),
        "link-out" => from_handed(target, "link", libc::O_RDONLY),
        "write" => from_handed(target, "app", libc::O_RDWR),
        "create" => from_handed(target, "new", libc::O_WRONLY | libc::O_CREAT),
        "write-again" => {
            let path = format!("/proc/self/fd/{}/app", target.handed());
            text(fs::OpenOptions::new().write(true).open(path).map(|_| "written"))
        }
        "unlink" => call(libc::SYS_unlinkat, [target.handed() as usize, address(c"app"), 0, 0, 0, 0]),
        "make-root-writable" => text(fs::write("/new", "x").map(|()| "written")),
        "descriptors" => open_descriptors(),
        "mounts" => {
            let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
            let mut places: Vec<&str> = text.lines().filter_map(|line| line.split(' ').nth(4)).collect();
            places.sort_unstable();
            format!("GOT {}", places.join(" "))
        }
        "by-handle" => {
            // A `file_handle` of 8 bytes, type 1: an inode's number and generation.
            let handle = [8u32, 1, 2, 0];
            let mount = fs::File::open(format!("/proc/self/fd/{}", target.handed())).unwrap();
            let (mount, handle) = (mount.as_raw_fd() as usize, handle.as_ptr() as usize);
            call(libc::SYS_open_by_handle_at, [mount, handle, 0, 0, 0, 0])
        }
        "mount" => call(libc::SYS_mount, [address(c"none"), address(c"/proc"), address(c"tmpfs"), 0, 0, 0]),
        "mount-proc" => call(libc::SYS_fsopen, [address(c"proc"), 0, 0, 0, 0, 0]),
        "remount-handed" => call(
            libc::SYS_open_tree,
            [target.handed() as usize, address(c""), (1 | libc::AT_EMPTY_PATH) as usize, 0, 0, 0],
        ),
        "umount" => call(libc::SYS_umount2, [address(c"/proc/self"), 2, 0, 0, 0, 0]),
        "chroot" => call(libc::SYS_chroot, [address(c"/proc"), 0, 0, 0, 0, 0]),
        _ => return None,
    })
}

/// What was handed over is the snapshot's directory.
fn snapshot(attack: &str, target: &Target) -> Option<String> {
    let handed = target.handed() as usize;
    let inside = |name: &str| format!("/proc/self/fd/{handed}/{name}");
    let rename = |from, to| call(libc::SYS_renameat, [handed, address(from), handed, address(to), 0, 0]);
    Some(match attack {
        "snapshot-read" => text(fs::read(inside("memory"))),
        "snapshot-memory" => from_handed(target, "memory", libc::O_RDWR),
        "snapshot-again" => {
            text(fs::OpenOptions::new().append(true).open(inside("memory")).map(|_| "written"))
        }
        "snapshot-map" => {
            let file = fs::File::open(inside("memory")).unwrap();
            let access = (libc::PROT_READ | libc::PROT_WRITE) as usize;
            let file = file.as_raw_fd() as usize;
            call(libc::SYS_mmap, [0, 4096, access, libc::MAP_SHARED as usize, file, 0])
        }
        "snapshot-set" => from_handed(target, "loading-set", libc::O_WRONLY | libc::O_TRUNC),
        "snapshot-recording" => from_handed(target, "recording", libc::O_WRONLY | libc::O_CREAT),
        "snapshot-outgrown" => from_handed(target, "loading-set.outgrown", libc::O_WRONLY | libc::O_CREAT),
        "snapshot-rename" => rename(c"loading-set", c"memory"),
        "snapshot-unlink" => call(libc::SYS_unlinkat, [handed, address(c"state"), 0, 0, 0, 0]),
        "snapshot-folder" => call(libc::SYS_mkdirat, [handed, address(c"x"), 0o700, 0, 0, 0]),
        "snapshot-truncate" => {
            let path = CString::new(inside("memory")).unwrap();
            call(libc::SYS_truncate, [address(&path), 0, 0, 0, 0, 0])
        }
        "snapshot-mode" => call(libc::SYS_fchmodat, [handed, address(c"memory"), 0o666, 0, 0, 0]),
        "snapshot-link" => call(libc::SYS_linkat, [handed, address(c"memory"), handed, address(c"x"), 0, 0]),
        "snapshot-swap" => {
            call(libc::SYS_symlinkat, [address(c"../other/memory"), handed, address(c"x"), 0, 0, 0])
        }
        "snapshot-of-other" => from_handed(target, "../other/memory", libc::O_RDWR),
        "snapshot-set-of-other" => {
            from_handed(target, "../other/loading-set", libc::O_WRONLY | libc::O_CREAT)
        }
        _ => return None,
    })
}

fn processes(attack: &str, target: &Target) -> Option<String> {
    let sibling = target.sibling as usize;
    Some(match attack {
        "other-environment" => text(fs::read(format!("/proc/{sibling}/environ"))),
        "other-memory-file" => text(fs::read(format!("/proc/{sibling}/mem"))),
        "own-environment" => text(fs::read("/proc/self/environ")),
        "ptrace" => call(libc::SYS_ptrace, [libc::PTRACE_ATTACH as usize, sibling, 0, 0, 0, 0]),
        "read-memory" => {
            let byte = 0u8;
            let vector = [&raw const byte as usize, 1];
            let at = vector.as_ptr() as usize;
            call(libc::SYS_process_vm_readv, [sibling, at, 1, at, 1, 0])
        }
        "kill" => call(libc::SYS_kill, [sibling, 9, 0, 0, 0, 0]),
        "pidfd" => call(libc::SYS_pidfd_open, [sibling, 0, 0, 0, 0, 0]),
        "limits-of-other" => call(libc::SYS_prlimit64, [sibling, 7, 0, 0, 0, 0]),
        "number" => format!("{}", std::process::id()),
        "execute" => {
            let arguments = [c"/proc/self/exe".as_ptr(), std::ptr::null()];
            call(libc::SYS_execve, [address(c"/bin/sh"), arguments.as_ptr() as usize, 0, 0, 0, 0])
        }
        "fork-bomb" => fork_bomb(),
        "thread-bomb" => thread_bomb(),
        "memory-bomb" => memory_bomb(),
        "executable-memory" => call(
            libc::SYS_mmap,
            [0, 4096, (libc::PROT_WRITE | libc::PROT_EXEC) as usize, 0x22, usize::MAX, 0],
        ),
        "shared-memory" => call(libc::SYS_shmget, [0x5afe, 0, 0, 0, 0, 0]),
        "message-queue" => call(libc::SYS_mq_open, [address(c"faasnap-test-victim"), 0, 0, 0, 0, 0]),
        _ => return None,
    })
}

fn privileges(attack: &str, target: &Target) -> Option<String> {
    let zeros = [0usize; 32];
    let zeros = zeros.as_ptr() as usize;
    Some(match attack {
        "status" => status(&["Uid:", "Gid:", "Groups:", "Cap", "NoNewPrivs:", "Seccomp:"]),
        // SAFETY: takes numbers.
        "dumpable" => format!("{}", unsafe { libc::prctl(libc::PR_GET_DUMPABLE) }),
        "unshare-user" => call(libc::SYS_unshare, [libc::CLONE_NEWUSER as usize, 0, 0, 0, 0, 0]),
        "unshare-mount" => call(libc::SYS_unshare, [libc::CLONE_NEWNS as usize, 0, 0, 0, 0, 0]),
        "clone-user" => {
            let flags = (libc::CLONE_NEWUSER | libc::CLONE_NEWNET | libc::SIGCHLD) as usize;
            call(libc::SYS_clone, [flags, 0, 0, 0, 0, 0])
        }
        "setns" => {
            let namespace = fs::File::open("/proc/self/ns/mnt");
            let number = namespace.as_ref().map_or(usize::MAX, |file| file.as_raw_fd() as usize);
            call(libc::SYS_setns, [number, 0, 0, 0, 0, 0])
        }
        "set-user" => call(libc::SYS_setuid, [1000, 0, 0, 0, 0, 0]),
        "set-groups" => call(libc::SYS_setgroups, [0, 0, 0, 0, 0, 0]),
        "regain-capabilities" => {
            let header = [0x2008_0522u32, 0];
            let all = [u32::MAX; 6];
            let at = all.as_ptr() as usize;
            call(libc::SYS_capset, [header.as_ptr() as usize, at, 0, 0, 0, 0])
        }
        "bpf" => {
            // BPF_MAP_CREATE of an array with one element: as right as can be, so that only a lack of rights stops it.
            let map = [2u32, 4, 4, 1, 0, 0, 0, 0];
            call(libc::SYS_bpf, [0, map.as_ptr() as usize, size_of_val(&map), 0, 0, 0])
        }
        "perf" => call(libc::SYS_perf_event_open, [zeros, 0, usize::MAX, usize::MAX, 0, 0]),
        // KEYCTL_READ of the user keyring: a user without keys has an empty one of its own.
        "keyring" => call(libc::SYS_keyctl, [11, (-4isize) as usize, 0, 0, 0, 0]),
        "find-key" => {
            call(libc::SYS_request_key, [address(c"user"), address(c"faasnap-test-victim"), 0, 0, 0, 0])
        }
        "io-uring" => call(libc::SYS_io_uring_setup, [1, zeros, 0, 0, 0, 0]),
        "module" => call(libc::SYS_finit_module, [target.handed() as usize, address(c""), 0, 0, 0, 0]),
        "host-name" => call(libc::SYS_sethostname, [address(c"x"), 1, 0, 0, 0, 0]),
        "clock" => call(libc::SYS_clock_settime, [0, zeros, 0, 0, 0, 0]),
        "reboot" => call(libc::SYS_reboot, [0xfee1_dead, 0x2812_1969, 0, 0, 0, 0]),
        "kernel-log" => call(libc::SYS_syslog, [10, 0, 0, 0, 0, 0]),
        "terminal-input" => call(libc::SYS_ioctl, [0, 0x5412, zeros, 0, 0, 0]),
        "raise-limit" => {
            let limit = [1u64 << 20, 1 << 20];
            call(libc::SYS_prlimit64, [0, 7, limit.as_ptr() as usize, 0, 0, 0])
        }
        _ => return None,
    })
}

fn network(attack: &str) -> Option<String> {
    let socket = |family: i32, kind: i32, protocol: i32| {
        call(libc::SYS_socket, [family as usize, kind as usize, protocol as usize, 0, 0, 0])
    };
    Some(match attack {
        "node-port" => connect(libc::SOCK_STREAM, [127, 0, 0, 1], 9000),
        "metadata-service" => connect(libc::SOCK_STREAM, [169, 254, 169, 254], 80),
        "internet" => connect(libc::SOCK_STREAM, [1, 1, 1, 1], 443),
        "udp" => connect(libc::SOCK_DGRAM, [8, 8, 8, 8], 53),
        "raw-socket" => socket(libc::AF_INET, libc::SOCK_RAW, 1),
        "packet-socket" => socket(libc::AF_PACKET, libc::SOCK_RAW, 0),
        "vsock" => socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0),
        "netlink" => match socket(libc::AF_NETLINK, libc::SOCK_RAW, 0) {
            // Its own, empty network's routing table may be asked about; nothing of the machine's is there.
            got if got.starts_with("GOT") => names("/proc/self/net/../net"),
            refused => refused,
        },
        "interfaces" => text(fs::read_to_string("/proc/self/net/dev").map(|text| {
            let names = text.lines().skip(2).filter_map(|line| Some(line.split_once(':')?.0.trim()));
            names.collect::<Vec<_>>().join(" ")
        })),
        "abstract-socket" => connect_abstract(),
        _ => return None,
    })
}
