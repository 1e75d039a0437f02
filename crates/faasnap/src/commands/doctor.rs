//! `faasnap doctor`.

use std::path::Path;

use anyhow::Result;

use super::Outcome;
use crate::args::DoctorArguments;
use crate::doctor::{Finding, State, examine};
use crate::output::{count, print, print_json};

pub(super) fn run(home: &Path, arguments: &DoctorArguments) -> Result<Outcome> {
    let findings = examine(home);
    if arguments.output.json {
        print_json(&findings)?;
    } else {
        print(&text(&findings))?;
    }
    let bad = findings.iter().any(|finding| finding.state == State::Missing);
    Ok(if bad { Outcome::Negative } else { Outcome::Good })
}

fn text(findings: &[Finding]) -> String {
    let mut lines = Vec::new();
    let mut group = "";
    let width = findings.iter().map(|finding| finding.name.len()).max().unwrap_or(0);
    for finding in findings {
        if finding.group != group {
            group = finding.group;
            lines.push(format!("{group}:"));
        }
        let mark = match finding.state {
            State::Good => "ok  ",
            State::Limited => "note",
            State::Missing => "BAD ",
        };
        lines.push(format!("  {mark}  {:<width$}  {}", finding.name, finding.found));
        for (label, more) in [("means", &finding.meaning), ("mend", &finding.mend)] {
            if let Some(more) = more {
                lines.push(format!("        {:width$}  {label}: {more}", ""));
            }
        }
    }
    let number = |state| findings.iter().filter(|finding| finding.state == state).count();
    lines.push(match (number(State::Missing), number(State::Limited)) {
        (0, 0) => "Everything is in place.".to_owned(),
        (0, notes) => format!("Functions can run here; see the {} above.", count(notes as u64, "note")),
        (bad, _) => format!("Functions can't run here until what is marked BAD is mended ({bad})."),
    });
    lines.join("\n")
}
