//! The readahead window of the device that the snapshots are on, and running with another one for a moment.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::at_end::AtEnd;
use crate::error::BenchError;

/// A block device's setting.
pub(crate) struct Readahead {
    setting: PathBuf,
    /// In KiB, as it was found.
    pub kib: u32,
    /// Puts the setting back.
    guard: Option<AtEnd>,
}

impl Readahead {
    /// Of the device below `folder`; none where the kernel shows no such setting.
    pub fn of(folder: &Path) -> Result<Option<Self>, BenchError> {
        let device = fs::metadata(folder).map_err(BenchError::io("reading", folder))?.dev();
        let node = format!("/sys/dev/block/{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
        // A partition's setting is the disk's, one folder up.
        let found = ["bdi/read_ahead_kb", "../bdi/read_ahead_kb"].iter().find_map(|place| {
            let setting = Path::new(&node).join(place);
            let kib = fs::read_to_string(&setting).ok()?.trim().parse().ok()?;
            Some(Self { setting, kib, guard: None })
        });
        Ok(found)
    }

    /// Does `work` with a window of `kib`.
    pub fn with<T>(
        &mut self,
        kib: u32,
        work: impl FnOnce() -> Result<T, BenchError>,
    ) -> Result<T, BenchError> {
        if self.guard.is_none() {
            let kib = self.kib.to_string();
            let arguments = [kib.as_ref(), self.setting.as_os_str()];
            self.guard = Some(AtEnd::run("printf %s \"$1\" > \"$2\"", &arguments)?);
        }
        self.set(kib)?;
        let result = work();
        self.set(self.kib)?;
        result
    }

    /// Why the setting can't be changed, if so.
    pub fn obstacle(&self) -> Option<String> {
        let refused = self.set(self.kib).err()?;
        let reason = std::error::Error::source(&refused).map_or_else(String::new, ToString::to_string);
        Some(format!("{refused} ({reason}): run as root"))
    }

    fn set(&self, kib: u32) -> Result<(), BenchError> {
        fs::write(&self.setting, kib.to_string()).map_err(BenchError::io("writing", &self.setting))
    }
}
