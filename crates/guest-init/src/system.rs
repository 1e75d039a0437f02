//! The kernel's side: mounts, modules, clock, entropy, users, the reset at the end.

use std::ffi::{CString, c_char, c_int, c_ulong, c_void};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use guest_init::wire::Start;

use crate::{Failure, network};

mod libc {
    use super::{c_char, c_int, c_ulong, c_void};

    #[repr(C)]
    pub struct Timespec {
        pub seconds: i64,
        pub nanoseconds: i64,
    }

    unsafe extern "C" {
        pub fn mount(
            source: *const c_char,
            target: *const c_char,
            kind: *const c_char,
            flags: c_ulong,
            data: *const c_void,
        ) -> c_int;
        pub fn chroot(path: *const c_char) -> c_int;
        pub fn syscall(number: i64, ...) -> i64;
        pub fn reboot(command: c_int) -> c_int;
        pub fn sync();
        pub fn sethostname(name: *const c_char, length: usize) -> c_int;
        pub fn clock_settime(clock: c_int, time: *const Timespec) -> c_int;
        pub fn ioctl(descriptor: c_int, request: c_ulong, ...) -> c_int;
        pub fn setrlimit(resource: c_int, limits: *const u64) -> c_int;
    }
}

const SYS_FINIT_MODULE: i64 = 313;
const LINUX_REBOOT_CMD_RESTART: c_int = 0x0123_4567;
const MS_RDONLY: c_ulong = 1;
const MS_NOSUID: c_ulong = 2;
const MS_NODEV: c_ulong = 4;
const MS_NOEXEC: c_ulong = 8;
const MS_MOVE: c_ulong = 8192;
const CLOCK_REALTIME: c_int = 0;
/// linux/random.h
const RNDADDENTROPY: c_ulong = 0x4008_5203;
const RNDRESEEDCRNG: c_ulong = 0x5207;

/// Where the root file system is mounted before it becomes the root.
const NEW_ROOT: &str = "/newroot";
/// The first disk: the root file system.
const ROOT_DISK: &str = "/dev/vda";
/// The letters of the disks behind it.
const MORE_DISKS: std::ops::RangeInclusive<u8> = b'b'..=b'z';
/// What can be on a disk.
const FILE_SYSTEMS: [&str; 3] = ["erofs", "squashfs", "ext4"];

fn text(value: &str) -> Result<CString, Failure> {
    CString::new(value).map_err(|_| format!("{value:?} has a zero byte"))
}

pub(crate) fn check(what: &str, result: c_int) -> Result<(), Failure> {
    if result == 0 { Ok(()) } else { Err(format!("{what}: {}", io::Error::last_os_error())) }
}

pub(crate) fn mount(
    source: &str,
    target: &str,
    kind: &str,
    flags: c_ulong,
    data: &str,
) -> Result<(), Failure> {
    let (from, to, kind, data) = (text(source)?, text(target)?, text(kind)?, text(data)?);
    // SAFETY: four live strings that end with zero.
    let result =
        unsafe { libc::mount(from.as_ptr(), to.as_ptr(), kind.as_ptr(), flags, data.as_ptr().cast()) };
    check(&format!("mounting {source} on {target}"), result)
}

fn create(path: &str) -> Result<(), Failure> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(format!("creating {path}: {error}"))
        }
        _ => Ok(()),
    }
}

pub(crate) fn mount_kernel_files() -> Result<(), Failure> {
    for path in ["/proc", "/sys", "/dev"] {
        create(path)?;
    }
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "")?;
    mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "")?;
    // A kernel that mounts it itself says that it is busy.
    let _ = mount("dev", "/dev", "devtmpfs", MS_NOSUID, "mode=0755");
    Ok(())
}

/// Loads the modules in `/modules`, in the order of their names.
pub(crate) fn load_modules() -> Result<(), Failure> {
    let Ok(entries) = fs::read_dir("/modules") else { return Ok(()) };
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    for path in paths {
        let file = File::open(&path).map_err(|error| format!("opening {}: {error}", path.display()))?;
        // SAFETY: an open descriptor and an empty string that ends with zero.
        let result = unsafe { libc::syscall(SYS_FINIT_MODULE, file.as_raw_fd(), c"".as_ptr(), 0) };
        let error = io::Error::last_os_error();
        if result != 0 && error.kind() != io::ErrorKind::AlreadyExists {
            return Err(format!("loading {}: {error}", path.display()));
        }
    }
    Ok(())
}

/// Mounts a disk, read-only.
fn mount_disk(disk: &str, to: &str) -> Result<(), Failure> {
    let flags = MS_RDONLY | MS_NODEV;
    let mounted = FILE_SYSTEMS.into_iter().map(|kind| mount(disk, to, kind, flags, "")).find(Result::is_ok);
    mounted.unwrap_or_else(|| {
        let kinds = FILE_SYSTEMS.join(", ");
        Err(format!("{disk} has no file system that this kernel can mount ({kinds})"))
    })
}

/// Mounts the root disk, if there is one, with memory over it for what is written, and the other disks where `targets` says.
/// Says whether there is a root disk.
fn mount_disks(targets: &[Vec<u8>]) -> Result<bool, Failure> {
    if !Path::new(ROOT_DISK).exists() {
        return Ok(false);
    }
    for path in ["/lower", "/upper", NEW_ROOT] {
        create(path)?;
    }
    mount_disk(ROOT_DISK, "/lower")?;
    mount("tmpfs", "/upper", "tmpfs", MS_NODEV, "")?;
    for path in ["/upper/data", "/upper/work"] {
        create(path)?;
    }
    mount("overlay", NEW_ROOT, "overlay", 0, "lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work")?;
    for (letter, target) in MORE_DISKS.zip(targets) {
        let target = std::str::from_utf8(target).map_err(|_| "a mount's path is not UTF-8".to_owned())?;
        let to = format!("{NEW_ROOT}{target}");
        fs::create_dir_all(&to).map_err(|error| format!("creating {target}: {error}"))?;
        mount_disk(&format!("/dev/vd{}", char::from(letter)), &to)?;
    }
    Ok(true)
}

/// Makes the guest what the program expects.
pub(crate) fn set_up(start: &Start) -> Result<(), Failure> {
    set_clock(start.time)?;
    add_entropy(&start.entropy)?;
    limit_descriptors(start.descriptor_limit)?;
    // SAFETY: the pointer and the length are of one live buffer.
    let result = unsafe { libc::sethostname(start.hostname.as_ptr().cast(), start.hostname.len()) };
    check("setting the host name", result)?;
    network::raise_loopback()?;
    if let Some(network) = start.network {
        network::set_up(network)?;
    }
    if mount_disks(&start.mounts)? {
        enter_root()?;
    }
    if !start.resolver.is_empty() {
        create("/etc")?;
        // It may be a link to nowhere.
        let _ = fs::remove_file("/etc/resolv.conf");
        fs::write("/etc/resolv.conf", &start.resolver)
            .map_err(|error| format!("writing /etc/resolv.conf: {error}"))?;
    }
    mount_tmp(start)?;
    create("/dev/shm")?;
    mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")?;
    create("/dev/pts")?;
    mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "mode=620,ptmxmode=666")?;
    for (link, target) in [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")]
    {
        // Some are there on some kernels.
        let _ = std::os::unix::fs::symlink(target, format!("/dev/{link}"));
    }
    crate::freezer::prepare(start)
}

/// Mounts what /tmp is: the disk behind all others, or memory.
fn mount_tmp(start: &Start) -> Result<(), Failure> {
    create("/tmp")?;
    let flags = MS_NOSUID | MS_NODEV;
    if start.tmp_disk {
        let letter = MORE_DISKS.clone().nth(start.mounts.len()).ok_or("there are too many disks")?;
        // What is deleted is given back to the host.
        return mount(&format!("/dev/vd{}", char::from(letter)), "/tmp", "ext4", flags, "discard");
    }
    let size = if start.tmp_limit == 0 { String::new() } else { format!(",size={}", start.tmp_limit) };
    mount("tmpfs", "/tmp", "tmpfs", flags, &format!("mode=1777{size}"))
}

fn enter_root() -> Result<(), Failure> {
    for path in ["/proc", "/sys", "/dev"] {
        let to = format!("{NEW_ROOT}{path}");
        create(&to)?;
        mount(path, &to, "", MS_MOVE, "")?;
    }
    std::env::set_current_dir(NEW_ROOT).map_err(|error| format!("entering the root: {error}"))?;
    mount(".", "/", "", MS_MOVE, "")?;
    // SAFETY: a live string that ends with zero.
    check("entering the root", unsafe { libc::chroot(c".".as_ptr()) })?;
    std::env::set_current_dir("/").map_err(|error| format!("entering the root: {error}"))
}

/// Sets the time of day.
pub(crate) fn set_clock(nanoseconds: u64) -> Result<(), Failure> {
    let time = libc::Timespec {
        seconds: (nanoseconds / 1_000_000_000) as i64,
        nanoseconds: (nanoseconds % 1_000_000_000) as i64,
    };
    // SAFETY: a live structure.
    check("setting the clock", unsafe { libc::clock_settime(CLOCK_REALTIME, &raw const time) })
}

/// Mixes fresh random bytes into the kernel's generator, and makes it use them at once.
pub(crate) fn add_entropy(bytes: &[u8]) -> Result<(), Failure> {
    let random = OpenOptions::new()
        .write(true)
        .open("/dev/urandom")
        .map_err(|error| format!("opening /dev/urandom: {error}"))?;
    // struct rand_pool_info: bits, bytes, then the bytes.
    let mut pool = ((bytes.len() * 8) as u32).to_ne_bytes().to_vec();
    pool.extend_from_slice(&(bytes.len() as u32).to_ne_bytes());
    pool.extend_from_slice(bytes);
    // SAFETY: the structure says how long it is, and that many bytes follow.
    let result = unsafe { libc::ioctl(random.as_raw_fd(), RNDADDENTROPY, pool.as_ptr()) };
    check("adding entropy", result)?;
    // SAFETY: this request has no argument.
    check("reseeding", unsafe { libc::ioctl(random.as_raw_fd(), RNDRESEEDCRNG) })
}

/// Limits the descriptors of every process that is started from here on; 0: not at all.
fn limit_descriptors(limit: u64) -> Result<(), Failure> {
    const RLIMIT_NOFILE: c_int = 7;
    if limit == 0 {
        return Ok(());
    }
    let limits = [limit; 2];
    // SAFETY: a live pair of limits, the soft one and the hard one.
    check("limiting descriptors", unsafe { libc::setrlimit(RLIMIT_NOFILE, limits.as_ptr()) })
}

/// Writes out what is not yet on the scratch disk.
pub(crate) fn settle() {
    // SAFETY: it has no arguments.
    unsafe { libc::sync() };
}

/// Resets the machine, which ends it.
pub(crate) fn reset() -> ! {
    // SAFETY: it has one number as argument.
    unsafe { libc::reboot(LINUX_REBOOT_CMD_RESTART) };
    loop {
        std::thread::park();
    }
}
