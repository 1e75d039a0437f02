//! The address space in a snapshot.
//!
//! What is saved: areas, assignments, page-table pages and which guest-physical pages are in use. Page contents are not
//! part of it: [`MemoryImage`] says what lies where in guest-physical memory and which pages may differ from what their
//! backing gives anyway. The page tables themselves are guest memory, and come back with it.

use std::collections::BTreeSet;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use guest_memory::{Arrivals, GuestMemory, Protection};
use pages::{PAGE_SIZE, PageCount, PageIndex, PageRange};
use parking_lot::RwLock;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::ahead::Credit;
use super::assignment::{Assignments, Strictness, addresses, protection_for};
use super::growth::Growth;
use super::page_tables::PageTables;
use super::physical::PhysicalPages;
use super::vma::{Access, Backing, Vma, VmaMap};
use super::{AddressSpace, Block, MemorySlots, Mm, errno_of, layout};
use crate::file::Mappable;
use crate::object::{ObjectId, RestoreError, Restorer, SaveError, Saver};

/// Pseudo-paths that areas can have; saved by their place here.
const NAMES: [&str; 5] = ["", "[heap]", "[stack]", "[vdso]", "[vvar]"];

#[derive(Clone, Debug, Serialize, Deserialize)]
enum SavedBacking {
    Anonymous,
    File { file: u32, offset: u64, shared: bool },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct SavedArea {
    start: u64,
    end: u64,
    access: u32,
    backing: SavedBacking,
    wipe_on_fork: bool,
    name: u8,
}

/// Saved form of an [`Mm`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SavedMm {
    areas: Vec<SavedArea>,
    /// The files that areas map; regions and areas refer to them by place.
    files: Vec<ObjectId>,
    pub(super) assigned: Assignments,
    physical: PhysicalPages,
    tables: PageTables,
    heap: std::ops::Range<u64>,
    strict: BTreeSet<u64>,
}

/// Where the content of some guest-physical pages comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ImageSource {
    /// The guest's own memory.
    Memory,
    /// A file; see [`Backing::File`].
    File {
        /// Place in the image's list of files.
        file: u32,
        /// Byte offset of the first page.
        offset: u64,
        /// Writes go to the file.
        shared: bool,
    },
}

/// A run of guest-physical pages with one source and one protection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ImageRegion {
    /// The pages.
    pub range: PageRange,
    /// Where their content comes from.
    pub source: ImageSource,
    /// What the host mapping lets through.
    pub protection: Protection,
}

/// What lies where in guest-physical memory.
pub struct MemoryImage {
    /// Size of the guest-physical space in use.
    pub page_count: PageCount,
    /// Regions in ascending order; pages in none are free.
    pub regions: Vec<ImageRegion>,
    /// Runs, ascending, of pages whose content may have to be stored: those of the guest's own memory that may not be
    /// zero, and those of private file mappings that the guest changed.
    pub candidates: Vec<PageRange>,
}

/// Appends `page` to the last run if it follows it.
fn push_page(runs: &mut Vec<PageRange>, page: PageIndex) {
    match runs.last_mut() {
        Some(run) if run.end() == page => run.count.0 += 1,
        _ => runs.push(PageRange::new(page, PageCount(1))),
    }
}

impl Mm {
    /// Saves the address space and describes its memory. No thread may run meanwhile. Ranges that are assigned but in no
    /// area give their pages back first.
    ///
    /// # Errors
    /// [`SaveError`] when a mapped file can't be saved, or host memory can't be inspected.
    pub fn save(&self, saver: &mut Saver) -> Result<(SavedMm, MemoryImage), SaveError> {
        let failed = |errno: Errno| SaveError::Contents {
            object: "the guest's memory".to_owned(),
            source: errno.into(),
        };
        self.wait_for_all().map_err(failed)?;
        let mut space = self.space.write();
        self.reclaim(&mut space).map_err(failed)?;
        self.give_up_growth(&mut space).map_err(failed)?;
        self.make_strict(&mut space).map_err(failed)?;
        let mut files: Vec<Arc<dyn Mappable>> = Vec::new();
        let mut index_of = |file: &Arc<dyn Mappable>| {
            let known = files.iter().position(|other| Arc::ptr_eq(other, file));
            known.unwrap_or_else(|| {
                files.push(file.clone());
                files.len() - 1
            }) as u32
        };
        let areas = space
            .areas
            .iter()
            .map(|area| SavedArea {
                start: area.start,
                end: area.end,
                access: area.access.bits(),
                backing: match &area.backing {
                    Backing::Anonymous => SavedBacking::Anonymous,
                    Backing::File { file, offset, shared } => {
                        SavedBacking::File { file: index_of(file), offset: *offset, shared: *shared }
                    }
                },
                wipe_on_fork: area.wipe_on_fork,
                name: NAMES.iter().position(|name| *name == area.name).unwrap_or(0) as u8,
            })
            .collect();
        let mut regions = Vec::new();
        for (number, block) in space.assigned.iter() {
            let whole = addresses(number);
            for area in space.areas.overlapping(whole.clone()) {
                let part = area.clipped(&whole);
                let first = PageIndex(block.first().0 + (part.start - whole.start) / PAGE_SIZE);
                regions.push(ImageRegion {
                    range: PageRange::new(first, PageCount(part.length() / PAGE_SIZE)),
                    source: match &part.backing {
                        Backing::Anonymous => ImageSource::Memory,
                        Backing::File { file, offset, shared } => {
                            ImageSource::File { file: index_of(file), offset: *offset, shared: *shared }
                        }
                    },
                    protection: protection_for(part.access),
                });
            }
        }
        let regions = with_own_pages(regions, &space);
        let candidates = self.candidates(&regions, &files).map_err(failed)?;
        let image = MemoryImage { page_count: space.physical.used(), regions, candidates };
        let saved = SavedMm {
            areas,
            files: files.into_iter().map(|file| saver.save(file)).collect::<Result<_, _>>()?,
            assigned: space.assigned.clone(),
            physical: space.physical.clone(),
            tables: space.tables.clone(),
            heap: space.heap.clone(),
            strict: space.strict.clone(),
        };
        Ok((saved, image))
    }

    /// Makes every entry strict about writes: a restore may then leave the host mapping of a page looser than its area.
    fn make_strict(&self, space: &mut AddressSpace) -> Result<(), Errno> {
        let numbers: Vec<u64> = space.assigned.iter().map(|(number, _)| number).collect();
        for number in numbers {
            space.write_strict(&self.memory, number, Strictness::Writes)?;
        }
        self.slots.cover(space.physical.used())?;
        self.slots.drop_shadow_pages()
    }

    fn candidates(
        &self,
        regions: &[ImageRegion],
        files: &[Arc<dyn Mappable>],
    ) -> Result<Vec<PageRange>, Errno> {
        let mut runs = Vec::new();
        for region in regions {
            match region.source {
                // In a restored instance a page that nobody touched yet still has its content in the old snapshot.
                ImageSource::Memory if self.restored => {
                    region.range.iter().for_each(|page| push_page(&mut runs, page))
                }
                ImageSource::Memory => self
                    .memory
                    .page_states(region.range, |page, state| {
                        if state.present || state.swapped {
                            push_page(&mut runs, page);
                        }
                    })
                    .map_err(|error| errno_of(&error))?,
                ImageSource::File { shared: true, .. } => {}
                ImageSource::File { file, offset, .. } if self.restored => {
                    if let Some(file) = files.get(file as usize) {
                        let file = file.host_file()?;
                        for page in region.range.iter() {
                            let at = offset + (page.0 - region.range.start.0) * PAGE_SIZE;
                            if self.differs(page, file, at) {
                                push_page(&mut runs, page);
                            }
                        }
                    }
                }
                ImageSource::File { .. } => self
                    .memory
                    .page_states(region.range, |page, state| {
                        if state.is_private() {
                            push_page(&mut runs, page);
                        }
                    })
                    .map_err(|error| errno_of(&error))?,
            }
        }
        Ok(runs)
    }

    /// Whether a page of a private file mapping holds something else than the file. A page beyond the file's end can't have
    /// been written.
    fn differs(&self, page: PageIndex, file: BorrowedFd<'_>, offset: u64) -> bool {
        let mut own = vec![0; PAGE_SIZE as usize];
        if self.memory.read(page.address(), &mut own).is_err() {
            return false;
        }
        let mut original = vec![0; PAGE_SIZE as usize];
        let mut done = 0;
        while done < original.len() {
            match rustix::io::pread(file, &mut original[done..], offset + done as u64) {
                Ok(0) | Err(_) => break,
                Ok(count) => done += count,
            }
        }
        own != original
    }
}

/// Adds the worker's own pages (page tables, vCPUs' pages), in order. The tables of blocks are one region with the pages between
/// them, which are zero: each mapping there costs a restore 25 us, since the spare worker's guest has used the block.
fn with_own_pages(mut regions: Vec<ImageRegion>, space: &AddressSpace) -> Vec<ImageRegion> {
    let tables = space.tables.block_tables().filter(|page| Block::containing(*page) == layout::TABLES_BLOCK);
    let hull = |one: PageRange, other: PageRange| {
        PageRange::between(one.start.min(other.start), one.end().max(other.end()))
    };
    let tables = tables.map(|page| PageRange::new(page, PageCount(1))).reduce(hull);
    let own = space.physical.own().iter().copied().chain(tables);
    regions.extend(own.map(|range| ImageRegion {
        range,
        source: ImageSource::Memory,
        protection: Protection::ReadWrite,
    }));
    regions.sort_unstable_by_key(|region| region.range.start);
    regions
}

/// The files that a saved address space maps, opened again.
pub struct MappedFiles(Vec<Arc<dyn Mappable>>);

impl MappedFiles {
    /// Their host descriptors, in the order that [`ImageSource::File`] counts.
    ///
    /// # Errors
    /// The host's, when one can't be opened.
    pub fn descriptors(&self) -> Result<Vec<BorrowedFd<'_>>, Errno> {
        self.0.iter().map(|file| file.host_file()).collect()
    }
}

impl SavedMm {
    /// Opens the mapped files again.
    ///
    /// # Errors
    /// [`RestoreError::FileChanged`] when one is not what it was.
    pub fn open_files(&self, restorer: &mut Restorer<'_>) -> Result<MappedFiles, RestoreError> {
        Ok(MappedFiles(self.files.iter().map(|id| restorer.mappable(*id)).collect::<Result<_, _>>()?))
    }

    /// Size of the guest-physical space in use.
    pub fn page_count(&self) -> PageCount {
        self.physical.used()
    }
}

impl Mm {
    /// The address space again, over memory that is mapped as its [`MemoryImage`] says, but for what `arrivals` says is still
    /// to come.
    ///
    /// # Errors
    /// [`RestoreError::BadReference`] when the saved form contradicts itself.
    pub fn restore(
        saved: SavedMm,
        files: &MappedFiles,
        memory: Arc<GuestMemory>,
        slots: Arc<dyn MemorySlots>,
        arrivals: Arc<Arrivals>,
    ) -> Result<Self, RestoreError> {
        let mut areas = VmaMap::default();
        for area in saved.areas {
            let bad = RestoreError::BadReference { id: area.name.into(), wanted: "memory area" };
            let fits = area.start < area.end
                && area.end <= layout::USER_END
                && (area.start | area.end) % PAGE_SIZE == 0
                && areas.is_free(area.start..area.end);
            let (true, Some(name)) = (fits, NAMES.get(usize::from(area.name))) else { return Err(bad) };
            areas.insert(Vma {
                start: area.start,
                end: area.end,
                access: Access::from_bits_truncate(area.access),
                backing: match area.backing {
                    SavedBacking::Anonymous => Backing::Anonymous,
                    SavedBacking::File { file, offset, shared } => {
                        Backing::File { file: files.0.get(file as usize).ok_or(bad)?.clone(), offset, shared }
                    }
                },
                wipe_on_fork: area.wipe_on_fork,
                name,
            });
        }
        let space = AddressSpace {
            areas,
            assigned: saved.assigned,
            physical: saved.physical,
            tables: saved.tables,
            heap: saved.heap,
            strict: saved.strict,
            stacks: BTreeSet::new(),
            credit: Credit::default(),
            growth: Growth::default(),
            apart: 0,
        };
        let mm = Self { memory, slots, space: RwLock::new(space), arrivals, restored: true };
        mm.hide_late_blocks()?;
        Ok(mm)
    }
}
