//! Debian's unmodified kernel in a microVM. Needs hardware KVM: `cargo xtask test --hardware-kvm` runs these tests in its rig.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod guests;

use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use guest_init::wire::Ended;
use linux_guest::{Beginning, GuestError, Program, ProgramEnd, ReadyGuest, Streams};
use machine::Kvm;
use pages::{PageCount, PageIndex, PageRange, PageSet};
use restore::{Record, RestoreStrategy};

use guests::{COMMAND_LINE, Saved, Spoken, hardware, kernel, own_memory, start, with_memory_ready};

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

#[test]
#[ignore = "needs hardware KVM: `cargo xtask test --hardware-kvm`"]
fn on_hardware_a_snapshot_is_restored_with_every_strategy() {
    let folder = tempfile::tempdir().unwrap();
    let kvm = Kvm::open().unwrap();
    let (kernel, initial_files) = kernel();
    // Booted in a machine that expected something else.
    let expected = PageSet::from_iter([PageRange::new(PageIndex(3), PageCount(5000))]);
    let (machine, ready) = with_memory_ready(&kvm, hardware(), &expected);
    assert!(ready.count().0 > 4900, "{ready:?}");
    let guest = machine.boot(&kernel, &initial_files, COMMAND_LINE).unwrap();
    let guest = Spoken::begin(guest, Beginning::Start(start(&["python3", "-c", ANSWERS])));
    assert_eq!(guest.says(), "ready");
    guest.tell("first\n");
    assert!(guest.says().starts_with("first 1 True"));

    // Saved between two lines; it goes on where it was.
    let saved = Saved::of(&guest, folder.path(), "snapshot");
    guest.tell("second\n");
    let mut answers = vec![guest.says()];
    guest.end();

    let on_demand = (RestoreStrategy::OnDemand, Record::No);
    let recorded = |strategy| [(strategy, Record::Always(Default::default())), (strategy, Record::No)];
    let ways = [on_demand, (RestoreStrategy::Cached, Record::No), (RestoreStrategy::Eager, Record::No)]
        .into_iter()
        .chain(recorded(RestoreStrategy::FaaSnap))
        .chain(recorded(RestoreStrategy::Reap));
    for (strategy, record) in ways {
        let restored = saved.restore(&kvm, strategy, record);
        restored.guest.tell("second\n");
        answers.push(restored.guest.says());
        let answered = restored.timeline.now_ns() / 1_000_000;
        let faults = restored.end();
        println!("{strategy:?} {record:?}: answered after {answered} ms, {faults}");
    }
    let (restored, placed) = saved.restore_in_ready_memory(&kvm);
    restored.guest.tell("second\n");
    answers.push(restored.guest.says());
    println!("in {placed} pages of ready memory: {}", restored.end());
    assert!(placed > 1000, "{placed}");
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
    assert_eq!(answers.len(), 9);
}

/// For each line takes 64 MiB, and frees them when it has read them again.
const TAKES: &str = "
import mmap, os, sys
MIB = 1 << 20
print('ready', flush=True)
for line in sys.stdin:
    piece, held = os.urandom(MIB), mmap.mmap(-1, 64 * MIB)
    for at in range(0, 64 * MIB, MIB): held[at:at + MIB] = piece
    same = all(held[at:at + MIB] == piece for at in range(0, 64 * MIB, MIB))
    print(line.strip(), same, flush=True)
    held.close()
";

/// How long the guest may keep memory after it has freed it; Linux reports it after two seconds or some more.
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
#[ignore = "needs hardware KVM: `cargo xtask test --hardware-kvm`"]
fn on_hardware_memory_that_is_free_goes_back_to_the_host() {
    let folder = tempfile::tempdir().unwrap();
    let kvm = Kvm::open().unwrap();
    let (kernel, initial_files) = kernel();
    let guest =
        ReadyGuest::new(&kvm, hardware()).unwrap().boot(&kernel, &initial_files, COMMAND_LINE).unwrap();
    let guest = Spoken::begin(guest, Beginning::Start(start(&["python3", "-c", TAKES])));
    assert_eq!(guest.says(), "ready");
    let saved = Saved::of(&guest, folder.path(), "snapshot");
    guest.end();

    // Twice: what went back is there again when it is used.
    let restored = saved.restore(&kvm, RestoreStrategy::OnDemand, Record::No);
    for round in ["first", "second"] {
        restored.guest.tell(&format!("{round}\n"));
        assert_eq!(restored.guest.says(), format!("{round} True"));
        let held = own_memory();
        let begun = Instant::now();
        while own_memory() + 32 > held && begun.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(200));
        }
        let (left, took) = (own_memory(), begun.elapsed());
        println!("{round}: {held} MiB with what was freed, {left} MiB {} s later", took.as_secs());
        assert!(left + 32 <= held, "{left} of {held} MiB");
    }
    restored.end();
}
