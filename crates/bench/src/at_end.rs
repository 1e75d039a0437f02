//! Something that is put right when this process ends, however it ends.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::error::BenchError;

/// A process that waits until this one lets go of it or ends: its standard input closes then. It is waited for when dropped.
pub(crate) struct AtEnd {
    child: Child,
    input: Option<ChildStdin>,
}

impl AtEnd {
    /// Runs `script` by the shell then, with `arguments` as `$1` and so on.
    pub fn run(script: &str, arguments: &[&OsStr]) -> Result<Self, BenchError> {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("read -r line; {script}"), "sh"]).args(arguments);
        // In a process group of its own, so that an interrupt from the terminal doesn't end it.
        let started = command.stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0).spawn();
        let mut child = started.map_err(BenchError::io("starting", Path::new("sh")))?;
        Ok(Self { input: child.stdin.take(), child })
    }
}

impl Drop for AtEnd {
    fn drop(&mut self) {
        if let Some(mut input) = self.input.take() {
            // Closing alone would do.
            let _ = input.write_all(b"\n");
        }
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_script_runs_at_the_end_and_not_before() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a name with blanks");
        let guard = AtEnd::run("printf done > \"$1\"", &[file.as_os_str()]).unwrap();
        assert!(!file.exists());
        drop(guard);
        assert_eq!(fs::read_to_string(file).unwrap(), "done");
    }
}
