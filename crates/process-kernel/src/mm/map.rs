//! The system calls that change areas: mmap, munmap, mprotect, mremap, madvise, brk.

use std::ops::Range;

use guest_memory::{Advice, Protection, Source};
use pages::{PAGE_SIZE, page_align_up};
use rustix::io::Errno;

use super::assignment::protection_for;
use super::placing::free_range;
use super::vma::{Access, Backing, Vma};
use super::{AddressSpace, Mm, errno_of, layout};

/// Anonymous areas up to this size get their pages at once, larger ones when they are touched.
const ASSIGN_AT_ONCE: u64 = 1 << 20;
/// File areas up to this size get their pages at once: their entries are few beside the file's own pages.
const ASSIGN_FILE_AT_ONCE: u64 = 64 << 20;
/// Areas a program may have (vm.max_map_count's default).
const MAX_AREAS: usize = 65_530;

/// Where a new area goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placement {
    /// Anywhere, at the address if it is free.
    Hint(u64),
    /// The same for a thread's stack (MAP_STACK): no place is chosen that suits huge pages, since little of it is used.
    Stack(u64),
    /// Exactly there; what was mapped there is unmapped (MAP_FIXED).
    Fixed(u64),
    /// Exactly there if nothing is there (MAP_FIXED_NOREPLACE).
    FixedIfFree(u64),
}

/// Blocks of 2 MiB that are kept before the dead ones among them are given up.
const MAX_BLOCKS: usize = MAX_AREAS;

/// A new area.
pub struct MapRequest {
    /// Where.
    pub placement: Placement,
    /// Bytes; rounded up to pages.
    pub length: u64,
    /// What the program may do.
    pub access: Access,
    /// Contents.
    pub backing: Backing,
    /// Pseudo-path for /proc/self/maps.
    pub name: &'static str,
}

fn whole_pages(start: u64, length: u64) -> Result<Range<u64>, Errno> {
    if start & (PAGE_SIZE - 1) != 0 {
        return Err(Errno::INVAL);
    }
    let end = start.checked_add(page_align_up(length).ok_or(Errno::NOMEM)?).ok_or(Errno::NOMEM)?;
    if end > layout::USER_END {
        return Err(Errno::NOMEM);
    }
    Ok(start..end)
}

impl AddressSpace {
    /// Takes `range` out of the areas; gives what was there.
    fn remove_from_areas(&mut self, range: Range<u64>) -> Vec<Vma> {
        let removed = self.areas.remove(range);
        for area in &removed {
            self.stacks.remove(&area.end);
        }
        removed
    }
}

impl Mm {
    /// mmap(2). Returns the address.
    ///
    /// # Errors
    /// EINVAL, ENOMEM, EEXIST, EPERM as mmap(2) documents.
    pub fn map(&self, request: MapRequest) -> Result<u64, Errno> {
        if request.length == 0 {
            return Err(Errno::INVAL);
        }
        let mut space = self.space.write();
        if space.areas.count() >= MAX_AREAS {
            return Err(Errno::NOMEM);
        }
        if space.assigned.count() >= MAX_BLOCKS {
            // A program that maps and unmaps at ever new addresses must not fill the worker's memory with what is dead.
            self.reclaim(&mut space)?;
        }
        let length = page_align_up(request.length).ok_or(Errno::NOMEM)?;
        let range = match request.placement {
            Placement::Fixed(start) | Placement::FixedIfFree(start) => {
                let range = whole_pages(start, length)?;
                if range.start < layout::LOWEST {
                    return Err(Errno::PERM);
                }
                if matches!(request.placement, Placement::FixedIfFree(_))
                    && !space.areas.is_free(range.clone())
                {
                    return Err(Errno::EXIST);
                }
                range
            }
            Placement::Hint(hint) | Placement::Stack(hint) => {
                let huge = matches!(request.placement, Placement::Hint(_));
                let hint = hint & !(PAGE_SIZE - 1);
                let wanted = whole_pages(hint, length).ok();
                match wanted.filter(|wanted| hint >= layout::LOWEST && space.areas.is_free(wanted.clone())) {
                    Some(wanted) => wanted,
                    None => {
                        let apart = match huge && self.restored {
                            true => space.range_apart(length, request.access, &request.backing),
                            false => None,
                        };
                        let start = apart
                            .or_else(|| free_range(&mut space.areas, length, &request.backing, huge))
                            .ok_or(Errno::NOMEM)?;
                        start..start + length
                    }
                }
            }
        };
        let is_stack = matches!(request.placement, Placement::Stack(_));
        self.install(&mut space, range.clone(), request)?;
        if is_stack {
            space.stacks.insert(range.end);
        }
        Ok(range.start)
    }

    fn install(&self, space: &mut AddressSpace, range: Range<u64>, request: MapRequest) -> Result<(), Errno> {
        let area = Vma {
            start: range.start,
            end: range.end,
            access: request.access,
            backing: request.backing,
            wipe_on_fork: false,
            name: request.name,
        };
        space.remove_from_areas(range.clone());
        // Pages that stood behind something else here now stand behind the new area.
        for extent in self.pieces(space, range.clone())? {
            space.map_host(&self.memory, extent.pages(), &area.clipped(&extent.range))?;
        }
        let limit = match area.backing {
            Backing::Anonymous => ASSIGN_AT_ONCE,
            Backing::File { .. } => ASSIGN_FILE_AT_ONCE,
        };
        let at_once = !area.access.is_empty() && area.length() <= limit;
        space.areas.insert(area.clone());
        space.renew_strict_entries(&self.memory, &range)?;
        if at_once {
            self.assign(space, range)?;
        }
        space.put_in_place(&self.memory, &area, at_once);
        Ok(())
    }

    /// munmap(2).
    ///
    /// # Errors
    /// EINVAL for an unaligned address or a length of 0.
    pub fn unmap(&self, start: u64, length: u64) -> Result<(), Errno> {
        if length == 0 {
            return Err(Errno::INVAL);
        }
        let range = whole_pages(start, length).map_err(|_| Errno::INVAL)?;
        self.arrive(range.clone())?;
        let mut space = self.space.write();
        self.remove_areas(&mut space, range)
    }

    fn remove_areas(&self, space: &mut AddressSpace, range: Range<u64>) -> Result<(), Errno> {
        let removed = space.remove_from_areas(range);
        for area in removed {
            for extent in self.pieces(space, area.start..area.end)? {
                space.credit.note(&self.memory, &area, extent.pages());
                space.note_growth(&self.memory, &area, &extent);
                // The host mapping goes even if that fails to leave the reservation: the memory is given back.
                self.memory.release(extent.pages()).map_err(|error| errno_of(&error))?;
            }
        }
        Ok(())
    }

    /// mprotect(2).
    ///
    /// # Errors
    /// ENOMEM when part of the range is not mapped, EACCES when a shared file mapping may not be written.
    pub fn protect(&self, start: u64, length: u64, access: Access) -> Result<(), Errno> {
        let range = whole_pages(start, length)?;
        if range.is_empty() {
            return Ok(());
        }
        self.arrive(range.clone())?;
        let mut space = self.space.write();
        if !space.areas.covers(range.clone()) {
            return Err(Errno::NOMEM);
        }
        let forbidden = space.areas.overlapping(range.clone()).any(|area| match &area.backing {
            Backing::File { file, shared: true, .. } => access.contains(Access::WRITE) && !file.writable(),
            _ => false,
        });
        if forbidden {
            return Err(Errno::ACCESS);
        }
        space.areas.update(range.clone(), |area| area.access = access);
        for extent in self.pieces(&space, range.clone())? {
            self.memory.protect(extent.pages(), protection_for(access)).map_err(|error| errno_of(&error))?;
        }
        space.renew_strict_entries(&self.memory, &range)
    }

    /// mremap(2). `fixed` is the new address of MREMAP_FIXED; `may_move` is MREMAP_MAYMOVE. Returns the new address.
    ///
    /// # Errors
    /// EFAULT when the old range is not one area's, EINVAL, ENOMEM.
    pub fn remap(
        &self,
        old_start: u64,
        old_length: u64,
        new_length: u64,
        may_move: bool,
        fixed: Option<u64>,
    ) -> Result<u64, Errno> {
        let old = whole_pages(old_start, old_length).map_err(|_| Errno::INVAL)?;
        let new_length = page_align_up(new_length).filter(|length| *length > 0).ok_or(Errno::INVAL)?;
        if old.is_empty() || (fixed.is_some() && !may_move) {
            return Err(Errno::INVAL);
        }
        self.arrive(old.clone())?;
        let mut space = self.space.write();
        let area = space.areas.find(old.start).ok_or(Errno::FAULT)?.clone();
        if area.end < old.end {
            return Err(Errno::FAULT);
        }
        let old_length = old.end - old.start;
        if fixed.is_none() {
            if new_length <= old_length {
                self.remove_areas(&mut space, old.start + new_length..old.end)?;
                return Ok(old.start);
            }
            let grown = old.end..old.start.checked_add(new_length).ok_or(Errno::NOMEM)?;
            if area.end == old.end && grown.end <= layout::USER_END && space.areas.is_free(grown.clone()) {
                let whole = Vma { end: grown.end, ..area };
                let extension = whole.clipped(&grown);
                let request = MapRequest {
                    placement: Placement::Fixed(grown.start),
                    length: grown.end - grown.start,
                    access: extension.access,
                    backing: extension.backing,
                    name: extension.name,
                };
                self.install(&mut space, grown, request)?;
                return Ok(old.start);
            }
            if !may_move {
                return Err(Errno::NOMEM);
            }
        }
        let new_start = match fixed {
            Some(start) => {
                let new = whole_pages(start, new_length)?;
                if new.start < layout::LOWEST || (new.start < old.end && old.start < new.end) {
                    return Err(Errno::INVAL);
                }
                self.remove_areas(&mut space, new)?;
                start
            }
            None => free_range(&mut space.areas, new_length, &area.backing, true).ok_or(Errno::NOMEM)?,
        };
        let moved = old_length.min(new_length);
        let target = Vma {
            start: new_start,
            end: new_start + new_length,
            backing: area.clipped(&old).backing,
            ..area
        };
        self.move_pages(&mut space, old.start..old.start + moved, &target)?;
        self.remove_areas(&mut space, old)?;
        Ok(new_start)
    }

    /// Puts `target` in place and moves the host pages behind `from` to its start.
    fn move_pages(&self, space: &mut AddressSpace, from: Range<u64>, target: &Vma) -> Result<(), Errno> {
        space.remove_from_areas(target.start..target.end);
        space.areas.insert(target.clone());
        for extent in self.pieces(space, target.start..target.end)? {
            space.map_host(&self.memory, extent.pages(), &target.clipped(&extent.range))?;
        }
        // Only what has pages can hold data; its new place needs pages too.
        for source in self.pieces(space, from.clone())? {
            let shift = |address: u64| address - from.start + target.start;
            self.assign(space, shift(source.range.start)..shift(source.range.end))?;
            let mut start = source.first;
            for place in self.pieces(space, shift(source.range.start)..shift(source.range.end))? {
                let pages = pages::PageRange::new(start, place.pages().count);
                self.memory.relocate(pages, place.pages()).map_err(|error| errno_of(&error))?;
                // Where the entries were strict, the host mapping may have been looser than the area.
                let protection = protection_for(target.access);
                self.memory.protect(place.pages(), protection).map_err(|error| errno_of(&error))?;
                start = pages.end();
            }
        }
        space.renew_strict_entries(&self.memory, &(target.start..target.end))?;
        let at_once = target.length() <= ASSIGN_AT_ONCE && !target.access.is_empty();
        if at_once {
            self.assign(space, target.start..target.end)?;
        }
        let new = target.clipped(&(target.start + (from.end - from.start)..target.end));
        space.put_in_place(&self.memory, &new, at_once);
        Ok(())
    }

    /// brk(2): the heap's new end, or the old one when that can't be.
    pub fn set_heap_end(&self, wanted: u64) -> u64 {
        let mut space = self.space.write();
        let heap = space.heap.clone();
        let Some(wanted) = page_align_up(wanted).filter(|wanted| *wanted >= heap.start) else {
            return heap.end;
        };
        let current = page_align_up(heap.end).unwrap_or(heap.end);
        if wanted < current {
            if self.remove_areas(&mut space, wanted..current).is_err() {
                return heap.end;
            }
        } else if wanted > current {
            let grown = current..wanted;
            if wanted > layout::USER_END || !space.areas.is_free(grown.clone()) {
                return heap.end;
            }
            let request = MapRequest {
                placement: Placement::Fixed(current),
                length: wanted - current,
                access: Access::READ | Access::WRITE,
                backing: Backing::Anonymous,
                name: "[heap]",
            };
            if self.install(&mut space, grown, request).is_err() {
                return heap.end;
            }
        }
        space.heap.end = wanted;
        wanted
    }

    /// Where the heap starts; set once by the program loader.
    pub fn place_heap(&self, start: u64) {
        self.space.write().heap = start..start;
    }

    /// Current end of the heap.
    pub fn heap_end(&self) -> u64 {
        self.space.read().heap.end
    }

    /// MADV_DONTNEED, MADV_REMOVE and MADV_FREE: the memory is given back; anonymous pages read zero, private file pages
    /// read the file again. In a restored instance too: the snapshot's bytes must not come back (design rule 1), so fresh
    /// memory is mapped instead of advising the host.
    ///
    /// # Errors
    /// ENOMEM when part of the range is not mapped.
    pub fn discard(&self, start: u64, length: u64) -> Result<(), Errno> {
        let range = whole_pages(start, length)?;
        self.arrive(range.clone())?;
        let mut space = self.space.write();
        let areas: Vec<Vma> =
            space.areas.overlapping(range.clone()).map(|area| area.clipped(&range)).collect();
        let complete = space.areas.covers(range);
        for area in areas {
            let shared = matches!(area.backing, Backing::File { shared: true, .. });
            if shared {
                continue;
            }
            for extent in self.pieces(&space, area.start..area.end)? {
                space.note_growth(&self.memory, &area, &extent);
                self.discard_pages(&mut space, &area.clipped(&extent.range), extent.pages())?;
            }
        }
        if complete { Ok(()) } else { Err(Errno::NOMEM) }
    }

    fn discard_pages(
        &self,
        space: &mut AddressSpace,
        area: &Vma,
        pages: pages::PageRange,
    ) -> Result<(), Errno> {
        match space.map_host(&self.memory, pages, area) {
            Err(Errno::NOMEM) if area.access.contains(Access::WRITE) => {
                // Too many host mappings: zeros are as good, if dearer.
                let zeros = vec![0; PAGE_SIZE as usize];
                for page in pages.iter() {
                    self.memory.write(page.address(), &zeros).map_err(|_| Errno::NOMEM)?;
                }
                Ok(())
            }
            other => other,
        }
    }

    /// madvise hints that only concern speed; unknown ranges are ignored.
    pub fn hint(&self, start: u64, length: u64, advice: Advice) {
        let Ok(range) = whole_pages(start, length) else { return };
        let space = self.space.read();
        // One that will not come in needs none.
        let Ok(pieces) = self.pieces(&space, range) else { return };
        for extent in pieces {
            // A hint that the host refuses changes nothing that the program can see.
            let _ = self.memory.advise(extent.pages(), advice);
        }
    }

    /// Gives pages to `range` and fills them (MADV_POPULATE_*, MAP_POPULATE).
    ///
    /// # Errors
    /// ENOMEM when part of the range is not mapped, EFAULT when its backing fails.
    pub fn populate(&self, start: u64, length: u64, advice: Advice) -> Result<(), Errno> {
        let range = whole_pages(start, length)?;
        self.arrive(range.clone())?;
        let mut space = self.space.write();
        if !space.areas.covers(range.clone()) {
            return Err(Errno::NOMEM);
        }
        self.assign(&mut space, range.clone())?;
        for extent in self.pieces(&space, range)? {
            self.memory.advise(extent.pages(), advice).map_err(|error| errno_of(&error))?;
        }
        Ok(())
    }

    /// MADV_WIPEONFORK and MADV_KEEPONFORK.
    ///
    /// # Errors
    /// ENOMEM when part of the range is not mapped, EINVAL when it is not private and anonymous.
    pub fn set_wipe_on_fork(&self, start: u64, length: u64, wipe: bool) -> Result<(), Errno> {
        let range = whole_pages(start, length)?;
        let mut space = self.space.write();
        if !space.areas.covers(range.clone()) {
            return Err(Errno::NOMEM);
        }
        let anonymous = |area: &Vma| matches!(area.backing, Backing::Anonymous);
        if wipe && !space.areas.overlapping(range.clone()).all(anonymous) {
            return Err(Errno::INVAL);
        }
        space.areas.update(range, |area| area.wipe_on_fork = wipe);
        Ok(())
    }

    /// Whether areas cover the whole range (msync, mlock, mincore).
    pub fn is_mapped(&self, start: u64, length: u64) -> bool {
        whole_pages(start, length).is_ok_and(|range| self.space.read().areas.covers(range))
    }

    /// Removes every area (execve). Guest-physical pages stay assigned until they are used again.
    ///
    /// # Errors
    /// The host's refusal.
    pub fn clear(&self) -> Result<(), Errno> {
        let mut space = self.space.write();
        self.remove_areas(&mut space, 0..layout::USER_END)?;
        space.heap = 0..0;
        self.reclaim(&mut space)
    }

    /// Zeroes the areas that MADV_WIPEONFORK marks: a restored instance is one of many copies.
    ///
    /// # Errors
    /// The host's refusal.
    pub fn wipe_for_new_copy(&self) -> Result<(), Errno> {
        let space = self.space.write();
        for area in space.areas.iter().filter(|area| area.wipe_on_fork) {
            for extent in self.pieces(&space, area.start..area.end)? {
                self.memory
                    .map(extent.pages(), Source::Anonymous, Protection::ReadWrite)
                    .map_err(|error| errno_of(&error))?;
            }
        }
        Ok(())
    }
}
