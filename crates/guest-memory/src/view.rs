//! Guest memory for the rust-vmm project's crates, whose devices and loaders reach it through the traits of `vm-memory`.
//!
//! Unlike [`crate::GuestMemory::read`], such an access is an ordinary load or store: where the file behind a page was cut
//! short it raises SIGBUS, which ends the process. That is for a virtual machine monitor with one guest to accept.

use std::ops::Deref;
use std::sync::Arc;

use pages::PageRange;
use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

use crate::{GuestMemory, MapError};

/// Ranges of guest memory, readable and writable, as [`vm_memory::GuestMemory`]. Cheap to clone.
#[derive(Clone, Debug)]
pub struct MemoryView {
    regions: GuestMemoryMmap<()>,
    /// The regions lie in its reservation.
    _memory: Arc<GuestMemory>,
}

impl MemoryView {
    /// A view of `ranges`, all of which must be mapped for reading and writing while it is used.
    ///
    /// # Errors
    /// [`MapError::OutOfRange`] when a range is empty, overlaps another or lies outside the reservation.
    pub fn new(memory: &Arc<GuestMemory>, ranges: &[PageRange]) -> Result<Self, MapError> {
        let reserved = memory.reserved();
        let mut regions = Vec::new();
        for range in ranges {
            let wrong = || MapError::OutOfRange { range: *range, reserved };
            if range.count.0 == 0 || range.end().0 > reserved.0 {
                return Err(wrong());
            }
            let address = range.start.address();
            let host = memory.host_address(address) as *mut u8;
            let flags = libc::MAP_PRIVATE | libc::MAP_NORESERVE;
            // SAFETY: the range lies in the reservation, which `_memory` keeps for as long as the region; what is mapped there
            // may change, but never to nothing. The region does not unmap it.
            let region = unsafe {
                MmapRegion::build_raw(
                    host,
                    range.count.bytes() as usize,
                    libc::PROT_READ | libc::PROT_WRITE,
                    flags,
                )
            };
            let region = region.map_err(|_| wrong())?;
            regions.push(GuestRegionMmap::new(region, GuestAddress(address.0)).ok_or_else(wrong)?);
        }
        let whole = MapError::OutOfRange { range: PageRange::new(pages::PageIndex(0), reserved), reserved };
        let regions = GuestMemoryMmap::from_regions(regions).map_err(|_| whole)?;
        Ok(Self { regions, _memory: memory.clone() })
    }
}

impl Deref for MemoryView {
    type Target = GuestMemoryMmap<()>;

    fn deref(&self) -> &Self::Target {
        &self.regions
    }
}

#[cfg(test)]
mod tests {
    use pages::{GuestPhysical, PageCount, PageIndex};
    use vm_memory::Bytes;

    use super::*;
    use crate::{Protection, Source};

    #[test]
    fn what_one_side_writes_the_other_reads() {
        let memory = Arc::new(GuestMemory::reserve(PageCount(4)).unwrap());
        let range = PageRange::new(PageIndex(1), PageCount(2));
        memory.map(range, Source::Anonymous, Protection::ReadWrite).unwrap();
        let view = MemoryView::new(&memory, &[range]).unwrap();
        view.write_slice(b"hello", GuestAddress(4096 + 7)).unwrap();
        let mut bytes = [0; 5];
        memory.read(GuestPhysical(4096 + 7), &mut bytes).unwrap();
        assert_eq!(&bytes, b"hello");
        assert!(view.write_slice(b"x", GuestAddress(3 * 4096)).is_err());
        let outside = PageRange::new(PageIndex(3), PageCount(2));
        assert!(MemoryView::new(&memory, &[outside]).is_err());
    }
}
