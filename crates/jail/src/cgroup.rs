//! Limits that the kernel keeps for a whole process: memory, threads, shares of the CPU. By cgroups, of version 1 or 2,
//! whichever has the controllers (Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst).
//!
//! A worker's group is below this process's own, so that whatever limits the node limits its workers together.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// How groups of workers are called, before a number.
const PREFIX: &str = "faasnap-worker-";
/// Between that and a number: made only to see whether it can be made.
const PROBE: &str = "probe-";
/// The group that a node itself moves to under version 2, where a group with children has no processes.
const NODE: &str = "faasnap-node";
const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];
/// Threads of a worker: a guest's 1024 with their vCPUs, and its own.
const THREADS: u64 = 1280;
/// Memory of a worker that has no function yet.
const SPARE_BYTES: u64 = 256 << 20;
/// The period of a CPU limit in microseconds. A worker that has used up its share waits until the next one begins: with the kernel's
/// default of 100 ms, callers would wait that long for an answer of 3 ms.
const PERIOD_US: u64 = 20_000;

/// What a process may use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResourceLimits {
    /// Bytes of memory, page tables and page cache included. A process that needs more is killed.
    pub memory: u64,
    /// Whole CPUs' worth of time.
    pub cpus: u32,
}

/// Where groups are made on this machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Cgroups {
    /// One folder for each controller.
    Version1 {
        /// In the order of `memory`, `pids`, `cpu`.
        folders: Vec<PathBuf>,
    },
    /// One folder for all.
    Version2 {
        /// Its groups have the controllers.
        folder: PathBuf,
    },
    /// Nowhere.
    Unavailable {
        /// Why.
        reason: String,
    },
}

/// Where groups are made on this machine: found out once. Under version 2, this process moves into a group below its own.
pub fn cgroups() -> &'static Cgroups {
    static FOUND: OnceLock<Cgroups> = OnceLock::new();
    FOUND.get_or_init(|| {
        let found = Cgroups::find(
            &fs::read_to_string("/proc/self/mounts").unwrap_or_default(),
            &fs::read_to_string("/proc/self/cgroup").unwrap_or_default(),
        );
        let usable = found.try_out();
        match usable {
            Ok(()) => {
                found.sweep();
                found
            }
            Err(error) => Cgroups::Unavailable { reason: error.to_string() },
        }
    })
}

impl Cgroups {
    /// From the texts of /proc/self/mounts and /proc/self/cgroup.
    fn find(mounts: &str, own: &str) -> Self {
        let mounted: Vec<(&str, &str, &str)> = mounts
            .lines()
            .filter_map(|line| {
                let mut fields = line.split(' ').skip(1);
                Some((fields.next()?, fields.next()?, fields.next()?))
            })
            .collect();
        let place = |mount: &str, path: &str| PathBuf::from(format!("{}{path}", mount.trim_end_matches('/')));
        let of_version_1 = |controller: &str| {
            let has = |list: &str| list.split(',').any(|one| one == controller);
            let (mount, ..) =
                mounted.iter().find(|(_, kind, options)| *kind == "cgroup" && has(options)).copied()?;
            let path = own.lines().find_map(|line| {
                let (list, path) = line.split_once(':')?.1.split_once(':')?;
                has(list).then_some(path)
            })?;
            Some(place(mount, path))
        };
        if let Some(folders) = CONTROLLERS.iter().map(|name| of_version_1(name)).collect::<Option<Vec<_>>>() {
            return Self::Version1 { folders };
        }
        let mount = mounted.iter().find(|(_, kind, _)| *kind == "cgroup2");
        let path = own.lines().find_map(|line| line.strip_prefix("0::"));
        match (mount, path) {
            (Some((mount, ..)), Some(path)) => Self::Version2 { folder: place(mount, path) },
            _ => Self::Unavailable {
                reason: "no cgroup file system with the controllers is mounted".to_owned(),
            },
        }
    }

    /// Makes a group and removes it; under version 2 its controllers are switched on first.
    fn try_out(&self) -> io::Result<()> {
        match self {
            Self::Version1 { folders } => folders.iter().try_for_each(|folder| {
                let probe = folder.join(format!("{PREFIX}{PROBE}{}", std::process::id()));
                fs::create_dir(&probe).and_then(|()| fs::remove_dir(&probe))
            }),
            Self::Version2 { folder } => delegate(folder),
            Self::Unavailable { reason } => Err(io::Error::other(reason.clone())),
        }
    }

    fn folders(&self) -> &[PathBuf] {
        match self {
            Self::Version1 { folders } => folders,
            Self::Version2 { folder } => std::slice::from_ref(folder),
            Self::Unavailable { .. } => &[],
        }
    }

    /// Removes the groups of workers whose node is gone: one that was killed leaves them behind. Those of a node that lives
    /// are its own, also while they are new and still empty.
    fn sweep(&self) {
        for entry in self.folders().iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten()
        {
            let name = entry.file_name();
            let node = node_of(&name.to_string_lossy());
            if node.is_some_and(|node| !Path::new(&format!("/proc/{node}")).exists()) {
                // One that is in use can't be removed.
                let _ = fs::remove_dir(entry.path());
            }
        }
    }

    /// Makes a group for one process; `None` where there are no groups.
    pub(crate) fn make_group(&self) -> io::Result<Option<Group>> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        if matches!(self, Self::Unavailable { .. }) {
            return Ok(None);
        }
        remove_left();
        // From here on what was made is removed with the value.
        let mut group = Group { folders: Vec::new(), version_2: matches!(self, Self::Version2 { .. }) };
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        for folder in self.folders() {
            let own = folder.join(format!("{PREFIX}{}-{number}", std::process::id()));
            fs::create_dir(&own)?;
            group.folders.push(own);
        }
        group.write("pids.max", "pids.max", &THREADS.to_string())?;
        group.limit(ResourceLimits { memory: SPARE_BYTES, cpus: 1 })?;
        Ok(Some(group))
    }
}

/// The process that made the group of a worker, or tried whether it can make one, by the group's name.
fn node_of(group: &str) -> Option<u32> {
    let name = group.strip_prefix(PREFIX)?;
    let node = name.strip_prefix(PROBE).or_else(|| name.split('-').next())?;
    node.parse().ok()
}

/// Makes a version 2 group able to have groups with controllers: its processes, which must be this one alone, move into one.
fn delegate(folder: &Path) -> io::Result<()> {
    let control = folder.join("cgroup.subtree_control");
    let wanted = CONTROLLERS.map(|name| format!("+{name}")).join(" ");
    let is_on = |text: String| CONTROLLERS.iter().all(|name| text.split_whitespace().any(|on| on == *name));
    if fs::read_to_string(&control).is_ok_and(is_on) {
        return Ok(());
    }
    let node = folder.join(NODE);
    match fs::create_dir(&node) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let pid = std::process::id().to_string();
    fs::write(node.join("cgroup.procs"), &pid)?;
    fs::write(&control, wanted).inspect_err(|_| {
        // As it was. If that fails, this process is in a group of its own, which harms nobody.
        let _ = fs::write(folder.join("cgroup.procs"), &pid).and_then(|()| fs::remove_dir(&node));
    })
}

/// The group of one process; removed with this value, once the process is gone.
#[derive(Debug)]
pub(crate) struct Group {
    folders: Vec<PathBuf>,
    version_2: bool,
}

impl Group {
    /// Before a process is started from this thread, which serves for nothing else: how the process gets into the group. Moving
    /// it later would stop every start and end of a thread on the machine for some milliseconds.
    ///
    /// Under version 1 the thread joins, and what it starts is born in the group; under version 2 clone(2) is told.
    pub fn entrance(&self) -> io::Result<Option<OwnedFd>> {
        if self.version_2 {
            return self.folders.first().map(|folder| Ok(fs::File::open(folder)?.into())).transpose();
        }
        // 0 is the thread that writes.
        self.folders.iter().try_for_each(|folder| fs::write(folder.join("tasks"), "0"))?;
        Ok(None)
    }

    /// Limits the process.
    pub fn limit(&self, limits: ResourceLimits) -> io::Result<()> {
        let quota = u64::from(limits.cpus.max(1)) * PERIOD_US;
        let memory = limits.memory.to_string();
        // Swap is no way around the limit; a kernel that doesn't account it has no such file. Version 1 keeps the limit of both
        // above that of memory at every moment: first when it is raised, last when it is lowered.
        let both = "memory.memsw.limit_in_bytes";
        let raised = if self.version_2 { Ok(()) } else { ignore_missing(self.write(both, "", &memory)) };
        self.write("memory.limit_in_bytes", "memory.max", &memory)?;
        match (self.version_2, raised) {
            (true, _) => ignore_missing(self.write("", "memory.swap.max", "0"))?,
            (false, Ok(())) => {}
            (false, Err(_)) => self.write(both, "", &memory)?,
        }
        // What was not used may be used in one later period: a restore loads on one processor while the guest runs on another. Never more
        // than the quota, so it is lowered before that is. Kernels before 5.14 have no such file.
        let burst = |microseconds: u64| {
            let text = microseconds.to_string();
            ignore_missing(self.write("cpu.cfs_burst_us", "cpu.max.burst", &text))
        };
        burst(0)?;
        match self.version_2 {
            true => self.write("", "cpu.max", &format!("{quota} {PERIOD_US}"))?,
            false => {
                self.write("cpu.cfs_period_us", "", &PERIOD_US.to_string())?;
                self.write("cpu.cfs_quota_us", "", &quota.to_string())?;
            }
        }
        burst(quota)
    }

    /// Writes to the file that is called so in this version, in the folder that has it.
    fn write(&self, version_1: &str, version_2: &str, text: &str) -> io::Result<()> {
        let name = if self.version_2 { version_2 } else { version_1 };
        let folder = self.folders.iter().find(|folder| folder.join(name).exists());
        fs::write(folder.ok_or(io::ErrorKind::NotFound)?.join(name), text)
    }
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

/// Groups that could not be removed: the kernel was not done with their processes.
static LEFT: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Removes those of `folders` that can be removed, and gives the others.
fn remove(folders: impl IntoIterator<Item = PathBuf>) -> Vec<PathBuf> {
    let busy = |folder: &PathBuf| {
        fs::remove_dir(folder).is_err_and(|error| error.kind() == io::ErrorKind::ResourceBusy)
    };
    folders.into_iter().filter(busy).collect()
}

/// Removes what was left.
fn remove_left() {
    let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
    *left = remove(std::mem::take(&mut *left));
}

impl Drop for Group {
    fn drop(&mut self) {
        let busy = remove(std::mem::take(&mut self.folders));
        if !busy.is_empty() {
            // The next group's making tries again.
            LEFT.lock().unwrap_or_else(PoisonError::into_inner).extend(busy);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_s_name_tells_who_made_it() {
        assert_eq!(node_of("faasnap-worker-12-3"), Some(12));
        assert_eq!(node_of("faasnap-worker-probe-7"), Some(7));
        assert_eq!((node_of("faasnap-worker-x"), node_of("other-1-2")), (None, None));
    }

    #[test]
    fn version_1_has_a_folder_for_each_controller() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
            cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,relatime,cpu,cpuacct 0 0\n\
            cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0\n\
            cgroup /sys/fs/cgroup/pids cgroup rw,relatime,pids 0 0\n\
            cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let own = "8:pids:/\n4:memory:/node\n1:cpu,cpuacct:/\n0::/\n";
        let folders = ["memory/node", "pids/", "cpu,cpuacct/"];
        let folders = folders.map(|name| PathBuf::from("/sys/fs/cgroup").join(name)).to_vec();
        assert_eq!(Cgroups::find(mounts, own), Cgroups::Version1 { folders });
    }

    #[test]
    fn version_2_has_one_folder() {
        let mounts = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n";
        let own = "0::/user.slice/user-1000.slice/x.scope\n";
        let folder = "/sys/fs/cgroup/user.slice/user-1000.slice/x.scope".into();
        assert_eq!(Cgroups::find(mounts, own), Cgroups::Version2 { folder });
        assert!(matches!(Cgroups::find("", ""), Cgroups::Unavailable { .. }));
    }

    #[test]
    fn limits_go_to_the_files_of_the_version() {
        let folder = tempfile::tempdir().unwrap();
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        for name in ["memory.max", "cpu.max", "cpu.max.burst"] {
            fs::write(folder.path().join(name), "max").unwrap();
        }
        let group = Group { folders: vec![folder.path().to_owned()], version_2: true };
        group.limit(ResourceLimits { memory: 1 << 20, cpus: 2 }).unwrap();
        assert_eq!((read("memory.max"), read("cpu.max")), ("1048576".to_owned(), "40000 20000".to_owned()));
        assert_eq!(read("cpu.max.burst"), "40000");
        assert!(group.write("x", "not.there", "1").is_err());
    }
}
