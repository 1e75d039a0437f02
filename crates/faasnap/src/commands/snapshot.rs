//! `faasnap snapshot`.

use std::io::IsTerminal;
use std::path::Path;

use anyhow::{Context, Result, bail};
use pages::PAGE_SIZE;
use restore::{GuestLayout, LoadingSet, LoadingSetProblem, MemoryPicture, PageClasses, RestoreStrategy};
use serde::Serialize;
use snapshot::{MachineIdentity, Snapshot, SnapshotError};
use store::{FunctionName, Lease, SnapshotEntry, Store, StoreError};

use super::Outcome;
use crate::args::{OutputArguments, SnapshotCommand, SnapshotReference};
use crate::output::{Table, bytes, count, print, print_json, report, time};

pub(super) fn run(store: &Store, command: SnapshotCommand) -> Result<Outcome> {
    match command {
        SnapshotCommand::Create(arguments) => super::snapshot_create::run(store, &arguments),
        SnapshotCommand::List { function, output } => list(store, function, &output),
        SnapshotCommand::Show { snapshot, svg, output } => show(store, &snapshot, svg.as_deref(), &output),
        SnapshotCommand::Verify { snapshot, output } => verify(store, &snapshot, &output),
        SnapshotCommand::Rm { snapshots } => {
            for reference in &snapshots {
                let (entry, lease) = find(store, reference)?;
                // Ours is no use that removing has to wait for.
                drop(lease);
                store.remove_snapshot(&reference.function, &entry.id)?;
            }
            Ok(Outcome::Good)
        }
    }
}

/// One snapshot in a list.
#[derive(Serialize)]
struct Listed {
    function: String,
    id: String,
    /// Whether it would be restored now: the latest of the function's present revision.
    current: bool,
    bytes_on_disk: u64,
    created: u64,
}

/// The snapshot that is meant, kept on disk as long as the lease lives.
fn find(store: &Store, reference: &SnapshotReference) -> Result<(SnapshotEntry, Lease)> {
    let function = &reference.function;
    let id = match &reference.id {
        Some(id) => id.clone(),
        None => match store.current_snapshot(&store.open_function(function)?)? {
            Some(entry) => entry.id,
            None => bail!(
                "function {function} has no snapshot that fits it as it is now: run `faasnap snapshot create {function}`"
            ),
        },
    };
    Ok(store.open_snapshot(function, &id)?)
}

fn list(store: &Store, function: Option<FunctionName>, output: &OutputArguments) -> Result<Outcome> {
    let names = match function {
        Some(name) => vec![store.function(&name)?.name],
        None => store.functions()?.into_iter().map(|(name, _)| name).collect(),
    };
    let mut all = Vec::new();
    for name in names {
        let current = current(store, &name)?;
        for entry in store.snapshots(&name)? {
            all.push(Listed {
                function: name.to_string(),
                current: current.as_ref() == Some(&entry),
                id: entry.id.to_string(),
                bytes_on_disk: entry.bytes_on_disk,
                created: entry.created,
            });
        }
    }
    if output.json {
        print_json(&all)?;
    } else if all.is_empty() && std::io::stdout().is_terminal() {
        print("There are no snapshots yet.")?;
    } else {
        let mut table = Table::new(&["SNAPSHOT", "SIZE ON DISK", "CREATED", "CURRENT"]);
        for listed in &all {
            let name = format!("{}@{}", listed.function, listed.id);
            let current = if listed.current { "yes" } else { "no" };
            table.row([name, bytes(listed.bytes_on_disk), time(listed.created), current.to_owned()]);
        }
        print(&table.text())?;
    }
    Ok(Outcome::Good)
}

/// A function whose parts are damaged or gone has no current snapshot, but its snapshots can be listed.
fn current(store: &Store, name: &FunctionName) -> Result<Option<SnapshotEntry>> {
    match store.open_function(name) {
        Ok(function) => Ok(store.current_snapshot(&function)?),
        Err(StoreError::Damaged { .. } | StoreError::NoRuntime(_)) => Ok(None),
        Err(other) => Err(other.into()),
    }
}

/// What a snapshot says of itself.
#[derive(Serialize)]
struct Shown {
    function: String,
    id: String,
    path: String,
    created: u64,
    made_by: String,
    memory_bytes: u64,
    stored_bytes: u64,
    bytes_on_disk: u64,
    sections: Vec<ShownSection>,
    /// Sizes of the page classes, in bytes.
    classes: ShownClasses,
    /// What was recorded, for the strategies that use recordings.
    recordings: Vec<ShownRecording>,
    cpu: String,
    kernel: String,
    /// Why it can't be restored on this machine; empty when it can.
    differences: Vec<String>,
}

#[derive(Serialize)]
struct ShownSection {
    name: String,
    version: u16,
    bytes: u64,
}

/// Bytes of each page class.
#[derive(Serialize)]
struct ShownClasses {
    /// Stored and recorded: brought in by the loader.
    loading_set: u64,
    /// Stored and not recorded: read when touched.
    cold: u64,
    /// Zero, and touched by the recorded invocation.
    released: u64,
    /// Zero and not touched.
    unused: u64,
}

impl From<&PageClasses> for ShownClasses {
    fn from(classes: &PageClasses) -> Self {
        let PageClasses { loading, cold, released, unused } = classes;
        let [loading_set, cold, released, unused] =
            [loading, cold, released, unused].map(|pages| pages.count().bytes());
        Self { loading_set, cold, released, unused }
    }
}

/// One strategy's recording.
#[derive(Serialize)]
struct ShownRecording {
    strategy: RestoreStrategy,
    /// Why it can't be used; none when it can.
    problem: Option<String>,
    regions: usize,
    bytes: u64,
    /// What of it is in its file compressed, too, and the bytes of the file that this takes; none where it doesn't pay.
    decoded_bytes: Option<u64>,
    compressed_bytes: Option<u64>,
}

impl ShownRecording {
    fn of(strategy: RestoreStrategy, set: &Result<LoadingSet, LoadingSetProblem>) -> Self {
        let problem = set.as_ref().err().map(ToString::to_string);
        let (regions, pages) = set.as_ref().map_or((0, 0), |set| (set.regions().len(), set.page_count().0));
        let compressed = set.as_ref().ok().and_then(LoadingSet::compressed_bytes);
        let (decoded_bytes, compressed_bytes) = (
            compressed.map(|compressed| compressed.bytes),
            compressed.map(|compressed| compressed.stored_bytes),
        );
        Self { strategy, problem, regions, bytes: pages * PAGE_SIZE, decoded_bytes, compressed_bytes }
    }
}

fn show(
    store: &Store,
    reference: &SnapshotReference,
    svg: Option<&Path>,
    output: &OutputArguments,
) -> Result<Outcome> {
    let (entry, _lease) = find(store, reference)?;
    let snapshot = Snapshot::open(&entry.path)?;
    let layout = GuestLayout::from_snapshot(&snapshot)?;
    let recorded = |strategy| LoadingSet::open(&snapshot, LoadingSet::file_name(strategy), &layout);
    let (faasnap, reap) = (recorded(RestoreStrategy::FaaSnap), recorded(RestoreStrategy::Reap));
    let set = faasnap.as_ref().ok();
    let classes = PageClasses::of_loading_set(&layout, snapshot.stored_pages(), set);
    let picture = MemoryPicture::new(snapshot.page_count(), &classes, set);
    if let Some(path) = svg {
        std::fs::write(path, picture.svg()).with_context(|| format!("writing {}", path.display()))?;
    }
    let machine = &snapshot.manifest().machine;
    let here = MachineIdentity::of_this_machine().context("reading this machine's identity")?;
    let section = |(kind, version, bytes): (snapshot::SectionKind, u16, u64)| ShownSection {
        name: kind.to_string(),
        version,
        bytes,
    };
    let shown = Shown {
        function: reference.function.to_string(),
        id: entry.id.to_string(),
        path: entry.path.display().to_string(),
        created: snapshot.manifest().created_unix_seconds,
        made_by: snapshot.tool_version().to_owned(),
        memory_bytes: snapshot.page_count().0 * PAGE_SIZE,
        stored_bytes: snapshot.stored_pages().count().0 * PAGE_SIZE,
        bytes_on_disk: entry.bytes_on_disk,
        sections: snapshot.sections().map(section).collect(),
        classes: (&classes).into(),
        recordings: vec![
            ShownRecording::of(RestoreStrategy::FaaSnap, &faasnap),
            ShownRecording::of(RestoreStrategy::Reap, &reap),
        ],
        cpu: format!("{} {}", machine.cpu_vendor, machine.cpu_model),
        kernel: machine.kernel_release.clone(),
        differences: machine.differences(&here),
    };
    if output.json {
        print_json(&shown)?
    } else {
        print(&format!("{}\n\n{picture}", describe(&shown)))?
    }
    Ok(Outcome::Good)
}

fn describe(shown: &Shown) -> String {
    let mut lines = vec![
        format!("snapshot  {}@{}", shown.function, shown.id),
        format!("created   {} by version {}", time(shown.created), shown.made_by),
        format!("path      {}", shown.path),
        format!(
            "memory    {}, of which {} stored; {} on disk",
            bytes(shown.memory_bytes),
            bytes(shown.stored_bytes),
            bytes(shown.bytes_on_disk)
        ),
        format!("machine   {}, Linux {}", shown.cpu, shown.kernel),
        "sections".to_owned(),
    ];
    for section in &shown.sections {
        lines.push(format!("  {:<16}  version {}, {}", section.name, section.version, bytes(section.bytes)));
    }
    let ShownClasses { loading_set, cold, released, unused } = shown.classes;
    lines.push("memory by page class".to_owned());
    for (name, size, what) in [
        ("loading set", loading_set, "stored and recorded: loaded while the function runs"),
        ("cold", cold, "stored, not recorded: read when touched"),
        ("released", released, "zero, touched by the recorded invocation"),
        ("unused", unused, "zero, not touched"),
    ] {
        lines.push(format!("  {name:<12} {:>9}  {what}", bytes(size)));
    }
    lines.push("recordings".to_owned());
    for recording in &shown.recordings {
        let ShownRecording { strategy, problem, regions, bytes: size, .. } = recording;
        let mut what = match problem {
            Some(problem) => problem.clone(),
            None => format!("{} in {}", bytes(*size), count(*regions as u64, "region")),
        };
        if let (Some(decoded), Some(compressed)) = (recording.decoded_bytes, recording.compressed_bytes) {
            what += &format!("; {} of it read compressed: {}", bytes(decoded), bytes(compressed));
        }
        lines.push(format!("  {strategy:<12} {what}"));
    }
    if !shown.differences.is_empty() {
        lines.push("can't be restored on this machine".to_owned());
        lines.extend(shown.differences.iter().map(|difference| format!("  {difference}")));
    }
    lines.join("\n")
}

/// What was verified.
#[derive(Serialize)]
struct Verified {
    snapshot: String,
    good: bool,
    sections: usize,
    pages: u64,
    problem: Option<String>,
}

fn verify(store: &Store, reference: &SnapshotReference, output: &OutputArguments) -> Result<Outcome> {
    let (entry, _lease) = find(store, reference)?;
    let name = format!("{}@{}", reference.function, entry.id);
    let result = Snapshot::open(&entry.path).and_then(|snapshot| snapshot.verify(|_| {}));
    let outcome = if result.is_ok() { Outcome::Good } else { Outcome::Negative };
    if output.json {
        let (sections, pages) =
            result.as_ref().map_or((0, 0), |checked| (checked.sections, checked.stored_pages.0));
        let problem = result.err().map(|error: SnapshotError| error.to_string());
        print_json(&Verified { snapshot: name, good: problem.is_none(), sections, pages, problem })?;
    } else {
        match result {
            Ok(checked) => {
                let size = bytes(checked.stored_pages.0 * PAGE_SIZE);
                print(&format!("{name} is good: {} sections, {size} of memory", checked.sections))?;
            }
            Err(error) => report(&error.into()),
        }
    }
    Ok(outcome)
}
