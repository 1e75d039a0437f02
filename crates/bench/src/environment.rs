//! What a run was measured on, recorded with its results.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// The machine at the beginning of a run.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Environment {
    /// Version of the executable, its size and time: runs of different builds are not mixed.
    pub build: String,
    pub kernel: String,
    pub cpu: String,
    pub cpus: usize,
    pub memory_kib: u64,
    /// `kvm_amd`, `kvm_intel` or `kvm_pvm`.
    pub kvm: String,
    /// Device and file system of the run's folder.
    pub disk: String,
    /// The device's readahead window as it was found; none where the kernel doesn't show it.
    pub readahead_kib: Option<u32>,
    pub load_average: String,
    /// Transparent huge pages.
    pub huge_pages: String,
}

impl Environment {
    pub fn of(folder: &Path, readahead_kib: Option<u32>) -> Self {
        let cpuinfo = read("/proc/cpuinfo");
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split_once(':').map_or_else(String::new, |(_, value)| value.trim().to_owned())
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        let kvm = ["kvm_amd", "kvm_intel", "kvm_pvm"]
            .into_iter()
            .find(|module| Path::new("/sys/module").join(module).exists());
        Self {
            build: build(),
            kernel: read("/proc/sys/kernel/osrelease"),
            cpu: field(&cpuinfo, "model name"),
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            memory_kib: memory.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0),
            kvm: kvm.unwrap_or("unknown").to_owned(),
            disk: disk(folder),
            readahead_kib,
            load_average: read("/proc/loadavg"),
            huge_pages: read("/sys/kernel/mm/transparent_hugepage/enabled"),
        }
    }
}

/// Lines for the head of a report.
impl std::fmt::Display for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kernel, cpu, cpus, memory_kib, kvm, disk, load_average, huge_pages, .. } = self;
        writeln!(f, "{cpus} CPUs of {cpu}, {} MiB, Linux {kernel}, {kvm}", memory_kib >> 10)?;
        let readahead = self.readahead_kib.map_or("unknown".to_owned(), |kib| format!("{kib} KiB"));
        writeln!(
            f,
            "{disk}, readahead {readahead}; huge pages {huge_pages}; load {load_average} at the start"
        )?;
        write!(f, "{}", self.build)
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// This very executable.
pub(crate) fn build() -> String {
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    let file = fs::metadata("/proc/self/exe").map(|file| (file.len(), file.mtime())).unwrap_or_default();
    format!("faasnap {} ({profile} build, {} bytes, {})", env!("CARGO_PKG_VERSION"), file.0, file.1)
}

/// The mount that `folder` is on: the one with the longest path that leads to it.
fn disk(folder: &Path) -> String {
    let folder = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    let mounts = read("/proc/self/mounts");
    let found = mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let (device, point, kind) = (words.next()?, words.next()?, words.next()?);
            folder.starts_with(point).then_some((point.len(), format!("{kind} on {device}")))
        })
        .max_by_key(|(length, _)| *length);
    found.map_or_else(|| "unknown disk".to_owned(), |(_, text)| text)
}
