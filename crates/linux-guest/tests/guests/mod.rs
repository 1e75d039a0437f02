//! Guests for the tests on hardware KVM: booted from what the rig carries in, spoken with line by line, saved and restored.
// Each file of tests uses a part of it.
#![allow(dead_code)]

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use guest_init::wire::{Ended, Kind, Start};
use linux_guest::{
    Beginning, Disk, Fittings, GuestError, Hardware, KernelImage, Line, MODULES, OPTIONAL_MODULES,
    ReadyGuest, RunningGuest, SavedVm, Session, SpareGuest, initial_files,
};
use machine::Kvm;
use pages::{GuestPhysical, PAGE_SIZE, PageCount, PageIndex, PageRange, PageSet};
use restore::{
    Access, Backing, GuestLayout, LoadingSetRule, ReadyPages, Record, Region, RestoreHandle, RestoreRequest,
    RestoreStrategy, Timeline,
};
use snapshot::{MachineIdentity, SectionKind, Snapshot, SnapshotBuilder};

pub const COMMAND_LINE: &str = "console=ttyS0 quiet reboot=k panic=-1 pci=off";
/// Memory of each guest, MiB.
pub const MEMORY: u64 = 256;

pub fn prepared(variable: &str) -> PathBuf {
    std::env::var_os(variable).expect("run `cargo xtask test --hardware-kvm`, which prepares all this").into()
}

/// The kernel and the modules that the rig carries in.
pub fn kernel() -> (KernelImage, Vec<u8>) {
    let folder = prepared("FAASNAP_TEST_KERNEL");
    let image = KernelImage::new(fs::read(folder.join("image")).unwrap()).unwrap();
    let folder = folder.join("modules");
    let is_there = |name: &&str| initramfs::load_order(&folder, &[*name]).is_ok();
    let optional = OPTIONAL_MODULES.iter().map(|(name, _)| *name).filter(is_there);
    let wanted: Vec<&str> = MODULES.into_iter().chain(optional).collect();
    let modules = initramfs::load_order(&folder, &wanted).unwrap();
    (image, initial_files(&modules, false).unwrap())
}

/// A disk with the root file system of a prepared runtime, made once.
pub fn root(runtime: &str) -> Disk {
    let path = std::env::temp_dir().join(format!("linux-guest-root-{runtime}"));
    if !path.exists() {
        let folder = prepared("FAASNAP_TEST_HOME").join("runtimes").join(runtime).join("root");
        let staged = path.with_extension(std::process::id().to_string());
        let mut file = File::create(&staged).unwrap();
        erofs_image::write_image(&folder, &mut file, &staged, [1; 16]).unwrap();
        fs::rename(&staged, &path).unwrap();
    }
    Disk::shared(File::open(path).unwrap())
}

pub fn hardware() -> Hardware {
    hardware_with("python3.11")
}

pub fn hardware_with(runtime: &str) -> Hardware {
    let console: Option<Box<dyn io::Write + Send>> = Some(Box::new(io::stderr()));
    let fittings = Fittings { disks: vec![root(runtime)], card: None, console };
    Hardware { memory_mib: MEMORY, processors: 1, fittings }
}

pub fn start(arguments: &[&str]) -> Start {
    Start {
        arguments: arguments.iter().map(|argument| argument.as_bytes().to_vec()).collect(),
        environment: vec![b"PATH=/usr/bin".to_vec(), b"GREETING=hello".to_vec()],
        directory: b"/".to_vec(),
        user: 1000,
        group: 1000,
        hostname: b"guest".to_vec(),
        ..Start::default()
    }
}

/// A guest that says nothing for so long hangs.
const SILENCE: Duration = Duration::from_secs(180);

/// A guest that is spoken with line by line.
pub struct Spoken {
    pub session: Session,
    line: Line,
    heard: Receiver<(Kind, Vec<u8>)>,
}

impl Spoken {
    pub fn begin(guest: RunningGuest, beginning: Beginning) -> Self {
        let (line, (say, heard)) = (Line::new(), channel());
        let hear = move |kind, body: &[u8]| drop(say.send((kind, body.to_vec())));
        let ended = |end: Result<Ended, GuestError>| println!("the guest's end: {end:?}");
        let session =
            Session::begin(guest, line.clone(), beginning, Box::new(hear), Box::new(ended)).unwrap();
        assert!(matches!(heard.recv_timeout(SILENCE), Ok((Kind::Start | Kind::Resume, _))));
        Self { session, line, heard }
    }

    pub fn tell(&self, text: &str) {
        assert!(self.line.input(text.as_bytes()));
    }

    /// What the program says up to the end of a line.
    pub fn says(&self) -> String {
        let mut text = Vec::new();
        while !text.ends_with(b"\n") {
            match self.heard.recv_timeout(SILENCE).expect("the guest has ended, or hangs") {
                (Kind::Output, body) => text.extend(body),
                (kind, body) => panic!("{kind:?}: {}", String::from_utf8_lossy(&body)),
            }
        }
        String::from_utf8(text).unwrap().trim_end().to_owned()
    }

    pub fn end(self) {
        self.session.stop();
        self.session.machine().wait();
    }
}

/// A machine in which as much of `pages` as can be is ready, and what is.
pub fn with_memory_ready(kvm: &Kvm, hardware: Hardware, pages: &PageSet) -> (ReadyGuest, PageSet) {
    let Hardware { memory_mib, processors, fittings } = hardware;
    let mut spare = SpareGuest::new(kvm, memory_mib, processors).unwrap();
    spare.want_memory_ready(pages);
    while spare.make_memory_ready().unwrap() {}
    let ready = spare.ready_memory().clone();
    (spare.fit(fittings), ready)
}

/// Where the program that touches memory ahead has its own pages.
fn first_mib() -> PageSet {
    [PageRange::new(PageIndex(0), PageCount(256))].into_iter().collect()
}

/// What this process, in which all guests run, has of memory: its share of what it maps, in MiB.
pub fn own_memory() -> u64 {
    let text = fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
}

/// A guest at rest, on disk.
pub struct Saved {
    folder: PathBuf,
    machine: SavedVm,
    identity: MachineIdentity,
}

impl Saved {
    /// Brings the guest to rest and writes it below `parent`; it goes on then.
    pub fn of(guest: &Spoken, parent: &Path, name: &str) -> Self {
        let memory = guest.session.machine().memory().clone();
        let identity = MachineIdentity::of_this_machine().unwrap();
        let machine = guest.session.rest(Duration::from_secs(60), |paused| {
            let machine = paused.save().unwrap();
            let pages = PageCount(MEMORY << 20 >> 12);
            let mut builder = SnapshotBuilder::begin(parent, name, identity.clone()).unwrap();
            layout(pages.0).add_to(&mut builder).unwrap();
            let bytes = postcard::to_stdvec(&machine).unwrap();
            builder.section(SectionKind::named("linux-machine"), 1, &bytes).unwrap();
            builder
                .memory(pages, |sink| -> Result<(), snapshot::SnapshotError> {
                    let mut bytes = vec![0; 1 << 20];
                    for mib in 0..MEMORY {
                        memory.read(GuestPhysical(mib << 20), &mut bytes).unwrap();
                        sink.write(PageIndex(mib << 8), &bytes)?;
                    }
                    Ok(())
                })
                .unwrap();
            builder.publish().unwrap();
            // As it is stored, so that nothing is kept that is not.
            postcard::from_bytes(&bytes).unwrap()
        });
        Self { folder: parent.join(name), machine: machine.unwrap(), identity }
    }

    /// A guest that goes on from here.
    pub fn restore(&self, kvm: &Kvm, strategy: RestoreStrategy, record: Record) -> Restored {
        self.restore_on(kvm, hardware(), strategy, record)
    }

    /// The same by FaaSnap's recording, in a machine that made all memory that this knows ready ahead; says how many pages of it
    /// got their content there.
    pub fn restore_in_ready_memory(&self, kvm: &Kvm) -> (Restored, u64) {
        let known = ReadyPages::of_snapshot(&self.folder, false).unwrap().pages;
        let (ready, pages) = with_memory_ready(kvm, hardware(), &known);
        assert_eq!(known.difference(&pages).difference(&first_mib()).count().0, 0);
        let restored = self.restore_into(ready, &pages, RestoreStrategy::FaaSnap, Record::No);
        let used = restored.timeline.ready.unwrap().used_bytes;
        (restored, used / PAGE_SIZE)
    }

    /// The same on given hardware.
    pub fn restore_on(
        &self,
        kvm: &Kvm,
        hardware: Hardware,
        strategy: RestoreStrategy,
        record: Record,
    ) -> Restored {
        let ready = ReadyGuest::new(kvm, hardware).unwrap();
        self.restore_into(ready, &PageSet::new(), strategy, record)
    }

    fn restore_into(
        &self,
        ready: ReadyGuest,
        pages: &PageSet,
        strategy: RestoreStrategy,
        record: Record,
    ) -> Restored {
        let snapshot = Snapshot::open_for(&self.folder, &self.identity).unwrap();
        let layout = GuestLayout::from_snapshot(&snapshot).unwrap();
        let mut timeline = Timeline::start();
        let mut request = RestoreRequest::new(ready.memory(), &snapshot, &layout, &[], strategy);
        request.record = record;
        request.tables_forbid_writes = true;
        request.ready = pages.clone();
        let handle = restore::restore(&request, &mut timeline).unwrap();
        let guest = Spoken::begin(ready.restore(&self.machine).unwrap(), Beginning::Resume);
        Restored { guest, handle, snapshot, layout, timeline }
    }
}

/// A restored guest, and what works on its memory.
pub struct Restored {
    pub guest: Spoken,
    pub timeline: Timeline,
    handle: RestoreHandle,
    snapshot: Snapshot,
    layout: GuestLayout,
}

impl Restored {
    /// Ends the guest, then its restore, and tells of its faults; what was recorded is published.
    pub fn end(self) -> String {
        let Self { guest, handle, snapshot, layout, mut timeline } = self;
        guest.end();
        assert!(handle.warnings().is_empty(), "{:?}", handle.warnings());
        let outcome = handle.finish(&mut timeline);
        assert!(outcome.failure.is_none(), "{:?}", outcome.failure);
        if let Some(recording) = outcome.recording {
            recording.unwrap().publish(&snapshot, &layout, &LoadingSetRule::default()).unwrap();
        }
        format!("{:?}, {} mappings", timeline.faults, timeline.regions_mapped)
    }
}

fn layout(pages: u64) -> GuestLayout {
    let range = PageRange::new(PageIndex(0), PageCount(pages));
    let region = Region { range, backing: Backing::Memory, access: Access::ReadWrite };
    GuestLayout::new(PageCount(pages), vec![region]).unwrap()
}
