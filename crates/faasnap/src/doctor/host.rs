//! Memory, disk and limits.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Finding, read};
use crate::output::bytes;

const GROUP: &str = "memory and disk";
/// What one small function needs beside the machine's own.
const MEMORY_WANTED: u64 = 512 << 20;
/// A runtime, some functions and their snapshots.
const DISK_WANTED: u64 = 2 << 30;
/// The window that page recording uses; one fault reads that much at once.
const READ_AHEAD_WANTED: u64 = 128;
/// A restored instance maps its memory in many pieces; the kernel's default is 65530.
const MAPPINGS_WANTED: u64 = 65_530;

pub(super) fn examine(home: &Path) -> Vec<Finding> {
    // The home may not exist yet; what is asked is about the file system it will be on.
    let place = existing(home);
    let mut findings = vec![
        memory_finding(&read("/proc/meminfo").unwrap_or_default()),
        home_finding(home),
        disk_finding(&place),
    ];
    findings.extend(read_ahead(&place).map(read_ahead_finding));
    findings
        .extend(read("/proc/sys/vm/max_map_count").and_then(|text| text.parse().ok()).map(mappings_finding));
    findings
}

fn existing(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    absolute.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/")).to_owned()
}

fn memory_finding(meminfo: &str) -> Finding {
    let kilobytes = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    let (Some(total), Some(available)) = (kilobytes("MemTotal"), kilobytes("MemAvailable")) else {
        return Finding::limited(GROUP, "memory", "unknown", "/proc/meminfo can't be read");
    };
    let (total, available) = (total << 10, available << 10);
    let found = format!("{} available of {}", bytes(available), bytes(total));
    if available >= MEMORY_WANTED {
        Finding::good(GROUP, "memory", found)
    } else {
        Finding::limited(GROUP, "memory", found, "too little for more than a small function")
    }
}

fn home_finding(home: &Path) -> Finding {
    match store::Store::open(home) {
        Ok(store) => Finding::good(GROUP, "home", store.path().display().to_string()),
        Err(error) => {
            let error = anyhow::Error::new(error);
            let found = error.chain().map(ToString::to_string).collect::<Vec<_>>().join(": ");
            Finding::missing(GROUP, "home", found, "nothing can be stored")
                .mend("choose another with --home or FAASNAP_HOME")
        }
    }
}

fn disk_finding(place: &Path) -> Finding {
    let Ok(about) = rustix::fs::statvfs(place) else {
        return Finding::limited(GROUP, "disk", "unknown", "the file system can't be examined");
    };
    let free = about.f_bavail.saturating_mul(about.f_frsize);
    let found = format!("{} free", bytes(free));
    if free >= DISK_WANTED {
        Finding::good(GROUP, "disk", found)
    } else {
        Finding::limited(GROUP, "disk", found, "too little for a runtime with a few snapshots")
            .mend("free some, or choose another --home")
    }
}

/// `read_ahead_kb` of the device that holds `place`; a partition shares that of its disk.
fn read_ahead(place: &Path) -> Option<u64> {
    let device = std::fs::metadata(place).ok()?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let folder = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    ["queue", "../queue"]
        .iter()
        .find_map(|queue| read(folder.join(queue).join("read_ahead_kb"))?.parse().ok())
}

fn read_ahead_finding(kilobytes: u64) -> Finding {
    let found = format!("read_ahead_kb is {kilobytes}");
    if kilobytes <= READ_AHEAD_WANTED {
        return Finding::good(GROUP, "readahead", found);
    }
    let meaning = "one fault in a mapped file reads far more than it needs: on-demand restores are slower, recordings bound it themselves";
    Finding::limited(GROUP, "readahead", found, meaning)
        .mend("only for measurements, as root: echo 128 > /sys/block/DISK/queue/read_ahead_kb")
}

fn mappings_finding(most: u64) -> Finding {
    let found = format!("vm.max_map_count is {most}");
    if most >= MAPPINGS_WANTED {
        Finding::good(GROUP, "mappings", found)
    } else {
        Finding::limited(GROUP, "mappings", found, "large functions may run out of mappings")
            .mend("as root: sysctl vm.max_map_count=65530")
    }
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn memory_is_read_from_meminfo() {
        let finding =
            memory_finding("MemTotal:       2097152 kB\nMemFree: 1 kB\nMemAvailable:    1048576 kB\n");
        assert_eq!((finding.state, finding.found.as_str()), (State::Good, "1.0 GiB available of 2.0 GiB"));
        assert_eq!(memory_finding("MemTotal: 1024 kB\nMemAvailable: 10 kB\n").state, State::Limited);
        assert_eq!(memory_finding("nonsense").state, State::Limited);
    }

    #[test]
    fn a_large_readahead_is_noted() {
        assert_eq!(read_ahead_finding(128).state, State::Good);
        assert_eq!(read_ahead_finding(8192).state, State::Limited);
    }

    #[test]
    fn a_home_that_is_not_there_is_judged_by_its_parent() {
        let outer = tempfile::tempdir().unwrap();
        assert_eq!(existing(&outer.path().join("a/b")), outer.path());
    }
}
