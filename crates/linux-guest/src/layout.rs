//! Where things are in guest-physical space.
//!
//! ```text
//!   0x500      descriptor table for the first instructions
//!   0x7000     boot parameters ("zero page")
//!   0x9000     page tables for the first instructions, three pages
//!   0x20000    command line
//!   0x9fc00    end of low memory
//!   0xe0000    ACPI tables
//!   1 MiB      memory, kernel; the initial file system at its end
//!   3 GiB      end of memory below 4 GiB
//!   0xd0000000 virtio devices, a page each
//!   0xfec00000 I/O APIC, local APICs
//!   4 GiB      the rest of memory
//! ```

use pages::{PAGE_SIZE, PageCount, PageIndex, PageRange};

pub(crate) const DESCRIPTORS: u64 = 0x500;
pub(crate) const ZERO_PAGE: u64 = 0x7000;
pub(crate) const PAGE_TABLES: u64 = 0x9000;
pub(crate) const COMMAND_LINE: u64 = 0x2_0000;
/// What Linux takes on x86 (COMMAND_LINE_SIZE), its end included.
pub(crate) const COMMAND_LINE_SIZE: usize = 2048;
pub(crate) const LOW_MEMORY_END: u64 = 0x9_fc00;
pub(crate) const ACPI: u64 = 0xe_0000;
pub(crate) const HIGH_MEMORY: u64 = 0x10_0000;
/// Memory ends here and goes on at [`ABOVE_HOLE`].
pub(crate) const HOLE: u64 = 0xc000_0000;
pub(crate) const ABOVE_HOLE: u64 = 1 << 32;
pub(crate) const VIRTIO: u64 = 0xd000_0000;
pub(crate) const VIRTIO_SIZE: u64 = PAGE_SIZE;
/// The interrupt line of the first virtio device.
pub(crate) const VIRTIO_INTERRUPT: u32 = 5;
/// Lines of the I/O APIC that virtio devices may use: up to its last.
pub(crate) const VIRTIO_DEVICES: usize = 24 - VIRTIO_INTERRUPT as usize;
pub(crate) const IO_APIC: u32 = 0xfec0_0000;
pub(crate) const LOCAL_APIC: u32 = 0xfee0_0000;
pub(crate) const SERIAL_PORT: u16 = 0x3f8;
pub(crate) const SERIAL_INTERRUPT: u32 = 4;

/// Pages for memory of `bytes`: the part below the hole and, if there is more, the part above it.
pub fn memory(bytes: u64) -> Vec<PageRange> {
    let range =
        |start: u64, bytes: u64| PageRange::new(PageIndex(start / PAGE_SIZE), PageCount(bytes / PAGE_SIZE));
    let low = range(0, bytes.min(HOLE));
    if bytes <= HOLE { vec![low] } else { vec![low, range(ABOVE_HOLE, bytes - HOLE)] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn much_memory_goes_on_above_the_hole() {
        assert_eq!(memory(256 << 20).len(), 1);
        let both = memory(5 << 30);
        assert_eq!(both[0].count.bytes(), HOLE);
        assert_eq!((both[1].start.address().0, both[1].count.bytes()), (ABOVE_HOLE, 2 << 30));
    }
}
