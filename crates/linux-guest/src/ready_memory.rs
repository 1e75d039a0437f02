//! Memory that a spare machine has ready before it has a guest.
//!
//! Pages that the next guest is likely to touch (whoever keeps the machine says which) are populated with zero pages, and touched
//! by a short program on the machine's processor, in a mode without paging. What KVM makes of that are second-level page tables. They
//! belong to guest-physical memory, so the guest finds them whatever its processor's state is, for as long as the host leaves
//! the pages where they are: it has no nested page fault for any of them, each of which is an exit otherwise. The program writes,
//! so that writes are permitted, and changes nothing: what is ready is zero.
//!
//! `KVM_PRE_FAULT_MEMORY` (Linux 6.12) would do the same without a program, but as for a read; one way for all kernels is kept.
//!
//! Everything else stays reserved: what a restore maps there replaces no memory, which costs it least.

use std::collections::VecDeque;

use guest_memory::{AccessError, Advice, GuestMemory, Protection, Source};
use machine::SystemVcpu;
use pages::{Block, PAGE_SIZE, PageCount, PageIndex, PageRange, PageSet};

use crate::error::LinuxGuestError;
use crate::layout;

/// The program's own pages, in low memory that is mapped anew whatever becomes of the machine: they are never ready.
const CODE: PageIndex = PageIndex(0x10);
/// The runs to touch, each as the addresses of its beginning and its end: more than a block can have.
const LIST: PageIndex = PageIndex(0x11);

/// Touches a byte of each page of the runs that are listed from esi up to edi, none of them empty; then writes to a port.
const TOUCH: [u8; 31] = [
    0x39, 0xfe, // cmp esi, edi
    0x73, 0x16, // jae 22
    0x8b, 0x06, // mov eax, [esi]
    0x8b, 0x4e, 0x04, // mov ecx, [esi + 4]
    0x83, 0xc6, 0x08, // add esi, 8
    0x80, 0x08, 0x00, // or byte [eax], 0
    0x05, 0x00, 0x10, 0x00, 0x00, // add eax, 4096
    0x39, 0xc8, // cmp eax, ecx
    0x72, 0xf4, // jb -12
    0xeb, 0xe6, // jmp -26
    0xe6, 0x80, // out 0x80, al
    0xf4, // hlt
    0xeb, 0xfd, // jmp -3
];

/// What is ready, and what is to be.
#[derive(Debug, Default)]
pub(crate) struct ReadyMemory {
    ready: PageSet,
    /// Block by block; each has some.
    wanted: VecDeque<(Block, PageSet)>,
    /// Whether the program is there.
    has_program: bool,
}

impl ReadyMemory {
    /// The pages that are ready. Nothing else of guest memory is accessible but the program's pages.
    pub fn pages(&self) -> &PageSet {
        &self.ready
    }

    /// Lets `pages` be made ready, block by block. Those that can't be are left out: the program's own, and what lies beyond
    /// its 32 bits or the machine's `memory`.
    pub fn want(&mut self, pages: &PageSet, memory: &[PageRange]) {
        let below = PageRange::between(PageIndex(0), PageIndex(layout::HOLE / PAGE_SIZE));
        let own: PageSet = [PageRange::between(CODE, PageIndex(LIST.0 + 1))].into_iter().collect();
        let usable: PageSet = memory.iter().map(|range| range.intersection(below)).collect();
        let pages = pages.intersection(&usable).difference(&own).difference(&self.ready);
        let blocks = Block::meeting(PageRange::between(PageIndex(0), pages.end()));
        let within = |block: Block| (block, pages.within(block.pages()).collect::<PageSet>());
        self.wanted = blocks.map(within).filter(|(_, pages)| !pages.is_empty()).collect();
    }

    /// Makes the wanted pages of another block ready; `false` when there are no more.
    pub fn grow(
        &mut self,
        memory: &GuestMemory,
        processor: &mut SystemVcpu,
    ) -> Result<bool, LinuxGuestError> {
        let Some((block, pages)) = self.wanted.pop_front() else { return Ok(false) };
        if !self.has_program {
            map(memory, PageRange::between(CODE, PageIndex(LIST.0 + 1)))?;
            write(memory, CODE, &TOUCH)?;
            self.has_program = true;
        }
        let half = PageRange::new(block.first(), PageCount(Block::PAGES.0 / 2));
        for run in pages.runs() {
            map(memory, *run)?;
            // When the kernel cuts a mapping that could hold a huge page (mm/huge_memory.c, vma_adjust_trans_huge), KVM forgets
            // all 2 MiB around the cut. So no mapping may have a whole block: one half differs in its flags from the other. A
            // kernel without huge pages refuses this and has no need of it.
            let _ = memory.advise(run.intersection(half), Advice::NoHugePage);
            memory.advise(*run, Advice::PopulateWrite)?;
        }
        let addresses = pages.runs().iter().flat_map(|run| [run.start.address().0, run.end().address().0]);
        let list: Vec<u8> = addresses.flat_map(|address| (address as u32).to_le_bytes()).collect();
        write(memory, LIST, &list)?;
        let [entry, first] = [CODE, LIST].map(|page| page.address().0 as u32);
        processor.run_flat(entry, [first, first + list.len() as u32])?;
        self.ready.extend(pages.runs().iter().copied());
        Ok(true)
    }
}

fn map(memory: &GuestMemory, range: PageRange) -> Result<(), LinuxGuestError> {
    Ok(memory.map(range, Source::Anonymous, Protection::ReadWrite)?)
}

fn write(memory: &GuestMemory, page: PageIndex, bytes: &[u8]) -> Result<(), LinuxGuestError> {
    memory.write(page.address(), bytes).map_err(|source: AccessError| LinuxGuestError::NotReady { source })
}

// A block has at most half as many runs as pages, and the program's addresses have 32 bits.
const _: () = assert!(Block::PAGES.0 / 2 * 8 <= PAGE_SIZE && layout::HOLE < 1 << 32);

#[cfg(test)]
mod tests {
    use super::*;

    fn set(runs: &[(u64, u64)]) -> PageSet {
        runs.iter().map(|(start, end)| PageRange::between(PageIndex(*start), PageIndex(*end))).collect()
    }

    #[test]
    fn what_the_program_can_not_touch_is_left_out() {
        let hole = layout::HOLE / PAGE_SIZE;
        let mut ready = ReadyMemory::default();
        let memory = layout::memory(4 << 30);
        ready.want(&set(&[(0, 0x20), (510, 514), (hole - 1, hole + 1), (1 << 20, (1 << 20) + 5)]), &memory);
        let wanted: Vec<_> = ready.wanted.iter().map(|(block, pages)| (block.0, pages.clone())).collect();
        let (first, last) = (set(&[(0, 0x10), (0x12, 0x20), (510, 512)]), set(&[(hole - 1, hole)]));
        assert_eq!(wanted, [(0, first), (1, set(&[(512, 514)])), (hole / 512 - 1, last)]);
        ready.want(&set(&[(600, 900)]), &layout::memory(3 << 20));
        assert_eq!(ready.wanted, [(Block(1), set(&[(600, 768)]))]);
    }
}
