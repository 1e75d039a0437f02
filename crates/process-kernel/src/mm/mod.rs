//! The guest's memory: areas, the guest-physical pages behind them, and the page tables between.
//!
//! Three layers, each decided by the one above:
//! 1. [`vma`]: what the program mapped (Linux's view);
//! 2. [`assignment`]: which guest-physical page stands behind a virtual page, once given, kept for the life of the process;
//! 3. the host mapping at that guest-physical page ([`guest_memory`]): its source and protection always follow layer 1, so
//!    the guest's accesses through KVM and the host kernel's accesses for system calls obey the same rules.
//!
//! Page-table entries are written when a block of pages is assigned and permit everything, until the guest is saved: those of a
//! snapshot permit what its areas do; see [`page_tables`].

mod access;
mod ahead;
mod assignment;
mod fault;
mod growth;
mod late;
mod map;
mod page_tables;
mod physical;
mod placing;
mod save;
mod vma;

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use guest_memory::{Arrivals, GuestMemory, MapError, Protection, Source};
use pages::{GuestPhysical, PageCount, PageIndex, PageRange, PageSet};
use parking_lot::RwLock;
use rustix::io::Errno;

pub use access::MAX_STRING;
pub use fault::{FaultAccess, FaultOutcome, SegvCode};
pub use map::{MapRequest, Placement};
pub use save::{ImageRegion, ImageSource, MappedFiles, MemoryImage, SavedMm};
pub use vma::{Access, Backing, Vma, VmaMap};

use ahead::Credit;
use assignment::Assignments;
use growth::Growth;
use page_tables::{BlockEntries, Entry, PageTables, TableError, TablePages};
pub use pages::Block;
use physical::{BLOCK_PAGES, BLOCK_SIZE, PhysicalPages};

/// The address map of the lower half, and of the supervisor window (docs/process-guest.md).
pub mod layout {
    use super::Block;

    /// Lowest address that a program can map (vm.mmap_min_addr).
    pub const LOWEST: u64 = 0x1_0000;
    /// One past the highest user address.
    pub const USER_END: u64 = 0x7f7f_ffff_f000;
    /// Top of the main thread's stack.
    pub const STACK_TOP: u64 = 0x7f7f_ffff_0000;
    /// mmap areas of files are placed below this, downwards: room for a stack of 1 GiB and a guard gap.
    pub const MMAP_TOP: u64 = 0x7f7f_b000_0000;
    /// Anonymous ones are placed below this: apart from files, so that what is written and what is only read seldom share a
    /// block of 2 MiB (docs/restore.md).
    pub const ANONYMOUS_TOP: u64 = 0x7f7e_8000_0000;
    /// What /proc/self/maps calls that.
    pub const STACK_NAME: &str = "[stack]";
    /// Position-independent programs are loaded from here.
    pub const PROGRAM_BASE: u64 = 0x5555_5555_4000;
    /// Program interpreters (the dynamic loader) are loaded from here.
    pub const INTERPRETER_BASE: u64 = 0x7f7f_c000_0000;
    /// The vDSO goes here if it can: above the loaded interpreter, below the stack.
    pub const VDSO_HINT: u64 = 0x7f7f_ef00_0000;
    /// Supervisor pages: guest-physical page `g` of the kernel's own appears at `SUPERVISOR_BASE + g`.
    pub const SUPERVISOR_BASE: u64 = 0x7f80_0000_0000;
    /// Guest-physical pages below this belong to the entry stubs and the page-table root.
    pub const FIRST_FREE_PAGE: u64 = 16;
    /// The guest-physical block whose pages are the page tables of the first 512 blocks, in order.
    pub const TABLES_BLOCK: Block = Block(1);
    /// Blocks from here on stand behind what programs map. Those before are the worker's own.
    pub const FIRST_BLOCK: Block = Block(2);
    /// Guest-physical page of the entry stubs.
    pub const STUB_PAGE: u64 = 2;
    /// Guest-physical page that no memory slot covers: a store to it leaves guest code.
    pub const DOORBELL_PAGE: pages::PageIndex = pages::PageIndex(1 << 25);
    /// Guest-physical page of the page-table root.
    pub const ROOT_PAGE: u64 = 1;
}

/// KVM's side of guest-physical memory; implemented by the machine, and by a no-op where there is none (tests, fuzzing).
pub trait MemorySlots: Send + Sync {
    /// Makes sure that memory slots cover the first `pages` of guest-physical space.
    ///
    /// # Errors
    /// ENOMEM when KVM refuses another slot.
    fn cover(&self, pages: PageCount) -> Result<(), Errno>;

    /// Makes KVM forget every shadow page, so that changed page-table entries count.
    ///
    /// # Errors
    /// EIO when KVM refuses.
    fn drop_shadow_pages(&self) -> Result<(), Errno>;
}

/// Slots for a guest memory that no KVM uses.
#[derive(Debug, Default)]
pub struct NoSlots;

impl MemorySlots for NoSlots {
    fn cover(&self, _: PageCount) -> Result<(), Errno> {
        Ok(())
    }
    fn drop_shadow_pages(&self) -> Result<(), Errno> {
        Ok(())
    }
}

/// The address space of the guest's process.
pub struct Mm {
    memory: Arc<GuestMemory>,
    slots: Arc<dyn MemorySlots>,
    space: RwLock<AddressSpace>,
    /// What of memory is still to come: see [`late`].
    arrivals: Arc<Arrivals>,
    /// Whether memory came from a snapshot: then untouched pages may still have content.
    restored: bool,
}

/// What the lock protects.
pub(crate) struct AddressSpace {
    pub areas: VmaMap,
    pub assigned: Assignments,
    pub physical: PhysicalPages,
    pub tables: PageTables,
    /// Start of the heap, and its current end (brk).
    pub heap: Range<u64>,
    /// Virtual blocks whose pages have entries of their own, which permit no more than the areas did when they were written:
    /// see [`fault`]. All other entries permit everything.
    pub strict: BTreeSet<u64>,
    /// Where the areas end that are threads' stacks (MAP_STACK). Not saved: it only concerns memory not touched yet.
    pub stacks: BTreeSet<u64>,
    /// For memory that is in place ahead of the program: see [`ahead`].
    pub credit: Credit,
    /// Of a restored process: see [`growth`].
    pub growth: Growth,
    /// Blocks handed out for areas that have one of their own: see [`placing`].
    pub apart: usize,
}

/// Guest-physical space that table pages are taken from; they need zeroed, writable host memory.
struct TableArena<'a> {
    memory: &'a GuestMemory,
    physical: &'a mut PhysicalPages,
}

impl TableArena<'_> {
    fn zeroed(&self, page: PageIndex) -> Option<PageIndex> {
        let range = PageRange::new(page, PageCount(1));
        self.memory.map(range, Source::Anonymous, Protection::ReadWrite).ok()?;
        Some(page)
    }
}

impl TablePages for TableArena<'_> {
    fn table_page(&mut self) -> Option<PageIndex> {
        let page = self.physical.allocate_own()?;
        self.zeroed(page)
    }

    fn block_table(&mut self, block: Block) -> Option<PageIndex> {
        // Known from the block's number alone, as far as that goes: a spare worker can make the tables' shadow pages before
        // it has a guest.
        if block.0 < BLOCK_PAGES {
            return self.zeroed(PageIndex(layout::TABLES_BLOCK.first().0 + block.0));
        }
        self.table_page()
    }
}

impl From<TableError> for Errno {
    fn from(_: TableError) -> Self {
        Self::NOMEM
    }
}

pub(crate) fn errno_of(error: &MapError) -> Errno {
    match error {
        MapError::OutOfRange { .. } => Errno::NOMEM,
        MapError::Host { source, .. } => source.raw_os_error().map_or(Errno::NOMEM, Errno::from_raw_os_error),
    }
}

impl Mm {
    /// An empty address space over `memory`, whose first [`layout::FIRST_FREE_PAGE`] pages are made ready for the entry
    /// stubs and the page-table root.
    ///
    /// # Errors
    /// ENOMEM and the like from the host.
    pub fn new(memory: Arc<GuestMemory>, slots: Arc<dyn MemorySlots>) -> Result<Self, Errno> {
        let kernel = PageRange::between(PageIndex(0), PageIndex(layout::FIRST_FREE_PAGE));
        memory.map(kernel, Source::Anonymous, Protection::ReadWrite).map_err(|error| errno_of(&error))?;
        slots.cover(PageCount(layout::FIRST_FREE_PAGE))?;
        let mut space = AddressSpace {
            areas: VmaMap::default(),
            assigned: Assignments::default(),
            physical: PhysicalPages::new(memory.reserved()),
            tables: PageTables::new(PageIndex(layout::ROOT_PAGE)),
            heap: 0..0,
            strict: BTreeSet::new(),
            stacks: BTreeSet::new(),
            credit: Credit::default(),
            growth: Growth::default(),
            apart: 0,
        };
        for page in 0..layout::FIRST_FREE_PAGE {
            let start = layout::SUPERVISOR_BASE + PageIndex(page).address().0;
            // Software KVM fetches the stub that `syscall` enters with the rights of CPL3.
            let entry = if page == layout::STUB_PAGE { Entry::UserRead } else { Entry::Supervisor };
            space.map_page(&memory, start, PageIndex(page), entry)?;
        }
        let doorbell = layout::SUPERVISOR_BASE + layout::DOORBELL_PAGE.address().0;
        space.map_page(&memory, doorbell, layout::DOORBELL_PAGE, Entry::UserWrite)?;
        slots.cover(space.physical.used())?;
        Ok(Self { memory, slots, space: RwLock::new(space), arrivals: Arc::default(), restored: false })
    }

    /// The host mapping.
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// The value for CR3.
    pub fn page_table_root(&self) -> GuestPhysical {
        self.space.read().tables.root()
    }

    /// Gives a vCPU a supervisor page of its own; it appears at [`layout::SUPERVISOR_BASE`] plus its guest-physical address.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn supervisor_page(&self) -> Result<PageIndex, Errno> {
        let mut space = self.space.write();
        let page = space.physical.allocate_own().ok_or(Errno::NOMEM)?;
        let range = PageRange::new(page, PageCount(1));
        self.memory.map(range, Source::Anonymous, Protection::ReadWrite).map_err(|error| errno_of(&error))?;
        let start = layout::SUPERVISOR_BASE + page.address().0;
        space.map_page(&self.memory, start, page, Entry::Supervisor)?;
        self.slots.cover(space.physical.used())?;
        Ok(page)
    }

    /// Notes from now on which pages the guest itself touches (system calls on its behalf are not seen). For a restored guest
    /// that doesn't run yet, so that no shadow page knows the old entries.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn watch_touches(&self) -> Result<(), Errno> {
        self.wait_for_all()?;
        let mut space = self.space.write();
        let space = &mut *space;
        self.watch_growth(space);
        let whole: Vec<_> =
            space.assigned.iter().filter(|(number, _)| !space.strict.contains(number)).collect();
        let writable = BlockEntries::Pages(vec![Entry::UserWrite; BLOCK_PAGES as usize]);
        for (number, block) in whole {
            space.map_block(&self.memory, number, block, &writable)?;
            space.strict.insert(number);
        }
        space.tables.watch(&self.memory)?;
        self.slots.cover(space.physical.used())
    }

    /// The guest-physical pages, of those that were assigned then, that were touched since [`Mm::watch_touches`].
    ///
    /// # Errors
    /// EFAULT when a page table can't be read.
    pub fn touched(&self) -> Result<PageSet, Errno> {
        let space = self.space.read();
        let mut touched = PageSet::new();
        for (_, block) in space.assigned.iter() {
            let pages = space.tables.touched(&self.memory, block).map_err(|_| Errno::FAULT)?;
            touched.extend(pages.into_iter().map(|page| PageRange::new(page, PageCount(1))));
        }
        Ok(touched)
    }

    /// Calls `each` with every area in order (for /proc/self/maps).
    pub fn for_each_area(&self, mut each: impl FnMut(&Vma)) {
        self.space.read().areas.iter().for_each(&mut each);
    }

    /// Bytes of address space in areas (VmSize).
    pub fn virtual_size(&self) -> u64 {
        self.space.read().areas.iter().map(Vma::length).sum()
    }
}

impl AddressSpace {
    fn map_page(
        &mut self,
        memory: &GuestMemory,
        address: u64,
        page: PageIndex,
        entry: Entry,
    ) -> Result<(), Errno> {
        let mut arena = TableArena { memory, physical: &mut self.physical };
        Ok(self.tables.map_page(memory, &mut arena, address, page, entry)?)
    }

    /// Writes the entries of the virtual block `number`, behind which `block` stands.
    fn map_block(
        &mut self,
        memory: &GuestMemory,
        number: u64,
        block: Block,
        entries: &BlockEntries,
    ) -> Result<(), Errno> {
        let mut arena = TableArena { memory, physical: &mut self.physical };
        Ok(self.tables.map_block(memory, &mut arena, number * BLOCK_SIZE, block, entries)?)
    }
}
