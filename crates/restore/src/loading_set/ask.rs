//! What the disk is asked for of a loading-set file before anybody reads it ([`crate::loading_set::file`]).

use std::fs::File;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;

use pages::PAGE_SIZE;
use rustix::fs::{Advice, fadvise};

use crate::loading_set::file::{HEADER_BYTES, LoadingSet, number};

/// A longer file is not asked for as a whole, compressed or not, and not looked at for that.
const MAX_ASKED: u64 = 32 << 20;
/// So much is asked for first, by itself: the header, of most files the whole table, and of the first group the lowest addresses, which
/// are the worker's own pages. Whoever needs a page waits for all that is asked for with it.
const FIRST_ASKED: u64 = 128 << 10;

impl LoadingSet {
    /// Asks the disk for what a restore will read of `file`, a loading-set file, without waiting for it: its head, and all of what is
    /// in it up to `small` bytes, compressed where it is there both ways.
    pub fn ask(file: &File, head: u64, small: u64) {
        let ask = |offset: u64, end: u64| {
            if let Some(length) = NonZeroU64::new(end.saturating_sub(offset)) {
                // A hint: what it doesn't bring in, the read does.
                let _ = fadvise(file, offset, Some(length), Advice::WillNeed);
            }
        };
        let Ok(length) = file.metadata().map(|metadata| metadata.len()) else { return };
        ask(0, FIRST_ASKED);
        // A file of pages alone ends with one, and its header need not be waited for; compressed chunks are of any length.
        if length <= small && length % PAGE_SIZE == 0 {
            return ask(FIRST_ASKED, length);
        }
        let mut header = [0; HEADER_BYTES];
        if length > MAX_ASKED || file.read_exact_at(&mut header, 0).is_err() {
            return ask(FIRST_ASKED, head);
        }
        // Wrong numbers ask for nothing, or for something that is not needed.
        let (data, compressed) = (number(&header, 24, 8), number(&header, 40, 8));
        match length.saturating_sub(compressed) <= small && compressed != 0 {
            true => {
                ask(FIRST_ASKED, data);
                ask(compressed, length);
            }
            false => ask(FIRST_ASKED, head),
        }
    }
}
