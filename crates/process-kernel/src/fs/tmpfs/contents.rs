//! A file's bytes, and the room that all files of a tree share.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bitflags::bitflags;
use parking_lot::{Mutex, MutexGuard};
use rustix::fs::{
    FallocateFlags, MemfdFlags, SealFlags, SeekFrom, fallocate, fcntl_add_seals, fcntl_get_seals, fstat,
    ftruncate, memfd_create, seek,
};
use rustix::io::Errno;

use crate::file::{Destination, Origin};
use crate::host;

const PAGE: u64 = 4096;

bitflags! {
    /// F_SEAL_* bits.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Seals: u32 {
        /// F_SEAL_SEAL
        const SEAL = 1;
        /// F_SEAL_SHRINK
        const SHRINK = 2;
        /// F_SEAL_GROW
        const GROW = 4;
        /// F_SEAL_WRITE
        const WRITE = 8;
        /// F_SEAL_FUTURE_WRITE
        const FUTURE_WRITE = 16;
    }
}

/// Bytes that the files of one tree may use together.
#[derive(Debug)]
pub(super) struct Space {
    limit: u64,
    used: AtomicU64,
}

impl Space {
    pub fn new(limit: u64) -> Self {
        Self { limit, used: AtomicU64::new(0) }
    }

    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    fn take(&self, bytes: u64) -> Result<(), Errno> {
        let fits = |used: u64| used.checked_add(bytes).filter(|used| *used <= self.limit);
        let outcome = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits);
        outcome.map(drop).map_err(|_| Errno::NOSPC)
    }

    fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// A regular file's bytes.
pub(super) struct Contents {
    space: Arc<Space>,
    sealable: bool,
    /// Made with the first byte: most small trees have many empty files, and each costs a descriptor of the worker.
    file: OnceLock<OwnedFd>,
    /// Held while the file changes, as Linux holds the inode's lock.
    extent: Mutex<Extent>,
}

/// How large a file is.
#[derive(Clone, Copy, Default)]
struct Extent {
    size: u64,
    /// Bytes taken from the tree's space: what the host last said the file occupies.
    charged: u64,
}

fn page_up(bytes: u64) -> u64 {
    bytes.div_ceil(PAGE).saturating_mul(PAGE)
}

impl Contents {
    pub fn new(space: Arc<Space>, sealable: bool) -> Self {
        Self { space, sealable, file: OnceLock::new(), extent: Mutex::default() }
    }

    pub fn sealable(&self) -> bool {
        self.sealable
    }

    pub fn size(&self) -> u64 {
        self.extent.lock().size
    }

    /// Bytes in use; holes don't count.
    pub fn occupied(&self) -> u64 {
        self.extent.lock().charged
    }

    /// The host's file.
    ///
    /// # Errors
    /// ENOSPC when the worker has no descriptor left.
    pub fn host_file(&self) -> Result<BorrowedFd<'_>, Errno> {
        if self.file.get().is_none() {
            let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
            let made = memfd_create("guest", flags).map_err(|_| Errno::NOSPC)?;
            // Should another thread have been faster, its file counts.
            let _ = self.file.set(made);
        }
        self.file.get().map(AsFd::as_fd).ok_or(Errno::NOSPC)
    }

    pub fn read(&self, position: u64, into: &mut Destination<'_>) -> Result<usize, Errno> {
        match self.file.get() {
            Some(file) => into.with_iovecs(|vector| host::preadv(file.as_fd(), vector, position)),
            None => Ok(0),
        }
    }

    /// Runs `change`, which may make the file occupy `most` bytes more and gives the new size.
    fn grow<T>(
        &self,
        mut extent: MutexGuard<'_, Extent>,
        most: u64,
        change: impl FnOnce(BorrowedFd<'_>) -> Result<(T, u64), Errno>,
    ) -> Result<T, Errno> {
        let file = self.host_file()?;
        self.space.take(most)?;
        let outcome = change(file);
        let occupied = fstat(file).map_or(extent.charged, |stat| stat.st_blocks as u64 * 512);
        self.settle(&mut extent, most, occupied);
        let (value, size) = outcome?;
        extent.size = size;
        Ok(value)
    }

    /// Replaces a reservation by what the file really occupies now.
    fn settle(&self, extent: &mut Extent, reserved: u64, occupied: u64) {
        let held = extent.charged + reserved;
        if occupied <= held {
            self.space.give_back(held - occupied);
            extent.charged = occupied;
        } else if self.space.take(occupied - held).is_ok() {
            extent.charged = occupied;
        } else {
            // Pages came into being through a mapping and there is no room left for them: what is held stays counted, the
            // next write to this tree fails.
            extent.charged = held;
        }
    }

    pub fn write(&self, position: u64, from: &mut Origin<'_>) -> Result<usize, Errno> {
        let length = from.remaining() as u64;
        if length == 0 {
            return Ok(0);
        }
        let end = position.checked_add(length).filter(|end| *end <= i64::MAX as u64).ok_or(Errno::FBIG)?;
        let extent = self.extent.lock();
        let size = extent.size;
        // Neither more than the touched pages, nor more than makes the whole file dense.
        let touched = page_up(end) - position / PAGE * PAGE;
        let dense = page_up(end.max(size)).saturating_sub(extent.charged);
        self.grow(extent, touched.min(dense), |file| {
            let count = from.with_iovecs(|vector| host::pwritev(file, vector, position))?;
            Ok((count, size.max(position + count as u64)))
        })
    }

    pub fn truncate(&self, size: u64) -> Result<(), Errno> {
        let extent = self.extent.lock();
        if size == extent.size && self.file.get().is_none() {
            return Ok(());
        }
        self.grow(extent, 0, |file| {
            ftruncate(file, size)?;
            Ok(((), size))
        })
    }

    pub fn allocate(&self, mode: u32, offset: u64, length: u64) -> Result<(), Errno> {
        let mode = FallocateFlags::from_bits_retain(mode);
        let extent = self.extent.lock();
        let end = offset.checked_add(length).ok_or(Errno::FBIG)?;
        let punches = mode.contains(FallocateFlags::PUNCH_HOLE);
        let most = if punches { 0 } else { page_up(end) - offset / PAGE * PAGE };
        let keeps_size = mode.contains(FallocateFlags::KEEP_SIZE);
        let size = if keeps_size { extent.size } else { extent.size.max(end) };
        self.grow(extent, most, |file| {
            fallocate(file, mode, offset, length)?;
            Ok(((), size))
        })
    }

    pub fn seek_data(&self, offset: u64, hole: bool) -> Result<u64, Errno> {
        let extent = self.extent.lock();
        let file = self.file.get().filter(|_| offset < extent.size).ok_or(Errno::NXIO)?;
        seek(file, if hole { SeekFrom::Hole(offset) } else { SeekFrom::Data(offset) })
    }

    pub fn seals(&self) -> Seals {
        if !self.sealable {
            return Seals::SEAL;
        }
        let seals = self.file.get().and_then(|file| fcntl_get_seals(file).ok());
        Seals::from_bits_truncate(seals.map_or(0, |seals| seals.bits()))
    }

    pub fn add_seals(&self, seals: Seals) -> Result<(), Errno> {
        if !self.sealable {
            return Err(Errno::PERM);
        }
        fcntl_add_seals(self.host_file()?, SealFlags::from_bits_retain(seals.bits()))
    }
}

impl Drop for Contents {
    fn drop(&mut self) {
        self.space.give_back(self.extent.get_mut().charged);
    }
}
