//! The full-memory comparison: every page of a restored guest against what the snapshot and the guest's files say.

use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{FileExt, MetadataExt};

use guest_memory::{GuestMemory, Protection};
use pages::{PAGE_SIZE, PageCount, PageRange, PageSet};
use snapshot::Snapshot;

use crate::error::RestoreError;
use crate::layout::{Access, Backing, GuestLayout, Region};
use crate::loading_set::LoadingSet;
use crate::strategy::RestoreStrategy;

const WINDOW: PageCount = PageCount(256);
const PAGE: usize = PAGE_SIZE as usize;

/// Compares all of a restored guest's memory, before the guest runs, with what it has to be, and returns the pages that
/// are wrong. Reads everything: a check for tests and for `--verify-memory`, not for a restore that is in a hurry.
///
/// # Errors
/// When the snapshot, a file or guest memory can't be read.
pub fn wrong_pages(
    memory: &GuestMemory,
    snapshot: &Snapshot,
    layout: &GuestLayout,
    guest_files: &[BorrowedFd<'_>],
) -> Result<PageSet, RestoreError> {
    let mut wrong = PageSet::new();
    let (mut expected, mut found) = (vec![0; WINDOW.bytes() as usize], vec![0; WINDOW.bytes() as usize]);
    for region in layout.regions().iter().filter(|region| region.backing != Backing::Absent) {
        if region.access == Access::None {
            memory.protect(region.range, Protection::Read)?;
        }
        let mut start = region.range.start;
        while start < region.range.end() {
            let window = PageRange::new(start, WINDOW.min(PageCount(region.range.end().0 - start.0)));
            let length = window.count.bytes() as usize;
            let expected = expected.get_mut(..length).unwrap_or_default();
            let found = found.get_mut(..length).unwrap_or_default();
            content(snapshot, region, guest_files, window, expected)?;
            if memory.read(window.start.address(), found).is_err() {
                read_to_file_end(memory, region, guest_files, window, found)?;
            }
            let pairs = expected.as_chunks::<PAGE>().0.iter().zip(found.as_chunks::<PAGE>().0);
            for (page, (expected, found)) in window.iter().zip(pairs) {
                if expected != found {
                    wrong.insert(PageRange::new(page, PageCount(1)));
                }
            }
            start = window.end();
        }
        if region.access == Access::None {
            memory.protect(region.range, Protection::None)?;
        }
    }
    Ok(wrong)
}

/// What a comparison after the run found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Unwritten {
    /// Pages still mapped from the snapshot of which the instance has no private copy: these were compared.
    pub compared: PageCount,
    /// Pages still mapped from the snapshot of which it has one, because they were written or placed ahead.
    pub private: PageCount,
    /// Compared pages that don't hold what the snapshot says.
    pub wrong: PageSet,
}

/// Compares, in a guest at rest that has run, every page that nobody has written since the restore with the snapshot. Which
/// pages these are is taken from the kernel, not from the plan: pages of mappings of the snapshot's own files of which this
/// process holds no private copy. Pages whose backing the guest has replaced, by unmapping or mapping anew, are its own.
///
/// # Errors
/// When the snapshot, the list of mappings or guest memory can't be read.
pub fn wrong_unwritten_pages(memory: &GuestMemory, snapshot: &Snapshot) -> Result<Unwritten, RestoreError> {
    let own = own_inodes(snapshot);
    let mut found = Unwritten::default();
    let (mut expected, mut content) = (vec![0; PAGE], vec![0; PAGE]);
    for mapping in memory.file_mappings()? {
        if !own.contains(&mapping.inode) {
            continue;
        }
        let mut unwritten = Vec::new();
        memory.page_states(mapping.range, |page, state| match state.is_private() {
            true => found.private.0 += 1,
            false => unwritten.push(page),
        })?;
        for page in unwritten {
            let range = PageRange::new(page, PageCount(1));
            expected.fill(0);
            if snapshot.stored_pages().within(range).next().is_some() {
                let read = snapshot.memory_file().read_exact_at(&mut expected, page.address().0);
                read.map_err(|source| RestoreError::Read { range, source })?;
            }
            // A page that the guest may not read has no content that it could see.
            if memory.read(page.address(), &mut content).is_err() {
                continue;
            }
            found.compared.0 += 1;
            if content != expected {
                found.wrong.insert(range);
            }
        }
    }
    Ok(found)
}

/// Reads `window` of `region` page by page. Pages that lie behind the end of their file can't be read, nor can the guest read them: they
/// count as zero.
fn read_to_file_end(
    memory: &GuestMemory,
    region: &Region,
    guest_files: &[BorrowedFd<'_>],
    window: PageRange,
    found: &mut [u8],
) -> Result<(), RestoreError> {
    for (page, found) in window.iter().zip(found.as_chunks_mut::<PAGE>().0) {
        let range = PageRange::new(page, PageCount(1));
        let failed = |source| RestoreError::Read { range, source };
        let Err(error) = memory.read(page.address(), found) else { continue };
        let is_behind_end = match region.backing {
            Backing::File { file, offset, .. } => {
                let file = guest_files.get(file.0 as usize);
                let length = file.map(rustix::fs::fstat).transpose().map_err(|errno| failed(errno.into()))?;
                let at = offset + (page.0 - region.range.start.0) * PAGE_SIZE;
                length.is_some_and(|stat| u64::try_from(stat.st_size).unwrap_or(0) <= at)
            }
            Backing::Memory | Backing::Absent => false,
        };
        if !is_behind_end {
            return Err(failed(io::Error::other(error)));
        }
        found.fill(0);
    }
    Ok(())
}

/// The inodes of the snapshot's files that memory is mapped from.
fn own_inodes(snapshot: &Snapshot) -> Vec<u64> {
    let loading_set = snapshot.directory().join(LoadingSet::file_name(RestoreStrategy::FaaSnap));
    let memory = snapshot.memory_file().metadata();
    [memory, fs::metadata(loading_set)].into_iter().flatten().map(|file| file.ino()).collect()
}

/// What `window` of `region` has to hold.
fn content(
    snapshot: &Snapshot,
    region: &Region,
    guest_files: &[BorrowedFd<'_>],
    window: PageRange,
    into: &mut [u8],
) -> Result<(), RestoreError> {
    let failed = |source| RestoreError::Read { range: window, source };
    into.fill(0);
    if let Backing::File { file, offset, .. } = region.backing {
        let supplied = guest_files.len();
        let file =
            *guest_files.get(file.0 as usize).ok_or(RestoreError::MissingFile { index: file.0, supplied })?;
        let offset = offset + (window.start.0 - region.range.start.0) * PAGE_SIZE;
        read_to_end(file, offset, into).map_err(failed)?;
    }
    for run in snapshot.stored_pages().within(window) {
        let from = (run.start.0 - window.start.0) as usize * PAGE;
        let piece = into.get_mut(from..from + run.count.bytes() as usize).unwrap_or_default();
        snapshot.memory_file().read_exact_at(piece, run.start.address().0).map_err(failed)?;
    }
    Ok(())
}

/// Reads until the buffer or the file ends.
fn read_to_end(file: BorrowedFd<'_>, offset: u64, into: &mut [u8]) -> io::Result<()> {
    let mut done = 0;
    while let Some(rest) = into.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match rustix::io::pread(file, rest, offset + done as u64) {
            Ok(0) => break,
            Ok(got) => done += got,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}
