//! JSON records with a schema version and a checksum, written so that a crash leaves the old or the new one.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::error::StoreError;

/// Raised whenever a record's meaning changes; a record of another schema is refused with both numbers.
pub(crate) const SCHEMA: u32 = 1;
/// No record comes near this; a larger file is damaged and not read into memory.
const MANIFEST_BYTES: u64 = 4 << 20;

/// The schema number must be readable before anything else is believed.
#[derive(Deserialize)]
struct SchemaOnly {
    schema: u32,
}

#[derive(Serialize, Deserialize)]
struct Envelope<'a> {
    schema: u32,
    kind: String,
    /// SHA-256 of `body` exactly as it stands in the file.
    sha256: String,
    #[serde(borrow)]
    body: &'a RawValue,
}

/// Writes `body` to `path` by way of a temporary file beside it; the file is on disk when this returns.
pub(crate) fn write<T: Serialize>(path: &Path, kind: &str, body: &T) -> Result<(), StoreError> {
    let damaged = |problem: serde_json::Error| StoreError::Damaged {
        path: path.to_owned(),
        problem: format!("it can't be encoded: {problem}"),
    };
    let body = serde_json::value::to_raw_value(body).map_err(damaged)?;
    let envelope =
        Envelope { schema: SCHEMA, kind: kind.to_owned(), sha256: sha256(body.get()), body: &body };
    let mut bytes = serde_json::to_vec(&envelope).map_err(damaged)?;
    bytes.push(b'\n');

    let temporary = path.with_extension(format!("{}.new", uuid::Uuid::new_v4().simple()));
    let save = || {
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    save().map_err(|source| {
        // Best effort: the error that matters is the one above.
        let _ = fs::remove_file(&temporary);
        StoreError::io("writing", path)(source)
    })?;
    sync_parent(path)
}

/// Reads a record of the given kind and checks schema and checksum before its body is decoded.
pub(crate) fn read<T: DeserializeOwned>(path: &Path, kind: &str) -> Result<T, StoreError> {
    let file = File::open(path).map_err(StoreError::io("opening", path))?;
    read_from(file, path, kind)
}

/// The same from a file that is open already; `path` is for the error texts.
pub(crate) fn read_from<T: DeserializeOwned>(file: File, path: &Path, kind: &str) -> Result<T, StoreError> {
    let mut bytes = Vec::new();
    file.take(MANIFEST_BYTES + 1).read_to_end(&mut bytes).map_err(StoreError::io("reading", path))?;
    decode(&bytes, path, kind)
}

fn decode<T: DeserializeOwned>(bytes: &[u8], path: &Path, kind: &str) -> Result<T, StoreError> {
    let damaged = |problem: String| StoreError::Damaged { path: path.to_owned(), problem };
    if bytes.len() as u64 > MANIFEST_BYTES {
        return Err(damaged("it is far too large".to_owned()));
    }
    let SchemaOnly { schema: found } =
        serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
    if found != SCHEMA {
        return Err(StoreError::Schema { path: path.to_owned(), found, known: SCHEMA });
    }
    let envelope: Envelope<'_> = serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
    if envelope.kind != kind {
        return Err(damaged(format!("it is a {:?} record where a {kind:?} record has to be", envelope.kind)));
    }
    if sha256(envelope.body.get()) != envelope.sha256 {
        return Err(damaged("its checksum is wrong".to_owned()));
    }
    serde_json::from_str(envelope.body.get()).map_err(|error| damaged(error.to_string()))
}

/// Lets a rename or a new name in `path`'s folder reach the disk.
pub(crate) fn sync_parent(path: &Path) -> Result<(), StoreError> {
    let parent = path.parent().unwrap_or(path);
    File::open(parent).and_then(|folder| folder.sync_all()).map_err(StoreError::io("syncing", parent))
}

fn sha256(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct Body {
        number: u32,
        text: String,
    }

    fn written() -> (tempfile::TempDir, std::path::PathBuf) {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("x.json");
        write(&path, "test", &Body { number: 7, text: "héllo".to_owned() }).unwrap();
        (home, path)
    }

    #[test]
    fn a_record_comes_back_and_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let (home, path) = written();
        assert_eq!(read::<Body>(&path, "test").unwrap(), Body { number: 7, text: "héllo".to_owned() });
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn another_schema_is_named_even_when_the_rest_is_unknown() {
        let (_home, path) = written();
        fs::write(&path, r#"{"schema":9,"something":"else"}"#).unwrap();
        let refused = read::<Body>(&path, "test");
        assert!(matches!(refused, Err(StoreError::Schema { found: 9, known: SCHEMA, .. })), "{refused:?}");
    }

    #[test]
    fn a_record_of_another_kind_is_refused() {
        let (_home, path) = written();
        assert!(matches!(read::<Body>(&path, "other"), Err(StoreError::Damaged { .. })));
    }

    proptest! {
        #[test]
        fn a_changed_byte_never_changes_the_body_unnoticed(position in 0usize..1000, value: u8) {
            let (_home, path) = written();
            let mut bytes = fs::read(&path).unwrap();
            let place = position % bytes.len();
            bytes[place] = value;
            // Blanks outside of the body may change; the body may not.
            if let Ok(body) = decode::<Body>(&bytes, &path, "test") {
                prop_assert_eq!(body, Body { number: 7, text: "héllo".to_owned() });
            }
        }
    }
}
