//! An instance in a snapshot: which sections there are, how they are written and read.
//!
//! The numbered steps of bringing a guest to rest and back are in `docs/snapshot-protocol.md`.

use std::path::Path;

use guest_memory::AccessError;
use linux_guest::{SavedVm, Scratch};
use pages::{PageCount, PageIndex, PageRange};
use process_guest::SavedGuest;
use process_kernel::mm::{ImageSource, MemoryImage};
use restore::{Access, Backing, FileIndex, GuestLayout, LayoutError, Region};
use serde::Serialize;
use serde::de::DeserializeOwned;
use snapshot::{MachineIdentity, MemorySink, SectionKind, Snapshot, SnapshotBuilder, SnapshotError};
use thiserror::Error;

use crate::runtime_bridge::SavedBridge;

/// The process: memory map, threads with their registers, descriptors, signals.
const PROCESS: SectionKind = SectionKind::named("process");
const PROCESS_VERSION: u16 = 3;
/// A linux guest's machine: processors, interrupt controllers, clocks, devices.
const LINUX_MACHINE: SectionKind = SectionKind::named("linux-machine");
const LINUX_MACHINE_VERSION: u16 = 2;
/// The Runtime API and the bytes under way.
const RUNTIME: SectionKind = SectionKind::named("runtime-channel");
const RUNTIME_VERSION: u16 = 1;

/// The name under which a snapshot is written into the directory that is given for it.
pub const SNAPSHOT_NAME: &str = "snapshot";

/// Pages copied at once.
const PIECE: u64 = 256;

/// A snapshot that can't be written or read.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// The container.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The guest's memory map makes no layout: a defect.
    #[error("the guest's memory map can't be expressed")]
    Layout(#[from] LayoutError),
    /// Guest memory can't be read.
    #[error("guest memory can't be read")]
    Memory(#[from] AccessError),
    /// The guest's own disk can't be read, or not be brought back.
    #[error("the guest's own disk can't be used")]
    Disk(#[source] std::io::Error),
    /// This machine can't be identified.
    #[error("this machine's processor can't be identified")]
    Machine(#[source] std::io::Error),
}

/// What of an instance is stored beside its memory.
pub(crate) struct Saved<G> {
    pub guest: G,
    pub bridge: SavedBridge,
}

/// What of a guest is stored beside its memory; the section says of which kind it was.
pub(crate) trait GuestState: Serialize + DeserializeOwned {
    const SECTION: SectionKind;
    const VERSION: u16;
}

impl GuestState for SavedGuest {
    const SECTION: SectionKind = PROCESS;
    const VERSION: u16 = PROCESS_VERSION;
}

impl GuestState for SavedVm {
    const SECTION: SectionKind = LINUX_MACHINE;
    const VERSION: u16 = LINUX_MACHINE_VERSION;
}

/// The layout that a process guest's memory image describes.
pub(crate) fn process_layout(image: &MemoryImage) -> Result<GuestLayout, LayoutError> {
    let regions = image.regions.iter().map(|region| Region {
        range: region.range,
        backing: match region.source {
            ImageSource::Memory => Backing::Memory,
            ImageSource::File { file, offset, shared } => {
                Backing::File { file: FileIndex(file), offset, shared }
            }
        },
        access: region.protection.into(),
    });
    GuestLayout::new(image.page_count, regions.collect())
}

/// The layout of a linux guest's memory.
pub(crate) fn linux_layout(ranges: &[PageRange]) -> Result<GuestLayout, LayoutError> {
    let regions = ranges.iter().map(|range| Region {
        range: *range,
        backing: Backing::Memory,
        access: Access::ReadWrite,
    });
    GuestLayout::new(PageCount(ranges.last().map_or(0, |range| range.end().0)), regions.collect())
}

/// Writes a snapshot called [`SNAPSHOT_NAME`] into `parent`, for the owner only. `candidates` are pages that may not be zero,
/// `read` copies guest memory; `scratch` is the guest's own disk.
pub(crate) fn write<G: GuestState>(
    parent: &Path,
    saved: &Saved<G>,
    layout: &GuestLayout,
    candidates: &[PageRange],
    read: impl Fn(PageIndex, &mut [u8]) -> Result<(), AccessError>,
    scratch: Option<&Scratch>,
) -> Result<Snapshot, CheckpointError> {
    let machine = MachineIdentity::of_this_machine().map_err(CheckpointError::Machine)?;
    let mut builder = SnapshotBuilder::begin(parent, SNAPSHOT_NAME, machine)?;
    layout.add_to(&mut builder)?;
    builder.section_postcard(G::SECTION, G::VERSION, &saved.guest)?;
    builder.section_postcard(RUNTIME, RUNTIME_VERSION, &saved.bridge)?;
    builder.memory(layout.page_count(), |sink| copy(sink, candidates, read))?;
    if let Some(scratch) = scratch {
        let stored = scratch.stored().map_err(CheckpointError::Disk)?;
        let read = |page: PageIndex, bytes: &mut [u8]| scratch.read(bytes, page.address().0);
        let count = PageCount::for_bytes(scratch.length());
        builder.disk(count, |sink| {
            copy(sink, stored.runs(), |page, bytes| read(page, bytes).map_err(CheckpointError::Disk))
        })?;
    }
    Ok(builder.publish()?)
}

fn copy<E: Into<CheckpointError>>(
    sink: &mut MemorySink,
    runs: &[PageRange],
    read: impl Fn(PageIndex, &mut [u8]) -> Result<(), E>,
) -> Result<(), CheckpointError> {
    let mut buffer = vec![0; PageCount(PIECE).bytes() as usize];
    for run in runs {
        let mut page = run.start;
        while page < run.end() {
            let count = PageCount(PIECE.min(run.end().0 - page.0));
            let bytes = buffer.get_mut(..count.bytes() as usize).unwrap_or_default();
            read(page, bytes).map_err(Into::into)?;
            sink.write(page, bytes)?;
            page = PageIndex(page.0 + count.0);
        }
    }
    Ok(())
}

/// A snapshot that was read and checked, apart from its memory.
pub(crate) struct Opened<G> {
    pub snapshot: Snapshot,
    pub layout: GuestLayout,
    pub saved: Saved<G>,
}

/// Opens the snapshot in `directory` to go on from it on this machine, which is `host`.
///
/// # Errors
/// Naming files as they are in the directory: whoever hears of them knows it under another name.
pub(crate) fn open<G: GuestState>(
    directory: &Path,
    host: &MachineIdentity,
) -> Result<Opened<G>, CheckpointError> {
    Ok(read(directory, host).map_err(|error| error.inside(directory))?)
}

fn read<G: GuestState>(directory: &Path, host: &MachineIdentity) -> Result<Opened<G>, SnapshotError> {
    let snapshot = Snapshot::open_for(directory, host)?;
    let layout = GuestLayout::from_snapshot(&snapshot)?;
    let guest = snapshot.section_postcard(G::SECTION, G::VERSION)?;
    let bridge = snapshot.section_postcard(RUNTIME, RUNTIME_VERSION)?;
    Ok(Opened { snapshot, layout, saved: Saved { guest, bridge } })
}
