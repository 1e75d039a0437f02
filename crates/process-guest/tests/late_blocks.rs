//! A guest runs while blocks of its memory are still to come: the restore is played by a thread that is slow, brings them in any
//! order, fails, or never comes.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod transplanted;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use guest_memory::Arrivals;
use machine::Kvm;
use pages::Block;
use process_guest::{ProcessGuest, Revival};
use process_kernel::task::{ExitStatus, Process};

use transplanted::{Halfway, collect_log, halfway, start, wait_for};

/// Uses memory in every way that the worker sees or doesn't: from several threads, by system calls into and out of it, by
/// unmapping, protecting, moving and growing what is there, by signals.
const BUSY: &str = "
import ctypes, hashlib, mmap, os, signal, threading, time
libc = ctypes.CDLL(None)
libc.mremap.restype = ctypes.c_void_p
libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
large = [bytearray(os.urandom(3 << 20)) for _ in range(6)]
digests = [hashlib.sha256(one).digest() for one in large]
def region(fill):
    at = libc.mmap(None, 5 << 20, 3, 0x22, -1, 0)
    ctypes.memset(at, fill, 5 << 20)
    return at
moved, cut, guarded = region(1), region(2), region(3)
caught = []
signal.signal(signal.SIGUSR1, lambda *_: caught.append(1))
go, (inner, outer) = threading.Event(), os.pipe()
wrong = []
def check(number):
    go.wait()
    if hashlib.sha256(large[number]).digest() != digests[number]: wrong.append(number)
    with open('/tmp/%d' % number, 'wb') as file: file.write(large[number])
    with open('/tmp/%d' % number, 'rb', buffering=0) as file:
        if file.readinto(large[number]) != 3 << 20: wrong.append('short')
    if hashlib.sha256(large[number]).digest() != digests[number]: wrong.append((number, 'read'))
threads = [threading.Thread(target=check, args=(number,)) for number in range(6)]
for thread in threads: thread.start()
print('ready', flush=True)
time.sleep(0.5)
go.set()
os.kill(os.getpid(), signal.SIGUSR1)
assert libc.munmap(cut + (1 << 20), 3 << 20) == 0
assert libc.mmap(cut + (1 << 20), 3 << 20, 3, 0x32, -1, 0) == cut + (1 << 20)
assert ctypes.string_at(cut + (1 << 20), 3 << 20) == bytes(3 << 20)
assert ctypes.string_at(cut, 1 << 20) == bytes([2]) * (1 << 20)
assert libc.mprotect(guarded + (2 << 20), 1 << 20, 1) == 0
assert ctypes.string_at(guarded, 5 << 20) == bytes([3]) * (5 << 20)
new = libc.mremap(moved, 5 << 20, 9 << 20, 1)
assert ctypes.string_at(new, 9 << 20) == bytes([1]) * (5 << 20) + bytes(4 << 20)
assert threading.Thread(target=lambda: None).start() is None
more = bytearray(40 << 20)
for thread in threads: thread.join()
assert not wrong and caught, (wrong, caught)
print('all right', flush=True)
";

/// A random number from `seed`, below `end`.
fn random(seed: &mut u64, end: usize) -> usize {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 33) as usize % end
}

fn restored(kvm: &Kvm) -> (ProcessGuest, Halfway) {
    let guest = ProcessGuest::new(kvm).unwrap();
    let (process, log) = start(&guest, &["/usr/bin/python3", "-c", BUSY]);
    wait_for(&log, "ready");
    (ProcessGuest::new(kvm).unwrap(), halfway(guest, process))
}

fn mapped_files(revival: &Revival) -> Vec<OwnedFd> {
    let files = revival.mapped_files().descriptors().unwrap();
    files.iter().map(|file| file.try_clone_to_owned().unwrap()).collect()
}

#[test]
fn a_guest_is_right_in_whatever_order_its_blocks_come() {
    let kvm = Kvm::open().expect("these tests need /dev/kvm");
    for seed in 0..3u64 {
        let (new, mut halfway) = restored(&kvm);
        let arrivals = Arc::new(halfway.saved().late_blocks());
        let first = halfway.saved().first_blocks();
        let mut revival = halfway.revive(&new);
        revival.expect(arrivals.clone());
        assert!(first.len() > 3 && first.iter().all(|block| arrivals.coming().contains(block)));
        let files = mapped_files(&revival);
        halfway.bring_all_but(&new, &files, &arrivals.coming());
        let log = collect_log(&revival.context().ipc);
        let process = thread::scope(|scope| {
            let (new, arrivals) = (&new, &arrivals);
            scope.spawn(move || {
                let mut state = seed;
                while !arrivals.is_complete() {
                    let (coming, wanted) = (arrivals.coming(), arrivals.wanted());
                    // What is waited for comes soon, but not always next.
                    let block = match wanted.first() {
                        Some(block) if random(&mut state, 4) > 0 => *block,
                        _ => coming[random(&mut state, coming.len())],
                    };
                    thread::sleep(Duration::from_micros(random(&mut state, 1500) as u64));
                    halfway.bring(new, &files, &[block]);
                    arrivals.arrived(&[block]);
                }
            });
            new.resume(revival).unwrap()
        });
        let status = process.wait_ended(Some(Duration::from_secs(60)));
        let log = log.lock().unwrap().clone();
        assert_eq!(status, Some(ExitStatus::Code(0)), "seed {seed}: {log}{:?}", process.failure());
        assert!(log.contains("all right"), "seed {seed}: {log}");
        assert!(process.mm.waits().count > 0, "seed {seed}: nobody waited");
    }
}

/// Resumes a guest of which only two blocks that are needed first come in, and waits until somebody waits for another.
fn waiting(kvm: &Kvm) -> (ProcessGuest, Arc<Process>, Arc<Arrivals>) {
    let (new, mut halfway) = restored(kvm);
    let arrivals = Arc::new(halfway.saved().late_blocks());
    let first: Vec<Block> = halfway.saved().first_blocks().into_iter().take(2).collect();
    let mut revival = halfway.revive(&new);
    revival.expect(arrivals.clone());
    let late: Vec<Block> = arrivals.coming().into_iter().filter(|block| !first.contains(block)).collect();
    halfway.bring_all_but(&new, &mapped_files(&revival), &late);
    arrivals.arrived(&first);
    let process = new.resume(revival).unwrap();
    while arrivals.wanted().is_empty() {
        thread::sleep(Duration::from_millis(1));
    }
    (new, process, arrivals)
}

#[test]
fn a_guest_whose_memory_is_lost_while_it_waits_ends_for_that_reason() {
    let kvm = Kvm::open().expect("these tests need /dev/kvm");
    let (_new, process, arrivals) = waiting(&kvm);
    arrivals.lose(Some("the disk failed".to_owned()));
    let status = process.wait_ended(Some(Duration::from_secs(10)));
    assert_eq!(status, Some(ExitStatus::Signal(9)));
    assert_eq!(process.failure().as_deref(), Some("the disk failed"));
}

#[test]
fn a_guest_that_waits_can_be_ended() {
    let kvm = Kvm::open().expect("these tests need /dev/kvm");
    let (_new, process, _arrivals) = waiting(&kvm);
    process.exit(ExitStatus::Signal(9));
    assert_eq!(process.wait_ended(Some(Duration::from_secs(10))), Some(ExitStatus::Signal(9)));
    assert_eq!(process.failure(), None);
}
