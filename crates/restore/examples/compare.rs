//! Compares the restore strategies, and each FaaSnap technique left out, on a synthetic guest without KVM.
//!
//! A thread plays the guest: it touches a recorded set of pages in its order, with some computing between, on memory that was
//! just restored. Before every cold run the snapshot's files are dropped from the page cache, and it is proven that they
//! are. Runs are interleaved; the first of each is dropped; medians with quartiles are printed.
//!
//!     cargo run --release -p restore --example compare -- [--set-mib 8] [--regions 241] [--written 40] [--think-us 0]
//!         [--fresh 500] [--changed 0] [--guest-mib 256] [--repeats 11] [--dir DIRECTORY] [--only NAME]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a measurement that goes wrong has to stop")]

use std::collections::BTreeMap;
use std::fs::File;
use std::hint::black_box;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use guest_memory::{FileResidency, GuestMemory};
use pages::{GuestPhysical, PageCount, PageIndex, PageRange};
use restore::{
    Access, Backing, Compression, FileUse, GuestLayout, LoadingSet, LoadingSetRule, MergeRule, Order, Record,
    RecordingOptions, Region, RestoreRequest, RestoreStrategy, Techniques, Timeline, restore,
};
use snapshot::{MachineIdentity, Snapshot, SnapshotBuilder, SnapshotError};

/// What is measured, from the command line.
struct Settings {
    guest: PageCount,
    set: PageCount,
    regions: u64,
    written_percent: u64,
    fresh: u64,
    changed_percent: u64,
    think: Duration,
    repeats: usize,
    window: PageCount,
    group: PageCount,
    include_read_ahead: bool,
    only: Option<String>,
    directory: PathBuf,
}

impl Settings {
    fn from_arguments() -> Self {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let given: BTreeMap<&str, &str> = arguments
            .chunks(2)
            .map(|pair| {
                (pair[0].trim_start_matches("--"), pair.get(1).expect("an option has a value").as_str())
            })
            .collect();
        let number = |name: &str, default: u64| {
            given
                .get(name)
                .map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("--{name} wants a number")))
        };
        Self {
            guest: PageCount(number("guest-mib", 256) << 8),
            set: PageCount(number("set-mib", 8) << 8),
            regions: number("regions", 241),
            written_percent: number("written", 40),
            fresh: number("fresh", 500),
            changed_percent: number("changed", 0),
            think: Duration::from_nanos(number("think-us", 0) * 1000),
            repeats: number("repeats", 11) as usize,
            window: PageCount(number("window", 32)),
            group: PageCount(number("group", 1024)),
            include_read_ahead: number("include-read-ahead", 0) != 0,
            only: given.get("only").map(|name| (*name).to_owned()),
            directory: given
                .get("dir")
                .map_or_else(|| std::env::current_exe().unwrap().parent().unwrap().into(), PathBuf::from),
        }
    }
}

/// A small generator of repeatable pseudo-random numbers (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound.max(1)
    }
}

#[derive(Clone, Copy)]
enum Touch {
    Read(u64),
    Write(u64),
}

/// The guest: three quarters of its memory hold data, and a function touches some of it.
struct Guest {
    stored: PageCount,
    touches: Vec<Touch>,
}

impl Guest {
    /// Runs of pages of `settings.set` in all, in `settings.regions` places, in random order of places.
    fn new(settings: &Settings, changed: bool) -> Self {
        let stored = settings.guest.0 * 3 / 4;
        let slot = stored / settings.regions;
        let mean = (settings.set.0 / settings.regions).max(1);
        let mut random = Random(1);
        let mut places: Vec<Vec<Touch>> = Vec::new();
        for region in 0..settings.regions {
            let length = (1 + random.below(2 * mean)).min(slot);
            let mut start = region * slot + random.below(slot - length + 1);
            let elsewhere = random.below(100) < settings.changed_percent;
            let other = region * slot + random.below(slot - length + 1);
            if changed && elsewhere {
                start = other;
            }
            let written = random.below(100) < settings.written_percent;
            let touch = |page| if written { Touch::Write(page) } else { Touch::Read(page) };
            places.push((start..start + length).map(touch).collect());
        }
        for index in (1..places.len()).rev() {
            places.swap(index, random.below(index as u64 + 1) as usize);
        }
        let mut touches: Vec<Touch> = places.concat();
        // New memory comes evenly between.
        let every = (touches.len() as u64 / settings.fresh.max(1)).max(1);
        for new in 0..settings.fresh.min(settings.guest.0 - stored) {
            touches.insert(((new * (every + 1)) as usize).min(touches.len()), Touch::Write(stored + new));
        }
        Self { stored: PageCount(stored), touches }
    }

    fn run(&self, memory: &GuestMemory, think: Duration) {
        let mut word = [0; 8];
        for touch in &self.touches {
            match *touch {
                Touch::Read(page) => memory.read(GuestPhysical(page * 4096), &mut word).unwrap(),
                Touch::Write(page) => memory.write(GuestPhysical(page * 4096 + 64), &word).unwrap(),
            }
            let begun = Instant::now();
            while begun.elapsed() < think {
                black_box(&word);
            }
        }
    }
}

fn write_snapshot(settings: &Settings, guest: &Guest, parent: &Path) -> (Snapshot, GuestLayout) {
    let range = PageRange::new(PageIndex(0), settings.guest);
    let region = Region { range, backing: Backing::Memory, access: Access::ReadWrite };
    let layout = GuestLayout::new(settings.guest, vec![region]).unwrap();
    let mut builder =
        SnapshotBuilder::begin(parent, "guest", MachineIdentity::of_this_machine().unwrap()).unwrap();
    layout.add_to(&mut builder).unwrap();
    let mut random = Random(2);
    builder
        .memory(settings.guest, |sink| -> Result<(), SnapshotError> {
            let mut piece = vec![0u8; 1 << 20];
            for start in (0..guest.stored.0).step_by(256) {
                for word in piece.as_chunks_mut::<8>().0 {
                    *word = (random.below(u64::MAX) | 1).to_le_bytes();
                }
                sink.write(PageIndex(start), &piece)?;
            }
            Ok(())
        })
        .unwrap();
    (builder.publish().unwrap(), layout)
}

/// Drops every file of the snapshot from the page cache, and proves it.
fn drop_cache(snapshot: &Snapshot) {
    for entry in std::fs::read_dir(snapshot.directory()).unwrap() {
        let path = entry.unwrap().path();
        let file = File::open(&path).unwrap();
        file.sync_all().unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        let view =
            FileResidency::of(file.as_fd(), PageCount::for_bytes(file.metadata().unwrap().len())).unwrap();
        let cached = view.cached(view.whole()).unwrap();
        assert!(cached.is_empty(), "{} stays in the page cache: {cached:?}", path.display());
    }
}

fn warm_cache(snapshot: &Snapshot) {
    for entry in std::fs::read_dir(snapshot.directory()).unwrap() {
        std::io::copy(&mut File::open(entry.unwrap().path()).unwrap(), &mut std::io::sink()).unwrap();
    }
}

struct Variant {
    name: String,
    strategy: RestoreStrategy,
    techniques: Techniques,
    random_access: bool,
    hot: bool,
}

fn variants() -> Vec<Variant> {
    let all = Techniques::default();
    let plain = |name: &str, strategy, random_access, hot| Variant {
        name: name.into(),
        strategy,
        techniques: all,
        random_access,
        hot,
    };
    let without = |name: &str, techniques| Variant {
        name: format!("faasnap without {name}"),
        strategy: RestoreStrategy::FaaSnap,
        techniques,
        random_access: true,
        hot: false,
    };
    vec![
        plain("on-demand, device readahead", RestoreStrategy::OnDemand, false, false),
        plain("on-demand, random access", RestoreStrategy::OnDemand, true, false),
        plain("cached", RestoreStrategy::Cached, false, true),
        plain("reap", RestoreStrategy::Reap, false, false),
        plain("reap, files cached", RestoreStrategy::Reap, false, true),
        plain("eager", RestoreStrategy::Eager, false, false),
        plain("faasnap", RestoreStrategy::FaaSnap, true, false),
        plain("faasnap, files cached", RestoreStrategy::FaaSnap, true, true),
        without("loading-set file", Techniques { loading_set_file: FileUse::Never, ..all }),
        without("weighing (always from the file)", Techniques { loading_set_file: FileUse::Always, ..all }),
        without("per-region mapping", Techniques { per_region_mapping: false, ..all }),
        without("concurrent paging", Techniques { concurrent_paging: false, ..all }),
        without("populating", Techniques { populate: false, ..all }),
        without("private ahead", Techniques { private_ahead: false, ..all }),
        without("fresh ahead", Techniques { fresh_ahead: false, ..all }),
    ]
}

#[derive(Default)]
struct Samples {
    total: Vec<f64>,
    before: Vec<f64>,
    warm: Vec<f64>,
    last: Option<Timeline>,
}

fn quartiles(values: &mut [f64]) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    let at = |part: f64| values[((values.len() - 1) as f64 * part).round() as usize];
    (at(0.25), at(0.5), at(0.75))
}

fn main() {
    let settings = Settings::from_arguments();
    let parent = tempfile::tempdir_in(&settings.directory).unwrap();
    let (recorded, tested) = (Guest::new(&settings, false), Guest::new(&settings, true));
    let (snapshot, layout) = write_snapshot(&settings, &recorded, parent.path());
    let rule =
        LoadingSetRule { include_read_ahead: settings.include_read_ahead, ..LoadingSetRule::default() };
    let options = RecordingOptions {
        readahead_window: settings.window,
        group: settings.group,
        ..RecordingOptions::default()
    };

    println!(
        "guest {} MiB, touched {} pages in {} places ({}% written), {} new pages, {} us of computing per page, changed {}%",
        settings.guest.bytes() >> 20,
        recorded.touches.len(),
        settings.regions,
        settings.written_percent,
        settings.fresh,
        settings.think.as_micros(),
        settings.changed_percent,
    );
    for strategy in [RestoreStrategy::FaaSnap, RestoreStrategy::Reap] {
        record(&settings, &snapshot, &layout, &recorded, strategy, options, &rule);
    }
    let mut table: Vec<(Variant, Samples)> = variants()
        .into_iter()
        .filter(|variant| settings.only.as_ref().is_none_or(|only| variant.name.contains(only.as_str())))
        .map(|variant| (variant, Samples::default()))
        .collect();
    for repeat in 0..=settings.repeats {
        for (variant, samples) in &mut table {
            measure(&settings, &snapshot, &layout, &tested, variant, samples, repeat > 0);
        }
    }
    print(&mut table);
}

fn record(
    settings: &Settings,
    snapshot: &Snapshot,
    layout: &GuestLayout,
    guest: &Guest,
    strategy: RestoreStrategy,
    options: RecordingOptions,
    rule: &LoadingSetRule,
) {
    let memory = Arc::new(GuestMemory::reserve(settings.guest).unwrap());
    let mut timeline = Timeline::start();
    let mut request = RestoreRequest::new(&memory, snapshot, layout, &[], strategy);
    request.record = Record::Always(options);
    let handle = restore(&request, &mut timeline).unwrap();
    assert!(handle.warnings().is_empty(), "{:?}", handle.warnings());
    let begun = Instant::now();
    guest.run(&memory, settings.think);
    let took = begun.elapsed();
    let recording = handle.finish(&mut timeline).recording.unwrap().unwrap();
    let path = recording.publish(snapshot, layout, rule).unwrap();
    let set = LoadingSet::open(snapshot, LoadingSet::file_name(strategy), layout).unwrap();
    let paper = LoadingSetRule {
        include_read_ahead: true,
        merge: MergeRule::Gap(PageCount(31)),
        order: Order::Group,
        whole_blocks: false,
        compression: Compression::Never,
    };
    println!(
        "recorded for {strategy} in {:.1} ms: {} pages in {} groups, {} by readahead only, {} written, {} new; {} KiB in {} regions (the paper's rule: {} regions)",
        took.as_secs_f64() * 1e3,
        recording.seen().count().0,
        recording.groups.len(),
        recording.read_ahead.count().0,
        recording.written.count().0,
        recording.fresh.count().0,
        std::fs::metadata(&path).unwrap().len() >> 10,
        set.regions().len(),
        paper.regions(layout, snapshot.stored_pages(), &recording).len(),
    );
    println!(
        "the disk reads it in {:.1} ms from the memory file, in {:.1} ms from the compact file",
        set.disk().scattered_ns as f64 / 1e6,
        set.disk().compact_ns as f64 / 1e6
    );
}

fn measure(
    settings: &Settings,
    snapshot: &Snapshot,
    layout: &GuestLayout,
    guest: &Guest,
    variant: &Variant,
    samples: &mut Samples,
    keep: bool,
) {
    if variant.hot {
        warm_cache(snapshot)
    } else {
        drop_cache(snapshot)
    }
    let memory = Arc::new(GuestMemory::reserve(settings.guest).unwrap());
    let mut timeline = Timeline::start();
    // Opening belongs to a restore.
    let opened = Snapshot::open(snapshot.directory()).unwrap();
    let mut request = RestoreRequest::new(&memory, &opened, layout, &[], variant.strategy);
    request.techniques = variant.techniques;
    request.random_access = variant.random_access;
    let handle = restore(&request, &mut timeline).unwrap();
    assert!(handle.warnings().is_empty(), "{:?}", handle.warnings());
    let before = timeline.now_ns();
    guest.run(&memory, settings.think);
    let total = timeline.now_ns();
    let again = Instant::now();
    guest.run(&memory, settings.think);
    let warm = again.elapsed();
    assert!(handle.finish(&mut timeline).failure.is_none());
    if keep {
        samples.total.push(total as f64 / 1e6);
        samples.before.push(before as f64 / 1e6);
        samples.warm.push(warm.as_secs_f64() * 1e3);
        samples.last = Some(timeline);
    }
}

fn print(table: &mut [(Variant, Samples)]) {
    println!(
        "{:38} {:>8} {:>17} {:>8} {:>8}   {:>7} {:>6} {:>6} {:>8}",
        "strategy (ms, medians)",
        "total",
        "quartiles",
        "before",
        "warm",
        "minor",
        "major",
        "user",
        "read KiB"
    );
    for (variant, samples) in table {
        let (low, median, high) = quartiles(&mut samples.total);
        let (_, before, _) = quartiles(&mut samples.before);
        let (_, warm, _) = quartiles(&mut samples.warm);
        let timeline = samples.last.as_ref().unwrap();
        println!(
            "{:38} {median:8.2} {:>17} {before:8.2} {warm:8.2}   {:7} {:6} {:6} {:8}",
            variant.name,
            format!("{low:.2}..{high:.2}"),
            timeline.faults.minor,
            timeline.faults.major,
            timeline.faults.userfault,
            timeline.bytes_read.unwrap_or(0) >> 10,
        );
    }
}
