//! The folder itself: where it is, its parts, its lock.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use registry::Registry;
use serde::{Deserialize, Serialize};

use crate::collect::GRACE;
use crate::error::StoreError;
use crate::manifest;
use crate::staging::{make_folder, sweep};

/// The environment variable that names the home directory.
pub const HOME_VARIABLE: &str = "FAASNAP_HOME";

const FOLDERS: [&str; 7] = ["runtimes", "trees", "packages", "snapshots", "cache", "staging", "trash"];

/// An opened home directory. Cheap to open; several processes may have it open at once.
#[derive(Clone, Debug)]
pub struct Store {
    home: PathBuf,
    registry: Arc<Registry>,
    /// How long code stays that nothing names any more.
    pub(crate) grace: Duration,
}

/// Things by name; a damaged one as its error.
pub type Listing<Name, Record> = Vec<(Name, Result<Record, StoreError>)>;

/// Body of `home.json`; the schema number around it is what matters.
#[derive(Serialize, Deserialize)]
struct HomeRecord {
    created: u64,
}

/// Holds the home's lock; given back when dropped.
#[derive(Debug)]
pub(crate) struct HomeLock(#[expect(dead_code, reason = "held for its lock")] File);

/// Where state is kept when nobody says otherwise: `$FAASNAP_HOME`, else `faasnap` in the XDG data directory
/// (`$XDG_DATA_HOME`, else `$HOME/.local/share`).
///
/// # Errors
/// [`StoreError::NoHome`] when none of the three is set.
pub fn default_home() -> Result<PathBuf, StoreError> {
    home_from(env::var_os)
}

fn home_from(variable: impl Fn(&'static str) -> Option<OsString>) -> Result<PathBuf, StoreError> {
    let set = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(home) = set(HOME_VARIABLE) {
        return Ok(home);
    }
    // The XDG base directory specification: a relative XDG_DATA_HOME is to be ignored.
    set("XDG_DATA_HOME")
        .filter(|data| data.is_absolute())
        .or_else(|| set("HOME").map(|home| home.join(".local/share")))
        .map(|data| data.join("faasnap"))
        .ok_or(StoreError::NoHome)
}

impl Store {
    /// Opens the home at `path` and makes it when it isn't there.
    ///
    /// # Errors
    /// [`StoreError::Schema`] for a home of another version, [`StoreError::Io`] when it can't be made or read.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        make_folder(path)?;
        let home = fs::canonicalize(path).map_err(StoreError::io("opening", path))?;
        let record = home.join("home.json");
        if record.exists() {
            let _: HomeRecord = manifest::read(&record, "home")?;
        } else {
            // The folder may have been there, readable by others: from now on it holds secrets.
            fs::set_permissions(&home, Permissions::from_mode(0o700))
                .map_err(StoreError::io("setting the mode of", &home))?;
        }
        for name in FOLDERS {
            if !home.join(name).exists() {
                make_folder(&home.join(name))?;
            }
        }
        let registry = Arc::new(Registry::open(&home.join("registry.sqlite"))?);
        if !record.exists() {
            manifest::write(&record, "home", &HomeRecord { created: now() })?;
        }
        Ok(Self { home, registry, grace: GRACE })
    }

    /// The records of functions, versions, aliases and layers. What involves files is done by this type's own functions.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The home's path, absolute.
    pub fn path(&self) -> &Path {
        &self.home
    }

    /// A folder for downloads that may be deleted at any time.
    pub fn cache(&self) -> PathBuf {
        self.home.join("cache")
    }

    /// Deletes what was removed before and is no longer in use, and what crashed operations left.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the home can't be locked.
    pub fn sweep(&self) -> Result<(), StoreError> {
        let _lock = self.lock()?;
        sweep(self);
        Ok(())
    }

    pub(crate) fn runtimes(&self) -> PathBuf {
        self.home.join("runtimes")
    }

    /// Made when the first kernel is stored: a home from before there were any has none.
    pub(crate) fn kernels_folder(&self) -> PathBuf {
        self.home.join("kernels")
    }

    pub(crate) fn trees(&self) -> PathBuf {
        self.home.join("trees")
    }

    pub(crate) fn packages(&self) -> PathBuf {
        self.home.join("packages")
    }

    pub(crate) fn snapshots_folder(&self) -> PathBuf {
        self.home.join("snapshots")
    }

    pub(crate) fn staging(&self) -> PathBuf {
        self.home.join("staging")
    }

    pub(crate) fn trash(&self) -> PathBuf {
        self.home.join("trash")
    }

    /// Waits for the home's lock. Held for the moment of publishing or removing, never while something is made.
    pub(crate) fn lock(&self) -> Result<HomeLock, StoreError> {
        let path = self.home.join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(StoreError::io("opening", &path))?;
        file.lock().map_err(StoreError::io("locking", &path))?;
        Ok(HomeLock(file))
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The names in a folder, sorted; names that `parse` refuses (temporary files among them) are left out.
pub(crate) fn names<T>(folder: &Path, parse: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, StoreError> {
    let mut texts = Vec::new();
    for entry in fs::read_dir(folder).map_err(StoreError::io("reading", folder))? {
        let entry = entry.map_err(StoreError::io("reading", folder))?;
        texts.extend(entry.file_name().into_string());
    }
    texts.sort_unstable();
    Ok(texts.iter().filter_map(|text| parse(text)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_home_is_found_in_order() {
        let with = |set: &[(&'static str, &str)]| {
            let set: Vec<_> = set.iter().map(|(name, value)| (*name, OsString::from(value))).collect();
            home_from(move |name| {
                set.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone())
            })
        };
        let all = [("FAASNAP_HOME", "/f"), ("XDG_DATA_HOME", "/x"), ("HOME", "/h")];
        assert_eq!(with(&all).unwrap(), Path::new("/f"));
        assert_eq!(with(&all[1..]).unwrap(), Path::new("/x/faasnap"));
        assert_eq!(with(&all[2..]).unwrap(), Path::new("/h/.local/share/faasnap"));
        let relative = [("FAASNAP_HOME", ""), ("XDG_DATA_HOME", "x"), ("HOME", "/h")];
        assert_eq!(with(&relative).unwrap(), Path::new("/h/.local/share/faasnap"));
        assert!(matches!(with(&[]), Err(StoreError::NoHome)));
    }

    #[test]
    fn every_folder_is_private() {
        let outer = tempfile::tempdir().unwrap();
        let store = Store::open(&outer.path().join("a/home")).unwrap();
        Store::open(store.path()).unwrap();
        for path in [store.path().to_owned(), store.trees(), store.snapshots_folder(), store.staging()] {
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700, "{path:?}");
        }
    }

    #[test]
    fn a_home_of_another_schema_is_refused() {
        let outer = tempfile::tempdir().unwrap();
        fs::write(outer.path().join("home.json"), r#"{"schema":99}"#).unwrap();
        assert!(matches!(Store::open(outer.path()), Err(StoreError::Schema { found: 99, .. })));
    }
}
