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

/// Most bytes that a [`TerminalRequest`]'s argument has.
pub(crate) const TERMINAL_ARGUMENT: usize = 44;

/// The terminal requests that are passed on to the host, each with an argument of a fixed size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TerminalRequest {
    number: u32,
    length: usize,
    sets: bool,
}

/// Number, size of the argument, whether it is read by the request: `struct termios` (36 bytes, as the kernel has it),
/// `struct termios2` (44), `struct winsize` (8).
const TERMINAL_REQUESTS: &[(u64, usize, bool)] = &[
    (libc::TCGETS, 36, false),
    (libc::TCSETS, 36, true),
    (libc::TCSETSW, 36, true),
    (libc::TCSETSF, 36, true),
    (libc::TCGETS2, 44, false),
    (libc::TCSETS2, 44, true),
    (libc::TCSETSW2, 44, true),
    (libc::TCSETSF2, 44, true),
    (libc::TIOCGWINSZ, 8, false),
    (libc::TIOCSWINSZ, 8, true),
];

impl TerminalRequest {
    /// The request with this number, if it is one that is passed on.
    pub(crate) fn from_number(number: u32) -> Option<Self> {
        let known = TERMINAL_REQUESTS.iter().find(|(known, ..)| *known == u64::from(number));
        known.map(|(_, length, sets)| Self { number, length: *length, sets: *sets })
    }

    /// Size of the argument, bytes, and whether the request reads it (else it writes it).
    pub(crate) fn argument(self) -> (usize, bool) {
        (self.length, self.sets)
    }
}

/// ioctl(2) on a terminal.
///
/// # Errors
/// The host's errno; EINVAL when `argument` has not the request's size.
pub(crate) fn terminal_ioctl(
    fd: BorrowedFd<'_>,
    request: TerminalRequest,
    argument: &mut [u8],
) -> Result<(), Errno> {
    if argument.len() != request.length {
        return Err(Errno::INVAL);
    }
    // SAFETY: the request is one of the table above, and the argument is exclusively borrowed and as large as the kernel
    // makes it.
    let outcome =
        unsafe { libc::ioctl(fd.as_raw_fd(), libc::Ioctl::from(request.number), argument.as_mut_ptr()) };
    if outcome < 0 { Err(Errno::from_raw_os_error(last_errno())) } else { Ok(()) }
}

/// The processor's time-stamp counter.
pub(crate) fn time_stamp() -> u64 {
    // SAFETY: the instruction exists on every x86-64 processor and touches no memory.
    unsafe { std::arch::x86_64::_rdtsc() }
}
