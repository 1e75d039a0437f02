//! What the disk is asked for while a request is on its way to its worker.

use std::fs::File;
use std::num::NonZeroU64;
use std::path::Path;

use restore::{LoadingSet, RestoreStrategy};
use rustix::fs::{Advice, fadvise};
use snapshot::STATE_FILE;

/// How many bytes of the state, and of a recording's head, the disk is asked for ahead: all of them, but for strange ones.
const READ_AHEAD: u64 = 512 << 10;

/// The largest recording, in bytes, that is read as a whole while the worker gets ready for it. The loader would ask for it 2 ms
/// later; a larger one would take a processor from what comes before the guest's first exit.
const SMALL_RECORDING: u64 = 4 << 20;

/// Lets the disk read what the worker will look at first, while the request is on its way to it: the state, and the recording's
/// head, or all of a small one that the loader reads from the page cache.
pub(crate) fn read_ahead(directory: &Path, strategy: RestoreStrategy) {
    let recording = strategy.uses_recordings().then(|| LoadingSet::file_name(strategy));
    for name in [Some(STATE_FILE), recording].into_iter().flatten() {
        // A hint: what can't be opened the worker will complain of.
        let Ok(file) = File::open(directory.join(name)) else { continue };
        match strategy {
            RestoreStrategy::FaaSnap if name != STATE_FILE => {
                LoadingSet::ask(&file, READ_AHEAD, SMALL_RECORDING)
            }
            _ => drop(fadvise(&file, 0, NonZeroU64::new(READ_AHEAD), Advice::WillNeed)),
        }
    }
}
