//! Blocks whose memory comes in while the guest runs already: how they are hidden, and who waits for them.
//!
//! A block that is still to come has no entry in the guest's page tables: a touch is a page fault, which waits
//! ([`Mm::page_fault`]). Everything that the worker itself does to memory behind a program's addresses goes by
//! [`Mm::pieces`], which waits, too. It may do so under the lock of the address space, since whoever brings memory in never
//! takes that lock; but where the range is known beforehand, [`Mm::arrive`] waits without it, so that nobody else is held up.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use guest_memory::{LetIn, Lost, Waits};
use pages::{Block, GuestPhysical, PAGE_SIZE};
use rustix::io::Errno;

use super::assignment::Extent;
use super::{AddressSpace, Mm, SavedMm};
use crate::object::RestoreError;

impl Mm {
    /// The pieces of `range` that have pages, in order. All of them are in.
    ///
    /// # Errors
    /// EFAULT when one will not come in: the process is ending.
    pub(crate) fn pieces(&self, space: &AddressSpace, range: Range<u64>) -> Result<Vec<Extent>, Errno> {
        self.arrivals
            .wait(space.assigned.blocks(&range).map(|(_, block)| block))
            .map_err(|Lost| Errno::FAULT)?;
        Ok(space.assigned.pieces(range))
    }

    /// Waits until what stands behind `range` is in; says whether that had to be waited for.
    ///
    /// # Errors
    /// As [`Mm::pieces`].
    pub(crate) fn arrive(&self, range: Range<u64>) -> Result<bool, Errno> {
        if self.arrivals.is_complete() {
            return Ok(false);
        }
        let behind: Vec<Block> = self.space.read().assigned.blocks(&range).map(|(_, block)| block).collect();
        self.arrivals.wait(behind).map_err(|Lost| Errno::FAULT)
    }

    /// Whether the block behind `address` came in late.
    pub(crate) fn came_late(&self, space: &AddressSpace, address: u64) -> bool {
        space.assigned.page(address).is_some_and(|page| self.arrivals.was_late(Block::containing(page)))
    }

    /// Waits until all of memory is in.
    ///
    /// # Errors
    /// EFAULT when it will not be.
    pub fn wait_for_all(&self) -> Result<(), Errno> {
        self.arrivals.wait_for_all().map_err(|Lost| Errno::FAULT)
    }

    /// Whether some of memory is still to come.
    pub fn is_late(&self) -> bool {
        !self.arrivals.is_complete()
    }

    /// Whoever waits for memory waits no longer, since the process ends.
    pub(crate) fn stop_waiting(&self) {
        self.arrivals.lose(None);
    }

    /// Why memory will not come in, when it will not: the process must not run on.
    pub fn loss(&self) -> Option<String> {
        self.arrivals.loss()
    }

    /// Guest code was left for the first time for something that it did: what of memory nobody needs yet may come in now.
    pub fn guest_left(&self) {
        self.arrivals.guest_left();
    }

    /// How much was waited for memory so far.
    pub fn waits(&self) -> Waits {
        self.arrivals.waits()
    }

    /// Takes the entries of what is still to come out of the page tables, each to be put back when its block is in. No vCPU
    /// runs yet.
    pub(super) fn hide_late_blocks(&self) -> Result<(), RestoreError> {
        let space = self.space.read();
        self.arrivals.hide(|coming| {
            let mut entries = HashMap::new();
            // By directory, since each copy may have to wait for who maps memory meanwhile.
            let mut directories: BTreeMap<u64, Vec<(usize, Block)>> = BTreeMap::new();
            for (number, block) in space.assigned.iter().filter(|(_, block)| coming.contains(block)) {
                let id = u32::try_from(block.0).unwrap_or(u32::MAX);
                let bad = RestoreError::BadReference { id, wanted: "page table" };
                let at = space.tables.block_entry(number).ok_or(bad)?.0;
                let place = ((at % PAGE_SIZE) / 8) as usize;
                directories.entry(at - at % PAGE_SIZE).or_default().push((place, block));
            }
            for (directory, late) in directories {
                let bad = |_| RestoreError::BadReference { id: 0, wanted: "page table" };
                let at = GuestPhysical(directory);
                let mut words = [0u64; (PAGE_SIZE / 8) as usize];
                self.memory.read(at, bytemuck::bytes_of_mut(&mut words)).map_err(bad)?;
                for (place, block) in late {
                    if let Some(word) = words.get_mut(place) {
                        entries.insert(block, (at + place as u64 * 8, std::mem::take(word)));
                    }
                }
                self.memory.write(at, bytemuck::bytes_of(&words)).map_err(bad)?;
            }
            let memory = self.memory.clone();
            // The directories are this process's own pages now, which nobody maps anew.
            Ok::<LetIn, RestoreError>(Box::new(move |block| match entries.get(&block) {
                Some((at, entry)) => memory.store_ready(*at, *entry),
                None => Ok(()),
            }))
        })
    }
}

impl SavedMm {
    /// The blocks behind what the process has mapped: those that may come in late.
    pub fn blocks(&self) -> impl Iterator<Item = Block> + '_ {
        self.assigned.iter().map(|(_, block)| block)
    }

    /// The block behind `address`.
    pub fn block_behind(&self, address: u64) -> Option<Block> {
        self.assigned.page(address).map(Block::containing)
    }
}

/// The page that `address` lies in.
pub(super) fn page_around(address: u64) -> Range<u64> {
    let page = address & !(PAGE_SIZE - 1);
    page..page.saturating_add(PAGE_SIZE)
}
