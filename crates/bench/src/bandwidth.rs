//! What the disk gives: fio on the very file that is to be loaded.

use std::path::Path;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::BenchError;

/// Block size and depth of the three shapes; the best one counts.
const SHAPES: [(&str, u64, u32); 3] = [("128k", 128 << 10, 1), ("1M", 1 << 20, 8), ("4M", 4 << 20, 4)];

/// Sequential direct reading of one file.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Bandwidth {
    pub bytes_per_second: f64,
    /// The shape that gave it.
    pub shape: String,
}

/// Whether fio is there; if not, what to do.
pub(crate) fn obstacle() -> Option<String> {
    let there = Command::new("fio").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    match there {
        Ok(status) if status.success() => None,
        _ => Some("fio is not installed (apt-get install fio)".to_owned()),
    }
}

/// The best of the shapes on `file`, each for `milliseconds`. A block larger than the file is left out.
pub(crate) fn measure(file: &Path, milliseconds: u32) -> Result<Bandwidth, BenchError> {
    let size = std::fs::metadata(file).map_err(BenchError::io("reading", file))?.len();
    let mut best: Option<Bandwidth> = None;
    for (name, block, depth) in SHAPES {
        // A file smaller than any block is read as one.
        let fits = block <= size || block == SHAPES[0].1;
        if !fits {
            continue;
        }
        let bytes_per_second = fio(file, block.min(size / 4096 * 4096), depth, milliseconds)?;
        if best.as_ref().is_none_or(|best| best.bytes_per_second < bytes_per_second) {
            best = Some(Bandwidth { bytes_per_second, shape: format!("{name}, depth {depth}") });
        }
    }
    best.ok_or_else(|| BenchError::Program { program: "fio", reason: "no shape fits the file".to_owned() })
}

fn fio(file: &Path, block: u64, depth: u32, milliseconds: u32) -> Result<f64, BenchError> {
    let mut command = Command::new("fio");
    command.args(["--name=read", "--rw=read", "--direct=1", "--readonly", "--ioengine=libaio"]);
    command.args(["--time_based", "--output-format=json"]);
    command.args([
        format!("--bs={block}"),
        format!("--iodepth={depth}"),
        format!("--runtime={milliseconds}ms"),
    ]);
    command.arg(format!("--filename={}", file.display()));
    let output = command.stdin(Stdio::null()).output().map_err(BenchError::io("starting fio for", file))?;
    let failed = |reason: String| BenchError::Program { program: "fio", reason };
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    // Notes may come before the document.
    let text = String::from_utf8_lossy(&output.stdout);
    let document = text.find('{').and_then(|start| text.get(start..)).unwrap_or_default();
    let report: Value = serde_json::from_str(document).map_err(|error| failed(error.to_string()))?;
    let bytes = report.pointer("/jobs/0/read/bw_bytes").and_then(Value::as_f64);
    bytes.ok_or_else(|| failed("its report has no bandwidth".to_owned()))
}
