//! A disk that is as slow as a network volume, for the workers that are put under it: the kernel's own limits by control group.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::BenchError;

/// Limits of reading.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ReadLimits {
    pub bytes_per_second: u64,
    pub reads_per_second: u64,
}

/// A control group with limits for one device.
pub(crate) struct Throttle {
    group: PathBuf,
    /// What does it, for the record.
    pub means: &'static str,
}

impl Throttle {
    /// Limits for the device that `folder` is on.
    pub fn new(folder: &Path, limits: ReadLimits) -> Result<Self, BenchError> {
        let device = whole_disk(folder)?;
        let name = format!("faasnap-bench-{}", std::process::id());
        let version_1 = Path::new("/sys/fs/cgroup/blkio");
        let version_2 = Path::new("/sys/fs/cgroup");
        let controllers = fs::read_to_string(version_2.join("cgroup.controllers")).unwrap_or_default();
        let ReadLimits { bytes_per_second, reads_per_second } = limits;
        if version_1.join("blkio.throttle.read_bps_device").exists() {
            let throttle = Self::in_group(version_1.join(name), "blkio of cgroup v1")?;
            throttle.write("blkio.throttle.read_bps_device", &format!("{device} {bytes_per_second}"))?;
            throttle.write("blkio.throttle.read_iops_device", &format!("{device} {reads_per_second}"))?;
            Ok(throttle)
        } else if controllers.split(' ').any(|controller| controller.trim() == "io") {
            let throttle = Self::in_group(version_2.join(name), "io.max of cgroup v2")?;
            let line = format!("{device} rbps={bytes_per_second} riops={reads_per_second}");
            throttle.write("io.max", &line)?;
            Ok(throttle)
        } else {
            Err(impossible("there is neither a blkio nor an io controller of control groups".to_owned()))
        }
    }

    fn in_group(group: PathBuf, means: &'static str) -> Result<Self, BenchError> {
        fs::create_dir(&group).map_err(|error| {
            impossible(format!("{} can't be made ({error}): run as root", group.display()))
        })?;
        Ok(Self { group, means })
    }

    fn write(&self, file: &str, text: &str) -> Result<(), BenchError> {
        let path = self.group.join(file);
        fs::write(&path, text)
            .map_err(|error| impossible(format!("writing {text:?} to {}: {error}", path.display())))
    }

    /// Puts a process under the limits.
    pub fn add(&self, process: u32) -> Result<(), BenchError> {
        self.write("cgroup.procs", &process.to_string())
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        // A process that has ended leaves its group a moment later.
        for _ in 0..50 {
            if fs::remove_dir(&self.group).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
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
