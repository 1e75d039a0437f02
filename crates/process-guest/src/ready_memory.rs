//! Memory that a spare machine has ready before it has a guest.
//!
//! The first blocks of guest-physical space that programs use are populated with zero pages, and touched from CPL3 by way of
//! page tables that only exist for that. On software KVM the shadow page tables which come of it are kept by what they
//! shadow, not by who made them:
//!
//! - those of a block that is mapped by one entry belong to the block,
//! - those of a block with a table of its own belong to that table, whose page follows from the block's number.
//!
//! So a guest whose tables map these blocks finds them, as long as the host leaves the pages where they are: it has one fault
//! for a block, where it had one for each eight pages at best. The tables made here let pages be read, not written; a
//! guest's own may permit more, which costs a fault at the first write to the page. On hardware KVM what is made ahead are the second-level
//! page tables.

use guest_memory::{Advice, GuestMemory, Protection, Source};
use machine::Exit;
use pages::{GuestPhysical, PAGE_SIZE, PageCount, PageIndex, PageRange};
use process_kernel::mm::{Block, layout};

use crate::cpu::SpareCpu;
use crate::guest::GuestError;

/// Blocks that are made ready: 40 MiB, which holds what the interpreter and libraries of a small function take.
const MOST: u64 = 20;

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

const GIB: u64 = 1 << 30;
/// Where the tables map what: blocks as a whole, blocks by pages, the code and behind it the doorbell.
const WHOLE_AT: u64 = 0;
const BY_PAGES_AT: u64 = GIB;
const CODE_AT: u64 = 2 * GIB;

/// Present, user, accessed, dirty.
const READ: u64 = 0b110_0101;
const WRITE: u64 = READ | 0b10;
const LARGE: u64 = 1 << 7;

/// Reads a byte of each page from rdi up to rsi, then leaves by the doorbell.
const TOUCH: [u8; 24] = [
    0x8a, 0x07, // mov al, [rdi]
    0x48, 0x81, 0xc7, 0x00, 0x10, 0x00, 0x00, // add rdi, 4096
    0x48, 0x39, 0xf7, // cmp rdi, rsi
    0x72, 0xf2, // jb -14
    0xa2, 0x00, 0x10, 0x00, 0x80, 0x00, 0x00, 0x00, 0x00, // mov [CODE_AT + 4096], al
    0xf4, // hlt
];

/// How many blocks are ready.
#[derive(Debug, Default)]
pub(crate) struct ReadyMemory(u64);

impl ReadyMemory {
    /// The pages that are ready.
    pub fn pages(&self) -> PageRange {
        PageRange::new(layout::FIRST_BLOCK.first(), PageCount(self.0 * Block::PAGES.0))
    }

    /// Makes another block ready; `false` when there are enough.
    pub fn grow(&mut self, memory: &GuestMemory, cpu: &mut SpareCpu) -> Result<bool, GuestError> {
        if self.0 == MOST {
            return Ok(false);
        }
        if self.0 == 0 {
            prepare_tables(memory)?;
        }
        let block = Block(layout::FIRST_BLOCK.0 + self.0);
        let table = PageIndex(layout::TABLES_BLOCK.first().0 + block.0);
        for range in [PageRange::new(table, PageCount(1)), block.pages()] {
            memory.map(range, Source::Anonymous, Protection::ReadWrite).map_err(GuestError::ReadyMemory)?;
        }
        // When the kernel cuts a mapping that could hold a huge page (mm/huge_memory.c, vma_adjust_trans_huge), KVM forgets all
        // 2 MiB around the cut. So no mapping may have a whole block: one half differs in its flags from the other. A kernel
        // without huge pages refuses this and has no need of it.
        let half = PageRange::new(block.first(), PageCount(Block::PAGES.0 / 2));
        let _ = memory.advise(half, Advice::NoHugePage);
        memory.advise(block.pages(), Advice::PopulateWrite).map_err(GuestError::ReadyMemory)?;
        let entries: Vec<u8> =
            block.pages().iter().flat_map(|page| (page.address().0 | READ).to_le_bytes()).collect();
        write(memory, table.address(), &entries)?;
        write_entry(memory, BY_PAGES, block.0, table.address().0 | WRITE)?;
        write_entry(memory, WHOLE, block.0, block.first().address().0 | WRITE | LARGE)?;
        for base in [WHOLE_AT, BY_PAGES_AT] {
            let start = base + block.first().address().0;
            let end = start + Block::PAGES.bytes();
            match cpu.run_at(ROOT.address(), CODE_AT, [start, end]) {
                Ok(Exit::MmioWrite { address }) if address == layout::DOORBELL_PAGE.address().0 => {}
                Ok(other) => return Err(GuestError::NotTouched(format!("{other:?}"))),
                Err(error) => return Err(error.into()),
            }
        }
        self.0 += 1;
        Ok(true)
    }

    /// Gives all of it back.
    pub fn give_up(&mut self, memory: &GuestMemory) -> Result<(), GuestError> {
        let pages = self.pages();
        self.0 = 0;
        memory.release(pages).map_err(GuestError::ReadyMemory)
    }
}

fn write(memory: &GuestMemory, at: GuestPhysical, bytes: &[u8]) -> Result<(), GuestError> {
    memory.write(at, bytes).map_err(GuestError::SupervisorPage)
}

fn write_entry(memory: &GuestMemory, table: PageIndex, index: u64, entry: u64) -> Result<(), GuestError> {
    write(memory, table.address() + index * 8, &entry.to_le_bytes())
}

fn prepare_tables(memory: &GuestMemory) -> Result<(), GuestError> {
    let own = PageRange::between(PageIndex(0), PageIndex(layout::FIRST_FREE_PAGE));
    memory.map(own, Source::Anonymous, Protection::ReadWrite).map_err(GuestError::ReadyMemory)?;
    write(memory, CODE.address(), &TOUCH)?;
    let to = |page: PageIndex| page.address().0 | WRITE;
    write_entry(memory, ROOT, 0, to(DIRECTORIES))?;
    write_entry(memory, DIRECTORIES, WHOLE_AT / GIB, to(WHOLE))?;
    write_entry(memory, DIRECTORIES, BY_PAGES_AT / GIB, to(BY_PAGES))?;
    write_entry(memory, DIRECTORIES, CODE_AT / GIB, to(CODE_DIRECTORY))?;
    write_entry(memory, CODE_DIRECTORY, 0, to(CODE_TABLE))?;
    write_entry(memory, CODE_TABLE, 0, CODE.address().0 | READ)?;
    write_entry(memory, CODE_TABLE, 1, to(layout::DOORBELL_PAGE))
}

const _: () = assert!(CODE.0 < layout::FIRST_FREE_PAGE && layout::FIRST_BLOCK.0 + MOST < Block::PAGES.0);
const _: () = assert!(CODE_AT + PAGE_SIZE == 0x8000_1000);
