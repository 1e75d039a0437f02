//! An open text of a synthetic tree.

use std::sync::Arc;

use parking_lot::Mutex;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::SyntheticInode;
use crate::file::{Destination, FileObject, Origin, Stat};
use crate::fs::{Inode, Place, SavedPlace};
use crate::object::{Object, ObjectId, RestoreError, Restorer, SaveError, Saver};

/// A text as it was made when the file was opened or last read from its beginning.
pub struct TextFile {
    inode: Arc<SyntheticInode>,
    place: Place,
    text: Mutex<Arc<Vec<u8>>>,
    /// Not read yet: the text is fresh enough for the first read.
    unread: Mutex<bool>,
}

#[derive(Serialize, Deserialize)]
struct Saved {
    inode: ObjectId,
    place: SavedPlace,
    #[serde(with = "serde_bytes")]
    text: Vec<u8>,
}

/// Longest value that can be written to a setting.
const MAX_SETTING: usize = 4096;

impl TextFile {
    /// Registry key.
    pub const KIND: &'static str = "text-file";

    pub(super) fn open(inode: Arc<SyntheticInode>, place: Place) -> Result<Self, Errno> {
        let text = inode.with(|tree, path| tree.text(path))?;
        Ok(Self { inode, place, text: Mutex::new(Arc::new(text)), unread: Mutex::new(true) })
    }

    /// The file again.
    ///
    /// # Errors
    /// [`RestoreError`] when the saved form is damaged.
    pub fn restore(payload: &[u8], restorer: &mut Restorer<'_>) -> Result<Arc<dyn Object>, RestoreError> {
        let saved: Saved = Restorer::decode("open text", payload)?;
        let inode = restorer.concrete(saved.inode, "synthetic file")?;
        let place = Place::restore(&saved.place, restorer)?;
        Ok(Arc::new(Self { inode, place, text: Mutex::new(Arc::new(saved.text)), unread: Mutex::new(false) }))
    }
}

impl Object for TextFile {
    fn kind(&self) -> &'static str {
        Self::KIND
    }

    fn save(&self, saver: &mut Saver) -> Result<Vec<u8>, SaveError> {
        let text = self.text.lock().to_vec();
        let inode = saver.save(self.inode.clone())?;
        let saved = Saved { inode, place: self.place.save(saver)?, text };
        saver.encode(Self::KIND, &saved)
    }

    fn as_file(self: Arc<Self>) -> Option<Arc<dyn FileObject>> {
        Some(self)
    }
}

impl FileObject for TextFile {
    fn stat(&self) -> Result<Stat, Errno> {
        self.inode.metadata()
    }

    fn read(&self, position: Option<u64>, into: &mut Destination<'_>) -> Result<usize, Errno> {
        let position = position.unwrap_or(0);
        let fresh = std::mem::take(&mut *self.unread.lock());
        if position == 0 && !fresh {
            let text = self.inode.with(|tree, path| tree.text(path))?;
            *self.text.lock() = Arc::new(text);
        }
        let text = self.text.lock().clone();
        let rest = usize::try_from(position).ok().and_then(|position| text.get(position..));
        into.put(rest.unwrap_or_default())
    }

    fn write(&self, _: Option<u64>, from: &mut Origin<'_>) -> Result<usize, Errno> {
        if from.remaining() > MAX_SETTING {
            return Err(Errno::INVAL);
        }
        let value = from.take(MAX_SETTING)?;
        self.inode.with(|tree, path| tree.set(path, value.trim_ascii()))?;
        Ok(value.len())
    }

    fn seekable(&self) -> bool {
        true
    }

    fn size(&self) -> Result<u64, Errno> {
        Ok(self.text.lock().len() as u64)
    }

    fn place(&self) -> Option<&Place> {
        Some(&self.place)
    }

    fn describe(&self) -> String {
        self.place.display()
    }
}
