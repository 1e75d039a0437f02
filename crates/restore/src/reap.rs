//! REAP (ASPLOS 2021), the strongest baseline: a recorded working set is read in one go and installed before the guest runs;
//! every other page is served by userfaultfd, one fault at a time. The recording is the list of those faults.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use guest_memory::{GuestMemory, MapError, Protection, Source, Userfault};
use pages::{GuestPhysical, PAGE_SIZE, PageCount, PageIndex, PageRange, PageSet};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fd::OwnedFd;

use crate::error::RestoreError;
use crate::failure::{FailureHook, LoadFailure};
use crate::loading_set::{CHUNK, LoadingSet};

/// Pages read at once into the staging memory (8 MiB).
const READ_AT_ONCE: PageCount = PageCount(2048);

/// The working set, read but not yet in place.
#[derive(Debug)]
pub(crate) struct WorkingSet {
    staging: GuestMemory,
    set: LoadingSet,
}

impl WorkingSet {
    /// Reads the whole file into fresh memory, past the page cache where the file system allows it.
    pub fn read(set: LoadingSet) -> Result<Self, RestoreError> {
        let all = PageRange::new(PageIndex(0), set.page_count());
        let staging = GuestMemory::reserve(PageCount(all.count.0.max(1)))?;
        staging.map(all, Source::Anonymous, Protection::ReadWrite)?;
        let direct =
            File::options().read(true).custom_flags(rustix::fs::OFlags::DIRECT.bits() as i32).open(&set.path);
        let mut start = all.start;
        while start < all.end() {
            let window = PageRange::new(start, READ_AT_ONCE.min(PageCount(all.end().0 - start.0)));
            let offset = set.data_offset + start.address().0;
            match &direct {
                Ok(file) if staging.read_in(window, file.as_fd(), offset).is_ok() => {}
                _ => staging.read_in(window, set.file.as_fd(), offset)?,
            }
            start = window.end();
        }
        Ok(Self { staging, set })
    }

    /// Installs every page in its place.
    pub fn install(&self, userfault: &Userfault, memory: &GuestMemory) -> Result<(), MapError> {
        for region in self.set.regions() {
            let source = PageIndex((region.offset - self.set.data_offset) / PAGE_SIZE);
            userfault.install_staged(memory, region.range, &self.staging, source)?;
        }
        Ok(())
    }

    /// Compares what was read with the checksums; done beside the guest, before the staging memory is given back.
    fn check(&self) -> Result<(), LoadFailure> {
        let mut buffer = vec![0; CHUNK.bytes() as usize];
        let mut left = self.set.page_count().bytes();
        let mut position = 0;
        for expected in &self.set.checksums {
            let length = CHUNK.bytes().min(left) as usize;
            let bytes = buffer.get_mut(..length).unwrap_or_default();
            let readable = self.staging.read(GuestPhysical(position), bytes).is_ok();
            if !readable || crc32c::crc32c(bytes) != *expected {
                return Err(LoadFailure::Checksum {
                    path: self.set.path.clone(),
                    offset: self.set.data_offset + position,
                    is_recording: true,
                });
            }
            position += length as u64;
            left -= length as u64;
        }
        Ok(())
    }

    /// The pages of the working set.
    pub fn pages(&self) -> PageSet {
        self.set.pages()
    }

    /// Size of the working set.
    pub fn bytes(&self) -> u64 {
        self.set.page_count().bytes()
    }
}

/// What the server did.
#[derive(Debug)]
pub(crate) struct ServerReport {
    /// Pages served, in the order of their faults.
    pub faults: Vec<PageIndex>,
    /// Why the guest must be stopped.
    pub failure: Option<LoadFailure>,
}

/// The thread that serves faults. Dropping it ends the thread; the guest must not run any more.
#[derive(Debug)]
pub(crate) struct Server {
    thread: Option<JoinHandle<ServerReport>>,
    stop: Arc<OwnedFd>,
}

/// What the thread works with.
pub(crate) struct ServerJob {
    pub userfault: Userfault,
    pub memory: Arc<GuestMemory>,
    pub memory_file: File,
    pub memory_path: std::path::PathBuf,
    /// The working set that was installed, to be checked once the guest runs.
    pub installed: Option<WorkingSet>,
    pub on_failure: Option<FailureHook>,
}

impl Server {
    /// Starts the thread.
    pub fn start(mut job: ServerJob) -> io::Result<Self> {
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new().name("userfaults".into()).spawn(move || {
            jail::narrow(jail::Role::Loader);
            let mut faults = Vec::new();
            let failure = serve(&mut job, &stopped, &mut faults).err();
            if let (Some(failure), Some(hook)) = (&failure, &job.on_failure) {
                hook(failure);
            }
            if failure.is_some() {
                // Who waits for a page now waits until the descriptor is closed, which ends this thread's ownership: the
                // faults then find anonymous memory. The guest has been stopped by then.
                let _ = wait(None, &stopped);
            }
            ServerReport { faults, failure }
        })?;
        Ok(Self { thread: Some(thread), stop })
    }

    /// Ends the thread and says what it did; `None` when it ended abnormally.
    pub fn finish(mut self) -> Option<ServerReport> {
        self.end()
    }

    fn end(&mut self) -> Option<ServerReport> {
        // Fails only when the counter is full: then the thread has been told often enough.
        let _ = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
        self.thread.take().and_then(|thread| thread.join().ok())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

/// Waits for a fault or the end; true for the end.
fn wait(userfault: Option<&Userfault>, stop: &OwnedFd) -> io::Result<bool> {
    loop {
        let mut descriptors = vec![PollFd::new(stop, PollFlags::IN)];
        if let Some(userfault) = userfault {
            descriptors.push(PollFd::new(userfault, PollFlags::IN));
        }
        match poll(&mut descriptors, None) {
            Ok(_) => return Ok(descriptors.first().is_some_and(|stop| !stop.revents().is_empty())),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn serve(job: &mut ServerJob, stop: &OwnedFd, faults: &mut Vec<PageIndex>) -> Result<(), LoadFailure> {
    let mut page_bytes = vec![0; PAGE_SIZE as usize];
    let failed = |page: PageIndex| {
        let path = job.memory_path.clone();
        move |source| LoadFailure::Read { path, offset: page.address().0, is_recording: false, source }
    };
    loop {
        while let Some(page) = job.userfault.next_fault(&job.memory).map_err(failed(PageIndex(0)))? {
            job.memory_file.read_exact_at(&mut page_bytes, page.address().0).map_err(failed(page))?;
            job.userfault
                .install(&job.memory, page, &page_bytes)
                .map_err(|error| failed(page)(io::Error::other(error)))?;
            faults.push(page);
        }
        // Faults come first; the check runs once, when nobody waits.
        if let Some(installed) = job.installed.take() {
            installed.check()?;
            continue;
        }
        if wait(Some(&job.userfault), stop).map_err(failed(PageIndex(0)))? {
            return Ok(());
        }
    }
}

/// The pages of `faults` in one set; REAP's working set has no order.
pub(crate) fn working_set(faults: &[PageIndex]) -> PageSet {
    let mut sorted = faults.to_vec();
    sorted.sort_unstable();
    sorted.into_iter().collect()
}
