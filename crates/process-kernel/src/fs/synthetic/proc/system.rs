//! Texts about the machine.

use std::sync::Arc;

use super::{ProcessTable, Table, cpuinfo};
use crate::fs::synthetic::sys::processors;
use crate::syscall::{KERNEL_RELEASE, KERNEL_VERSION};
use crate::task::Process;

const KIB: u64 = 1024;

pub(super) const TABLE: ProcessTable = Table(&[
    ("cpuinfo", |_| cpuinfo::text()),
    ("meminfo", meminfo),
    ("stat", stat),
    ("uptime", uptime),
    ("loadavg", loadavg),
    ("version", |_| format!("Linux version {KERNEL_RELEASE} (faasnap) {KERNEL_VERSION}\n")),
    ("filesystems", |_| "nodev\tsysfs\nnodev\ttmpfs\nnodev\tproc\nnodev\tdevtmpfs\n\text4\n".to_owned()),
    ("cmdline", |_| "\n".to_owned()),
    ("devices", |_| "Character devices:\n  1 mem\n  5 /dev/tty\n\nBlock devices:\n".to_owned()),
    ("swaps", |_| "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n".to_owned()),
    ("vmstat", |_| "nr_free_pages 0\npgpgin 0\npgpgout 0\npswpin 0\npswpout 0\n".to_owned()),
    ("sys/fs/file-max", |_| "9223372036854775807\n".to_owned()),
    ("sys/fs/nr_open", |_| "1048576\n".to_owned()),
    ("sys/fs/pipe-max-size", |_| "1048576\n".to_owned()),
    ("sys/kernel/cap_last_cap", |_| "40\n".to_owned()),
    ("sys/kernel/core_pattern", |_| "core\n".to_owned()),
    ("sys/kernel/hostname", |process| format!("{}\n", process.identity.hostname)),
    ("sys/kernel/domainname", |_| "(none)\n".to_owned()),
    ("sys/kernel/ngroups_max", |_| "65536\n".to_owned()),
    ("sys/kernel/osrelease", |_| format!("{KERNEL_RELEASE}\n")),
    ("sys/kernel/ostype", |_| "Linux\n".to_owned()),
    ("sys/kernel/version", |_| format!("{KERNEL_VERSION}\n")),
    ("sys/kernel/perf_event_paranoid", |_| "3\n".to_owned()),
    ("sys/kernel/pid_max", |_| "4194304\n".to_owned()),
    ("sys/kernel/random/entropy_avail", |_| "256\n".to_owned()),
    ("sys/kernel/random/uuid", |_| format!("{}\n", new_uuid())),
    ("sys/kernel/randomize_va_space", |_| "0\n".to_owned()),
    ("sys/kernel/sched_child_runs_first", |_| "0\n".to_owned()),
    ("sys/kernel/seccomp/actions_avail", |_| "\n".to_owned()),
    ("sys/kernel/threads-max", |_| "127000\n".to_owned()),
    ("sys/kernel/yama/ptrace_scope", |_| "1\n".to_owned()),
    ("sys/net/core/somaxconn", |_| "4096\n".to_owned()),
    ("sys/net/ipv4/ip_local_port_range", |_| "32768\t60999\n".to_owned()),
    ("sys/net/ipv4/tcp_fin_timeout", |_| "60\n".to_owned()),
    ("sys/vm/max_map_count", |_| "65530\n".to_owned()),
    ("sys/vm/mmap_min_addr", |_| format!("{}\n", crate::mm::layout::LOWEST)),
    ("sys/vm/overcommit_memory", |_| "1\n".to_owned()),
    ("sys/vm/swappiness", |_| "0\n".to_owned()),
]);

/// /proc/self/net: the guest's network has a loopback device; its sockets are not listed.
pub(super) const NET: ProcessTable = Table(&[
    ("dev", |_| {
        "Inter-|   Receive                                                |  Transmit\n \
         face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    \
         lo:       0       0    0    0    0     0          0         0        0       0    0    0    0     0       0          0\n"
            .to_owned()
    }),
    ("if_inet6", |_| "00000000000000000000000000000001 01 80 10 80       lo\n".to_owned()),
    ("route", |_| {
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n".to_owned()
    }),
    ("ipv6_route", |_| String::new()),
    ("arp", |_| {
        "IP address       HW type     Flags       HW address            Mask     Device\n".to_owned()
    }),
    ("tcp", |_| SOCKETS.to_owned()),
    ("tcp6", |_| SOCKETS.to_owned()),
    ("udp", |_| SOCKETS.to_owned()),
    ("udp6", |_| SOCKETS.to_owned()),
    ("unix", |_| "Num       RefCount Protocol Flags    Type St Inode Path\n".to_owned()),
]);

const SOCKETS: &str =
    "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";

/// A random UUID (version 4).
pub(super) fn new_uuid() -> String {
    uuid::Uuid::new_v4().to_string()
}

fn meminfo(process: &Arc<Process>) -> String {
    let total = process.memory_limit / KIB;
    let used = (crate::host::resident_bytes() / KIB).min(total);
    let free = total - used;
    let rows: [(&str, u64); 20] = [
        ("MemTotal", total),
        ("MemFree", free),
        ("MemAvailable", free),
        ("Buffers", 0),
        ("Cached", 0),
        ("SwapCached", 0),
        ("Active", used),
        ("Inactive", 0),
        ("Unevictable", 0),
        ("Mlocked", 0),
        ("SwapTotal", 0),
        ("SwapFree", 0),
        ("Dirty", 0),
        ("Writeback", 0),
        ("AnonPages", used),
        ("Mapped", 0),
        ("Shmem", 0),
        ("Slab", 0),
        ("CommitLimit", total),
        ("Committed_AS", used),
    ];
    rows.iter().map(|(name, value)| format!("{:<16}{value:>8} kB\n", format!("{name}:"))).collect()
}

fn stat(process: &Arc<Process>) -> String {
    let booted = process.clock.realtime().saturating_sub(process.clock.monotonic()) / 1_000_000_000;
    let mut text = "cpu  0 0 0 0 0 0 0 0 0 0\n".to_owned();
    for processor in 0..processors() {
        text += &format!("cpu{processor} 0 0 0 0 0 0 0 0 0 0\n");
    }
    text + &format!(
        "intr 0\nctxt 0\nbtime {booted}\nprocesses 1\nprocs_running 1\nprocs_blocked 0\nsoftirq 0\n"
    )
}

fn uptime(process: &Arc<Process>) -> String {
    let hundredths = process.clock.monotonic() / 10_000_000;
    format!("{}.{:02} 0.00\n", hundredths / 100, hundredths % 100)
}

fn loadavg(process: &Arc<Process>) -> String {
    let threads = process.threads().len().max(1);
    format!("0.00 0.00 0.00 1/{threads} {}\n", process.identity.pid)
}
