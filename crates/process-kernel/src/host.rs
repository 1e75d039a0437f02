//! The few host system calls that take raw addresses: vectored I/O straight into or out of guest memory.
//!
//! The vectors come from [`crate::file::Destination`] and [`crate::file::Origin`] only: they point into the guest's
//! host mapping or into an exclusively borrowed buffer.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

fn outcome(count: isize) -> Result<usize, Errno> {
    usize::try_from(count).map_err(|_| Errno::from_raw_os_error(last_errno()))
}

fn last_errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

/// preadv(2) into `vector`.
///
/// # Errors
/// The host's errno; EFAULT for guest pages that can't be written.
pub(crate) fn preadv(fd: BorrowedFd<'_>, vector: &[libc::iovec], offset: u64) -> Result<usize, Errno> {
    // SAFETY: the vector points into guest memory, which no Rust reference covers, or into a buffer that the caller
    // borrows exclusively; the kernel checks every page.
    outcome(unsafe {
        libc::preadv(fd.as_raw_fd(), vector.as_ptr(), vector.len() as libc::c_int, offset as libc::off_t)
    })
}

/// pwritev(2) from `vector`.
///
/// # Errors
/// The host's errno; EFAULT for guest pages that can't be read.
pub(crate) fn pwritev(fd: BorrowedFd<'_>, vector: &[libc::iovec], offset: u64) -> Result<usize, Errno> {
    // SAFETY: as in `preadv`; the kernel only reads through the vector.
    outcome(unsafe {
        libc::pwritev(fd.as_raw_fd(), vector.as_ptr(), vector.len() as libc::c_int, offset as libc::off_t)
    })
}

/// readv(2) into `vector`.
///
/// # Errors
/// The host's errno; EFAULT for guest pages that can't be written.
pub(crate) fn readv(fd: BorrowedFd<'_>, vector: &[libc::iovec]) -> Result<usize, Errno> {
    // SAFETY: as in `preadv`.
    outcome(unsafe { libc::readv(fd.as_raw_fd(), vector.as_ptr(), vector.len() as libc::c_int) })
}

/// writev(2) from `vector`.
///
/// # Errors
/// The host's errno; EFAULT for guest pages that can't be read.
pub(crate) fn writev(fd: BorrowedFd<'_>, vector: &[libc::iovec]) -> Result<usize, Errno> {
    // SAFETY: as in `pwritev`.
    outcome(unsafe { libc::writev(fd.as_raw_fd(), vector.as_ptr(), vector.len() as libc::c_int) })
}

/// Atomically updates the word at a host address inside guest memory; returns the old value.
///
/// Safe to call only with an address that [`crate::mm::Mm`] has just checked, under its lock: mapped, writable, anonymous.
pub(crate) fn update_word(address: u64, change: &mut dyn FnMut(u32) -> Option<u32>) -> u32 {
    use std::sync::atomic::{AtomicU32, Ordering};
    // SAFETY: the one caller, `Mm::update_word`, holds the address-space lock and has checked that the aligned word lies in a
    // writable anonymous host mapping, which only a holder of that lock can replace. Atomic access is right beside the
    // guest's own.
    let word = unsafe { AtomicU32::from_ptr(address as *mut u32) };
    word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, change).unwrap_or_else(|old| old)
}

/// The CPUID instruction.
pub(crate) fn cpuid(leaf: u32, subleaf: u32) -> std::arch::x86_64::CpuidResult {
    std::arch::x86_64::__cpuid_count(leaf, subleaf)
}

/// Resident memory of this process, bytes.
pub(crate) fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|field| field.parse().ok()).unwrap_or(0);
    pages * pages::PAGE_SIZE
}
