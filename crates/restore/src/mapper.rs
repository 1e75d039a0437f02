//! Applies a plan: the one place that changes what lies behind guest memory during a restore.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

use guest_memory::{GuestMemory, Source};

use crate::error::RestoreError;
use crate::map_step::MapStep;
use crate::plan::RestorePlan;

/// The files that a plan's steps refer to.
pub(crate) struct Sources<'a> {
    /// The snapshot's memory file.
    pub memory_file: &'a File,
    /// The loading-set file, for plans that map it.
    pub loading_set: Option<&'a File>,
    /// The files that the guest had mapped.
    pub guest_files: &'a [BorrowedFd<'a>],
}

/// Does every step of `plan` that maps or protects, in order. Steps that bring content are handed to `content`.
pub(crate) fn apply(
    plan: &RestorePlan,
    memory: &GuestMemory,
    sources: &Sources<'_>,
    mut content: impl FnMut(&MapStep) -> Result<(), RestoreError>,
) -> Result<(), RestoreError> {
    for step in &plan.steps {
        match *step {
            MapStep::Anonymous { range, access } => memory.map(range, Source::Anonymous, access.into())?,
            MapStep::GuestFile { range, file, offset, shared, access } => {
                let index = file.0;
                let supplied = sources.guest_files.len();
                let file = *sources
                    .guest_files
                    .get(index as usize)
                    .ok_or(RestoreError::MissingFile { index, supplied })?;
                let source = if shared {
                    Source::SharedFile { file, offset }
                } else {
                    Source::PrivateFile { file, offset }
                };
                memory.map(range, source, access.into())?;
            }
            MapStep::MemoryFile { range, access } => {
                let file = sources.memory_file.as_fd();
                let offset = range.start.address().0;
                memory.map(range, Source::PrivateFile { file, offset }, access.into())?;
            }
            MapStep::LoadingSet { range, offset, access } => {
                // A plan without a loading-set file has no such step.
                if let Some(file) = sources.loading_set {
                    memory.map(range, Source::PrivateFile { file: file.as_fd(), offset }, access.into())?;
                }
            }
            MapStep::Protect { range, access } => memory.protect(range, access.into())?,
            MapStep::ReadMemoryFile { .. } | MapStep::Userfault { .. } => content(step)?,
        }
    }
    Ok(())
}
