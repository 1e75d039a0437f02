//! Debian's unmodified kernel in a microVM. Needs hardware KVM: `cargo xtask test --hardware-kvm` runs these tests in its rig.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use guest_init::wire::{Ended, Kind, Start};
use linux_guest::{
    Beginning, Disk, DiskAccess, GuestError, Hardware, KernelImage, Line, MODULES, Program, ProgramEnd,
    ReadyGuest, RunningGuest, SavedVm, Session, Streams, initial_files,
};
use machine::Kvm;
use pages::{GuestPhysical, PageCount, PageIndex, PageRange};
use restore::{
    Access, Backing, GuestLayout, LoadingSetRule, Record, Region, RestoreHandle, RestoreRequest,
    RestoreStrategy, Timeline,
};
use snapshot::{SectionKind, Snapshot, SnapshotBuilder};

const COMMAND_LINE: &str = "console=ttyS0 quiet reboot=k panic=-1 pci=off";

fn prepared(variable: &str) -> PathBuf {
    std::env::var_os(variable).expect("run `cargo xtask test --hardware-kvm`, which prepares all this").into()
}

/// The kernel and the modules that the rig carries in.
fn kernel() -> (KernelImage, Vec<u8>) {
    let folder = prepared("FAASNAP_TEST_KERNEL");
    let image = KernelImage::new(fs::read(folder.join("image")).unwrap()).unwrap();
    let modules = initramfs::load_order(&folder.join("modules"), &MODULES).unwrap();
    (image, initial_files(&modules).unwrap())
}

/// A disk with the root file system of the Python runtime, made once.
fn root() -> Disk {
    let path = std::env::temp_dir().join("linux-guest-root");
    if !path.exists() {
        let folder = prepared("FAASNAP_TEST_HOME").join("runtimes/python3.11/root");
        let staged = path.with_extension(std::process::id().to_string());
        let mut file = File::create(&staged).unwrap();
        erofs_image::write_image(&folder, &mut file, &staged, [1; 16]).unwrap();
        fs::rename(&staged, &path).unwrap();
    }
    Disk { file: File::open(path).unwrap(), access: DiskAccess::Read }
}

#[derive(Clone, Default)]
struct Collected(Arc<Mutex<Vec<u8>>>);

impl Write for Collected {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Collected {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

fn hardware() -> Hardware {
    Hardware { memory_mib: 256, processors: 1, disks: vec![root()], console: Some(Box::new(io::stderr())) }
}

fn start(arguments: &[&str]) -> Start {
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

fn run(
    arguments: &[&str],
    input: impl Read + Send + 'static,
) -> (Result<ProgramEnd, GuestError>, String, String) {
    let (kernel, initial_files) = kernel();
    let command_line = COMMAND_LINE.to_owned();
    let program =
        Program { hardware: hardware(), kernel, initial_files, command_line, start: start(arguments) };
    let (output, error) = (Collected::default(), Collected::default());
    let streams =
        Streams { input: Box::new(input), output: Box::new(output.clone()), error: Box::new(error.clone()) };
    let end = program.run(&Kvm::open().unwrap(), streams);
    (end, output.text(), error.text())
}

#[test]
#[ignore = "needs hardware KVM: `cargo xtask test --hardware-kvm`"]
fn on_hardware_a_program_runs_as_a_user_in_a_linux_of_its_own() {
    let script = "echo \"$GREETING $(hostname 2>/dev/null || cat /proc/sys/kernel/hostname) $(id -u 2>/dev/null)\"; \
                  read line; echo \"got $line\"; echo to-error >&2; touch /tmp/file /file 2>/dev/null; ls / >/dev/null 2>&1; \
                  exit 7";
    let (end, output, error) = run(&["/bin/sh", "-c", script], &b"input\n"[..]);
    let end = end.unwrap();
    assert_eq!(end.ended, Ended::Status(7), "{output}{error}");
    assert!(output.starts_with("hello ") && output.contains("got input\n"), "{output}");
    assert!(error.contains("to-error\n"), "{error}");
}

#[test]
#[ignore = "needs hardware KVM: `cargo xtask test --hardware-kvm`"]
fn on_hardware_python_forks_and_sees_a_real_kernel() {
    let code = "import os, subprocess, socket, hashlib\n\
                assert os.uname().sysname == 'Linux' and os.uname().nodename == 'guest', os.uname()\n\
                assert (os.getuid(), os.getgid(), os.getgroups()) == (1000, 1000, []), os.getuid()\n\
                print(subprocess.run(['/bin/sh', '-c', 'echo child'], capture_output=True).stdout.decode().strip())\n\
                listener = socket.create_server(('127.0.0.1', 0))\n\
                near = socket.create_connection(listener.getsockname()); far, _ = listener.accept()\n\
                near.sendall(b'x' * 10); print(far.recv(10).decode())\n\
                open('/tmp/a', 'wb').write(bytes(1 << 20)); print(hashlib.sha256(open('/tmp/a', 'rb').read()).hexdigest()[:8])\n\
                print('y' * 300000)\n";
    let (end, output, error) = run(&["python3", "-c", code], io::empty());
    assert_eq!(end.unwrap().ended, Ended::Status(0), "{error}");
    let mut lines = output.lines();
    // SHA-256 of a MiB of zeros starts with 30e14955.
    assert_eq!(
        (lines.next(), lines.next(), lines.next()),
        (Some("child"), Some("xxxxxxxxxx"), Some("30e14955"))
    );
    assert_eq!(lines.next().map(str::len), Some(300_000));
}

#[test]
#[ignore = "needs hardware KVM: `cargo xtask test --hardware-kvm`"]
fn on_hardware_what_can_not_be_run_says_why() {
    let (end, _, _) = run(&["/no/such/program"], io::empty());
    let error = end.unwrap_err().to_string();
    assert!(error.contains("/no/such/program can't be started: No such file"), "{error}");
}

/// Runs while it reads lines and answers each: with what it remembers, what it has of memory, randomness and time.
const ANSWERS: &str = "
import sys, hashlib, os, time
blob = os.urandom(64) * 160000
digest = hashlib.sha256(blob).hexdigest()
count = 0
print('ready', flush=True)
for line in sys.stdin:
    count += 1
    same = hashlib.sha256(blob).hexdigest() == digest
    print(line.strip(), count, same, os.urandom(8).hex(), int(time.time()), os.path.exists('/usr/bin/python3'), flush=True)
";

/// A guest that is spoken with line by line.
struct Spoken {
    session: Session,
    line: Line,
    heard: Receiver<(Kind, Vec<u8>)>,
}

impl Spoken {
    fn begin(guest: RunningGuest, beginning: Beginning) -> Self {
        let (line, (say, heard)) = (Line::new(), channel());
        let hear = move |kind, body: &[u8]| drop(say.send((kind, body.to_vec())));
        let ended = |end: Result<Ended, GuestError>| println!("the guest's end: {end:?}");
        let session =
            Session::begin(guest, line.clone(), beginning, Box::new(hear), Box::new(ended)).unwrap();
        assert!(matches!(heard.recv(), Ok((Kind::Start | Kind::Resume, _))));
        Self { session, line, heard }
    }

    fn tell(&self, text: &str) {
        assert!(self.line.input(text.as_bytes()));
    }

    /// What the program says up to the end of a line.
    fn says(&self) -> String {
        let mut text = Vec::new();
        while !text.ends_with(b"\n") {
            match self.heard.recv().expect("the guest has ended") {
                (Kind::Output, body) => text.extend(body),
                (kind, body) => panic!("{kind:?}: {}", String::from_utf8_lossy(&body)),
            }
        }
        String::from_utf8(text).unwrap().trim_end().to_owned()
    }

    fn end(self) {
        self.session.stop();
        self.session.machine().wait();
    }
}

fn layout(pages: u64) -> GuestLayout {
    let range = PageRange::new(PageIndex(0), PageCount(pages));
    let region = Region { range, backing: Backing::Memory, access: Access::ReadWrite };
    GuestLayout::new(PageCount(pages), vec![region]).unwrap()
}

/// Ends a restore; what was recorded is published.
fn finish(handle: RestoreHandle, layout: &GuestLayout, snapshot: &Snapshot, timeline: &mut Timeline) {
    assert!(handle.warnings().is_empty(), "{:?}", handle.warnings());
    let outcome = handle.finish(timeline);
    assert!(outcome.failure.is_none(), "{:?}", outcome.failure);
    if let Some(recording) = outcome.recording {
        recording.unwrap().publish(snapshot, layout, &LoadingSetRule::default()).unwrap();
    }
}

#[test]
#[ignore = "needs hardware KVM: `cargo xtask test --hardware-kvm`"]
fn on_hardware_a_snapshot_is_restored_with_every_strategy() {
    let folder = tempfile::tempdir().unwrap();
    let kvm = Kvm::open().unwrap();
    let (kernel, initial_files) = kernel();
    let guest =
        ReadyGuest::new(&kvm, hardware()).unwrap().boot(&kernel, &initial_files, COMMAND_LINE).unwrap();
    let guest = Spoken::begin(guest, Beginning::Start(start(&["python3", "-c", ANSWERS])));
    assert_eq!(guest.says(), "ready");
    guest.tell("first\n");
    assert!(guest.says().starts_with("first 1 True"));

    // Saved between two lines.
    let memory = guest.session.machine().memory().clone();
    let machine = snapshot::MachineIdentity::of_this_machine().unwrap();
    let saved = guest.session.rest(Duration::from_secs(60), |paused| {
        let saved = postcard::to_stdvec(&paused.save().unwrap()).unwrap();
        let pages = PageCount(256 << 20 >> 12);
        let mut builder = SnapshotBuilder::begin(folder.path(), "snapshot", machine.clone()).unwrap();
        layout(pages.0).add_to(&mut builder).unwrap();
        builder.section(SectionKind::named("linux-machine"), 1, &saved).unwrap();
        builder
            .memory(pages, |sink| -> Result<(), snapshot::SnapshotError> {
                let mut bytes = vec![0; 1 << 20];
                for mib in 0..256 {
                    memory.read(GuestPhysical(mib << 20), &mut bytes).unwrap();
                    sink.write(PageIndex(mib << 8), &bytes)?;
                }
                Ok(())
            })
            .unwrap();
        builder.publish().unwrap();
        saved
    });
    let saved = saved.unwrap();

    // It goes on where it was.
    guest.tell("second\n");
    let mut answers = vec![guest.says()];
    guest.end();

    let snapshot = Snapshot::open_for(&folder.path().join("snapshot"), &machine).unwrap();
    let layout = GuestLayout::from_snapshot(&snapshot).unwrap();
    let saved: SavedVm = postcard::from_bytes(&saved).unwrap();
    let on_demand = (RestoreStrategy::OnDemand, Record::No);
    let recorded = |strategy| [(strategy, Record::Always(Default::default())), (strategy, Record::No)];
    let ways = [on_demand, (RestoreStrategy::Cached, Record::No), (RestoreStrategy::Eager, Record::No)]
        .into_iter()
        .chain(recorded(RestoreStrategy::FaaSnap))
        .chain(recorded(RestoreStrategy::Reap));
    for (strategy, record) in ways {
        let mut timeline = Timeline::start();
        let ready = ReadyGuest::new(&kvm, hardware()).unwrap();
        let mut request = RestoreRequest::new(ready.memory(), &snapshot, &layout, &[], strategy);
        request.record = record;
        let handle = restore::restore(&request, &mut timeline).unwrap();
        let guest = Spoken::begin(ready.restore(&saved).unwrap(), Beginning::Resume);
        guest.tell("second\n");
        answers.push(guest.says());
        println!("{strategy:?} {record:?}: answered after {} ms", timeline.now_ns() / 1_000_000);
        guest.end();
        finish(handle, &layout, &snapshot, &mut timeline);
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let mut random = std::collections::HashSet::new();
    for answer in &answers {
        let [name, count, same, bytes, time, file] = answer.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{answer}")
        };
        assert_eq!((name, count, same, file), ("second", "2", "True", "True"), "{answer}");
        assert!(random.insert(bytes), "two guests have the same randomness: {answer}");
        let time: u64 = time.parse().unwrap();
        assert!(time <= now && now - time < 600, "{answer}");
    }
    assert_eq!(answers.len(), 8);
}
