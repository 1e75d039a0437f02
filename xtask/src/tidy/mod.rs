//! Rules about the source that no compiler knows.

mod rules;
mod source;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use walkdir::WalkDir;

use crate::workspace::root;
use source::Source;

/// Crates that may have `unsafe`; every other crate forbids it.
const UNSAFE_CRATES: [&str; 6] =
    ["guest-init", "guest-memory", "jail", "machine", "process-guest", "process-kernel"];

pub(crate) fn run() -> Result<()> {
    let mut findings = Vec::new();
    for folder in ["crates", "xtask"] {
        for entry in WalkDir::new(root().join(folder)).sort_by_file_name() {
            let entry = entry.context("reading the source")?;
            if entry.path().extension().is_some_and(|extension| extension == "rs") {
                findings.extend(examine(entry.path())?);
            }
        }
    }
    if findings.is_empty() {
        return Ok(());
    }
    bail!("tidy found {} things:\n{}", findings.len(), findings.join("\n"))
}

fn examine(path: &Path) -> Result<Vec<String>> {
    let shown = path.strip_prefix(root()).unwrap_or(path);
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", shown.display()))?;
    let source = Source::new(shown, &text);
    let mut findings = rules::examine(&source);
    if source.is_crate_root() && !UNSAFE_CRATES.contains(&source.crate_name()) {
        findings.extend(rules::forbids_unsafe(&source));
    }
    Ok(findings.into_iter().map(|finding| format!("{}:{finding}", shown.display())).collect())
}
