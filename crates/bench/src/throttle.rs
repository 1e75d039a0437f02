//! A disk that is as slow as a network volume: by the kernel's own limits for the workers' control group, or by a file system
//! in user space that reads slowly.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::at_end::AtEnd;
use crate::error::BenchError;
use crate::slow_folder::SlowFolder;

/// Limits of reading.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ReadLimits {
    pub bytes_per_second: u64,
    pub reads_per_second: u64,
}

/// What makes reading slow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ThrottleBy {
    /// The kernel, by a control group of the workers.
    ControlGroup,
    /// A file system in user space that takes its time.
    Reader,
}

/// A slow disk.
pub(crate) enum Throttle {
    Group(ControlGroup),
    Reader(SlowFolder),
}

impl Throttle {
    /// Limits for reading what is below `folder`, an existing folder; by a control group where there is one that can, else by a
    /// reader, unless one is asked for.
    ///
    /// # Errors
    /// [`BenchError::Impossible`] where neither can be had, or not the one that is asked for.
    pub fn new(folder: &Path, limits: ReadLimits, by: Option<ThrottleBy>) -> Result<Self, BenchError> {
        let reader = || {
            SlowFolder::of(folder, limits).map(Self::Reader).map_err(|error| {
                let source = std::error::Error::source(&error)
                    .map_or_else(String::new, |source| format!(" ({source})"));
                impossible(format!("{error}{source}: run as root, with /dev/fuse"))
            })
        };
        match by {
            Some(ThrottleBy::ControlGroup) => ControlGroup::new(folder, limits).map(Self::Group),
            Some(ThrottleBy::Reader) => reader(),
            None => match ControlGroup::new(folder, limits) {
                Ok(group) => Ok(Self::Group(group)),
                Err(no_group) => reader().map_err(|no_reader| impossible(format!("{no_group}; {no_reader}"))),
            },
        }
    }

    /// What does it, for the record.
    pub fn means(&self) -> &'static str {
        match self {
            Self::Group(group) => group.means,
            Self::Reader(_) => "a throttled reader (a file system in user space), not by the kernel",
        }
    }

    /// Where `folder` is read slowly.
    pub fn path<'a>(&'a self, folder: &'a Path) -> &'a Path {
        match self {
            Self::Group(_) => folder,
            Self::Reader(reader) => reader.path(),
        }
    }

    /// Hears of a worker before its request comes.
    pub fn add(&self, process: u32) -> Result<(), BenchError> {
        match self {
            Self::Group(group) => group.add(process),
            Self::Reader(_) => Ok(()),
        }
    }
}

/// A control group with limits for one device.
pub(crate) struct ControlGroup {
    group: PathBuf,
    means: &'static str,
    /// Removes it when this process is killed.
    _guard: AtEnd,
}

impl ControlGroup {
    fn new(folder: &Path, limits: ReadLimits) -> Result<Self, BenchError> {
        let device = whole_disk(folder)?;
        let name = format!("faasnap-bench-{}", std::process::id());
        let version_1 = Path::new("/sys/fs/cgroup/blkio");
        let version_2 = Path::new("/sys/fs/cgroup");
        let controllers = fs::read_to_string(version_2.join("cgroup.controllers")).unwrap_or_default();
        let ReadLimits { bytes_per_second, reads_per_second } = limits;
        if version_1.join("blkio.throttle.read_bps_device").exists() {
            let throttle = Self::make(version_1.join(name), "blkio of cgroup v1")?;
            throttle.write("blkio.throttle.read_bps_device", &format!("{device} {bytes_per_second}"))?;
            throttle.write("blkio.throttle.read_iops_device", &format!("{device} {reads_per_second}"))?;
            Ok(throttle)
        } else if controllers.split(' ').any(|controller| controller.trim() == "io") {
            let throttle = Self::make(version_2.join(name), "io.max of cgroup v2")?;
            let line = format!("{device} rbps={bytes_per_second} riops={reads_per_second}");
            throttle.write("io.max", &line)?;
            Ok(throttle)
        } else {
            Err(impossible("there is neither a blkio nor an io controller of control groups".to_owned()))
        }
    }

    fn make(group: PathBuf, means: &'static str) -> Result<Self, BenchError> {
        fs::create_dir(&group).map_err(|error| {
            impossible(format!("{} can't be made ({error}): run as root", group.display()))
        })?;
        // A process that has ended leaves its group a moment later.
        let script = "for try in 1 2 3 4 5; do rmdir \"$1\" 2>/dev/null && break; sleep 0.1; done";
        let guard = AtEnd::run(script, &[group.as_os_str()])?;
        Ok(Self { group, means, _guard: guard })
    }

    fn write(&self, file: &str, text: &str) -> Result<(), BenchError> {
        let path = self.group.join(file);
        fs::write(&path, text)
            .map_err(|error| impossible(format!("writing {text:?} to {}: {error}", path.display())))
    }

    /// Puts a process under the limits.
    fn add(&self, process: u32) -> Result<(), BenchError> {
        self.write("cgroup.procs", &process.to_string())
    }
}

fn impossible(reason: String) -> BenchError {
    BenchError::Impossible { what: "a slow disk", reason }
}

/// Number of the disk that holds `folder`: limits are for disks, not for partitions.
fn whole_disk(folder: &Path) -> Result<String, BenchError> {
    let device = fs::metadata(folder).map_err(BenchError::io("reading", folder))?.dev();
    let number = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    let node = PathBuf::from(format!("/sys/dev/block/{number}"));
    if !node.exists() {
        return Err(impossible(format!("{} is on no block device", folder.display())));
    }
    if node.join("partition").exists() {
        let disk = fs::read_to_string(node.join("../dev")).map_err(BenchError::io("reading", &node))?;
        return Ok(disk.trim().to_owned());
    }
    Ok(number)
}
