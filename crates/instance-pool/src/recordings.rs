//! One recording at a time for each version: two would only disturb each other.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::deployed::Key;

/// Which versions' invocations are being recorded.
#[derive(Debug, Default)]
pub(crate) struct Recordings(Arc<Mutex<HashSet<Key>>>);

/// The right to record; given back when dropped.
#[derive(Debug)]
pub(crate) struct RecordingRight {
    all: Arc<Mutex<HashSet<Key>>>,
    key: Key,
}

impl Recordings {
    /// The right to record the next invocation of `key`, unless somebody has it.
    pub fn begin(&self, key: &Key) -> Option<RecordingRight> {
        let free = self.0.lock().insert(key.clone());
        free.then(|| RecordingRight { all: self.0.clone(), key: key.clone() })
    }
}

impl Drop for RecordingRight {
    fn drop(&mut self) {
        self.all.lock().remove(&self.key);
    }
}
