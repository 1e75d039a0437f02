//! The readahead window of the device that the snapshots are on, and running with another one for a moment.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::error::BenchError;

/// A block device's setting.
pub(crate) struct Readahead {
    setting: PathBuf,
    /// In KiB, as it was found.
    pub kib: u32,
    guard: Option<Guard>,
}

/// A process that puts the setting back when this one ends, however it ends: its standard input closes then.
struct Guard {
    child: Child,
    input: Option<ChildStdin>,
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
            self.guard = Some(Guard::start(&self.setting, self.kib)?);
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

impl Guard {
    fn start(setting: &Path, kib: u32) -> Result<Self, BenchError> {
        let mut command = Command::new("sh");
        command.args(["-c", "read -r line; printf %s \"$1\" > \"$2\"", "sh", &kib.to_string()]).arg(setting);
        // In a process group of its own, so that an interrupt from the terminal doesn't end it.
        let started = command.stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0).spawn();
        let mut child = started.map_err(BenchError::io("starting", Path::new("sh")))?;
        Ok(Self { input: child.stdin.take(), child })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(mut input) = self.input.take() {
            // Closing alone would do.
            let _ = input.write_all(b"\n");
        }
        let _ = self.child.wait();
    }
}
