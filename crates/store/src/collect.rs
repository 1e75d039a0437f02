//! What no record names any more goes, some time later.
//!
//! Code and layers that lost their last record stay for a grace period: a URL of `Code.Location` works for as long as it
//! was promised, and whoever deploys the version before again finds its files. A file `NAME.unused` beside a thing has the
//! time at which it was first found without a record; it goes when a record names the thing again. Snapshots have no part
//! in this: they hold secrets and go with their function.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::Duration;

use file_tree::TreeDigest;

use crate::error::StoreError;
use crate::home::{Store, names};
use crate::packages;
use crate::staging::{discard, sweep};

/// How long what no record names stays: as long as a URL of code lives.
pub(crate) const GRACE: Duration = Duration::from_secs(600);
/// What the name of a mark ends with.
const MARK: &str = ".unused";

impl Store {
    /// The same home with another grace period for code that nothing names any more; it is ten minutes without this.
    #[must_use]
    pub fn with_grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Clears away what crashed or killed processes left: trees and packages that no record names (once their grace period
    /// is over), things in the making, and what was removed and is no longer in use.
    ///
    /// # Errors
    /// [`StoreError::Io`] or [`StoreError::Registry`].
    pub fn tidy(&self) -> Result<(), StoreError> {
        let _lock = self.lock()?;
        self.collect()?;
        sweep(self);
        Ok(())
    }

    /// Discards the trees and packages that no version and no layer has had for the grace period, and images of what is not
    /// there any more. The caller holds the home's lock.
    pub(crate) fn collect(&self) -> Result<(), StoreError> {
        self.collect_older(self.grace)
    }

    /// As [`Self::collect`], with a grace period of its own.
    pub(crate) fn collect_older(&self, grace: Duration) -> Result<(), StoreError> {
        let digests = self.registry().digests_in_use()?;
        let packages: HashSet<String> =
            digests.iter().filter_map(|digest| packages::file_name(digest)).collect();
        let is_tree = |name: &str| name.parse::<TreeDigest>().is_ok();
        self.collect_in(&self.trees(), is_tree, |name| digests.contains(name), grace)?;
        self.collect_in(&self.packages(), |_| true, |name| packages.contains(name), grace)?;
        self.collect_images()
    }

    /// Discards what is in `folder`, `ours`, and has been without a use for the grace period.
    fn collect_in(
        &self,
        folder: &Path,
        ours: impl Fn(&str) -> bool,
        needed: impl Fn(&str) -> bool,
        grace: Duration,
    ) -> Result<(), StoreError> {
        let (marks, things): (Vec<_>, Vec<_>) =
            names(folder, |name| Some(name.to_owned()))?.into_iter().partition(|name| name.ends_with(MARK));
        let marked: HashSet<&str> = marks.iter().filter_map(|mark| mark.strip_suffix(MARK)).collect();
        for name in things.iter().filter(|name| ours(name) && !needed(name)) {
            if grace.is_zero() {
                discard(self, &folder.join(name))?;
            } else if !marked.contains(name.as_str()) {
                let mark = folder.join(format!("{name}{MARK}"));
                File::create(&mark).map_err(StoreError::io("marking", &mark))?;
            } else if is_older(&folder.join(format!("{name}{MARK}")), grace) {
                discard(self, &folder.join(name))?;
            }
        }
        // A mark is for what is there and has no use.
        for name in marked {
            if needed(name) || !folder.join(name).exists() {
                let mark = folder.join(format!("{name}{MARK}"));
                match fs::remove_file(&mark) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(StoreError::io("removing", &mark)(error));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// Whether a mark was made at least `grace` ago. One from the future (the clock was set) is new.
fn is_older(mark: &Path, grace: Duration) -> bool {
    let made = fs::metadata(mark).and_then(|found| found.modified());
    made.is_ok_and(|at| at.elapsed().is_ok_and(|age| age >= grace))
}
