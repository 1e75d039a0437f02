//! What comes out of the emulated host: the lines of its steps, shown as they come, and how each step ended.
//!
//! The script inside marks a step with `rig: start NAME` and `rig: end NAME STATUS SECONDS`, and its own end with
//! `rig: done`. Every ten seconds it says `rig: alive`, which goes to the log only.

use std::fmt;
use std::time::Duration;

use crate::error::RigError;

/// What a sign of life begins with. It may come in the middle of a line.
const ALIVE: &str = "rig: alive";

/// How the steps ended.
#[derive(Debug, Default)]
pub(crate) struct Report {
    ended: Vec<Ended>,
    /// The step that runs.
    current: Option<String>,
    done: bool,
    /// A line that a sign of life came into the middle of, as far as it had come.
    begun: String,
    /// For how long it had said nothing when it was ended.
    silent: Option<Duration>,
}

#[derive(PartialEq, Eq, Debug)]
struct Ended {
    name: String,
    status: i32,
    seconds: u32,
}

impl Report {
    /// Takes a line of the serial port; shows it if a step said it, or if the kernel said it before any step ran.
    pub fn line(&mut self, line: &str, show: &mut dyn FnMut(&str)) -> Result<(), RigError> {
        if let Some((before, _)) = line.split_once(ALIVE) {
            self.begun.push_str(before);
            return Ok(());
        }
        let begun = std::mem::take(&mut self.begun);
        let Some(mark) = line.strip_prefix("rig: ") else {
            show(&(begun + line));
            return Ok(());
        };
        if !begun.is_empty() {
            show(&begun);
        }
        match mark.split(' ').collect::<Vec<_>>().as_slice() {
            ["start", name] => self.current = Some((*name).to_owned()),
            ["end", name, status, seconds] => {
                let mark = || RigError::Mark(line.to_owned());
                let status = status.parse().map_err(|_| mark())?;
                let seconds = seconds.parse().map_err(|_| mark())?;
                self.ended.push(Ended { name: (*name).to_owned(), status, seconds });
                self.current = None;
            }
            ["done"] => self.done = true,
            _ => show(line),
        }
        Ok(())
    }

    /// The emulated host was ended, as it had said nothing for so long.
    pub fn fell_silent(&mut self, silence: Duration) {
        self.silent = Some(silence);
    }

    /// How many steps came to their end before the emulated host itself did, when none of them failed. `None`: the host ran
    /// to its end, or a step failed.
    pub fn host_died_after(&self) -> Option<usize> {
        let failed = self.ended.iter().any(|ended| ended.status != 0);
        (!self.done && !failed).then_some(self.ended.len())
    }

    /// Whether `steps` steps ran and all ended well.
    pub fn is_good(&self, steps: usize) -> bool {
        self.done && self.ended.len() == steps && self.ended.iter().all(|ended| ended.status == 0)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Ended { name, status, seconds } in &self.ended {
            let verdict = if *status == 0 { "ok".to_owned() } else { format!("FAILED with status {status}") };
            writeln!(f, "rig: {name:<20} {verdict} ({seconds} s)")?;
        }
        let end = match self.silent {
            Some(silence) => {
                format!(
                    "said nothing for {} s and was ended, in place of a sign of life every 10",
                    silence.as_secs()
                )
            }
            None => "ended".to_owned(),
        };
        if let Some(name) = &self.current {
            writeln!(f, "rig: {name:<20} FAILED: while it ran, the emulated host {end}")?;
        } else if !self.done {
            writeln!(f, "rig: before its last step the emulated host {end}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(lines: &str) -> (Report, Vec<String>) {
        let mut report = Report::default();
        let mut shown = Vec::new();
        for line in lines.lines() {
            report.line(line, &mut |line| shown.push(line.to_owned())).unwrap();
        }
        (report, shown)
    }

    #[test]
    fn good_steps_are_good() {
        let (report, shown) = report("rig: start a\nhello\nrig: end a 0 3\nrig: done\n");
        assert!(report.is_good(1) && !report.is_good(2));
        assert_eq!(shown, ["hello"]);
        assert_eq!(report.to_string(), "rig: a                    ok (3 s)\n");
    }

    #[test]
    fn a_failed_step_and_a_dead_host_are_seen() {
        let (failed, _) = report("rig: start a\nrig: end a 101 3\nrig: done\n");
        assert!(!failed.is_good(1) && failed.to_string().contains("FAILED with status 101"));
        let (dead, shown) = report("rig: start a\nKernel panic\n");
        assert!(!dead.is_good(1) && dead.to_string().contains("while it ran, the emulated host ended"));
        assert_eq!((dead.host_died_after(), failed.host_died_after()), (Some(0), None));
        assert_eq!(report("rig: end a 0 1\nrig: start b\n").0.host_died_after(), Some(1));
        assert_eq!(report("rig: end a 1 1\nrig: start b\n").0.host_died_after(), None);
        assert_eq!(shown, ["Kernel panic"]);
        let (mut silent, shown) =
            report("rig: start a\ntest rig: alive after 12 s\nrig: alive\nok\nx rig: alive\nrig: start b\n");
        silent.fell_silent(Duration::from_secs(90));
        assert!(silent.to_string().contains("FAILED: while it ran, the emulated host said nothing for 90 s"));
        assert_eq!((silent.host_died_after(), shown), (Some(0), vec!["test ok".to_owned(), "x ".to_owned()]));
        assert!(Report::default().line("rig: end a x 1", &mut |_| ()).is_err());
        assert!(report("boot\n").0.to_string().contains("before its last step the emulated host ended"));
    }
}
