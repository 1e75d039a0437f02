//! Memory that a spare machine has ready before it has a guest.
//!
//! Pages of guest-physical space that the next guest is likely to touch (its driver says which) are populated with zero pages,
//! and touched from CPL3 by way of page tables that only exist for that. On software KVM the shadow page tables which come of
//! it are kept by what they shadow, not by who made them:
//!
//! - those of a block that is mapped by one entry belong to the block,
//! - those of a block with a table of its own belong to that table, whose page follows from the block's number.
//!
//! So a guest whose tables map these blocks finds them, as long as the host leaves the pages where they are: it has one fault
//! for a block, where it had one for each eight pages at best. The tables made here let pages be written that the driver says a guest
//! may write, others be read: a guest's own may permit more, which costs a fault at the first write to the page; they must not permit less,
//! since a shadow page that is there is used. On hardware KVM what is made ahead are the second-level page tables.
//!
//! Everything else stays reserved: what a restore maps there replaces no memory, which costs it least.

use std::collections::VecDeque;

use guest_memory::{Advice, GuestMemory, Protection, Source};
use machine::Exit;
use pages::{GuestPhysical, PAGE_SIZE, PageCount, PageIndex, PageRange, PageSet};
use process_kernel::mm::{Block, layout};

use crate::cpu::SpareCpu;
use crate::guest::GuestError;

/// Blocks that can have memory ready: those whose tables have their page in the block of tables, and that programs use.
const BLOCKS: std::ops::Range<u64> = layout::FIRST_BLOCK.0..Block::PAGES.0;

/// Pages below [`layout::FIRST_FREE_PAGE`] that nothing else uses, and that no guest ever uses for its page tables: shadow pages
/// made for these tables may outlive them.
const ROOT: PageIndex = PageIndex(8);
const DIRECTORIES: PageIndex = PageIndex(9);
/// Maps blocks as a whole, writable.
const WHOLE: PageIndex = PageIndex(10);
/// Leads to the blocks' own tables.
const BY_PAGES: PageIndex = PageIndex(11);
const CODE_DIRECTORY: PageIndex = PageIndex(12);
const CODE_TABLE: PageIndex = PageIndex(13);
const CODE: PageIndex = PageIndex(14);
/// The addresses to touch: as many as a block has pages.
const LIST: PageIndex = PageIndex(15);

const GIB: u64 = 1 << 30;
/// Where the tables map what: blocks as a whole, blocks by pages, the code, behind it the doorbell, and behind that the list.
const WHOLE_AT: u64 = 0;
const BY_PAGES_AT: u64 = GIB;
const CODE_AT: u64 = 2 * GIB;
const LIST_AT: u64 = CODE_AT + 2 * PAGE_SIZE;

/// Present, user, accessed, dirty.
const READ: u64 = 0b110_0101;
const WRITE: u64 = READ | 0b10;
const LARGE: u64 = 1 << 7;

/// Reads a byte at each of the addresses that are listed from rdi up to rsi, then leaves by the doorbell.
const TOUCH: [u8; 24] = [
    0x48, 0x8b, 0x07, // mov rax, [rdi]
    0x8a, 0x00, // mov al, [rax]
    0x48, 0x83, 0xc7, 0x08, // add rdi, 8
    0x48, 0x39, 0xf7, // cmp rdi, rsi
    0x72, 0xf2, // jb -14
    0xa2, 0x00, 0x10, 0x00, 0x80, 0x00, 0x00, 0x00, 0x00, // mov [CODE_AT + 4096], al
    0xf4, // hlt
];

/// What is ready, and what is to be.
#[derive(Debug, Default)]
pub(crate) struct ReadyMemory {
    ready: PageSet,
    /// Pages, ready or wanted, that tables by pages let be written.
    writable: PageSet,
    /// Block by block; each has some.
    wanted: VecDeque<(Block, PageSet)>,
    /// Whether the tables are there.
    has_tables: bool,
}

impl ReadyMemory {
    /// The pages that are ready. Nothing else of guest memory is accessible but the pages of page tables.
    pub fn pages(&self) -> &PageSet {
        &self.ready
    }

    /// Those of them that tables by pages let be written.
    pub fn writable(&self) -> &PageSet {
        &self.writable
    }

    /// Lets `pages` be made ready, block by block, those of `writable` to be written. Those that can't be are left out.
    pub fn want(&mut self, pages: &PageSet, writable: &PageSet) {
        let pages = pages.difference(&self.ready);
        self.writable = self.writable.intersection(&self.ready).union(&writable.intersection(&pages));
        let within = |block: Block| (block, pages.within(block.pages()).collect::<PageSet>());
        self.wanted = BLOCKS.map(Block).map(within).filter(|(_, pages)| !pages.is_empty()).collect();
    }

    /// One past the last page that memory slots must cover for what is wanted next.
    pub fn end(&self) -> PageCount {
        self.wanted.front().map_or(PageCount(0), |(_, pages)| PageCount(pages.end().0))
    }

    /// Makes the wanted pages of another block ready; `false` when there are no more.
    pub fn grow(&mut self, memory: &GuestMemory, cpu: &mut SpareCpu) -> Result<bool, GuestError> {
        let Some((block, pages)) = self.wanted.pop_front() else { return Ok(false) };
        if !self.has_tables {
            prepare_tables(memory)?;
            self.has_tables = true;
        }
        let table = PageIndex(layout::TABLES_BLOCK.first().0 + block.0);
        map(memory, PageRange::new(table, PageCount(1)))?;
        let half = PageRange::new(block.first(), PageCount(Block::PAGES.0 / 2));
        for run in pages.runs() {
            map(memory, *run)?;
            // When the kernel cuts a mapping that could hold a huge page (mm/huge_memory.c, vma_adjust_trans_huge), KVM forgets
            // all 2 MiB around the cut. So no mapping may have a whole block: one half differs in its flags from the other. A
            // kernel without huge pages refuses this and has no need of it.
            let _ = memory.advise(run.intersection(half), Advice::NoHugePage);
            memory.advise(*run, Advice::PopulateWrite).map_err(GuestError::ReadyMemory)?;
        }
        let flags = |page| if self.writable.contains(page) { WRITE } else { READ };
        let entries = block.pages().iter().map(|page| page.address().0 | flags(page));
        write_words(memory, table, entries)?;
        write_entry(memory, BY_PAGES, block.0, table.address().0 | WRITE)?;
        write_entry(memory, WHOLE, block.0, block.first().address().0 | WRITE | LARGE)?;
        for base in [WHOLE_AT, BY_PAGES_AT] {
            write_words(memory, LIST, pages.pages().map(|page| base + page.address().0))?;
            let list = [LIST_AT, LIST_AT + pages.count().0 * 8];
            match cpu.run_at(ROOT.address(), CODE_AT, list) {
                Ok(Exit::MmioWrite { address }) if address == layout::DOORBELL_PAGE.address().0 => {}
                Ok(other) => return Err(GuestError::NotTouched(format!("{other:?}"))),
                Err(error) => return Err(error.into()),
            }
        }
        self.ready.extend(pages.runs().iter().copied());
        Ok(true)
    }

    /// Gives all of it back.
    pub fn give_up(&mut self, memory: &GuestMemory) -> Result<(), GuestError> {
        self.wanted.clear();
        self.writable = PageSet::new();
        let ready = std::mem::take(&mut self.ready);
        ready.runs().iter().try_for_each(|run| memory.release(*run)).map_err(GuestError::ReadyMemory)
    }
}

fn map(memory: &GuestMemory, range: PageRange) -> Result<(), GuestError> {
    memory.map(range, Source::Anonymous, Protection::ReadWrite).map_err(GuestError::ReadyMemory)
}

/// Writes `words` from the beginning of `page` on.
fn write_words(
    memory: &GuestMemory,
    page: PageIndex,
    words: impl Iterator<Item = u64>,
) -> Result<(), GuestError> {
    write(memory, page.address(), &words.flat_map(u64::to_le_bytes).collect::<Vec<u8>>())
}

fn write(memory: &GuestMemory, at: GuestPhysical, bytes: &[u8]) -> Result<(), GuestError> {
    memory.write(at, bytes).map_err(GuestError::SupervisorPage)
}

fn write_entry(memory: &GuestMemory, table: PageIndex, index: u64, entry: u64) -> Result<(), GuestError> {
    write(memory, table.address() + index * 8, &entry.to_le_bytes())
}

fn prepare_tables(memory: &GuestMemory) -> Result<(), GuestError> {
    map(memory, PageRange::between(PageIndex(0), PageIndex(layout::FIRST_FREE_PAGE)))?;
    write(memory, CODE.address(), &TOUCH)?;
    let to = |page: PageIndex| page.address().0 | WRITE;
    write_entry(memory, ROOT, 0, to(DIRECTORIES))?;
    write_entry(memory, DIRECTORIES, WHOLE_AT / GIB, to(WHOLE))?;
    write_entry(memory, DIRECTORIES, BY_PAGES_AT / GIB, to(BY_PAGES))?;
    write_entry(memory, DIRECTORIES, CODE_AT / GIB, to(CODE_DIRECTORY))?;
    write_entry(memory, CODE_DIRECTORY, 0, to(CODE_TABLE))?;
    write_entry(memory, CODE_TABLE, 0, CODE.address().0 | READ)?;
    write_entry(memory, CODE_TABLE, 1, to(layout::DOORBELL_PAGE))?;
    write_entry(memory, CODE_TABLE, 2, LIST.address().0 | READ)
}

const _: () = assert!(LIST.0 < layout::FIRST_FREE_PAGE && Block::PAGES.0 * 8 == PAGE_SIZE);
const _: () = assert!(CODE_AT + PAGE_SIZE == 0x8000_1000);
