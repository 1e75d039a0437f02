//! How a thread ends.

use std::sync::atomic::Ordering;

use super::futex::ANY_BITS;
use super::process::{ExitStatus, Process};
use super::thread::Thread;

/// FUTEX_OWNER_DIED
const OWNER_DIED: u32 = 0x4000_0000;
/// FUTEX_WAITERS
const WAITERS: u32 = 0x8000_0000;
/// FUTEX_TID_MASK
const TID_MASK: u32 = 0x3fff_ffff;
/// Entries of a robust list that are followed (ROBUST_LIST_LIMIT): a guest could make it a ring.
const ROBUST_LIST_LIMIT: usize = 2048;

/// Does what the kernel does for a thread that ends: robust futexes are marked, whoever joins it is woken, and it is taken
/// out of the process, which ends with `status` if it was the last.
pub fn end_thread(process: &Process, thread: &Thread, status: ExitStatus) {
    let list = thread.robust_list.load(Ordering::SeqCst);
    if list != 0 {
        // Errors end the walk: a bad list is the program's own affair (Linux: exit_robust_list).
        let _ = release_robust_futexes(process, thread, list);
    }
    let address = thread.clear_child_tid.load(Ordering::SeqCst);
    if address != 0 && process.mm.write_value(address, &0u32).is_ok() {
        process.futexes.wake(address, 1, ANY_BITS);
    }
    thread.set_kick(None);
    process.remove_thread(thread.tid, status);
}

fn release_robust_futexes(process: &Process, thread: &Thread, list: u64) -> Result<(), rustix::io::Errno> {
    let [first, offset, pending]: [u64; 3] = process.mm.read_value(list)?;
    let mut entry = first;
    for _ in 0..ROBUST_LIST_LIMIT {
        if entry & !1 == list {
            break;
        }
        let next: u64 = process.mm.read_value(entry & !1)?;
        if entry != pending {
            release(process, thread, (entry & !1).wrapping_add(offset));
        }
        entry = next;
    }
    if pending != 0 {
        release(process, thread, (pending & !1).wrapping_add(offset));
    }
    Ok(())
}

fn release(process: &Process, thread: &Thread, address: u64) {
    let mut had_waiters = false;
    let released = process.mm.update_word(address, |word| {
        had_waiters = word & WAITERS != 0;
        (word & TID_MASK == thread.tid as u32).then_some(word & WAITERS | OWNER_DIED)
    });
    if released.is_ok_and(|old| old & TID_MASK == thread.tid as u32) && had_waiters {
        process.futexes.wake(address, 1, ANY_BITS);
    }
}
