//! A guest to restore: files, written pages over them, memory with holes, a guard page.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;

use guest_memory::GuestMemory;
use pages::{PageCount, PageIndex, PageRange, PageSet};
use snapshot::{MachineIdentity, Snapshot, SnapshotBuilder, SnapshotError};
use tempfile::TempDir;

use crate::{
    Access, Backing, FileIndex, GuestLayout, Region, RestoreError, RestoreHandle, RestoreRequest,
    RestoreStrategy, Timeline, restore, wrong_pages,
};

/// Pages of guest-physical space.
pub(crate) const PAGES: u64 = 4096;

/// The runs of pages that the snapshot stores.
pub(crate) const STORED: [(u64, u64); 7] =
    [(12, 14), (30, 35), (37, 40), (1000, 1400), (1500, 2500), (3000, 3001), (3009, 3300)];

pub(crate) struct Sample {
    directory: TempDir,
    pub snapshot: Snapshot,
    pub layout: GuestLayout,
    pub guest_file: File,
}

pub(crate) fn range(start: u64, end: u64) -> PageRange {
    PageRange::between(PageIndex(start), PageIndex(end))
}

pub(crate) fn set(runs: &[(u64, u64)]) -> PageSet {
    runs.iter().map(|(start, end)| range(*start, *end)).collect()
}

/// What page `page` holds: differs in every page and every word.
pub(crate) fn page_content(page: u64) -> Vec<u8> {
    (0..512u64).flat_map(|word| (page << 32 | word << 1 | 1).to_le_bytes()).collect()
}

/// A directory on the disk that the build is on: /tmp may be a tmpfs, which has no page cache to drop.
pub(crate) fn directory_on_disk() -> TempDir {
    let executable = std::env::current_exe().unwrap();
    tempfile::tempdir_in(executable.parent().unwrap()).unwrap()
}

impl Sample {
    pub fn new() -> Self {
        let directory = directory_on_disk();
        let region = |start, end, backing, access| Region { range: range(start, end), backing, access };
        let file = |offset, shared| Backing::File { file: FileIndex(0), offset, shared };
        let layout = GuestLayout::new(
            PageCount(PAGES),
            vec![
                region(0, 10, file(0, false), Access::Read),
                region(10, 20, file(0x2000, false), Access::ReadWrite),
                region(25, 27, Backing::Absent, Access::None),
                region(30, 2000, Backing::Memory, Access::ReadWrite),
                region(2000, 2600, Backing::Memory, Access::Read),
                region(2600, 2610, file(0x1000, true), Access::ReadWrite),
                region(3000, 3001, Backing::Memory, Access::None),
                region(3001, 4000, Backing::Memory, Access::ReadWrite),
            ],
        )
        .unwrap();
        let mut guest_file = tempfile::tempfile_in(directory.path()).unwrap();
        for page in 0..16u64 {
            guest_file.write_all(&[page as u8 + 100; 4096]).unwrap();
        }
        let snapshot = write_snapshot(&directory, "sample", &layout);
        Self { directory, snapshot, layout, guest_file }
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().join("sample")
    }

    pub fn files(&self) -> [BorrowedFd<'_>; 1] {
        [self.guest_file.as_fd()]
    }

    /// Drops every file of the snapshot from the page cache.
    pub fn drop_cache(&self) {
        for entry in std::fs::read_dir(self.path()).unwrap() {
            let file = File::open(entry.unwrap().path()).unwrap();
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        }
    }

    pub fn restore(
        &self,
        strategy: RestoreStrategy,
    ) -> Result<(Arc<GuestMemory>, RestoreHandle, Timeline), RestoreError> {
        self.restore_with(strategy, |_| ())
    }

    pub fn restore_with(
        &self,
        strategy: RestoreStrategy,
        change: impl FnOnce(&mut RestoreRequest<'_>),
    ) -> Result<(Arc<GuestMemory>, RestoreHandle, Timeline), RestoreError> {
        let memory = Arc::new(GuestMemory::reserve(PageCount(PAGES)).unwrap());
        let mut timeline = Timeline::start();
        let files = self.files();
        let mut request = RestoreRequest::new(&memory, &self.snapshot, &self.layout, &files, strategy);
        change(&mut request);
        let handle = restore(&request, &mut timeline)?;
        Ok((memory, handle, timeline))
    }

    pub fn check(&self, memory: &GuestMemory) {
        let wrong = wrong_pages(memory, &self.snapshot, &self.layout, &self.files()).unwrap();
        assert!(wrong.is_empty(), "wrong pages: {wrong:?}");
    }
}

pub(crate) fn write_snapshot(directory: &TempDir, name: &str, layout: &GuestLayout) -> Snapshot {
    let machine = MachineIdentity::of_this_machine().unwrap();
    let mut builder = SnapshotBuilder::begin(directory.path(), name, machine).unwrap();
    layout.add_to(&mut builder).unwrap();
    builder
        .memory(layout.page_count(), |sink| -> Result<(), SnapshotError> {
            for (start, end) in STORED {
                let bytes: Vec<u8> = (start..end).flat_map(page_content).collect();
                sink.write(PageIndex(start), &bytes)?;
            }
            Ok(())
        })
        .unwrap();
    builder.publish().unwrap()
}
