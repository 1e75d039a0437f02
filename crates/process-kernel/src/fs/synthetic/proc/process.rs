//! Texts about the process and its threads.

use std::sync::Arc;

use rustix::time::{ClockId, clock_gettime};

use super::ProcessTable;
use crate::file::OpenFile;
use crate::fs::synthetic::sys::{processor_list, processors};
use crate::task::signal::SignalSet;
use crate::task::{Process, Resource, Thread};

/// Clock ticks per second, as all times in /proc have them (USER_HZ).
const TICKS: u64 = 100;
const KIB: u64 = 1024;

pub(super) const TABLE: ProcessTable = super::Table(&[
    ("cmdline", |_| String::new()),
    ("maps", |_| String::new()),
    ("status", |_| String::new()),
    ("stat", |_| String::new()),
    ("statm", statm),
    ("limits", limits),
    ("mounts", mounts),
    ("mountinfo", mount_info),
    ("cgroup", |_| "0::/\n".to_owned()),
    ("oom_score", |_| "0\n".to_owned()),
    ("loginuid", |_| "4294967295".to_owned()),
    ("sessionid", |_| "4294967295".to_owned()),
    ("setgroups", |_| "allow\n".to_owned()),
    ("uid_map", |_| "         0          0 4294967295\n".to_owned()),
    ("gid_map", |_| "         0          0 4294967295\n".to_owned()),
    ("wchan", |_| "0".to_owned()),
    ("io", |_| {
        "rchar: 0\nwchar: 0\nsyscr: 0\nsyscw: 0\nread_bytes: 0\nwrite_bytes: 0\ncancelled_write_bytes: 0\n"
            .to_owned()
    }),
    ("smaps_rollup", smaps_rollup),
]);

/// Strings each ended by a NUL.
pub(super) fn joined(strings: &[Vec<u8>]) -> Vec<u8> {
    strings.iter().flat_map(|string| string.iter().copied().chain([0])).collect()
}

/// The auxiliary vector as the program got it.
pub(super) fn auxiliary(process: &Process) -> Vec<u8> {
    let program = process.program.lock();
    program
        .auxiliary
        .iter()
        .flat_map(|(key, value)| [key.to_le_bytes(), value.to_le_bytes()].concat())
        .collect()
}

/// Name of a thread, or of the process: its main thread's.
pub(super) fn name(process: &Process, thread: Option<&Thread>) -> Vec<u8> {
    match thread {
        Some(thread) => thread.name.lock().clone(),
        None => process.thread(process.identity.pid).map_or_else(Vec::new, |main| main.name.lock().clone()),
    }
}

/// Bytes of memory in use. What the worker itself needs is counted too: a few MiB.
fn resident() -> u64 {
    crate::host::resident_bytes()
}

fn statm(process: &Arc<Process>) -> String {
    let page = pages::PAGE_SIZE;
    format!("{} {} 0 0 0 {} 0\n", process.mm.virtual_size() / page, resident() / page, resident() / page)
}

fn smaps_rollup(process: &Arc<Process>) -> String {
    let resident = resident() / KIB;
    let end = crate::mm::layout::USER_END;
    let _ = process;
    format!(
        "00010000-{end:x} ---p 00000000 00:00 0                          [rollup]\n\
         Rss:            {resident:8} kB\nPss:            {resident:8} kB\nPrivate_Dirty:  {resident:8} kB\n\
         Swap:                  0 kB\n"
    )
}

/// Signals that have a handler, and those that are ignored.
fn handled(process: &Process) -> (SignalSet, SignalSet) {
    use crate::task::signal::{DEFAULT, IGNORE, SIGNAL_COUNT, bit};
    (1..=SIGNAL_COUNT as i32).fold((0, 0), |(caught, ignored), signal| {
        match process.signals.action(signal).handler {
            DEFAULT => (caught, ignored),
            IGNORE => (caught, ignored | bit(signal)),
            _ => (caught | bit(signal), ignored),
        }
    })
}

pub(super) fn status(process: &Arc<Process>, thread: Option<&Thread>) -> String {
    let main = process.thread(process.identity.pid);
    let thread = thread.or(main.as_deref());
    let tid = thread.map_or(process.identity.pid, |thread| thread.tid);
    let (pending, blocked) = thread.map_or((0, 0), |thread| {
        let signals = thread.signals.lock();
        (signals.pending.set(), signals.mask)
    });
    let (caught, ignored) = handled(process);
    let (pid, uid, gid) = (process.identity.pid, process.identity.uid, process.identity.gid);
    let size = process.mm.virtual_size() / KIB;
    let resident = resident() / KIB;
    let queue = process.limits.get(Resource::PendingSignals as u32).map_or(0, |limit| limit.soft);
    let all_processors = if processors() >= 32 { u32::MAX } else { (1_u32 << processors()) - 1 };
    let capabilities: u64 = 0;
    [
        format!("Name:\t{}", String::from_utf8_lossy(&name(process, thread)).replace('\n', "\\n")),
        format!("Umask:\t{:04o}", process.fs.umask()),
        "State:\tR (running)".to_owned(),
        format!("Tgid:\t{pid}\nNgid:\t0\nPid:\t{tid}\nPPid:\t0\nTracerPid:\t0"),
        format!("Uid:\t{uid}\t{uid}\t{uid}\t{uid}\nGid:\t{gid}\t{gid}\t{gid}\t{gid}"),
        format!("FDSize:\t{}", process.files.open_descriptors().len().next_multiple_of(64)),
        format!("Groups:\t{gid} \nNStgid:\t{pid}\nNSpid:\t{tid}\nNSpgid:\t{pid}\nNSsid:\t{pid}"),
        format!("VmPeak:\t{size:8} kB\nVmSize:\t{size:8} kB\nVmLck:\t       0 kB\nVmPin:\t       0 kB"),
        format!("VmHWM:\t{resident:8} kB\nVmRSS:\t{resident:8} kB\nRssAnon:\t{resident:8} kB"),
        "RssFile:\t       0 kB\nRssShmem:\t       0 kB".to_owned(),
        format!("VmData:\t{size:8} kB\nVmStk:\t{:8} kB\nVmExe:\t       4 kB", process.limits.stack() / KIB),
        "VmLib:\t       0 kB\nVmPTE:\t       0 kB\nVmSwap:\t       0 kB\nHugetlbPages:\t       0 kB"
            .to_owned(),
        "CoreDumping:\t0\nTHP_enabled:\t1".to_owned(),
        format!("Threads:\t{}", process.threads().len().max(1)),
        format!("SigQ:\t0/{queue}\nSigPnd:\t{pending:016x}\nShdPnd:\t{:016x}", process.signals.pending()),
        format!("SigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\nSigCgt:\t{caught:016x}"),
        ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]
            .map(|set| format!("{set}:\t{capabilities:016x}"))
            .join("\n"),
        "NoNewPrivs:\t1\nSeccomp:\t0\nSeccomp_filters:\t0".to_owned(),
        format!("Cpus_allowed:\t{all_processors:x}\nCpus_allowed_list:\t{}", processor_list()),
        "Mems_allowed:\t1\nMems_allowed_list:\t0".to_owned(),
        "voluntary_ctxt_switches:\t0\nnonvoluntary_ctxt_switches:\t0\n".to_owned(),
    ]
    .join("\n")
}

pub(super) fn stat(process: &Arc<Process>, thread: Option<&Thread>) -> String {
    let pid = process.identity.pid;
    let tid = thread.map_or(pid, |thread| thread.tid);
    let name = name(process, thread);
    let used = clock_gettime(ClockId::ProcessCPUTime);
    let ticks = used.tv_sec as u64 * TICKS + used.tv_nsec as u64 * TICKS / 1_000_000_000;
    let threads = process.threads().len().max(1);
    let (size, resident) = (process.mm.virtual_size(), resident() / pages::PAGE_SIZE);
    // Fields 3 to 52 of proc(5). Page faults, scheduling and addresses are not told.
    format!(
        "{tid} ({}) R 0 {pid} {pid} 0 -1 4194304 0 0 0 0 {ticks} 0 0 0 20 0 {threads} 0 0 {size} {resident} \
         18446744073709551615 0 0 0 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n",
        String::from_utf8_lossy(&name)
    )
}

fn limits(process: &Arc<Process>) -> String {
    const ROWS: [(&str, Resource, &str); 16] = [
        ("Max cpu time", Resource::Cpu, "seconds"),
        ("Max file size", Resource::FileSize, "bytes"),
        ("Max data size", Resource::Data, "bytes"),
        ("Max stack size", Resource::Stack, "bytes"),
        ("Max core file size", Resource::Core, "bytes"),
        ("Max resident set", Resource::ResidentSet, "bytes"),
        ("Max processes", Resource::Processes, "processes"),
        ("Max open files", Resource::OpenFiles, "files"),
        ("Max locked memory", Resource::LockedMemory, "bytes"),
        ("Max address space", Resource::AddressSpace, "bytes"),
        ("Max file locks", Resource::Locks, "locks"),
        ("Max pending signals", Resource::PendingSignals, "signals"),
        ("Max msgqueue size", Resource::MessageQueue, "bytes"),
        ("Max nice priority", Resource::Nice, ""),
        ("Max realtime priority", Resource::RealTimePriority, ""),
        ("Max realtime timeout", Resource::RealTimeTime, "us"),
    ];
    let value = |limit: u64| if limit == u64::MAX { "unlimited".to_owned() } else { limit.to_string() };
    let mut text = format!("{:<26}{:<21}{:<21}{:<10}\n", "Limit", "Soft Limit", "Hard Limit", "Units");
    for (name, resource, unit) in ROWS {
        if let Some(limit) = process.limits.get(resource as u32) {
            text += &format!("{name:<26}{:<21}{:<21}{unit:<10}\n", value(limit.soft), value(limit.hard));
        }
    }
    text
}

/// Spaces and their like in a path, as octal.
fn escaped(path: &str) -> String {
    path.replace('\\', "\\134").replace(' ', "\\040").replace('\t', "\\011").replace('\n', "\\012")
}

fn mounts(process: &Arc<Process>) -> String {
    let line = |mount: &Arc<crate::fs::Mount>| {
        let (kind, mode) = (mount.fs.type_name(), if mount.writable { "rw" } else { "ro" });
        format!("{kind} {} {kind} {mode},nosuid,nodev,noatime 0 0\n", escaped(&mount.path))
    };
    process.vfs.mounts().map(line).collect()
}

fn mount_info(process: &Arc<Process>) -> String {
    let line = |mount: &Arc<crate::fs::Mount>| {
        let (kind, mode) = (mount.fs.type_name(), if mount.writable { "rw" } else { "ro" });
        let device = mount.fs.root().metadata().map_or(0, |stat| stat.dev);
        format!(
            "{} {} {}:{} / {} {mode},nosuid,nodev,noatime - {kind} {kind} {mode}\n",
            mount.id,
            mount.parent,
            libc::major(device),
            libc::minor(device),
            escaped(&mount.path)
        )
    };
    process.vfs.mounts().map(line).collect()
}

/// /proc/self/fdinfo/N
pub(super) fn fd_info(file: &OpenFile) -> String {
    let mount = file.object.place().map_or(0, |place| place.mount.id);
    let inode = file.object.stat().map_or(0, |stat| stat.ino);
    let flags = file.access.bits() | file.flags().bits();
    // A position that is just being moved by a long read is shown as 0 rather than waited for.
    let position = file.try_position().unwrap_or(0);
    format!("pos:\t{position}\nflags:\t0{flags:o}\nmnt_id:\t{mount}\nino:\t{inode}\n")
}
