//! A guest is paused in the middle of its work, saved, and made again in another virtual machine.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod transplanted;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use guest_memory::{GuestMemory, Protection, Source};
use machine::Kvm;
use pages::{PAGE_SIZE, PageCount, PageIndex, PageRange, PageSet};
use process_guest::ProcessGuest;
use process_kernel::fs::open_by_path;
use process_kernel::mm::{ImageSource, MemoryImage};
use process_kernel::task::{ExitStatus, Process};

use transplanted::{collect_log, mounts, start, wait_for};

/// Copies the image page by page: what the restore crate does by mapping, but for pages of `new` that are ready and may stay.
fn copy_memory(
    from: &GuestMemory,
    new: &ProcessGuest,
    image: &MemoryImage,
    files: &[std::os::fd::BorrowedFd<'_>],
    writable: bool,
) {
    let to = new.memory();
    let mut page = vec![0; PAGE_SIZE as usize];
    let mut kept = PageSet::new();
    for region in &image.regions {
        let stays = match region.protection {
            Protection::ReadWrite => new.ready_memory().clone(),
            // What the program may only read stays where its own tables alone forbid the writes.
            Protection::Read if writable => new.ready_memory().difference(new.ready_writable()),
            _ => PageSet::new(),
        };
        for run in stays.gaps(region.range) {
            let source = match region.source {
                ImageSource::Memory => Source::Anonymous,
                ImageSource::File { file, offset, .. } => Source::PrivateFile {
                    file: files[file as usize],
                    offset: offset + (run.start.0 - region.range.start.0) * PAGE_SIZE,
                },
            };
            to.map(run, source, Protection::ReadWrite).unwrap();
        }
        for index in stays.within(region.range).flat_map(PageRange::iter) {
            if let ImageSource::File { file, offset, .. } = region.source {
                let at = offset + (index.0 - region.range.start.0) * PAGE_SIZE;
                page.fill(0);
                rustix::io::pread(files[file as usize], &mut page, at).unwrap();
                to.write(index.address(), &page).unwrap();
            }
            kept.insert(PageRange::new(index, PageCount(1)));
        }
    }
    for run in &image.candidates {
        for index in run.iter() {
            if from.read(index.address(), &mut page).is_ok() {
                to.write(index.address(), &page).unwrap();
            }
        }
    }
    for region in &image.regions {
        if !(writable && region.protection == Protection::Read) {
            to.protect(region.range, region.protection).unwrap();
        }
    }
    let all = PageRange::between(PageIndex(0), PageIndex(image.page_count.0));
    new.ready_memory().difference(&kept).within(all).for_each(|run| {
        if image.regions.iter().all(|region| region.range.intersection(run).is_empty()) {
            to.release(run).unwrap();
        }
    });
}

/// Pauses, saves, ends the old guest and goes on in a new one.
fn transplant(
    kvm: &Kvm,
    old: ProcessGuest,
    process: Arc<Process>,
) -> (ProcessGuest, Arc<Process>, Arc<Mutex<String>>) {
    transplant_into(ProcessGuest::new(kvm).unwrap(), old, process, false)
}

/// The same into a machine that is there; with `writable`, the host may write what the program may only read.
fn transplant_into(
    new: ProcessGuest,
    old: ProcessGuest,
    process: Arc<Process>,
    writable: bool,
) -> (ProcessGuest, Arc<Process>, Arc<Mutex<String>>) {
    process.pause(Duration::from_secs(10)).unwrap();
    let (saved, image) = old.save(&process).unwrap();
    new.make_ready(1, PageCount(image.page_count.0)).unwrap();
    let mut revival = new.revive(saved, &mounts(), &open_by_path).unwrap();
    let files = revival.mapped_files().descriptors().unwrap();
    copy_memory(old.memory(), &new, &image, &files, writable);
    let past = PageRange::between(PageIndex(image.page_count.0), PageSet::LIMIT);
    revival.expect_growth(new.ready_memory().within(past).collect());
    process.exit(ExitStatus::Code(0));
    process.wait_ended(Some(Duration::from_secs(10))).expect("the old guest ends");
    let log = collect_log(&revival.context().ipc);
    let process = new.resume(revival).unwrap();
    (new, process, log)
}

/// Each thread waits in another kind of system call when the snapshot is taken; each must come through, with what it waited
/// for, in the other machine.
const BLOCKED: &str = include_str!("scripts/blocked.py");

#[test]
fn threads_blocked_in_every_way_go_on_in_another_machine() {
    let kvm = Kvm::open().expect("these tests need /dev/kvm");
    let guest = ProcessGuest::new(&kvm).unwrap();
    let (process, log) = start(&guest, &["/usr/bin/python3", "-c", BLOCKED]);
    wait_for(&log, "ready");
    let (_new, process, after) = transplant(&kvm, guest, process);
    let status = process.wait_ended(Some(Duration::from_secs(60)));
    // On a slow machine a timer may have expired, and its thread have said so, before the pause.
    let log = format!("{}{}", log.lock().unwrap(), after.lock().unwrap());
    assert_eq!(status, Some(ExitStatus::Code(0)), "{log}{:?}", process.failure());
    for line in [
        "futex_queue 7",
        "futex_lock True",
        "read_pipe b'hello'",
        "write_pipe 8192",
        "recv_unix b'over'",
        "recvmsg_unix b'data'",
        "accept_tcp 127.0.0.1",
        "recv_tcp b'tcp'",
        "recv_udp b'udp'",
        "read_eventfd 3",
        "read_timerfd (1, True)",
        "poll True",
        "select_ True",
        "epoll True",
        "nanosleep True",
        "sigwait True",
        "read_signalfd True",
        "flock None",
        "sem_timedwait (False, True)",
        "record_lock 32",
        "send_tcp None",
        "send_unix None",
        "send_unix_datagram 4",
        "recv_waitall b'partrest'",
        "connect_full_backlog /tmp/listening",
        "accept_unix ",
        "write_eventfd 8",
        "readv (6, b've')",
        "sendfile 100",
        "ppoll 1",
        "pselect 1",
        "epoll_pwait2 1",
        "futex_lock_pi (0, True)",
        "sigtimedwait (None, True)",
        "sleep_until (0, True)",
        "pause (-1, True)",
        "sigsuspend (-1, True)",
        "done",
    ] {
        assert!(log.lines().any(|said| said == line), "{line} is missing in {log}");
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

#[test]
fn a_saved_guests_own_tables_forbid_what_the_host_would_let_it_write() {
    const SCRIPT: &str = "
import ctypes, time
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
pages = libc.mmap(None, 5 * 4096, 3, 0x22, -1, 0)
ctypes.memset(pages, 7, 5 * 4096)
for page in range(4): assert libc.mprotect(pages + page * 4096, 4096, 1) == 0
print('ready', flush=True)
time.sleep(1)
assert ctypes.string_at(pages, 5 * 4096) == bytes([7]) * (5 * 4096)
assert libc.mprotect(pages + 4096, 4096, 3) == 0
ctypes.memset(pages + 4096, 8, 4096)
ctypes.memset(pages + 4 * 4096, 8, 4096)
assert libc.munmap(ctypes.c_void_p(pages + 3 * 4096), ctypes.c_size_t(4096)) == 0
assert libc.mmap(pages + 3 * 4096, 4096, 3, 0x32, -1, 0) == pages + 3 * 4096
ctypes.memset(pages + 3 * 4096, 9, 4096)
moved = bytearray(64 << 20)
moved[::4096] = b'x' * len(moved[::4096])
print('still here', ctypes.string_at(pages, 4097)[4095:], flush=True)
ctypes.memset(pages, 8, 1)
print('wrote', flush=True)
";
    let kvm = Kvm::open().expect("these tests need /dev/kvm");
    let guest = ProcessGuest::new(&kvm).unwrap();
    let (process, log) = start(&guest, &["/usr/bin/python3", "-c", SCRIPT]);
    wait_for(&log, "ready");
    let mut new = ProcessGuest::new(&kvm).unwrap();
    // As a spare worker does: what was made ahead must not outlive what it was made for, nor permit what the guest's tables forbid.
    // Whole blocks, pages here and there, and what no guest can have ready.
    let range = |start, count| PageRange::new(PageIndex(start), PageCount(count));
    let wanted: PageSet = [range(0, 1), range(1024, 12_000), range(1 << 20, 8)].into_iter().collect();
    process.pause(Duration::from_secs(10)).unwrap();
    let (_, image) = guest.save(&process).unwrap();
    process.resume();
    let may_write = image.regions.iter().filter(|region| region.protection == Protection::ReadWrite);
    new.want_memory_ready(&wanted, &may_write.map(|region| region.range).collect());
    while new.make_memory_ready().unwrap() {}
    assert_eq!(*new.ready_memory(), wanted.within(range(1024, 1 << 18)).collect::<PageSet>());
    assert!(!new.ready_writable().is_empty());
    let (_new, process, after) = transplant_into(new, guest, process, true);
    let status = process.wait_ended(Some(Duration::from_secs(60)));
    let log = after.lock().unwrap().clone();
    assert_eq!(status, Some(ExitStatus::Signal(11)), "{log}{:?}", process.failure());
    assert!(log.contains("still here b'\\x07\\x08'"), "{log}");
    assert!(!log.contains("wrote"), "{log}");
}

/// Uses memory that is new after the restore in every way, then goes wrong as it is told.
const GROWING: &str = "
import ctypes, sys, threading, time
libc = ctypes.CDLL(None)
for call in libc.mmap, libc.mremap: call.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
for call in libc.mprotect, libc.madvise: call.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
P = 4096
def new(pages, access=3, at=None): return libc.mmap(at, pages * P, access, 0x32 if at else 0x22, -1, 0)
def holds(at, pages, byte): return ctypes.string_at(at, pages * P) == bytes([byte]) * (pages * P)
file = open(sys.executable, 'rb')
head = file.read(4 * P)
def use(pages):
    at = new(pages)
    assert holds(at, pages, 0)
    ctypes.memset(at, 5, pages * P)
    assert libc.mprotect(at + P, P, 1) == 0 and holds(at, pages, 5)
    assert libc.mprotect(at + P, P, 3) == 0
    ctypes.memset(at + P, 6, P)
    assert libc.munmap(at + 2 * P, 3 * P) == 0
    assert new(3, at=at + 2 * P) == at + 2 * P and holds(at + 2 * P, 3, 0)
    assert libc.madvise(at + 6 * P, P, 4) == 0 and holds(at + 6 * P, 1, 0)
    assert libc.mmap(at + 8 * P, 4 * P, 1, 0x12, file.fileno(), 0) == at + 8 * P
    assert ctypes.string_at(at + 8 * P, 4 * P) == head
    assert holds(new(2, access=1, at=at + 12 * P), 2, 0)
    moved = libc.mremap(at + 20 * P, 10 * P, (pages + 300) * P, 1)
    assert holds(moved, 10, 5) and holds(moved + 10 * P, pages + 290, 0)
    ctypes.memset(moved, 7, (pages + 300) * P)
    return at
kept = []
def grow():
    for pages in 33, 64, 256, 200, 511, 512, 700, 256: kept.append(use(pages))
print('ready', flush=True)
time.sleep(0.5)
grow()
threads = [threading.Thread(target=use, args=(100 + number,)) for number in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print('grown', flush=True)
time.sleep(0.5)
assert all(holds(at, 1, 5) and holds(at + P, 1, 6) for at in kept)
grow()
print('again', flush=True)
last = new(100)
if sys.argv[1] == 'past': ctypes.memset(last, 1, 100 * P + 1)
if sys.argv[1] == 'read-only': ctypes.memset(kept[2] + 12 * P, 1, 1)
if sys.argv[1] == 'gone' and libc.munmap(last, 100 * P) == 0: ctypes.string_at(last + 50 * P, 1)
print('went on', flush=True)
";

#[test]
fn memory_made_ready_for_new_blocks_is_as_if_it_were_mapped() {
    let kvm = Kvm::open().expect("these tests need /dev/kvm");
    for wrong in ["past", "read-only", "gone"] {
        let guest = ProcessGuest::new(&kvm).unwrap();
        let (process, log) = start(&guest, &["/usr/bin/python3", "-c", GROWING, wrong]);
        wait_for(&log, "ready");
        let mut new = ProcessGuest::new(&kvm).unwrap();
        // Of most blocks all, of others some pages.
        let range = |start, count| PageRange::new(PageIndex(start), PageCount(count));
        let wanted = (2..40).map(|block| range(block * 512, if block % 5 == 0 { 150 } else { 512 }));
        new.want_memory_ready(&wanted.collect(), &PageSet::new());
        while new.make_memory_ready().unwrap() {}
        let (new, process, log) = transplant_into(new, guest, process, false);
        wait_for(&log, "grown");
        // What was not used is not in the next snapshot, nor in its way.
        let (_newer, process, log) = transplant(&kvm, new, process);
        let status = process.wait_ended(Some(Duration::from_secs(60)));
        let log = log.lock().unwrap().clone();
        assert_eq!(status, Some(ExitStatus::Signal(11)), "{wrong}: {log}{:?}", process.failure());
        assert!(log.contains("again") && !log.contains("went on"), "{wrong}: {log}");
    }
}
