//! An open directory.

use std::sync::Arc;

use parking_lot::Mutex;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::place::{Place, SavedPlace};
use super::{FileType, Vfs};
use crate::file::{Destination, DirectoryEntry, FileObject, Stat};
use crate::object::{Object, RestoreError, Restorer, SaveError, Saver};

/// A directory opened for reading. The listing is made when it is read from its beginning, so that entries keep their
/// cookies while others come and go.
pub struct DirectoryFile {
    vfs: Arc<Vfs>,
    place: Place,
    listing: Mutex<Option<Arc<Vec<DirectoryEntry>>>>,
}

#[derive(Serialize, Deserialize)]
struct Saved {
    place: SavedPlace,
    listing: Option<Vec<(u64, u8, Vec<u8>)>>,
}

impl DirectoryFile {
    /// Registry key.
    pub const KIND: &'static str = "directory";

    /// The directory at `place`.
    pub fn new(vfs: Arc<Vfs>, place: Place) -> Self {
        Self { vfs, place, listing: Mutex::new(None) }
    }

    fn read_listing(&self) -> Result<Vec<DirectoryEntry>, Errno> {
        if self.place.inode.is_deleted() {
            return Err(Errno::NOENT);
        }
        let directory = FileType::Directory.entry_type();
        let own = self.place.inode.metadata()?.ino;
        let above =
            self.vfs.parent(&self.place).and_then(|parent| parent.inode.metadata()).map_or(own, |s| s.ino);
        let mut listing = vec![
            DirectoryEntry { ino: own, file_type: directory, name: b".".to_vec() },
            DirectoryEntry { ino: above, file_type: directory, name: b"..".to_vec() },
        ];
        listing.extend(self.vfs.entries(&self.place)?);
        Ok(listing)
    }

    /// The directory again.
    ///
    /// # Errors
    /// [`RestoreError`] when the saved form is damaged or the directory changed.
    pub fn restore(payload: &[u8], restorer: &mut Restorer<'_>) -> Result<Arc<dyn Object>, RestoreError> {
        let saved: Saved = Restorer::decode("open directory", payload)?;
        let place = Place::restore(&saved.place, restorer)?;
        let listing = saved.listing.map(|entries| {
            let entry = |(ino, file_type, name)| DirectoryEntry { ino, file_type, name };
            Arc::new(entries.into_iter().map(entry).collect())
        });
        let vfs = restorer.context.vfs.clone();
        Ok(Arc::new(Self { vfs, place, listing: Mutex::new(listing) }))
    }
}

impl Object for DirectoryFile {
    fn kind(&self) -> &'static str {
        Self::KIND
    }

    fn save(&self, saver: &mut Saver) -> Result<Vec<u8>, SaveError> {
        let listing = self.listing.lock().clone();
        let listing = listing.map(|listing| {
            listing.iter().map(|entry| (entry.ino, entry.file_type, entry.name.clone())).collect()
        });
        let saved = Saved { place: self.place.save(saver)?, listing };
        saver.encode(Self::KIND, &saved)
    }

    fn as_file(self: Arc<Self>) -> Option<Arc<dyn FileObject>> {
        Some(self)
    }
}

impl FileObject for DirectoryFile {
    fn stat(&self) -> Result<Stat, Errno> {
        self.place.inode.metadata()
    }

    fn read(&self, _: Option<u64>, _: &mut Destination<'_>) -> Result<usize, Errno> {
        Err(Errno::ISDIR)
    }

    fn seekable(&self) -> bool {
        true
    }

    fn next_entry(&self, cookie: u64) -> Result<Option<(DirectoryEntry, u64)>, Errno> {
        let listing = {
            let mut listing = self.listing.lock();
            match &*listing {
                Some(listing) if cookie != 0 => listing.clone(),
                _ => listing.insert(Arc::new(self.read_listing()?)).clone(),
            }
        };
        let entry = usize::try_from(cookie).ok().and_then(|cookie| listing.get(cookie));
        Ok(entry.map(|entry| (entry.clone(), cookie + 1)))
    }

    fn sync(&self) -> Result<(), Errno> {
        Ok(())
    }

    fn place(&self) -> Option<&Place> {
        Some(&self.place)
    }

    fn describe(&self) -> String {
        self.place.display()
    }
}
