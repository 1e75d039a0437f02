//! Host page recording: which pages of the memory file come into the page cache while an invocation runs.
//!
//! The kernel's readahead window belongs to the block device, not to the file, and on some machines it is 8 MiB: nearly
//! everything would be recorded. So the guest's mappings are set to random access, where a fault brings in one page and
//! what is seen is exactly what was touched. The pages that a host with a bounded window would have read with them are
//! then added by rule, without reading them: they can't slow the recorded invocation.

use std::fs::File;
use std::num::NonZeroU64;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use guest_memory::{FileResidency, GuestMemory, MapError, cached_count};
use pages::{PageCount, PageIndex, PageRange, PageSet};
use rustix::fs::{Advice, FlockOperation, fadvise, flock};
use snapshot::{Snapshot, SnapshotId};
use thiserror::Error;

use crate::layout::GuestLayout;
use crate::recording::{Recording, RecordingOptions, memory_pages, window_around};
use crate::strategy::RestoreStrategy;

/// Pages whose cached count is compared at once; only pieces where it changed are looked at page by page.
const PIECE: PageCount = PageCount(512);

/// Why an invocation can't be recorded. The invocation itself can run.
#[derive(Debug, Error)]
pub enum RecordError {
    /// Another recorder works on this snapshot.
    #[error("another invocation of this snapshot is being recorded: record the next one")]
    Busy,
    /// Pages stay in the page cache, because another instance maps them; what they are used for can't be seen.
    #[error("{} pages of the memory file stay in the page cache: record when no other instance uses the snapshot", .0.0)]
    StillCached(PageCount),
    /// The kernel reports every page as resident to a process that neither owns nor may write the file.
    #[error("this process may not see which pages are cached: run it as the owner of the snapshot's files")]
    Blind,
    /// The kernel refused.
    #[error("{operation} failed while recording")]
    Host {
        /// In words.
        operation: &'static str,
        /// What it said.
        #[source]
        source: std::io::Error,
    },
    /// Guest memory could not be examined.
    #[error("guest memory can't be examined")]
    Memory(#[from] MapError),
    /// The recording thread ended abnormally.
    #[error("the recording thread ended abnormally: this is a defect of the program, please report it")]
    Thread,
}

fn host(operation: &'static str) -> impl Fn(std::io::Error) -> RecordError {
    move |source| RecordError::Host { operation, source }
}

/// A snapshot whose memory file is out of the page cache and locked against other recorders.
#[derive(Debug)]
pub(crate) struct Prepared {
    file: File,
    residency: FileResidency,
    stored: PageSet,
    snapshot: SnapshotId,
    options: RecordingOptions,
}

impl Prepared {
    /// Drops the memory file from the page cache and proves that its pages are seen as not resident. Must come before the
    /// file is mapped for the guest.
    pub fn new(snapshot: &Snapshot, options: RecordingOptions) -> Result<Self, RecordError> {
        // A file description of its own: the lock and the access advice belong to the description.
        let file = File::open(snapshot.memory_path()).map_err(host("opening the memory file"))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(RecordError::Busy),
            Err(errno) => return Err(host("locking the memory file")(errno.into())),
        }
        file.sync_all().map_err(host("syncing the memory file"))?;
        fadvise(&file, 0, NonZeroU64::new(0), Advice::DontNeed)
            .map_err(|errno| host("dropping the page cache")(errno.into()))?;
        let residency = FileResidency::of(file.as_fd(), snapshot.page_count())
            .map_err(host("mapping the memory file"))?;
        let cached = residency.cached(residency.whole()).map_err(host("querying the page cache"))?;
        if cached.count() == snapshot.page_count() && !cached.is_empty() {
            return Err(RecordError::Blind);
        }
        let still = cached.intersection(snapshot.stored_pages()).count();
        if still.0 > 0 {
            return Err(RecordError::StillCached(still));
        }
        Ok(Self {
            file,
            residency,
            stored: snapshot.stored_pages().clone(),
            snapshot: snapshot.id(),
            options,
        })
    }

    /// Starts to record what happens to `memory`, restored on demand with random access.
    pub fn start(self, memory: Arc<GuestMemory>, layout: GuestLayout) -> Result<Recorder, std::io::Error> {
        let (stop, stopped) = sync_channel(1);
        let thread = thread::Builder::new().name("recorder".into()).spawn(move || {
            let mut scanner = Scanner::new(self);
            let mut pause = scanner.prepared.options.poll;
            while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                let begun = Instant::now();
                scanner.scan()?;
                // Looking may take at most a tenth of this thread's time, whatever the guest's size.
                pause = scanner.prepared.options.poll.max(begun.elapsed() * 9);
            }
            scanner.scan()?;
            scanner.finish(&memory, &layout)
        })?;
        Ok(Recorder { stop, thread })
    }
}

/// A recording in progress.
#[derive(Debug)]
pub(crate) struct Recorder {
    stop: SyncSender<()>,
    thread: JoinHandle<Result<Recording, RecordError>>,
}

impl Recorder {
    /// Ends the recording. Guest memory must still be mapped.
    pub fn finish(self) -> Result<Recording, RecordError> {
        let Self { stop, thread } = self;
        // The thread stops when it hears or when the sender is gone.
        drop(stop);
        thread.join().map_err(|_| RecordError::Thread)?
    }
}

struct Scanner {
    prepared: Prepared,
    pieces: Vec<Piece>,
    seen: PageSet,
    groups: Vec<PageSet>,
    current: PageSet,
}

/// A piece of the file that stores pages.
struct Piece {
    range: PageRange,
    /// How many of its pages the last look found.
    cached: PageCount,
}

impl Scanner {
    fn new(prepared: Prepared) -> Self {
        let mut pieces: Vec<Piece> = Vec::new();
        for run in prepared.stored.runs() {
            for number in run.start.0 / PIECE.0..run.end().0.div_ceil(PIECE.0) {
                let range = PageRange::new(PageIndex(number * PIECE.0), PIECE);
                if pieces.last().is_none_or(|last| last.range.start < range.start) {
                    pieces.push(Piece { range, cached: PageCount(0) });
                }
            }
        }
        let empty = PageSet::new;
        Self { prepared, pieces, seen: empty(), groups: Vec::new(), current: empty() }
    }

    /// Finds the pages that came in since the last look and puts them into the current group.
    fn scan(&mut self) -> Result<(), RecordError> {
        let mut new = PageSet::new();
        for piece in &mut self.pieces {
            // An older kernel can't count: there every page of every piece is looked at.
            let count = cached_count(self.prepared.file.as_fd(), piece.range).ok();
            if count == Some(piece.cached) {
                continue;
            }
            let cached =
                self.prepared.residency.cached(piece.range).map_err(host("querying the page cache"))?;
            // The count includes pages that are still being read, which the look leaves out: comparing with what was seen
            // makes the next scan look again.
            piece.cached = cached.count();
            new.extend(
                cached.intersection(&self.prepared.stored).difference(&self.seen).runs().iter().copied(),
            );
        }
        if new.is_empty() {
            return Ok(());
        }
        self.seen = self.seen.union(&new);
        self.current = self.current.union(&new);
        if self.current.count() >= self.prepared.options.group {
            self.groups.push(std::mem::take(&mut self.current));
        }
        Ok(())
    }

    fn finish(mut self, memory: &GuestMemory, layout: &GuestLayout) -> Result<Recording, RecordError> {
        if !self.current.is_empty() {
            self.groups.push(std::mem::take(&mut self.current));
        }
        let mut private = PageSet::new();
        for region in layout.regions() {
            memory.page_states(region.range, |page, state| {
                if state.is_private() {
                    private.insert(PageRange::new(page, PageCount(1)));
                }
            })?;
        }
        let stored = &self.prepared.stored;
        let zero = memory_pages(layout).difference(stored);
        let window = self.prepared.options.readahead_window;
        let read_ahead = add_read_ahead(&mut self.groups, &self.seen, stored, window);
        Ok(Recording {
            snapshot: self.prepared.snapshot,
            strategy: RestoreStrategy::FaaSnap,
            readahead_window: self.prepared.options.readahead_window,
            read_ahead,
            written: self.seen.intersection(&private),
            fresh: zero.intersection(&private),
            files: PageSet::new(),
            groups: self.groups,
        })
    }
}

/// Adds to each group the stored pages in the windows around its pages that nobody touched; returns all that were added.
fn add_read_ahead(groups: &mut [PageSet], touched: &PageSet, stored: &PageSet, window: PageCount) -> PageSet {
    let mut added = PageSet::new();
    for group in groups {
        let windows: PageSet = group.pages().map(|page| window_around(page, window)).collect();
        let new = windows.intersection(stored).difference(touched).difference(&added);
        *group = group.union(&new);
        added = added.union(&new);
    }
    added
}
