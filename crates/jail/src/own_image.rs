//! The executable and its libraries in this process's memory.

use crate::sys;

/// Lets go of the pages of code and constants that starting has touched. They belong to files and are shared by all workers;
/// what is needed again comes back from the page cache, sixteen pages at a fault. Starting touches about a megabyte that a
/// worker never needs again, and what is in its page tables counts as its memory.
pub fn let_go_of_start_up() {
    sys::read_only_segments().into_iter().for_each(sys::let_go);
}
