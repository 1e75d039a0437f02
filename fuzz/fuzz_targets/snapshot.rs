//! A snapshot's state file and loading-set file. Threat model: a disk that lies. Whatever the bytes say, opening and verifying
//! gives an error or a snapshot whose parts agree; nothing panics, and nothing is allocated that the file's own size does not
//! warrant. A checksum would stop almost every change, so the ones that the headers hold are made right first.
//!
//! The first two bytes say where the file is changed; the rest replaces what is there.
#![no_main]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use snapshot::Snapshot;

/// The snapshot that the format's own tests keep.
fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/restore/tests/goldens/format-1")
}

static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    for name in ["state", "memory", "loading-set"] {
        fs::copy(golden().join(name), folder.path().join(name)).unwrap();
    }
    folder
});

static STATE: LazyLock<Vec<u8>> = LazyLock::new(|| fs::read(golden().join("state")).unwrap());

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some(([high, low], rest)) = bytes.split_first_chunk::<2>() else { return };
    let mut state = STATE.clone();
    let at = usize::from(u16::from_be_bytes([*high, *low])) % state.len();
    state.truncate(at.max(state.len().saturating_sub(rest.len())));
    state.splice(at..(at + rest.len()).min(state.len()), rest.iter().copied());
    fs::write(FOLDER.path().join("state"), &state).unwrap();
    if let Ok(snapshot) = Snapshot::open(FOLDER.path()) {
        let _ = snapshot.verify(|_| {});
    }
});
