//! Copies between this process and guest memory that can't kill it.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use pages::{GuestPhysical, PAGE_SIZE};
use thiserror::Error;

use crate::host_mapping::GuestMemory;

/// A guest page that could not be read or written.
#[derive(Debug, Error, PartialEq, Eq, Clone, Copy)]
#[error("guest memory at {at:?} is not accessible")]
pub struct AccessError {
    /// The first byte that could not be copied.
    pub at: GuestPhysical,
}

/// A piece of guest memory as the host kernel sees it, for system calls that take an I/O vector (readv, preadv, sendmsg):
/// the kernel answers EFAULT for a page that isn't accessible. Valid while its [`GuestMemory`] lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostSpan {
    /// Host virtual address.
    pub address: u64,
    /// Bytes.
    pub length: usize,
}

impl HostSpan {
    /// The span as the C structure that system calls take.
    pub fn as_iovec(self) -> libc::iovec {
        libc::iovec { iov_base: self.address as *mut libc::c_void, iov_len: self.length }
    }
}

impl GuestMemory {
    /// Copies guest memory at `from` into `into`.
    ///
    /// # Errors
    /// [`AccessError`] naming the first byte that is not mapped, protected, or beyond its file's end.
    pub fn read(&self, from: GuestPhysical, into: &mut [u8]) -> Result<(), AccessError> {
        let remote = self.span(from, into.len())?.as_iovec();
        let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
        // SAFETY: `local` is a live, exclusively borrowed buffer; the kernel checks the remote side page by page and both
        // are in this process.
        let copied = unsafe { libc::process_vm_readv(libc::getpid(), &local, 1, &remote, 1, 0) };
        finish(copied, from, into.len())
    }

    /// Copies `bytes` into guest memory at `to`.
    ///
    /// # Errors
    /// [`AccessError`] naming the first byte that is not mapped or not writable.
    pub fn write(&self, to: GuestPhysical, bytes: &[u8]) -> Result<(), AccessError> {
        let remote = self.span(to, bytes.len())?.as_iovec();
        let local = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        // SAFETY: the kernel only reads `local`, a live buffer; the remote side is checked page by page.
        let copied = unsafe { libc::process_vm_writev(libc::getpid(), &local, 1, &remote, 1, 0) };
        finish(copied, to, bytes.len())
    }

    /// As [`Self::write`], into memory that the caller has populated, writable, and that nobody maps anew meanwhile: before a
    /// guest runs. It takes no lock of the address space, so that it doesn't wait for another thread that maps pages beside it
    /// (the answer of `hello`: 21.7 ms with it, 18 without). A page that is not writable ends the process, as a wrong address would.
    ///
    /// # Errors
    /// [`AccessError`] when the piece reaches outside the reservation.
    pub fn write_ready(&self, to: GuestPhysical, bytes: &[u8]) -> Result<(), AccessError> {
        let span = self.span(to, bytes.len())?;
        // SAFETY: the destination lies inside our own reservation, into which no Rust reference exists, and is as long as
        // `bytes`, which lie elsewhere. A page that can't be written is a SIGSEGV, never a write to something else.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), span.address as *mut u8, span.length) };
        Ok(())
    }

    /// As [`Self::read`], from memory that [`Self::write_ready`] could be used for: populated, and nobody maps or writes it
    /// meanwhile. It takes no lock of the address space either.
    ///
    /// # Errors
    /// [`AccessError`] when the piece reaches outside the reservation.
    pub fn read_ready(&self, from: GuestPhysical, into: &mut [u8]) -> Result<(), AccessError> {
        let span = self.span(from, into.len())?;
        // SAFETY: the source lies inside our own reservation, into which no Rust reference exists, and is as long as `into`, which
        // lies elsewhere. A page that can't be read is a SIGSEGV, never a read of something else.
        unsafe {
            std::ptr::copy_nonoverlapping(span.address as *const u8, into.as_mut_ptr(), span.length);
        }
        Ok(())
    }

    /// Stores an aligned word at once, so that a processor that reads it meanwhile sees the old one or the new one; otherwise as
    /// [`Self::write_ready`].
    ///
    /// # Errors
    /// [`AccessError`] when the address is not a multiple of 8 or lies outside the reservation.
    pub fn store_ready(&self, to: GuestPhysical, word: u64) -> Result<(), AccessError> {
        let span = self.span(to, size_of::<u64>())?;
        if !span.address.is_multiple_of(align_of::<u64>() as u64) {
            return Err(AccessError { at: to });
        }
        // SAFETY: the word lies inside our own reservation, aligned; no Rust reference into it exists but this one, which is of
        // an atomic. A page that can't be written is a SIGSEGV, never a write to something else.
        unsafe { AtomicU64::from_ptr(span.address as *mut u64) }.store(word, Ordering::Release);
        Ok(())
    }

    /// The host's view of `length` bytes at `from`, for I/O straight into guest memory.
    ///
    /// # Errors
    /// [`AccessError`] when the piece reaches outside the reservation.
    pub fn span(&self, from: GuestPhysical, length: usize) -> Result<HostSpan, AccessError> {
        let inside = from.0.checked_add(length as u64).is_some_and(|end| end <= self.reserved().bytes());
        if !inside {
            return Err(AccessError { at: from });
        }
        Ok(HostSpan { address: self.host_address(from), length })
    }
}

fn finish(copied: isize, at: GuestPhysical, wanted: usize) -> Result<(), AccessError> {
    match usize::try_from(copied) {
        Ok(copied) if copied == wanted => Ok(()),
        // A short copy stops at the first page that isn't accessible.
        Ok(copied) => {
            let stopped = at.0 + copied as u64;
            Err(AccessError {
                at: GuestPhysical(if copied == 0 { at.0 } else { stopped - stopped % PAGE_SIZE }),
            })
        }
        Err(_) => {
            debug_assert_eq!(io::Error::last_os_error().raw_os_error(), Some(libc::EFAULT));
            Err(AccessError { at })
        }
    }
}
