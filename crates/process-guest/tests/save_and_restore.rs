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

/// Each thread waits in another kind of system call when the snapshot is taken; each must come through, with what it waited
/// for, in the other machine.
const SCRIPT: &str = "
import ctypes, fcntl, os, queue, select, signal, socket, struct, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
started = time.monotonic()
data = {str(i): [i] * 10 for i in range(5000)}
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGUSR2})
q = queue.Queue()
lock = threading.Lock(); lock.acquire()
wakers, threads = [], []
def case(waker=None):
    def add(f):
        def run():
            try: print(f.__name__, f(), flush=True)
            except BaseException as error: print(f.__name__, 'raised', repr(error), flush=True)
        threads.append(threading.Thread(target=run))
        if waker: wakers.append(waker)
        return f
    return add
def pipe(): return os.pipe()

@case(lambda: q.put(7))
def futex_queue(): return q.get()
@case(lock.release)
def futex_lock(): return lock.acquire()
r1, w1 = pipe()
@case(lambda: os.write(w1, b'hello'))
def read_pipe(): return os.read(r1, 10)
r2, w2 = pipe()
fcntl.fcntl(w2, fcntl.F_SETFL, os.O_NONBLOCK)
try:
    while True: os.write(w2, b'x' * 4096)
except BlockingIOError: pass
fcntl.fcntl(w2, fcntl.F_SETFL, 0)
def drain():
    while select.select([r2], [], [], 0.2)[0]: os.read(r2, 65536)
@case(drain)
def write_pipe(): return os.write(w2, b'y' * 8192)
s1, s2 = socket.socketpair()
@case(lambda: s2.send(b'over'))
def recv_unix(): return s1.recv(10)
d1, d2 = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
@case(lambda: d2.sendmsg([b'da', b'ta']))
def recvmsg_unix(): return d1.recvmsg(10)[0]
listener = socket.create_server(('127.0.0.1', 4000))
@case(lambda: socket.create_connection(('127.0.0.1', 4000)).close())
def accept_tcp(): return listener.accept()[1][0]
t1 = socket.create_server(('127.0.0.1', 4001)); t2 = socket.create_connection(('127.0.0.1', 4001)); t3 = t1.accept()[0]
@case(lambda: t3.sendall(b'tcp'))
def recv_tcp(): return t2.recv(10)
u1 = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u1.bind(('127.0.0.1', 4002))
@case(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'udp', ('127.0.0.1', 4002)))
def recv_udp(): return u1.recvfrom(10)[0]
e1 = libc.eventfd(0, 0)
@case(lambda: os.write(e1, struct.pack('Q', 3)))
def read_eventfd(): return struct.unpack('Q', os.read(e1, 8))[0]
tf = libc.timerfd_create(time.CLOCK_MONOTONIC, 0)
libc.timerfd_settime(tf, 0, struct.pack('4q', 0, 0, 1, 500000000), None)
@case()
def read_timerfd(): return struct.unpack('Q', os.read(tf, 8))[0], time.monotonic() - started >= 1.4
r3, w3 = pipe()
@case(lambda: os.write(w3, b'p'))
def poll(): p = select.poll(); p.register(r3, select.POLLIN); return p.poll(60000) == [(r3, select.POLLIN)]
r4, w4 = pipe()
@case(lambda: os.write(w4, b's'))
def select_(): return select.select([r4], [], [], 60)[0] == [r4]
r5, w5 = pipe()
ep = select.epoll(); ep.register(r5, select.EPOLLIN | select.EPOLLET)
@case(lambda: os.write(w5, b'e'))
def epoll(): return ep.poll(60) == [(r5, select.EPOLLIN)]
@case()
def nanosleep(): time.sleep(1.5); return time.monotonic() - started >= 1.5
@case(lambda: os.kill(os.getpid(), signal.SIGUSR1))
def sigwait(): return signal.sigwait({signal.SIGUSR1}) == signal.SIGUSR1
sf = libc.signalfd(-1, struct.pack('Q', 1 << (signal.SIGUSR2 - 1)), 0)
@case(lambda: os.kill(os.getpid(), signal.SIGUSR2))
def read_signalfd(): return struct.unpack('I', os.read(sf, 128)[:4])[0] == signal.SIGUSR2
f1 = open('/tmp/locked', 'w'); f2 = open('/tmp/locked', 'w')
fcntl.flock(f1, fcntl.LOCK_EX)
@case(lambda: fcntl.flock(f1, fcntl.LOCK_UN))
def flock(): return fcntl.flock(f2, fcntl.LOCK_EX)
@case()
def sem_timedwait():
    c = threading.Condition()
    with c: return c.wait(1.5), time.monotonic() - started >= 1.4
for t in threads: t.start()
open('/tmp/note', 'w').write('kept')
time.sleep(0.3)
print('ready', flush=True)
x = 0
deadline = time.monotonic() + 1.2
while time.monotonic() < deadline: x += 1
for wake in wakers: wake()
for t in threads: t.join(30)
assert not [t for t in threads if t.is_alive()], 'a thread is stuck'
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
