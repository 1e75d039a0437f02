//! A guest is paused in the middle of its work, saved, and made again in another virtual machine.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use guest_memory::{GuestMemory, Protection, Source};
use machine::Kvm;
use pages::{PAGE_SIZE, PageCount};
use process_guest::{ProcessConfig, ProcessGuest};
use process_kernel::file::{AccessMode, OpenFile, StatusFlags};
use process_kernel::fs::{MountEntry, MountSource, MountTable, open_by_path};
use process_kernel::ipc::{Ipc, LogSink, LogStream};
use process_kernel::mm::{ImageSource, MemoryImage};
use process_kernel::task::{ExecRequest, ExitStatus, Identity, Process};

fn mounts() -> MountTable {
    let mount = |at: &str, source, writable| MountEntry { at: at.to_owned(), source, writable };
    let host = MountSource::HostDirectory { path: "/".into(), hidden: vec![], cross_devices: true };
    let tmpfs = MountSource::Tmpfs { bytes: 64 << 20, inodes: 10_000, mode: 0o1777 };
    MountTable(vec![
        mount("/", host, false),
        mount("/tmp", tmpfs, true),
        mount("/proc", MountSource::Proc, false),
        mount("/dev", MountSource::Dev, true),
    ])
}

fn collect_log(ipc: &Ipc) -> Arc<Mutex<String>> {
    let log = Arc::new(Mutex::new(String::new()));
    let sink = log.clone();
    ipc.log.set_receiver(move |_, bytes| sink.lock().unwrap().push_str(&String::from_utf8_lossy(bytes)));
    log
}

fn start(guest: &ProcessGuest, arguments: &[&str]) -> (Arc<Process>, Arc<Mutex<String>>) {
    let config = ProcessConfig {
        mounts: mounts(),
        identity: Identity { uid: 0, gid: 0, ..Identity::default() },
        memory_limit: 1 << 30,
    };
    let process = guest.process(&config, &open_by_path).unwrap();
    let log = collect_log(&process.ipc);
    for stream in [LogStream::Output, LogStream::Output, LogStream::Error] {
        let sink = LogSink::new(&process.ipc, stream);
        let file = OpenFile::new(sink, AccessMode::ReadWrite, StatusFlags::empty());
        process.files.insert(file, 0, 1024, false).unwrap();
    }
    let request = ExecRequest {
        path: arguments[0].into(),
        arguments: arguments.iter().map(|argument| argument.as_bytes().to_vec()).collect(),
        environment: vec![b"PATH=/usr/bin:/bin".to_vec()],
    };
    guest.start(&process, &request).unwrap();
    (process, log)
}

fn wait_for(log: &Mutex<String>, text: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !log.lock().unwrap().contains(text) {
        assert!(Instant::now() < deadline, "no {text:?} in {:?}", log.lock().unwrap());
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Copies the image page by page: what the restore crate does by mapping.
fn copy_memory(
    from: &GuestMemory,
    to: &GuestMemory,
    image: &MemoryImage,
    files: &[std::os::fd::BorrowedFd<'_>],
) {
    for region in &image.regions {
        let source = match region.source {
            ImageSource::Memory => Source::Anonymous,
            ImageSource::File { file, offset, .. } => {
                Source::PrivateFile { file: files[file as usize], offset }
            }
        };
        to.map(region.range, source, Protection::ReadWrite).unwrap();
    }
    let mut page = vec![0; PAGE_SIZE as usize];
    for run in &image.candidates {
        for index in run.iter() {
            if from.read(index.address(), &mut page).is_ok() {
                to.write(index.address(), &page).unwrap();
            }
        }
    }
    for region in &image.regions {
        to.protect(region.range, region.protection).unwrap();
    }
}

/// Pauses, saves, ends the old guest and goes on in a new one.
fn transplant(
    kvm: &Kvm,
    old: ProcessGuest,
    process: Arc<Process>,
) -> (ProcessGuest, Arc<Process>, Arc<Mutex<String>>) {
    process.pause(Duration::from_secs(10)).unwrap();
    let (saved, image) = old.save(&process).unwrap();
    let new = ProcessGuest::new(kvm).unwrap();
    new.make_ready(1, PageCount(image.page_count.0)).unwrap();
    let revival = new.revive(saved, &mounts(), &open_by_path).unwrap();
    copy_memory(old.memory(), new.memory(), &image, &revival.mapped_files().descriptors().unwrap());
    process.exit(ExitStatus::Code(0));
    process.wait_ended(Some(Duration::from_secs(10))).expect("the old guest ends");
    let log = collect_log(&revival.context().ipc);
    let process = new.resume(revival).unwrap();
    (new, process, log)
}

const SCRIPT: &str = "
import os, threading, time, queue, select
q = queue.Queue()
data = {str(i): [i] * 10 for i in range(5000)}
r, w = os.pipe()
started = time.monotonic()
lock = threading.Lock(); lock.acquire()
def blocked_on_queue(): print('queue', q.get(), flush=True)
def blocked_on_pipe(): print('pipe', os.read(r, 10), flush=True)
def blocked_on_select(): print('select', len(select.select([r], [], [], 1.5)[0]), flush=True)
def blocked_on_lock():
    lock.acquire(); print('lock', flush=True)
def asleep():
    time.sleep(1.0); print('slept', time.monotonic() - started >= 1.0, flush=True)
ts = [threading.Thread(target=f) for f in (blocked_on_queue, blocked_on_pipe, blocked_on_lock, asleep)]
ts[1:1] = []
for t in ts: t.start()
open('/tmp/note', 'w').write('kept')
print('ready', flush=True)
x = 0
deadline = time.monotonic() + 1.2
while time.monotonic() < deadline: x += 1
q.put(7); os.write(w, b'hello'); lock.release()
for t in ts: t.join()
assert data == {str(i): [i] * 10 for i in range(5000)}
assert open('/tmp/note').read() == 'kept'
print('done', flush=True)
";

#[test]
fn threads_blocked_in_every_way_go_on_in_another_machine() {
    let kvm = Kvm::open().expect("these tests need /dev/kvm");
    let guest = ProcessGuest::new(&kvm).unwrap();
    let (process, log) = start(&guest, &["/usr/bin/python3", "-c", SCRIPT]);
    wait_for(&log, "ready");
    let (_new, process, log) = transplant(&kvm, guest, process);
    let status = process.wait_ended(Some(Duration::from_secs(30)));
    let log = log.lock().unwrap().clone();
    assert_eq!(status, Some(ExitStatus::Code(0)), "{log}{:?}", process.failure());
    for line in ["queue 7", "pipe b'hello'", "lock", "slept True", "done"] {
        assert!(log.contains(line), "{line} is missing in {log}");
    }
}

#[test]
fn ten_generations_change_nothing() {
    const COUNTER: &str = "
import time, hashlib
blob = bytes(range(256)) * 40000
print('ready', hashlib.sha256(blob).hexdigest(), flush=True)
for i in range(1000000):
    time.sleep(0.02)
    print('sum', hashlib.sha256(blob).hexdigest(), flush=True)
";
    let kvm = Kvm::open().expect("these tests need /dev/kvm");
    let mut guest = ProcessGuest::new(&kvm).unwrap();
    let (mut process, log) = start(&guest, &["/usr/bin/python3", "-c", COUNTER]);
    wait_for(&log, "ready");
    let digest = log.lock().unwrap().split_whitespace().nth(1).unwrap().to_owned();
    for _ in 0..10 {
        let (next_guest, next_process, log) = transplant(&kvm, guest, process);
        wait_for(&log, &format!("sum {digest}"));
        (guest, process) = (next_guest, next_process);
    }
    process.exit(ExitStatus::Code(0));
    assert!(process.wait_ended(Some(Duration::from_secs(10))).is_some());
    drop(guest);
}
