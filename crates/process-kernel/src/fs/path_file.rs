//! A file opened with O_PATH: only a place in the tree.

use std::sync::Arc;

use rustix::io::Errno;

use super::place::Place;
use crate::file::{FileObject, Stat};
use crate::object::{Object, RestoreError, Restorer, SaveError, Saver};

/// What O_PATH opens.
pub struct PathFile {
    place: Place,
}

impl PathFile {
    /// Registry key.
    pub const KIND: &'static str = "path-file";

    /// For the file at `place`.
    pub fn new(place: Place) -> Self {
        Self { place }
    }

    /// The object again.
    ///
    /// # Errors
    /// [`RestoreError`] when the saved form is damaged or the file changed.
    pub fn restore(payload: &[u8], restorer: &mut Restorer<'_>) -> Result<Arc<dyn Object>, RestoreError> {
        let saved = Restorer::decode("O_PATH file", payload)?;
        Ok(Arc::new(Self { place: Place::restore(&saved, restorer)? }))
    }
}

impl Object for PathFile {
    fn kind(&self) -> &'static str {
        Self::KIND
    }

    fn save(&self, saver: &mut Saver) -> Result<Vec<u8>, SaveError> {
        let saved = self.place.save(saver)?;
        saver.encode(Self::KIND, &saved)
    }

    fn as_file(self: Arc<Self>) -> Option<Arc<dyn FileObject>> {
        Some(self)
    }
}

impl FileObject for PathFile {
    fn stat(&self) -> Result<Stat, Errno> {
        self.place.inode.metadata()
    }

    fn ioctl(&self, _: &mut crate::syscall::Cx<'_>, _: u32, _: u64) -> Result<u64, Errno> {
        Err(Errno::BADF)
    }

    fn place(&self) -> Option<&Place> {
        Some(&self.place)
    }

    fn describe(&self) -> String {
        self.place.display()
    }
}
