//! How much memory is to be had: what the machine has, what the control group allows, and whether programs already wait for
//! memory.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// A measurement is good for this long: a burst must not read /proc for each of its requests.
const FRESH: Duration = Duration::from_millis(20);
/// When all programs together spent more than this share of the last ten seconds waiting for memory (`full avg10` of
/// /proc/pressure/memory), another instance would only make all of them slower.
const PRESSURE: f64 = 10.0;
const CGROUPS: &str = "/sys/fs/cgroup";

/// Knows how many bytes instances may still take.
#[derive(Debug)]
pub(crate) struct Admission {
    /// Bytes that are left to others.
    reserve: u64,
    last: Mutex<Option<(Instant, u64)>>,
}

impl Admission {
    pub fn new(reserve: u64) -> Self {
        Self { reserve, last: Mutex::new(None) }
    }

    /// Bytes that may be given to new instances now.
    pub fn room(&self) -> u64 {
        let mut last = self.last.lock();
        match *last {
            Some((at, room)) if at.elapsed() < FRESH => room,
            _ => {
                let room = available().saturating_sub(self.reserve);
                *last = Some((Instant::now(), room));
                room
            }
        }
    }
}

/// Bytes that this process and its children could still use.
fn available() -> u64 {
    let read = |path: &Path| fs::read_to_string(path).ok();
    let pressed = read(Path::new("/proc/pressure/memory")).and_then(|text| full_pressure(&text));
    if pressed.is_some_and(|share| share > PRESSURE) {
        return 0;
    }
    // A machine that doesn't say is not a reason to refuse everything.
    let machine = read(Path::new("/proc/meminfo")).and_then(|text| mem_available(&text)).unwrap_or(u64::MAX);
    let groups = read(Path::new("/proc/self/cgroup")).map(|text| own_groups(&text)).unwrap_or_default();
    // Each group up to the root has its own limit.
    let above =
        groups.iter().flat_map(|group| group.ancestors().take_while(|path| path.starts_with(CGROUPS)));
    above.filter_map(left_in_group).fold(machine, u64::min)
}

/// What the limit of a group of either version leaves.
fn left_in_group(group: &Path) -> Option<u64> {
    let read = |name| fs::read_to_string(group.join(name)).ok();
    let stat = read("memory.stat").unwrap_or_default();
    match read("memory.max") {
        Some(max) => left(&max, &read("memory.current")?, &stat, "inactive_file "),
        // Without a limit, this is a number beyond any machine's memory.
        None => {
            let max = read("memory.limit_in_bytes")?;
            left(&max, &read("memory.usage_in_bytes")?, &stat, "total_inactive_file ")
        }
    }
}

/// `full avg10` in percent (Documentation/accounting/psi.rst).
fn full_pressure(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("full "))?;
    line.split_ascii_whitespace().find_map(|field| field.strip_prefix("avg10="))?.parse().ok()
}

fn mem_available(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// The folders of this process's groups that may limit memory: in the hierarchy of version 2, and in version 1's for memory.
fn own_groups(text: &str) -> Vec<PathBuf> {
    let root = Path::new(CGROUPS);
    let folder = |line: &str| {
        let (controllers, path) = line.split_once(':')?.1.split_once(":/")?;
        match controllers {
            "" => Some(root.join(path)),
            _ if controllers.split(',').any(|one| one == "memory") => Some(root.join("memory").join(path)),
            _ => None,
        }
    };
    text.lines().filter_map(folder).collect()
}

/// What a group's limit leaves: page cache that is not in use can be given up; `stat` has it behind `inactive`. `None` without a limit.
fn left(max: &str, current: &str, stat: &str, inactive: &str) -> Option<u64> {
    let max: u64 = max.trim().parse().ok()?;
    let current: u64 = current.trim().parse().ok()?;
    let inactive = stat.lines().find_map(|line| line.strip_prefix(inactive));
    let reclaimable = inactive.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    Some(max.saturating_sub(current.saturating_sub(reclaimable)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_understood() {
        let pressure = "some avg10=3.00 avg60=0.10 avg300=0.00 total=1\nfull avg10=12.50 avg60=0.00 avg300=0.00 total=0\n";
        assert_eq!(full_pressure(pressure), Some(12.5));
        assert_eq!(mem_available("MemTotal: 9 kB\nMemAvailable:   1024 kB\n"), Some(1 << 20));
        let groups = ["/sys/fs/cgroup/memory/b", "/sys/fs/cgroup/user/a"].map(PathBuf::from);
        assert_eq!(own_groups("1:name=x:/old\n4:cpu:/c\n5:memory:/b\n0::/user/a\n"), groups);
        assert_eq!(left("1000\n", "900\n", "anon 1\ninactive_file 300\n", "inactive_file "), Some(400));
        assert_eq!(left("max\n", "900\n", "", "inactive_file "), None);
    }

    #[test]
    fn this_machine_has_memory_and_the_reserve_is_left() {
        let all = Admission::new(0).room();
        assert!(all > 0);
        assert_eq!(Admission::new(u64::MAX).room(), 0);
    }
}
