//! A picture of each function's memory, kept before its snapshot goes.

use std::fs;

use restore::{GuestLayout, MemoryPicture, PageClasses, RestoreStrategy};
use snapshot::Snapshot;

use crate::catalogue::Subject;
use crate::error::BenchError;
use crate::plot;
use crate::run::Run;
use crate::snapshots::BenchSnapshot;

impl Run {
    /// Draws guest memory by page class and order of loading into `memory-FUNCTION.svg` and `.png`.
    pub fn keep_picture(&self, subject: &Subject, made: &BenchSnapshot) -> Result<(), BenchError> {
        let folder = self.folder.join("memory");
        fs::create_dir_all(&folder).map_err(BenchError::io("creating", &folder))?;
        if folder.join(format!("{}.png", subject.name)).exists() {
            return Ok(());
        }
        let snapshot = Snapshot::open(&made.folder)?;
        let layout = GuestLayout::from_snapshot(&snapshot)?;
        let set = made.recording(subject, RestoreStrategy::FaaSnap)?;
        let classes = PageClasses::of_loading_set(&layout, snapshot.stored_pages(), Some(&set));
        let picture = MemoryPicture::new(snapshot.page_count(), &classes, Some(&set));
        plot::save(&folder, subject.name.as_str(), &picture.svg()).map(drop)
    }
}
