//! The archives that code and layers came in, so that they can be downloaded again as they were.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use registry::Package;
use sha2::{Digest, Sha256};

use crate::error::StoreError;
use crate::home::Store;
use crate::staging::Staging;
use crate::trees::{CodeSource, TreeSummary};

/// The file of a package with this digest (base64); `None` for what is no such digest.
pub(crate) fn file_name(sha256: &str) -> Option<String> {
    let digest = STANDARD.decode(sha256).ok().filter(|digest| digest.len() == 32)?;
    Some(format!("{}.zip", digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>()))
}

/// Copies an archive into `staging` and says what it is; of a folder, what its tree is.
pub(crate) fn stage(
    staging: &Staging,
    name: &str,
    source: &CodeSource,
    tree: &TreeSummary,
) -> Result<Package, StoreError> {
    let staged = staging.path().join(name);
    let save = |from: &mut dyn Read| {
        let mut to = File::create_new(&staged)?;
        io::copy(from, &mut to)?;
        to.sync_all()
    };
    match source {
        CodeSource::Folder(_) => {
            let digest = Sha256::digest(tree.digest.to_string());
            return Ok(Package { sha256: STANDARD.encode(digest), bytes: tree.bytes, kept: false });
        }
        CodeSource::Zip(path) => {
            File::open(path).and_then(|mut file| save(&mut file)).map_err(StoreError::io("copying", path))?
        }
        CodeSource::Bytes(bytes) => {
            save(&mut bytes.as_slice()).map_err(StoreError::io("writing", &staged))?;
        }
    }
    let mut hash = Sha256::new();
    let bytes = File::open(&staged)
        .and_then(|mut file| io::copy(&mut file, &mut hash))
        .map_err(StoreError::io("reading", &staged))?;
    Ok(Package { sha256: STANDARD.encode(hash.finalize()), bytes, kept: true })
}

/// Gives a staged archive its place. The caller holds the home's lock.
pub(crate) fn publish(
    store: &Store,
    staging: &Staging,
    name: &str,
    package: &Package,
) -> Result<(), StoreError> {
    let Some(file) = file_name(&package.sha256).filter(|_| package.kept) else { return Ok(()) };
    let target = store.packages().join(file);
    if target.exists() { Ok(()) } else { staging.publish_new(name, &target) }
}

impl Store {
    /// Opens the archive with this digest (base64).
    ///
    /// # Errors
    /// [`StoreError::Io`] when there is none.
    pub fn open_package(&self, sha256: &str) -> Result<File, StoreError> {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let path = self.packages().join(file_name(sha256).unwrap_or_default());
        let open = |path: &Path| match fs::metadata(path)?.is_file() {
            true => File::open(path),
            false => Err(missing()),
        };
        open(&path).map_err(StoreError::io("opening", path))
    }
}
