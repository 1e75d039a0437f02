//! What takes long: many generations of one guest, many clones at once. Needs hardware KVM: `cargo xtask test --hardware-kvm
//! linux-soak linux-clones linux-stress` runs these tests in its rig.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod guests;

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::process::{self, Command};

use linux_guest::{Beginning, Hardware, ReadyGuest};
use machine::Kvm;
use restore::{Record, RestoreStrategy};

use guests::{COMMAND_LINE, Saved, Spoken, hardware, hardware_with, kernel, own_memory, start};

fn booted(kvm: &Kvm, code: &str) -> Spoken {
    booted_on(kvm, hardware(), code)
}

fn booted_on(kvm: &Kvm, hardware: Hardware, code: &str) -> Spoken {
    let (kernel, initial_files) = kernel();
    let guest = ReadyGuest::new(kvm, hardware).unwrap().boot(&kernel, &initial_files, COMMAND_LINE).unwrap();
    let guest = Spoken::begin(guest, Beginning::Start(start(&["python3", "-c", code])));
    assert_eq!(guest.says(), "ready");
    guest
}

/// Holds 60 MiB of memory and a file of 40 MiB, all random. For each number it tells the checksum of both, writes the piece
/// with that number anew in both, and tells the checksum that they have then.
const HOLDS: &str = "
import os, sys, zlib
MIB = 1 << 20
memory = [os.urandom(MIB) for _ in range(60)]
with open('/tmp/file', 'wb') as file:
    for _ in range(40): file.write(os.urandom(MIB))
def checksums():
    with open('/tmp/file', 'rb') as file:
        return [zlib.crc32(piece) for piece in memory] + [zlib.crc32(file.read(MIB)) for _ in range(40)]
print('ready', flush=True)
for line in sys.stdin:
    number = int(line)
    found = checksums()
    before = str(found)
    memory[number] = os.urandom(MIB)
    piece = os.urandom(MIB)
    with open('/tmp/file', 'r+b') as file:
        file.seek(number * MIB)
        file.write(piece)
    found[number], found[60 + number] = zlib.crc32(memory[number]), zlib.crc32(piece)
    print(zlib.crc32(before.encode()), zlib.crc32(str(found).encode()), flush=True)
";

#[test]
#[ignore = "needs hardware KVM: `cargo xtask test --hardware-kvm linux-soak`"]
fn on_hardware_memory_and_files_are_the_same_after_ten_generations() {
    let folder = tempfile::tempdir().unwrap();
    let kvm = Kvm::open().unwrap();
    let checksums = |guest: &Spoken, number: u64| {
        guest.tell(&format!("{number}\n"));
        let said = guest.says();
        let (before, after) = said.split_once(' ').unwrap();
        (before.to_owned(), after.to_owned())
    };
    let guest = booted(&kvm, HOLDS);
    let (_, mut expected) = checksums(&guest, 0);
    let mut saved = Saved::of(&guest, folder.path(), "0");
    guest.end();
    let strategies = [RestoreStrategy::OnDemand, RestoreStrategy::FaaSnap, RestoreStrategy::Reap];
    for (generation, strategy) in (1..=10).zip(strategies.into_iter().cycle()) {
        // Without a recording these two restore on demand, and record.
        let record = match strategy {
            RestoreStrategy::OnDemand => Record::No,
            _ => Record::Always(Default::default()),
        };
        let restored = saved.restore(&kvm, strategy, record);
        let (before, after) = checksums(&restored.guest, generation);
        assert_eq!(before, expected, "generation {generation}");
        println!("generation {generation}, {strategy:?}: {} ms", restored.timeline.now_ns() / 1_000_000);
        expected = after;
        saved = Saved::of(&restored.guest, folder.path(), &generation.to_string());
        restored.end();
        fs::remove_dir_all(folder.path().join((generation - 1).to_string())).unwrap();
    }
}

const CLONES: usize = 20;

/// A control group for this process, with a limit that the kernel keeps. The process leaves it when this is dropped.
struct MemoryLimit {
    top: tempfile::TempDir,
}

impl MemoryLimit {
    const PROCESSES: &str = "cgroup.procs";

    fn begin(bytes: u64) -> Self {
        let limit = Self { top: tempfile::tempdir().unwrap() };
        let mut mount = Command::new("mount");
        assert!(mount.args(["-t", "cgroup2", "cgroup2"]).arg(limit.top.path()).status().unwrap().success());
        fs::write(limit.top.path().join("cgroup.subtree_control"), "+memory").unwrap();
        fs::create_dir(limit.group()).unwrap();
        fs::write(limit.group().join("memory.max"), bytes.to_string()).unwrap();
        fs::write(limit.group().join(Self::PROCESSES), process::id().to_string()).unwrap();
        limit
    }

    fn group(&self) -> PathBuf {
        self.top.path().join("clones")
    }

    /// The most bytes that were in use at once.
    fn peak(&self) -> u64 {
        fs::read_to_string(self.group().join("memory.peak")).unwrap().trim().parse().unwrap()
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        let _ = fs::write(self.top.path().join(Self::PROCESSES), process::id().to_string());
        let _ = fs::remove_dir(self.group());
        let _ = Command::new("umount").arg("-l").arg(self.top.path()).status();
    }
}

#[test]
#[ignore = "needs hardware KVM: `cargo xtask test --hardware-kvm linux-clones`"]
fn on_hardware_twenty_clones_run_at_once_in_two_gib() {
    let folder = tempfile::tempdir().unwrap();
    let limit = MemoryLimit::begin(2 << 30);
    let kvm = Kvm::open().unwrap();
    let code = "import os, sys\nprint('ready', flush=True)\n\
                for line in sys.stdin: print(line.strip(), os.urandom(8).hex(), flush=True)\n";
    let guest = booted(&kvm, code);
    let saved = Saved::of(&guest, folder.path(), "snapshot");
    guest.end();
    let clones: Vec<_> =
        (0..CLONES).map(|_| saved.restore(&kvm, RestoreStrategy::OnDemand, Record::No)).collect();
    let mut answers = HashSet::new();
    for round in 0..2 {
        for clone in &clones {
            clone.guest.tell(&format!("{round}\n"));
        }
        answers.extend(clones.iter().map(|clone| clone.guest.says()));
    }
    let (memory, peak) = (own_memory(), limit.peak() >> 20);
    println!(
        "{CLONES} clones take {memory} MiB; under a limit of 2048 MiB, page cache and kernel included, {peak} at most"
    );
    assert_eq!(answers.len(), 2 * CLONES);
    assert!((CLONES as u64..2048).contains(&memory), "{memory} MiB");
    assert!(peak > memory / 2, "nothing was counted: {peak} MiB");
    clones.into_iter().for_each(|clone| drop(clone.end()));
}

/// For each line runs stress-ng's stressors for some seconds, several at once, and tells its status and the end of what it said.
const STRESSES: &str = "
import subprocess, sys
stressors = '--cpu 1 --vm 1 --vm-bytes 32m --io 1 --hdd 1 --hdd-bytes 4m --fork 1 --sock 1'
print('ready', flush=True)
for line in sys.stdin:
    command = ['stress-ng', '--verify', '--temp-path', '/tmp', '--timeout', '10', *stressors.split()]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    print(line.strip(), done.returncode, repr(done.stdout[-400:]), flush=True)
";

#[test]
#[ignore = "needs hardware KVM: `cargo xtask test --hardware-kvm linux-stress`"]
fn on_hardware_stress_ng_passes_before_and_after_a_restore() {
    let folder = tempfile::tempdir().unwrap();
    let kvm = Kvm::open().unwrap();
    let stress = |guest: &Spoken, when: &str| {
        guest.tell(&format!("{when}\n"));
        let said = guest.says();
        println!("{said}");
        assert!(said.starts_with(&format!("{when} 0 ")), "{said}");
    };
    let guest = booted_on(&kvm, hardware_with("stress"), STRESSES);
    stress(&guest, "before");
    let saved = Saved::of(&guest, folder.path(), "snapshot");
    guest.end();
    let restored = saved.restore_on(&kvm, hardware_with("stress"), RestoreStrategy::OnDemand, Record::No);
    stress(&restored.guest, "after");
    restored.end();
}
