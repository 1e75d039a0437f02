//! Epoll sets in epoll sets: no circles, and not too deep, since asking a set for its readiness asks the sets in it.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::{Mutex, MutexGuard};
use rustix::io::Errno;

use super::Epoll;
use crate::file::OpenFile;

/// Sets in the longest chain of sets in sets (EP_MAX_NESTS and the outermost).
const MAX_CHAIN: usize = 5;

/// Held while a set is put into another.
static NESTING: Mutex<()> = Mutex::new(());

/// Sets visited before giving up; a guest may nest them widely.
const MAX_VISITS: usize = 10_000;

/// Makes sure that `inner` may become an entry of `outer`. The guard is to be held until it is one.
///
/// # Errors
/// ELOOP.
pub(super) fn check(outer: &Epoll, inner: &Epoll) -> Result<MutexGuard<'static, ()>, Errno> {
    let guard = NESTING.lock();
    // A set's depth never shrinks: a set that was taken out of a deep chain may be refused later, wrongly but harmlessly.
    let mut depth = outer.depth.load(Ordering::Relaxed) + 1;
    let mut levels: Vec<Vec<Arc<OpenFile>>> = Vec::new();
    let mut seen: HashSet<*const Epoll> = HashSet::new();
    let mut level = inner.inner_sets();
    while !level.is_empty() {
        let mut below = Vec::new();
        for set in level.iter().filter_map(|file| Epoll::of(file)) {
            if std::ptr::eq(set, outer) || seen.len() >= MAX_VISITS {
                return Err(Errno::LOOP);
            }
            if seen.insert(set) {
                below.extend(set.inner_sets());
            }
        }
        levels.push(level);
        level = below;
    }
    if depth + levels.len() >= MAX_CHAIN {
        return Err(Errno::LOOP);
    }
    inner.depth.fetch_max(depth, Ordering::Relaxed);
    for level in &levels {
        depth += 1;
        level.iter().filter_map(|file| Epoll::of(file)).for_each(|set| {
            set.depth.fetch_max(depth, Ordering::Relaxed);
        });
    }
    Ok(guard)
}
