//! Who the process is, what it may use, and what kind of machine it runs on.

use std::os::raw::c_long;

use rustix::io::Errno;

use super::{Arguments, Cx, SysResult};
use crate::task::Limit;

pub(super) fn dispatch(cx: &mut Cx<'_>, number: c_long, a: Arguments) -> Option<SysResult> {
    let identity = &cx.process.identity;
    Some(match number {
        libc::SYS_getpid => Ok(cx.process.pid() as u64),
        libc::SYS_getpgrp => Ok(identity.pid as u64),
        libc::SYS_gettid => Ok(cx.thread.tid as u64),
        libc::SYS_getppid => Ok(0),
        libc::SYS_getpgid | libc::SYS_getsid => own(cx, a[0]).map(|()| cx.process.identity.pid as u64),
        libc::SYS_setpgid => own(cx, a[0]).map(|()| 0),
        libc::SYS_setsid => Err(Errno::PERM.into()),
        libc::SYS_getuid | libc::SYS_geteuid => Ok(u64::from(identity.uid)),
        libc::SYS_getgid | libc::SYS_getegid => Ok(u64::from(identity.gid)),
        libc::SYS_getresuid => write_three(cx, a, identity.uid),
        libc::SYS_getresgid => write_three(cx, a, identity.gid),
        libc::SYS_getgroups => Ok(0),
        libc::SYS_setuid | libc::SYS_setfsuid => same_id(a[0], identity.uid),
        libc::SYS_setgid | libc::SYS_setfsgid => same_id(a[0], identity.gid),
        libc::SYS_setreuid | libc::SYS_setresuid => same_ids(&a[..2], identity.uid),
        libc::SYS_setregid | libc::SYS_setresgid => same_ids(&a[..2], identity.gid),
        libc::SYS_setgroups => Err(Errno::PERM.into()),
        libc::SYS_capget => capget(cx, a[0], a[1]),
        libc::SYS_capset => Err(Errno::PERM.into()),
        libc::SYS_uname => uname(cx, a[0]),
        libc::SYS_sethostname | libc::SYS_setdomainname => Err(Errno::PERM.into()),
        libc::SYS_sysinfo => sysinfo(cx, a[0]),
        libc::SYS_getrlimit => prlimit(cx, 0, a[0] as u32, 0, a[1]),
        libc::SYS_setrlimit => prlimit(cx, 0, a[0] as u32, a[1], 0),
        libc::SYS_prlimit64 => prlimit(cx, a[0] as i32, a[1] as u32, a[2], a[3]),
        libc::SYS_getrusage => getrusage(cx, a[0] as i32, a[1]),
        libc::SYS_getpriority => Ok(20),
        libc::SYS_setpriority => own(cx, a[1]).map(|()| 0),
        libc::SYS_getrandom => getrandom(cx, a[0], a[1], a[2] as u32),
        libc::SYS_prctl => prctl(cx, a),
        libc::SYS_arch_prctl => arch_prctl(cx, a[0] as i32, a[1]),
        libc::SYS_personality => Ok(0),
        libc::SYS_getcpu => getcpu(cx, a[0], a[1]),
        libc::SYS_sched_yield => {
            std::thread::yield_now();
            Ok(0)
        }
        libc::SYS_sched_getaffinity => sched_getaffinity(cx, a[0], a[1], a[2]),
        libc::SYS_sched_setaffinity => own_thread(cx, a[0]).map(|()| 0),
        libc::SYS_sched_getscheduler => own_thread(cx, a[0]).map(|()| 0),
        libc::SYS_sched_setscheduler => {
            if a[1] as i32 == libc::SCHED_OTHER {
                own_thread(cx, a[0]).map(|()| 0)
            } else {
                Err(Errno::PERM.into())
            }
        }
        libc::SYS_sched_getparam => own_thread(cx, a[0]).and_then(|()| {
            cx.mm().write_value(a[1], &0i32)?;
            Ok(0)
        }),
        libc::SYS_sched_setparam => own_thread(cx, a[0]).map(|()| 0),
        libc::SYS_sched_get_priority_max | libc::SYS_sched_get_priority_min => match a[0] as i32 {
            libc::SCHED_OTHER | libc::SCHED_BATCH | libc::SCHED_IDLE => Ok(0),
            libc::SCHED_FIFO | libc::SCHED_RR => {
                Ok(if number == libc::SYS_sched_get_priority_max { 99 } else { 1 })
            }
            _ => Err(Errno::INVAL.into()),
        },
        libc::SYS_ptrace | libc::SYS_kcmp | libc::SYS_process_vm_readv | libc::SYS_process_vm_writev => {
            Err(Errno::PERM.into())
        }
        libc::SYS_get_mempolicy | libc::SYS_set_mempolicy | libc::SYS_mbind => Err(Errno::NOSYS.into()),
        _ => return None,
    })
}

/// Whether a process id means the guest itself.
fn own(cx: &Cx<'_>, pid: u64) -> Result<(), super::Stop> {
    let pid = pid as i32;
    if pid == 0 || cx.process.has_pid(pid) { Ok(()) } else { Err(Errno::SRCH.into()) }
}

/// Whether a thread id is one of the guest's.
fn own_thread(cx: &Cx<'_>, tid: u64) -> Result<(), super::Stop> {
    let tid = tid as i32;
    if tid == 0 || cx.process.thread(tid).is_some() { Ok(()) } else { Err(Errno::SRCH.into()) }
}

fn same_id(wanted: u64, own: u32) -> SysResult {
    if wanted as u32 == own { Ok(0) } else { Err(Errno::PERM.into()) }
}

fn same_ids(wanted: &[u64], own: u32) -> SysResult {
    let keeps = |id: &u64| *id as u32 == own || *id as u32 == u32::MAX;
    if wanted.iter().all(keeps) { Ok(0) } else { Err(Errno::PERM.into()) }
}

fn write_three(cx: &Cx<'_>, a: Arguments, id: u32) -> SysResult {
    for address in &a[..3] {
        cx.mm().write_value(*address, &id)?;
    }
    Ok(0)
}

/// A guest has no capabilities.
fn capget(cx: &Cx<'_>, header: u64, data: u64) -> SysResult {
    const VERSION_3: u32 = 0x2008_0522;
    let [version, _]: [u32; 2] = cx.mm().read_value(header)?;
    if version != VERSION_3 {
        cx.mm().write_value(header, &VERSION_3)?;
        return if data == 0 { Ok(0) } else { Err(Errno::INVAL.into()) };
    }
    if data != 0 {
        cx.mm().write_value(data, &[0u32; 6])?;
    }
    Ok(0)
}

/// The kernel release that a guest sees: the oldest whose system calls are offered throughout, so that programs don't rely on
/// newer ones.
pub(crate) const KERNEL_RELEASE: &str = "5.10.0-faasnap";
/// uname's version field.
pub(crate) const KERNEL_VERSION: &str = "#1 FaaSnap process guest";

fn uname(cx: &Cx<'_>, to: u64) -> SysResult {
    let mut names = [0u8; 6 * 65];
    let fields = ["Linux", &cx.process.identity.hostname, KERNEL_RELEASE, KERNEL_VERSION, "x86_64", "(none)"];
    for (field, name) in fields.iter().zip(names.chunks_exact_mut(65)) {
        let length = field.len().min(64);
        name[..length].copy_from_slice(&field.as_bytes()[..length]);
    }
    cx.mm().write(to, &names)?;
    Ok(0)
}

fn sysinfo(cx: &Cx<'_>, to: u64) -> SysResult {
    let uptime = cx.process.clock.monotonic() / 1_000_000_000;
    let limit = cx.process.memory_limit;
    let free = limit.saturating_sub(crate::host::resident_bytes());
    // struct sysinfo: uptime, loads[3], totalram, freeram, sharedram, bufferram, totalswap, freeswap, procs, totalhigh,
    // freehigh, mem_unit.
    let words = [uptime, 0, 0, 0, limit, free, 0, 0, 0, 0, 1, 0, 0, 1];
    cx.mm().write_value(to, &words)?;
    Ok(0)
}

fn prlimit(cx: &Cx<'_>, pid: i32, resource: u32, new: u64, old: u64) -> SysResult {
    own(cx, pid as u64)?;
    let limits = &cx.process.limits;
    let current = limits.get(resource).ok_or(Errno::INVAL)?;
    if new != 0 {
        let [soft, hard]: [u64; 2] = cx.mm().read_value(new)?;
        if soft > hard {
            return Err(Errno::INVAL.into());
        }
        if !limits.set(resource, Limit { soft, hard }) {
            return Err(Errno::PERM.into());
        }
    }
    if old != 0 {
        cx.mm().write_value(old, &[current.soft, current.hard])?;
    }
    Ok(0)
}

fn getrusage(cx: &Cx<'_>, who: i32, to: u64) -> SysResult {
    let clock = match who {
        libc::RUSAGE_SELF => rustix::time::ClockId::ProcessCPUTime,
        libc::RUSAGE_THREAD => rustix::time::ClockId::ThreadCPUTime,
        libc::RUSAGE_CHILDREN => {
            cx.mm().write_value(to, &[0u64; 18])?;
            return Ok(0);
        }
        _ => return Err(Errno::INVAL.into()),
    };
    let used = rustix::time::clock_gettime(clock);
    let mut words = [0u64; 18];
    words[0] = used.tv_sec as u64;
    words[1] = used.tv_nsec as u64 / 1000;
    words[4] = crate::host::resident_bytes() / 1024;
    cx.mm().write_value(to, &words)?;
    Ok(0)
}

/// Always the host's own randomness: never replayed after a restore.
fn getrandom(cx: &Cx<'_>, to: u64, length: u64, flags: u32) -> SysResult {
    let known = libc::GRND_NONBLOCK | libc::GRND_RANDOM | 0x4;
    if flags & !known != 0 {
        return Err(Errno::INVAL.into());
    }
    let length = usize::try_from(length).unwrap_or(usize::MAX).min(32 << 20);
    let mut done = 0;
    while done < length {
        let mut bytes = vec![0; (length - done).min(65_536)];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
        if let Err(errno) = cx.mm().write(to.wrapping_add(done as u64), &bytes) {
            return if done == 0 { Err(errno.into()) } else { Ok(done as u64) };
        }
        done += bytes.len();
    }
    Ok(done as u64)
}

fn prctl(cx: &Cx<'_>, a: Arguments) -> SysResult {
    match a[0] as i32 {
        libc::PR_SET_NAME => {
            let mut name = match cx.mm().read_string(a[1], 16) {
                Ok(name) => name,
                Err(Errno::NAMETOOLONG) => {
                    let mut name = vec![0; 15];
                    cx.mm().read(a[1], &mut name)?;
                    name
                }
                Err(errno) => return Err(errno.into()),
            };
            name.truncate(15);
            *cx.thread.name.lock() = name;
            Ok(0)
        }
        libc::PR_GET_NAME => {
            let mut name = cx.thread.name.lock().clone();
            name.resize(16, 0);
            cx.mm().write(a[1], &name)?;
            Ok(0)
        }
        libc::PR_GET_DUMPABLE | libc::PR_GET_KEEPCAPS | libc::PR_GET_SECUREBITS => Ok(0),
        libc::PR_GET_NO_NEW_PRIVS => Ok(1),
        libc::PR_SET_DUMPABLE
        | libc::PR_SET_NO_NEW_PRIVS
        | libc::PR_SET_PDEATHSIG
        | libc::PR_SET_KEEPCAPS
        | libc::PR_SET_TIMERSLACK
        | libc::PR_SET_THP_DISABLE
        // PR_SET_VMA (anonymous names) and PR_SET_PTRACER concern only observers, of which a guest has none.
        | 0x5356_4d41
        | 0x5961_6d61 => Ok(0),
        libc::PR_GET_TIMERSLACK => Ok(50_000),
        libc::PR_CAPBSET_READ => Ok(0),
        libc::PR_GET_PDEATHSIG => {
            cx.mm().write_value(a[1], &0i32)?;
            Ok(0)
        }
        _ => Err(Errno::INVAL.into()),
    }
}

fn arch_prctl(cx: &mut Cx<'_>, code: i32, address: u64) -> SysResult {
    const ARCH_SET_GS: i32 = 0x1001;
    const ARCH_SET_FS: i32 = 0x1002;
    const ARCH_GET_FS: i32 = 0x1003;
    const ARCH_GET_GS: i32 = 0x1004;
    match code {
        ARCH_SET_FS | ARCH_SET_GS if address >= crate::mm::layout::USER_END => Err(Errno::PERM.into()),
        ARCH_SET_FS => {
            cx.cpu.fs_base = address;
            Ok(0)
        }
        ARCH_SET_GS => {
            cx.cpu.gs_base = address;
            Ok(0)
        }
        ARCH_GET_FS => {
            cx.mm().write_value(address, &cx.cpu.fs_base)?;
            Ok(0)
        }
        ARCH_GET_GS => {
            cx.mm().write_value(address, &cx.cpu.gs_base)?;
            Ok(0)
        }
        // AMX tiles (ARCH_REQ_XCOMP_PERM) and shadow stacks are not offered: KVM's saved state could not hold them.
        _ => Err(Errno::INVAL.into()),
    }
}

fn getcpu(cx: &Cx<'_>, cpu: u64, node: u64) -> SysResult {
    if cpu != 0 {
        cx.mm().write_value(cpu, &(rustix::thread::sched_getcpu() as u32))?;
    }
    if node != 0 {
        cx.mm().write_value(node, &0u32)?;
    }
    Ok(0)
}

fn sched_getaffinity(cx: &Cx<'_>, tid: u64, size: u64, to: u64) -> SysResult {
    own_thread(cx, tid)?;
    if size < 8 || !size.is_multiple_of(8) {
        return Err(Errno::INVAL.into());
    }
    let count = std::thread::available_parallelism().map_or(1, usize::from).min(64);
    let mask = if count == 64 { u64::MAX } else { (1 << count) - 1 };
    cx.mm().write_value(to, &mask)?;
    Ok(8)
}
