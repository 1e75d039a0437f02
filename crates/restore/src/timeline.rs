//! The restore timeline: one typed record of what a restore and the invocation behind it took.
//!
//! Logs, REPORT lines, metrics, benchmarks and plots all read this record. Times are nanoseconds of the host's monotonic
//! clock since the request, so that the processes of one machine (node, worker) can write into the same record.

use std::fmt;
use std::fs;

use guest_memory::ProcessFaults;
use pages::PAGE_SIZE;
use serde::{Deserialize, Serialize};

use crate::strategy::RestoreStrategy;

/// A named piece of the way from request to answer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// A worker process was taken from the spare ones, or started.
    WorkerReady,
    /// The function's files were opened and the request was sent to the worker.
    Sent,
    /// The worker took the request up.
    Received,
    /// The snapshot's header, table and layout were read and checked.
    SnapshotOpened,
    /// The plan was made; the loading-set file's table was read for it.
    Planned,
    /// Cached only: pages missing from the page cache were read.
    MadeResident,
    /// The plan was applied.
    Mapped,
    /// Eager and REAP: content was read and installed before the guest runs.
    Prefetched,
    /// The loader's own time, beside the guest's: from its start to the last page, or to the end of an instance that ended before.
    Loaded,
    /// Blocks of memory came in beside the guest, from the loader's start until the last was in.
    LetIn,
    /// KVM_CREATE_VM and its settings.
    VmCreated,
    /// Memory slots were given to KVM.
    SlotsSet,
    /// vCPUs were created.
    VcpusCreated,
    /// vCPU, process and descriptor state was put back.
    StateRestored,
    /// Cold start of a linux guest only: its kernel was loaded and had booted; its first program spoke.
    KernelUp,
    /// Cold start only: the guest was booted and initialised.
    Initialised,
    /// The guest ran until the first exit that one of its instructions caused.
    FirstExit,
    /// The guest ran until the function's answer was complete.
    Answered,
    /// The answer came back to whoever sent the request.
    Returned,
    /// The instance was torn down.
    TornDown,
}

impl Phase {
    /// Whether it goes on beside the guest, so that the request does not wait for its end.
    pub const fn is_beside(self) -> bool {
        matches!(self, Self::Loaded | Self::LetIn)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::WorkerReady => "worker ready",
            Self::Sent => "sent",
            Self::Received => "received",
            Self::SnapshotOpened => "snapshot opened",
            Self::Planned => "planned",
            Self::MadeResident => "made resident",
            Self::Mapped => "mapped",
            Self::Prefetched => "prefetched",
            Self::Loaded => "loaded (beside)",
            Self::LetIn => "let in (beside)",
            Self::VmCreated => "vm created",
            Self::SlotsSet => "slots set",
            Self::VcpusCreated => "vcpus created",
            Self::StateRestored => "state restored",
            Self::KernelUp => "kernel up",
            Self::Initialised => "initialised",
            Self::FirstExit => "first exit",
            Self::Answered => "answered",
            Self::Returned => "returned",
            Self::TornDown => "torn down",
        })
    }
}

/// When a phase was, in nanoseconds since the request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PhaseRecord {
    /// Which.
    pub phase: Phase,
    /// Its begin.
    pub start_ns: u64,
    /// Its end.
    pub end_ns: u64,
}

/// Faults by kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct FaultCounts {
    /// Served from memory: page cache, zero page, copy-on-write.
    pub minor: u64,
    /// Waited for the disk.
    pub major: u64,
    /// Served by our own userfault server.
    pub userfault: u64,
}

/// Waits for blocks of memory that came in while the guest ran.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct WaitCounts {
    /// How often a thread of the guest, or the worker on its behalf, waited.
    pub count: u64,
    /// How long, all threads' times added, in nanoseconds.
    pub time_ns: u64,
}

/// Exits to the worker between two answers, by what the guest did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ExitCounts {
    /// For system calls.
    pub system_calls: u64,
    /// For page faults of the guest: memory that gets its place when it is touched, or that was still to come.
    pub page_faults: u64,
}

/// What became of the loading set, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct LoadingSetUse {
    /// Size of the loading set.
    pub bytes: u64,
    /// What the loader had brought in at the end.
    pub loaded_bytes: u64,
    /// Pages of it that were private copies at the end: the guest wrote them, or the loader placed them ahead.
    pub private_bytes: u64,
    /// Stored pages outside of it that the guest had to wait for or wrote: what the recording didn't foresee.
    pub missed_bytes: u64,
    /// What of it was read into huge pages.
    pub huge_bytes: u64,
    /// What of that was read past the page cache: not what was cached before, or that others read, and nothing where the file system can't.
    pub direct_bytes: u64,
    /// What of it was read compressed.
    pub decoded_bytes: u64,
    /// How many bytes of the file that took.
    pub compressed_bytes: u64,
}

impl LoadingSetUse {
    /// Whether so much was missed that another recording is worth its cost: a quarter of the set, and at least 1 MiB.
    pub fn is_outgrown(&self) -> bool {
        self.missed_bytes >= (self.bytes / 4).max(1 << 20)
    }
}

/// What became of the memory that a worker had made ready ahead, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ReadyUse {
    /// What was ready.
    pub bytes: u64,
    /// What of it got content of the snapshot, or is known to be touched.
    pub used_bytes: u64,
}

/// What the full-memory comparison compared; a wrong page ends the restore or the call.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Verified {
    /// Pages compared before the guest ran: all of its memory.
    pub before: u64,
    /// Pages compared after its invocation: those still mapped from the snapshot and not written.
    pub after: u64,
    /// Pages left out then, because the instance had a private copy.
    pub private: u64,
}

/// What a worker did before it was needed.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Ahead {
    /// The host's CLOCK_MONOTONIC at the worker's start, in nanoseconds.
    pub from_ns: u64,
    /// What was made, in nanoseconds since then.
    pub phases: Vec<PhaseRecord>,
}

/// The record. Make one when the request arrives; every step adds to it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Timeline {
    /// The host's CLOCK_MONOTONIC at the request, in nanoseconds.
    pub request_at_ns: u64,
    /// How memory came back; none for a cold or a warm start.
    pub strategy: Option<RestoreStrategy>,
    /// Why the strategy's recording could not be used, when it fell back to faults on demand.
    pub fell_back: Option<String>,
    /// Whether the invocation was recorded, so that memory came in on demand.
    pub recorded: bool,
    /// What the worker made ready ahead of the request. What it made after the request is among the phases.
    pub ahead: Option<Ahead>,
    /// Phases in the order in which they were recorded.
    pub phases: Vec<PhaseRecord>,
    /// Mappings that the plan made.
    pub regions_mapped: u64,
    /// Faults of this process since the record was made.
    pub faults: FaultCounts,
    /// Bytes that this process caused to be read from disk since then; none where the kernel doesn't say.
    pub bytes_read: Option<u64>,
    /// What became of memory that was ready; none where there was none.
    pub ready: Option<ReadyUse>,
    /// What became of the loading set, for strategies that have one.
    pub loading_set: Option<LoadingSetUse>,
    /// Resident set of this process at the end, in bytes.
    pub resident_bytes: u64,
    /// Waits for blocks of memory that were still to come.
    pub waits: WaitCounts,
    /// How often a process guest was left for the worker, since it began to run or since its last answer; none for other guests.
    pub exits: Option<ExitCounts>,
    /// What was compared with the snapshot, when that was asked for.
    pub verified: Option<Verified>,
    /// Counters when the record was made.
    #[serde(skip)]
    before: Counters,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Counters {
    faults: ProcessFaults,
    bytes_read: Option<u64>,
}

impl Counters {
    fn now() -> Self {
        Self { faults: ProcessFaults::of_this_process(), bytes_read: bytes_read() }
    }
}

/// `read_bytes` of /proc/self/io; needs a kernel with task I/O accounting.
fn bytes_read() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/io").ok()?;
    text.lines().find_map(|line| line.strip_prefix("read_bytes: "))?.trim().parse().ok()
}

fn resident_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/statm").ok()?;
    text.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()?.checked_mul(PAGE_SIZE)
}

/// The host's monotonic clock, in nanoseconds.
pub(crate) fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

impl Timeline {
    /// A record for a request that arrives now, in this process.
    pub fn start() -> Self {
        Self::since(monotonic_ns())
    }

    /// A record for a request that arrived when CLOCK_MONOTONIC was `request_at_ns`, in whichever process of this machine.
    pub fn since(request_at_ns: u64) -> Self {
        Self {
            request_at_ns,
            strategy: None,
            fell_back: None,
            recorded: false,
            ahead: None,
            phases: Vec::new(),
            regions_mapped: 0,
            faults: FaultCounts::default(),
            bytes_read: None,
            ready: None,
            loading_set: None,
            resident_bytes: 0,
            waits: WaitCounts::default(),
            exits: None,
            verified: None,
            before: Counters::now(),
        }
    }

    /// Lets what was recorded so far count as made ahead, and the time from now on as the request's. The counters go on from
    /// where they were.
    pub fn begin_request(&mut self) {
        self.ahead = Some(Ahead { from_ns: self.request_at_ns, phases: std::mem::take(&mut self.phases) });
        self.request_at_ns = monotonic_ns();
    }

    /// Puts the record of a worker, whose clock is this machine's too, behind what was recorded here since the request.
    /// What the worker did ahead of itself but after the request becomes part of the request's time.
    #[must_use]
    pub fn continued_by(&self, mut worker: Self) -> Self {
        let shifted = |from_ns: u64, phases: Vec<PhaseRecord>| {
            let shift = self.since_request(from_ns);
            phases.into_iter().map(move |PhaseRecord { phase, start_ns, end_ns }| PhaseRecord {
                phase,
                start_ns: start_ns.saturating_add(shift),
                end_ns: end_ns.saturating_add(shift),
            })
        };
        let mut phases = self.phases.clone();
        if let Some(late) = worker.ahead.take_if(|ahead| ahead.from_ns >= self.request_at_ns) {
            phases.extend(shifted(late.from_ns, late.phases));
        }
        phases.extend(shifted(worker.request_at_ns, worker.phases));
        phases.sort_by_key(|phase| phase.end_ns);
        Self { request_at_ns: self.request_at_ns, phases, ..worker }
    }

    /// Adds what only the end of the instance tells: when the loader was done, and what became of the loading set. `ended` has
    /// the same request.
    #[must_use]
    pub fn completed_by(mut self, ended: &Self) -> Self {
        let is_new =
            |record: &&PhaseRecord| record.phase == Phase::Loaded && self.end_of(Phase::Loaded).is_none();
        let loaded: Vec<PhaseRecord> = ended.phases.iter().filter(is_new).copied().collect();
        self.phases.extend(loaded);
        self.loading_set = ended.loading_set;
        self
    }

    /// Nanoseconds since the request.
    pub fn now_ns(&self) -> u64 {
        self.since_request(monotonic_ns())
    }

    /// Nanoseconds from the request to `at_ns` of CLOCK_MONOTONIC.
    pub fn since_request(&self, at_ns: u64) -> u64 {
        at_ns.saturating_sub(self.request_at_ns)
    }

    /// Does `work` and records it as `phase`.
    pub fn measure<T>(&mut self, phase: Phase, work: impl FnOnce() -> T) -> T {
        let start_ns = self.now_ns();
        let result = work();
        self.record(phase, start_ns, self.now_ns());
        result
    }

    /// Records that `phase` lasted from the end of the last one on this record until now.
    pub fn reached(&mut self, phase: Phase) {
        let start_ns = self.phases.last().map_or(0, |record| record.end_ns);
        self.record(phase, start_ns, self.now_ns());
    }

    /// Records a phase with times from elsewhere, in nanoseconds since the request.
    pub fn record(&mut self, phase: Phase, start_ns: u64, end_ns: u64) {
        self.phases.push(PhaseRecord { phase, start_ns, end_ns });
    }

    /// When `phase` ended, in nanoseconds since the request.
    pub fn end_of(&self, phase: Phase) -> Option<u64> {
        self.phases.iter().rev().find(|record| record.phase == phase).map(|record| record.end_ns)
    }

    /// Reads the counters of this process: faults, bytes read, resident set.
    pub fn finish(&mut self) {
        let now = Counters::now();
        self.faults.minor = now.faults.minor.saturating_sub(self.before.faults.minor);
        self.faults.major = now.faults.major.saturating_sub(self.before.faults.major);
        self.bytes_read =
            now.bytes_read.zip(self.before.bytes_read).map(|(now, before)| now.saturating_sub(before));
        self.resident_bytes = resident_bytes().unwrap_or(0);
    }
}

/// Milliseconds with a thousandth.
struct Milliseconds(u64);

impl fmt::Display for Milliseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:9.3} ms", self.0 as f64 / 1e6)
    }
}

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let strategy = self.strategy.map_or("none", RestoreStrategy::name);
        writeln!(f, "restore strategy   {strategy}")?;
        if let Some(reason) = &self.fell_back {
            writeln!(f, "fell back          {reason}")?;
        }
        if self.recorded {
            writeln!(f, "recorded           yes, so memory came in on demand")?;
        }
        if let Some(Ahead { phases, .. }) = &self.ahead {
            for PhaseRecord { phase, start_ns, end_ns } in phases {
                let took = Milliseconds(end_ns.saturating_sub(*start_ns));
                writeln!(f, "{phase:18} {took}   ahead of the request")?;
            }
        }
        for PhaseRecord { phase, start_ns, end_ns } in &self.phases {
            let took = Milliseconds(end_ns.saturating_sub(*start_ns));
            writeln!(f, "{phase:18} {took}   until {}", Milliseconds(*end_ns))?;
        }
        let FaultCounts { minor, major, userfault } = self.faults;
        writeln!(f, "faults             {minor} minor, {major} major, {userfault} by userfault")?;
        if self.waits.count > 0 {
            let WaitCounts { count, time_ns } = self.waits;
            writeln!(f, "waited for memory  {count} times, {:.3} ms in all", time_ns as f64 / 1e6)?;
        }
        if let Some(ExitCounts { system_calls, page_faults }) = self.exits {
            writeln!(f, "guest was left     for {system_calls} system calls, {page_faults} page faults")?;
        }
        match self.bytes_read {
            Some(bytes) => writeln!(f, "read from disk     {} KiB", bytes >> 10)?,
            None => writeln!(f, "read from disk     unknown: this kernel doesn't count it")?,
        }
        writeln!(f, "regions mapped     {}", self.regions_mapped)?;
        if let Some(ReadyUse { bytes, used_bytes }) = self.ready {
            writeln!(f, "ready memory       {} KiB, {} KiB used", bytes >> 10, used_bytes >> 10)?;
        }
        if let Some(used) = self.loading_set {
            let LoadingSetUse { bytes, loaded_bytes, private_bytes, missed_bytes, .. } = used;
            writeln!(
                f,
                "loading set        {} KiB, {} KiB loaded, {} KiB private, {} KiB missed",
                bytes >> 10,
                loaded_bytes >> 10,
                private_bytes >> 10,
                missed_bytes >> 10
            )?;
            if used.huge_bytes > 0 {
                let (huge, direct) = (used.huge_bytes >> 10, used.direct_bytes >> 10);
                writeln!(f, "in huge pages      {huge} KiB, {direct} KiB past the page cache")?;
            }
            if used.decoded_bytes > 0 {
                let (decoded, read) = (used.decoded_bytes >> 10, used.compressed_bytes >> 10);
                writeln!(f, "compressed         {read} KiB read, {decoded} KiB decoded")?;
            }
        }
        write!(f, "resident           {} KiB", self.resident_bytes >> 10)?;
        if let Some(Verified { before, after, private }) = self.verified {
            write!(
                f,
                "\nverified           {before} pages before the run, {after} unwritten ones after it ({private} private)"
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_follow_each_other_and_survive_json() {
        let mut timeline = Timeline::start();
        timeline.measure(Phase::Mapped, || ());
        timeline.reached(Phase::FirstExit);
        timeline.finish();
        assert_eq!(timeline.phases[0].end_ns, timeline.phases[1].start_ns);
        let text = serde_json::to_string(&timeline).unwrap();
        let read: Timeline = serde_json::from_str(&text).unwrap();
        assert_eq!(read.phases, timeline.phases);
        assert_eq!(read.end_of(Phase::FirstExit), Some(timeline.phases[1].end_ns));
    }

    #[test]
    fn the_table_names_strategy_phases_and_faults() {
        let timeline = Timeline {
            strategy: Some(RestoreStrategy::Reap),
            phases: vec![PhaseRecord { phase: Phase::Mapped, start_ns: 1_000_000, end_ns: 1_500_000 }],
            faults: FaultCounts { minor: 3, major: 2, userfault: 1 },
            exits: Some(ExitCounts { system_calls: 40, page_faults: 7 }),
            ..Timeline::start()
        };
        let text = timeline.to_string();
        assert!(text.contains("restore strategy   reap\n"), "{text}");
        assert!(text.contains("mapped                 0.500 ms   until     1.500 ms"), "{text}");
        assert!(text.contains("3 minor, 2 major, 1 by userfault"), "{text}");
        assert!(text.contains("for 40 system calls, 7 page faults\n"), "{text}");
    }

    #[test]
    fn what_a_worker_made_before_the_request_is_no_part_of_it() {
        let phase = |phase, start_ns, end_ns| PhaseRecord { phase, start_ns, end_ns };
        let request = Timeline {
            request_at_ns: 1000,
            phases: vec![phase(Phase::WorkerReady, 0, 10)],
            ..Timeline::start()
        };
        let worker = |from_ns| Timeline {
            request_at_ns: 1100,
            ahead: Some(Ahead { from_ns, phases: vec![phase(Phase::VmCreated, 0, 20)] }),
            phases: vec![phase(Phase::Mapped, 5, 9)],
            ..Timeline::start()
        };
        let spare = request.continued_by(worker(400));
        assert_eq!(spare.phases, [phase(Phase::WorkerReady, 0, 10), phase(Phase::Mapped, 105, 109)]);
        assert!(spare.to_string().contains("ahead of the request"), "{spare}");
        let started = request.continued_by(worker(1050));
        assert_eq!(started.phases[1], phase(Phase::VmCreated, 50, 70));
        assert_eq!(started.ahead, None);
    }

    #[test]
    fn a_loading_set_is_outgrown_when_much_was_missed() {
        let of = |bytes, missed_bytes| LoadingSetUse { bytes, missed_bytes, ..LoadingSetUse::default() };
        assert!(!of(1 << 20, 512 << 10).is_outgrown(), "little in bytes");
        assert!(!of(64 << 20, 8 << 20).is_outgrown(), "little of the set");
        assert!(of(4 << 20, 1 << 20).is_outgrown());
    }

    #[test]
    fn touched_memory_shows_as_faults() {
        let mut timeline = Timeline::start();
        let touched = vec![1u8; 4 << 20];
        timeline.finish();
        assert_eq!(touched.len(), 4 << 20);
        assert!(timeline.faults.minor > 0);
        assert!(timeline.resident_bytes > 4 << 20);
    }
}
