//! One step of a restore plan.

use std::fmt;

use pages::PageRange;

use crate::layout::{Access, FileIndex};

/// One thing to do to a run of pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapStep {
    /// Map zero pages.
    Anonymous {
        /// The pages.
        range: PageRange,
        /// What is allowed there.
        access: Access,
    },
    /// Map a file that the guest had mapped.
    GuestFile {
        /// The pages.
        range: PageRange,
        /// Which of the files supplied at restore.
        file: FileIndex,
        /// Byte offset of the first page.
        offset: u64,
        /// Whether writes go to the file.
        shared: bool,
        /// What is allowed there.
        access: Access,
    },
    /// Map the snapshot's memory file, privately; its page N is guest-physical page N.
    MemoryFile {
        /// The pages.
        range: PageRange,
        /// What is allowed there.
        access: Access,
    },
    /// Map a piece of the loading-set file, privately.
    LoadingSet {
        /// The pages.
        range: PageRange,
        /// Byte offset of the first page in the loading-set file.
        offset: u64,
        /// What is allowed there.
        access: Access,
    },
    /// Read the snapshot's memory file into anonymous memory mapped by an earlier step.
    ReadMemoryFile {
        /// The pages.
        range: PageRange,
    },
    /// Hand faults on missing pages to the userfault server.
    Userfault {
        /// The pages.
        range: PageRange,
    },
    /// Change what is allowed.
    Protect {
        /// The pages.
        range: PageRange,
        /// What is allowed from now on.
        access: Access,
    },
}

impl MapStep {
    /// The pages that it is about.
    pub(crate) const fn range(&self) -> PageRange {
        match self {
            Self::Anonymous { range, .. }
            | Self::GuestFile { range, .. }
            | Self::MemoryFile { range, .. }
            | Self::LoadingSet { range, .. }
            | Self::ReadMemoryFile { range }
            | Self::Userfault { range }
            | Self::Protect { range, .. } => *range,
        }
    }

    /// Whether it decides what lies behind its pages.
    pub(crate) const fn maps(&self) -> bool {
        matches!(
            self,
            Self::Anonymous { .. }
                | Self::GuestFile { .. }
                | Self::MemoryFile { .. }
                | Self::LoadingSet { .. }
        )
    }

    /// The same for `part` of its pages.
    pub(crate) fn part(&self, part: PageRange) -> Self {
        let further = |offset: u64| offset + (part.start.0 - self.range().start.0) * pages::PAGE_SIZE;
        match *self {
            Self::Anonymous { access, .. } => Self::Anonymous { range: part, access },
            Self::GuestFile { file, offset, shared, access, .. } => {
                Self::GuestFile { range: part, file, offset: further(offset), shared, access }
            }
            Self::MemoryFile { access, .. } => Self::MemoryFile { range: part, access },
            Self::LoadingSet { offset, access, .. } => {
                Self::LoadingSet { range: part, offset: further(offset), access }
            }
            Self::ReadMemoryFile { .. } => Self::ReadMemoryFile { range: part },
            Self::Userfault { .. } => Self::Userfault { range: part },
            Self::Protect { access, .. } => Self::Protect { range: part, access },
        }
    }
}

impl fmt::Display for MapStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pages = |range: &PageRange| format!("{}..{}", range.start.0, range.end().0);
        match self {
            Self::Anonymous { range, access } => write!(f, "anonymous {} {access}", pages(range)),
            Self::GuestFile { range, file, offset, shared, access } => {
                let kind = if *shared { "shared" } else { "private" };
                write!(f, "guest-file {} {access} {kind} file {} at {offset:#x}", pages(range), file.0)
            }
            Self::MemoryFile { range, access } => write!(f, "memory-file {} {access}", pages(range)),
            Self::LoadingSet { range, offset, access } => {
                write!(f, "loading-set {} {access} at {offset:#x}", pages(range))
            }
            Self::ReadMemoryFile { range } => write!(f, "read {}", pages(range)),
            Self::Userfault { range } => write!(f, "userfault {}", pages(range)),
            Self::Protect { range, access } => write!(f, "protect {} {access}", pages(range)),
        }
    }
}
