//! What no record names any more goes.

use file_tree::TreeDigest;

use crate::error::StoreError;
use crate::home::{Store, names};
use crate::packages;
use crate::staging::{discard, sweep};

impl Store {
    /// Clears away what crashed or killed processes left: trees and packages that no record names, things in the making,
    /// and what was removed and is no longer in use.
    ///
    /// # Errors
    /// [`StoreError::Io`] or [`StoreError::Registry`].
    pub fn tidy(&self) -> Result<(), StoreError> {
        let _lock = self.lock()?;
        self.collect()?;
        sweep(self);
        Ok(())
    }

    /// Discards the trees and packages that no version and no layer has, and images of what is not there any more. The caller holds the home's lock.
    pub(crate) fn collect(&self) -> Result<(), StoreError> {
        let needed = self.registry().digests_in_use()?;
        for digest in names(&self.trees(), |name| name.parse::<TreeDigest>().ok())? {
            if !needed.contains(&digest.to_string()) {
                discard(self, &self.trees().join(digest.to_string()))?;
            }
        }
        let kept: std::collections::HashSet<String> =
            needed.iter().filter_map(|digest| packages::file_name(digest)).collect();
        for name in names(&self.packages(), |name| Some(name.to_owned()))? {
            if !kept.contains(&name) {
                discard(self, &self.packages().join(name))?;
            }
        }
        self.collect_images()
    }
}
