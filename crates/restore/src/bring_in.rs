//! Bringing memory in: one thread maps, another reads and then fills page tables, beside the guest when it can't see yet what
//! is missing.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use guest_memory::Advice;
use pages::Block;
use parking_lot::Mutex;

use crate::engine::RestoreRequest;
use crate::error::RestoreError;
use crate::failure::{FailureHook, LoadFailure};
use crate::fresh::Fresh;
use crate::huge_blocks::{self, HugeReader};
use crate::loader::{LoaderJob, Reading};
use crate::loading_set::{CHUNK, Decoder};
use crate::map_step::MapStep;
use crate::mapper::{self, Sources};
use crate::placement::FromFile;
use crate::plan::RestorePlan;
use crate::progress::{Half, Progress};
use crate::ready_threads::ReadyThreads;
use crate::schedule::Unit;
use crate::sole_reader::SoleReader;
use crate::timeline::monotonic_ns;

/// The files behind guest memory, kept open for as long as it is brought in.
pub(crate) struct Files {
    /// The snapshot's memory file.
    pub memory_file: File,
    pub loading_set: File,
    /// Those that the guest has mapped.
    pub guest_files: Vec<OwnedFd>,
}

impl Files {
    /// The files that `plan` maps, and that are read into guest memory; `set` is the loading-set file.
    pub fn of(request: &RestoreRequest<'_>, set: &File, plan: &RestorePlan) -> Result<Self, RestoreError> {
        let supplied = request.guest_files.len();
        let missing = plan.steps.iter().find_map(|step| match step {
            MapStep::GuestFile { file, .. } => Some(file.0).filter(|index| *index as usize >= supplied),
            _ => None,
        });
        if let Some(index) = missing {
            return Err(RestoreError::MissingFile { index, supplied });
        }
        let guest_files = request.guest_files.iter().map(BorrowedFd::try_clone_to_owned);
        Ok(Self {
            memory_file: request.snapshot.memory_file().try_clone().map_err(RestoreError::Thread)?,
            loading_set: set.try_clone().map_err(RestoreError::Thread)?,
            guest_files: guest_files.collect::<Result<_, _>>().map_err(RestoreError::Thread)?,
        })
    }
}

/// The work and all that it needs.
pub(crate) struct BringIn {
    pub job: LoaderJob,
    pub progress: Progress,
    pub files: Files,
    pub on_failure: Option<FailureHook>,
    /// Whether the guest and the loader have one processor between them.
    pub one_processor: bool,
    pub huge_reader: HugeReader,
    /// For a large set that nobody else reads.
    pub sole_reader: Mutex<Option<SoleReader>>,
    pub outcome: Outcome,
}

/// What came of it so far.
#[derive(Default)]
pub(crate) struct Outcome {
    loaded_bytes: AtomicU64,
    huge_bytes: AtomicU64,
    failure: Mutex<Option<LoadFailure>>,
    /// How many threads have not done reading.
    readers: AtomicUsize,
    /// CLOCK_MONOTONIC when nothing was left to do, 0 before.
    done_at_ns: AtomicU64,
}

impl BringIn {
    /// Maps piece after piece, until none is left. Until the guest has begun to run, only what is waited for: mapping beside its
    /// start interrupts it, takes a processor, and makes it wait for the address space's lock.
    pub fn map(&self) {
        while let Some(index) = self.progress.take_when_needed(Half::Map) {
            let unit = self.progress.schedule().units.get(index);
            if let Err(error) = self.map_one(index) {
                return self.fail(not_placed(unit, error));
            }
        }
    }

    /// Maps the pieces that are mapped before the guest runs.
    pub fn map_first(&self) -> Result<(), RestoreError> {
        while let Some(index) = self.progress.take_first() {
            self.map_one(index)?;
        }
        Ok(())
    }

    fn map_one(&self, index: usize) -> Result<(), RestoreError> {
        let Some(unit) = self.progress.schedule().units.get(index) else { return Ok(()) };
        let guest_files: Vec<BorrowedFd<'_>> = self.files.guest_files.iter().map(AsFd::as_fd).collect();
        let sources = Sources {
            memory_file: &self.files.memory_file,
            loading_set: Some(&self.files.loading_set),
            guest_files: &guest_files,
        };
        // A plan for mapped memory has no other steps.
        mapper::apply(&unit.steps, self.job.memory(), &sources, |_| Ok(()))?;
        for run in &unit.random {
            self.job.memory().advise(*run, Advice::Random)?;
        }
        self.progress.done(Half::Map, index);
        Ok(())
    }

    /// Reads what has a place, piece after piece; then loads the rest of the set and fills the host's page tables.
    fn load(&self, buffer: Vec<u8>) -> Result<(), LoadFailure> {
        let mut reading = Reading::new(&self.job, self.progress.schedule().chunks(), buffer);
        while let Some(index) = self.progress.take(Half::Read) {
            let Some(unit) = self.progress.schedule().units.get(index) else { continue };
            for number in &unit.chunks {
                self.count(reading.read(*number)?);
                give_way();
            }
            self.fill(unit).map_err(|error| not_placed(Some(unit), error))?;
            self.progress.done(Half::Read, index);
        }
        self.load_rest(&mut reading)
    }

    /// Reads blocks as wholes, one after the other, until none is left.
    fn load_huge(&self) -> Result<(), LoadFailure> {
        let (mut decoder, mut buffer) = (Decoder::default(), vec![0; CHUNK.bytes() as usize]);
        while let Some((number, unit)) = self.progress.take_huge() {
            if let Some(huge) = self.job.huge.get(number) {
                let bytes = self.huge_reader.read(&self.job, huge, (&mut decoder, &mut buffer))?;
                self.outcome.huge_bytes.fetch_add(bytes, Ordering::Relaxed);
                self.count(bytes);
            }
            self.progress.done_huge(unit);
        }
        Ok(())
    }

    /// A thread that reads has ended. The last one gives page cache back that nobody else has a use for.
    fn ended(&self, load: Result<(), LoadFailure>) {
        if let Err(failure) = load {
            self.fail(failure);
        }
        if self.outcome.readers.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        if !self.progress.is_stopped() {
            self.give_back();
        }
        self.outcome.done_at_ns.store(monotonic_ns(), Ordering::Release);
    }

    fn give_back(&self) {
        if let Some(reader) = self.sole_reader.lock().take() {
            // A hint: what stays is the page cache's, and the kernel takes it when it needs it.
            let _ = reader.give_back();
        }
    }

    fn count(&self, bytes: u64) {
        self.outcome.loaded_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Reads into a piece of work what the loading set doesn't have.
    fn fill(&self, unit: &Unit) -> Result<(), RestoreError> {
        let memory = self.job.memory();
        for FromFile { range, file, offset } in &unit.files {
            let (index, supplied) = (file.0, self.files.guest_files.len());
            let file = self.files.guest_files.get(index as usize);
            let file = file.ok_or(RestoreError::MissingFile { index, supplied })?;
            // Behind a file's end a mapping has zeros to the end of the page, as this memory has.
            memory.read_in_to_end(*range, file.as_fd(), *offset)?;
            give_way();
        }
        Ok(())
    }

    fn load_rest(&self, reading: &mut Reading<'_>) -> Result<(), LoadFailure> {
        // What of the chunks that are in has no place.
        for number in reading.done() {
            self.populate(number);
        }
        for run in self.job.files.difference(&self.job.placed).runs() {
            if !self.progress.wait_until_mapped(Block::meeting(*run)) {
                return Ok(());
            }
            // As in `LoaderJob::populate`.
            let _ = self.job.memory().advise(*run, Advice::PopulateWrite);
        }
        let left = reading.left();
        let later = if self.one_processor { left.clone() } else { Vec::new() };
        let fresh = self.job.fresh.difference(&self.job.placed);
        let mut fresh = Fresh::new(&fresh, left.len(), self.job.techniques);
        for number in left {
            if self.progress.is_stopped() {
                return Ok(());
            }
            if !self.one_processor && self.progress.is_all_mapped() {
                fresh.prepare_some(self.job.memory());
            }
            self.count(reading.read(number)?);
            if !self.one_processor {
                self.populate(number);
            }
        }
        // The disk did not wait for this, and now the guest waits for the disk no more.
        for number in later {
            if self.progress.is_stopped() {
                return Ok(());
            }
            self.populate(number);
        }
        if self.progress.wait_until_all_mapped() {
            fresh.prepare_rest(self.job.memory(), || self.progress.is_stopped());
        }
        Ok(())
    }

    /// Fills the host's page tables for a chunk that has been read, once its blocks are mapped.
    fn populate(&self, number: usize) {
        if !self.job.techniques.populate {
            return;
        }
        for piece in self.job.chunks.get(number).into_iter().flatten() {
            if !self.progress.wait_until_mapped(Block::meeting(piece.range)) {
                return;
            }
            self.job.populate(piece.range);
        }
    }

    /// The guest must be stopped. The first failure counts.
    fn fail(&self, failure: LoadFailure) {
        let text = failure.to_string();
        {
            let mut first = self.outcome.failure.lock();
            if first.is_some() {
                return;
            }
            // First, so that whoever waits for memory finds that the guest has been stopped.
            if let Some(hook) = &self.on_failure {
                hook(&failure);
            }
            *first = Some(failure);
        }
        self.progress.stop(Some(text));
    }

    /// Why it failed, if it did; once.
    pub fn take_failure(&self) -> Option<LoadFailure> {
        self.outcome.failure.lock().take()
    }
}

/// Lets a vCPU run that waits for this thread's processor. It may hold the address space's lock, for which all others would wait, and
/// the scheduler may leave it waiting for a millisecond though another processor is idle.
fn give_way() {
    thread::yield_now();
}

/// A piece of work that failed while the guest may run.
fn not_placed(unit: Option<&Unit>, error: RestoreError) -> LoadFailure {
    let first = unit.and_then(|unit| unit.blocks.first());
    LoadFailure::NotPlaced { range: first.unwrap_or(&Block(0)).pages(), source: Box::new(error) }
}

/// What the loader did.
#[derive(Debug)]
pub(crate) struct LoaderReport {
    pub loaded_bytes: u64,
    /// Of these what was read into huge pages, and past the page cache.
    pub huge_bytes: u64,
    pub direct_bytes: u64,
    /// What was read compressed, and how many bytes of the file that took.
    pub decoded_bytes: u64,
    pub compressed_bytes: u64,
    pub failure: Option<LoadFailure>,
    /// Blocks that never came in, since the instance ended before.
    pub coming: Vec<Block>,
}

/// The threads. Dropping it ends them at the next chunk or block and waits for them.
pub(crate) struct Loader {
    work: Arc<BringIn>,
    threads: Vec<JoinHandle<()>>,
    /// Those for whole blocks that are still to be started.
    huge_readers: usize,
}

impl std::fmt::Debug for Loader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loader").field("threads", &self.threads).finish_non_exhaustive()
    }
}

impl Loader {
    /// Starts the threads that read; of those for whole blocks so many as keep the disk busy, since they take processors from what
    /// comes before the guest.
    pub fn start(work: Arc<BringIn>, threads: &ReadyThreads) -> io::Result<Self> {
        let huge_readers = huge_blocks::readers(&work.job, threads.processors());
        work.outcome.readers.store(1 + huge_readers, Ordering::Release);
        let mut loader = Self { work, threads: Vec::new(), huge_readers };
        let buffer = threads.buffer();
        loader.spawn(threads, |work| work.ended(work.load(buffer)))?;
        loader.start_huge_readers(threads, huge_blocks::FIRST_READERS)?;
        Ok(loader)
    }

    /// Starts as many as are still to be started of those that read whole blocks, at most `count`.
    pub fn start_huge_readers(&mut self, threads: &ReadyThreads, count: usize) -> io::Result<()> {
        for _ in 0..count.min(self.huge_readers) {
            self.spawn(threads, |work| work.ended(work.load_huge()))?;
            self.huge_readers -= 1;
        }
        Ok(())
    }

    /// Starts the thread that maps what comes in late.
    pub fn start_mapper(&mut self, threads: &ReadyThreads) -> io::Result<()> {
        self.spawn(threads, BringIn::map)
    }

    fn spawn(
        &mut self,
        threads: &ReadyThreads,
        run: impl FnOnce(&BringIn) + Send + 'static,
    ) -> io::Result<()> {
        let work = Arc::clone(&self.work);
        let thread = threads.load(move || {
            let _on_panic = StopOnPanic(&work);
            run(&work);
        });
        self.threads.push(thread?);
        Ok(())
    }

    /// The work.
    pub fn work(&self) -> &BringIn {
        &self.work
    }

    /// Whether something came in while the guest ran.
    pub fn has_late_blocks(&self) -> bool {
        self.work.progress.schedule().units.len() > 1
    }

    /// CLOCK_MONOTONIC when nothing was left to do, once it is so.
    pub fn done_at_ns(&self) -> Option<u64> {
        Some(self.work.outcome.done_at_ns.load(Ordering::Acquire)).filter(|done| *done != 0)
    }

    /// Waits until everything is done.
    pub fn wait(&mut self) {
        for thread in self.threads.drain(..) {
            // A panic has been printed by its thread.
            let _ = thread.join();
        }
    }

    /// Ends the threads and says what they did.
    pub fn finish(mut self) -> LoaderReport {
        let coming = self.work.progress.coming();
        self.stop();
        let (decoded_bytes, compressed_bytes) = self.work.job.decoded.bytes();
        LoaderReport {
            loaded_bytes: self.work.outcome.loaded_bytes.load(Ordering::Relaxed),
            huge_bytes: self.work.outcome.huge_bytes.load(Ordering::Relaxed),
            direct_bytes: self.work.huge_reader.direct_bytes(),
            decoded_bytes,
            compressed_bytes,
            failure: self.work.take_failure(),
            coming,
        }
    }

    fn stop(&mut self) {
        if !self.threads.is_empty() {
            self.work.progress.stop(None);
        }
        self.wait();
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A defect of ours must not leave a guest waiting.
struct StopOnPanic<'a>(&'a BringIn);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let reason = "the thread that brings memory in failed (a defect: see its log)";
            self.0.progress.stop(Some(reason.to_owned()));
        }
    }
}
