//! The balloon (virtio 1.2, 5.5), for its reports of free pages (5.5.6.7): the guest names memory that it has no use for, and
//! takes it back by using it. Until then the host has it; when it comes back it is zero.
//!
//! The balloon itself stays empty: nobody asks a guest for more than what it has no use for.

use pages::{PAGE_SIZE, PageCount, PageIndex, PageRange};
use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemoryBackend};

use super::{Broken, Device, Memory};

/// VIRTIO_BALLOON_F_REPORTING (virtio 1.2, 5.5.3).
const REPORTING: u64 = 1 << 5;
/// The queue of the reports: the third, since the device has neither statistics nor hints (virtio 1.2, 5.5.2).
const REPORTS: usize = 2;
/// Length of the configuration: pages wanted, pages had, the command of hints, the value of poisoned memory.
const CONFIGURATION: usize = 16;

/// What becomes of free pages; it gives back those that it can.
pub(crate) type GiveBack = Box<dyn FnMut(PageRange) + Send>;

/// The device.
pub(crate) struct Balloon {
    /// Shorter runs of pages are left where they are: each that is given back may cost the host a mapping.
    least: PageCount,
    give_back: GiveBack,
}

impl Balloon {
    pub fn new(least: PageCount, give_back: GiveBack) -> Self {
        Self { least, give_back }
    }

    /// The guest has no use for `bytes` from `address` on.
    fn report(&mut self, memory: &Memory, address: GuestAddress, bytes: u32) -> Result<(), Broken> {
        if !memory.check_range(address, bytes as usize) {
            return Err(Broken(format!("free memory at {:#x}, where there is none", address.0)));
        }
        // What a page has besides is in use.
        let start = PageIndex(address.0.div_ceil(PAGE_SIZE));
        let end = PageIndex((address.0 + u64::from(bytes)) / PAGE_SIZE);
        if start < end && PageRange::between(start, end).count >= self.least {
            (self.give_back)(PageRange::between(start, end));
        }
        Ok(())
    }
}

impl Device for Balloon {
    fn kind(&self) -> u32 {
        virtio_bindings::virtio_ids::VIRTIO_ID_BALLOON
    }

    fn features(&self) -> u64 {
        REPORTING
    }

    fn queue_sizes(&self) -> &'static [u16] {
        // Linux reports 32 runs at once.
        &[16, 16, 64]
    }

    fn configuration(&self) -> Vec<u8> {
        vec![0; CONFIGURATION]
    }

    fn serve(&mut self, memory: &Memory, queues: &mut [Queue], index: usize) -> Result<bool, Broken> {
        let Some(queue) = queues.get_mut(index) else { return Ok(false) };
        let mut used = false;
        while let Some(chain) = queue.pop_descriptor_chain(memory) {
            let head = chain.head_index();
            // Pages that are put into the balloon or taken out of it: nobody asked for them, they stay the guest's.
            if index == REPORTS {
                for run in chain.writable() {
                    self.report(memory, run.addr(), run.len())?;
                }
            }
            queue.add_used(memory, head, 0)?;
            used = true;
        }
        Ok(used && queue.needs_notification(memory)?)
    }
}
