//! The whole process in a snapshot. The order of things is written down in docs/snapshot-protocol.md.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::process::{Process, ProcessParts, ProgramImage};
use super::signal::{ProcessSignals, SavedProcessSignals};
use super::thread::{RestingState, SavedThread, Thread};
use super::{Hooks, Identity, Limit, Limits, SavedTimers};
use crate::clock::Clock;
use crate::file::{FdTable, OpenFile, SavedFdTable};
use crate::fs::{FsContext, SavedFsContext, SavedVfs, Vfs};
use crate::ipc::Ipc;
use crate::mm::{MappedFiles, MemoryImage, MemorySlots, Mm, SavedMm};
use crate::net::Network;
use crate::object::{RestoreContext, RestoreError, RestoreFn, Restorer, SaveError, SavedObject, Saver};
use guest_memory::{Arrivals, GuestMemory};
use pages::{Block, PageSet};

/// Saved form of a process at rest.
#[derive(Serialize, Deserialize)]
pub struct SavedProcess {
    mm: SavedMm,
    vfs: SavedVfs,
    objects: Vec<SavedObject>,
    files: SavedFdTable,
    fs: SavedFsContext,
    signals: SavedProcessSignals,
    timers: SavedTimers,
    limits: [Limit; 16],
    identity: Identity,
    memory_limit: u64,
    program: ProgramImage,
    next_tid: i32,
    threads: Vec<SavedThread>,
    /// CLOCK_MONOTONIC, nanoseconds.
    monotonic: u64,
}

impl SavedProcess {
    /// The blocks behind what the process has mapped, all of them still to come.
    pub fn late_blocks(&self) -> Arrivals {
        Arrivals::new(self.mm.blocks())
    }

    /// The blocks that are needed first, in that order: the clocks' page, which is written before anything runs, then where
    /// each thread's code, stack and thread-local storage are.
    pub fn first_blocks(&self) -> Vec<Block> {
        let image = self.program.vdso;
        let clocks = (image != 0).then(|| image.saturating_sub(pages::PAGE_SIZE));
        let threads = self.threads.iter().flat_map(|thread| {
            let cpu = &thread.state.cpu;
            [cpu.registers.rip, cpu.registers.rsp, cpu.fs_base]
        });
        let mut blocks = Vec::new();
        for block in clocks.into_iter().chain(threads).filter_map(|address| self.mm.block_behind(address)) {
            if !blocks.contains(&block) {
                blocks.push(block);
            }
        }
        blocks
    }
}

/// Every object kind and how it is made again.
fn registry() -> HashMap<&'static str, RestoreFn> {
    let open_file: (&'static str, RestoreFn) = (OpenFile::KIND, OpenFile::restore);
    crate::fs::restore_functions()
        .into_iter()
        .chain(crate::ipc::registry())
        .chain(crate::net::registry())
        .chain([open_file])
        .collect()
}

impl Process {
    /// Saves the process; every thread must rest (see [`Process::pause`]).
    ///
    /// # Errors
    /// [`SaveError`] naming what can't be saved.
    pub fn save(&self) -> Result<(SavedProcess, MemoryImage), SaveError> {
        let mut saver = Saver::default();
        let (mm, image) = self.mm.save(&mut saver)?;
        let files = self.files.save(&mut saver)?;
        let fs = self.fs.save(&mut saver)?;
        let threads = self.threads().iter().map(|thread| thread.save()).collect::<Option<_>>();
        let threads = threads.ok_or_else(|| SaveError::NotSnapshotable {
            object: "the process".to_owned(),
            reason: "a thread is still running; pause it first",
        })?;
        let saved = SavedProcess {
            mm,
            vfs: self.vfs.save()?,
            objects: saver.finish(),
            files,
            fs,
            signals: self.signals.save(),
            timers: self.save_timers(),
            limits: self.limits.save(),
            identity: self.identity.clone(),
            memory_limit: self.memory_limit,
            program: self.program.lock().clone(),
            next_tid: self.next_tid(),
            threads,
            monotonic: self.clock.monotonic(),
        };
        Ok((saved, image))
    }
}

/// A process that is being made again: its files are open, its memory is about to be mapped.
pub struct Revival {
    saved: SavedProcess,
    mapped: MappedFiles,
    files: FdTable,
    fs: FsContext,
    context: RestoreContext,
    /// What of memory may come in late.
    arrivals: Arc<Arrivals>,
    /// What is ready of blocks that are not handed out yet.
    growth: PageSet,
}

/// A thread of a restored process and what it goes on with.
pub type RestoredThread = (Arc<Thread>, RestingState);

impl Revival {
    /// Makes the objects of a saved process again; `vfs` has the same mounts as the saved process had. Time goes on from
    /// here.
    ///
    /// # Errors
    /// [`RestoreError`].
    pub fn begin(mut saved: SavedProcess, vfs: Arc<Vfs>) -> Result<Self, RestoreError> {
        vfs.restore(std::mem::take(&mut saved.vfs))?;
        let clock = Arc::new(Clock::continuing_from(saved.monotonic));
        let ipc = Ipc::new(clock.clone());
        let network = Network::new(&ipc);
        let context = RestoreContext { vfs, clock, network, ipc };
        let registry = registry();
        let mut restorer = Restorer::new(&saved.objects, &context, &registry);
        let mapped = saved.mm.open_files(&mut restorer)?;
        let files = FdTable::restore(&saved.files, &mut restorer)?;
        let fs = FsContext::restore(&saved.fs, &mut restorer)?;
        drop(restorer);
        let (arrivals, growth) = Default::default();
        Ok(Self { saved, mapped, files, fs, context, arrivals, growth })
    }

    /// The files that memory maps, in the order of the image's regions.
    pub fn mapped_files(&self) -> &MappedFiles {
        &self.mapped
    }

    /// Lets memory behind what the process has mapped come in while it runs: whoever brings it in says so to `arrivals`, which
    /// [`SavedProcess::late_blocks`] gave. Without this, all of memory must be in before [`Revival::finish`].
    pub fn expect(&mut self, arrivals: Arc<Arrivals>) {
        self.arrivals = arrivals;
    }

    /// Says what of guest memory is ready beyond what the process has: in memory, writable and zero. It gets these pages when it is
    /// given the blocks that they lie in.
    pub fn expect_growth(&mut self, ready: PageSet) {
        self.growth = ready;
    }

    /// What the process's objects share; the Runtime API's service and the log are attached here.
    pub fn context(&self) -> &RestoreContext {
        &self.context
    }

    /// The process again, over memory that has been mapped, or comes in late. Its threads are known but don't run: spawn each with
    /// [`Hooks::spawn`], then call [`Process::keep_vdso_fresh`].
    ///
    /// # Errors
    /// [`RestoreError`].
    pub fn finish(
        self,
        memory: Arc<GuestMemory>,
        slots: Arc<dyn MemorySlots>,
        hooks: Arc<dyn Hooks>,
    ) -> Result<(Arc<Process>, Vec<RestoredThread>), RestoreError> {
        let saved = self.saved;
        let refused = |_| RestoreError::BadReference { id: 0, wanted: "address space" };
        slots.cover(saved.mm.page_count()).map_err(refused)?;
        let mm = Mm::restore(saved.mm, &self.mapped, memory, slots, self.arrivals)?;
        mm.expect_growth(self.growth);
        mm.wipe_for_new_copy().map_err(refused)?;
        let process = Process::again(
            ProcessParts {
                mm,
                files: self.files,
                fs: self.fs,
                vfs: self.context.vfs,
                network: self.context.network,
                ipc: self.context.ipc,
                clock: self.context.clock,
                limits: Limits::restore(saved.limits),
                identity: saved.identity,
                memory_limit: saved.memory_limit,
                hooks,
            },
            ProcessSignals::restore(saved.signals),
            saved.program,
        );
        process.set_next_tid(saved.next_tid);
        process.renew_pid();
        let threads: Vec<RestoredThread> = saved.threads.into_iter().map(Thread::restore).collect();
        for (thread, _) in &threads {
            process.add_thread(thread).map_err(refused)?;
        }
        process.restore_timers(saved.timers).map_err(refused)?;
        process.refresh_vdso();
        Ok((process, threads))
    }
}
