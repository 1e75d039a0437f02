//! /sys, as far as language runtimes read it: processors, memory limits, huge pages.

use std::sync::Arc;

use rustix::io::Errno;

use super::table::Table;
use super::{Entry, Names, ProcessLink, Tree};
use crate::task::Process;

/// The tree of /sys.
pub struct Sys(pub ProcessLink);

/// How many processors the guest's threads may run on.
pub(super) fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Processors as a list in the kernel's form: "0-3".
pub(super) fn processor_list() -> String {
    match processors() {
        1 => "0".to_owned(),
        count => format!("0-{}", count - 1),
    }
}

const TABLE: Table<Arc<Process>> = Table(&[
    ("devices/system/cpu/online", |_| processor_list() + "\n"),
    ("devices/system/cpu/possible", |_| processor_list() + "\n"),
    ("devices/system/cpu/present", |_| processor_list() + "\n"),
    ("devices/system/cpu/kernel_max", |_| format!("{}\n", processors() - 1)),
    ("devices/system/cpu/cpu0/topology/physical_package_id", |_| "0\n".to_owned()),
    ("devices/system/cpu/cpu0/topology/core_id", |_| "0\n".to_owned()),
    ("devices/system/cpu/cpu0/topology/thread_siblings_list", |_| "0\n".to_owned()),
    ("devices/system/node/online", |_| "0\n".to_owned()),
    ("devices/system/node/possible", |_| "0\n".to_owned()),
    ("devices/system/node/node0/cpulist", |_| processor_list() + "\n"),
    ("fs/cgroup/cgroup.controllers", |_| "cpu memory\n".to_owned()),
    ("fs/cgroup/cgroup.procs", |process| format!("{}\n", process.identity.pid)),
    ("fs/cgroup/memory.max", |process| format!("{}\n", process.memory_limit)),
    ("fs/cgroup/memory.high", |_| "max\n".to_owned()),
    ("fs/cgroup/memory.swap.max", |_| "0\n".to_owned()),
    ("fs/cgroup/memory.current", |_| format!("{}\n", crate::host::resident_bytes())),
    ("fs/cgroup/cpu.max", |_| "max 100000\n".to_owned()),
    ("fs/cgroup/cpu.weight", |_| "100\n".to_owned()),
    ("fs/cgroup/cpuset.cpus.effective", |_| processor_list() + "\n"),
    ("fs/cgroup/pids.max", |_| "max\n".to_owned()),
    ("kernel/mm/transparent_hugepage/enabled", |_| "always [madvise] never\n".to_owned()),
    ("kernel/mm/transparent_hugepage/defrag", |_| "always defer defer+madvise [madvise] never\n".to_owned()),
    ("kernel/mm/transparent_hugepage/hpage_pmd_size", |_| "2097152\n".to_owned()),
]);

impl Tree for Sys {
    fn type_name(&self) -> &'static str {
        "sysfs"
    }

    fn magic(&self) -> u64 {
        0x6265_6572
    }

    fn find(&self, path: &Names<'_>) -> Option<Entry> {
        TABLE.find(path)
    }

    fn list(&self, path: &Names<'_>) -> Vec<(Vec<u8>, Entry)> {
        TABLE.list(path)
    }

    fn text(&self, path: &Names<'_>) -> Result<Vec<u8>, Errno> {
        let process = self.0.get()?;
        TABLE.text(path, &process).map(String::into_bytes).ok_or(Errno::NOENT)
    }
}
