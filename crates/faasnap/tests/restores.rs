//! Restores that meet what can go wrong: recordings that are missing, damaged or not theirs, wrong bytes, files that vanish,
//! recorders that die or meet; and memory compared page by page.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod function_home;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use function_home::{Home, Ran, prepared};
use serde_json::Value;

/// Answers with how many bytes of new memory it made, all of them checked; waits as long as it is told to.
const FUNCTION: &str = "\
import mmap, time
kept = mmap.mmap(-1, 8 << 20)
kept.write(b'x' * (8 << 20))
table = [str(number) for number in range(50000)]
def handler(event, context):
    if event.get('free'):
        global kept
        kept.close()
        kept = mmap.mmap(-1, 8 << 20)
        return kept.read().count(0)
    if event.get('write'):
        for at in range(0, 8 << 20, 4096):
            kept[at] = 121
    if event.get('seconds'):
        print('begun', flush=True)
    time.sleep(event.get('seconds', 0))
    fresh = bytearray(event.get('megabytes', 0) << 20)
    return len(fresh) - sum(fresh[::4096]) + sum(len(text) for text in table[::7]) * 0
";

/// A home with a snapshot of [`FUNCTION`].
fn snapshotted() -> Home {
    let home = Home::new();
    home.python("f", FUNCTION, &[]);
    home.run(&["snapshot", "create", "f"]).good();
    home
}

fn shown(home: &Home) -> Value {
    serde_json::from_str(&home.run(&["snapshot", "show", "f", "--json"]).good()).unwrap()
}

fn directory(home: &Home) -> PathBuf {
    PathBuf::from(shown(home)["path"].as_str().unwrap())
}

/// Why the recording of `faasnap` can't be used.
fn problem(home: &Home) -> Option<String> {
    shown(home)["recordings"][0]["problem"].as_str().map(str::to_owned)
}

/// Changes the byte at `offset` of a file.
fn damage(path: &Path, offset: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0xff], offset).unwrap();
}

/// An invocation that goes on in the background, once its handler has begun.
struct Running(Child);

impl Running {
    fn start(home: &Home, more: &[&str]) -> Self {
        let log = home.0.path().join("log");
        fs::write(&log, "").unwrap();
        let file = OpenOptions::new().append(true).open(&log).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_faasnap"))
            .args(["invoke", "f", "--log", "--payload", r#"{"seconds":2}"#])
            .args(more)
            .env("FAASNAP_HOME", home.0.path().join("home"))
            .stdout(Stdio::piped())
            .stderr(file)
            .spawn()
            .unwrap();
        let limit = Instant::now() + Duration::from_secs(60);
        while !fs::read_to_string(&log).unwrap().contains("begun") {
            assert!(Instant::now() < limit, "{}", fs::read_to_string(&log).unwrap());
            thread::sleep(Duration::from_millis(10));
        }
        Self(child)
    }

    fn end(self, home: &Home) -> Ran {
        let mut ran = Ran::of(self.0.wait_with_output().unwrap());
        ran.err = fs::read_to_string(home.0.path().join("log")).unwrap();
        ran
    }

    /// Its descendants that run as workers.
    fn workers(&self) -> Vec<i32> {
        let parent = |pid: i32| -> Option<i32> {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
        };
        let all: Vec<i32> = fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect();
        let own = i32::try_from(self.0.id()).unwrap();
        let descends = |pid: &i32| {
            let mut above = parent(*pid);
            while let Some(pid) = above.filter(|pid| *pid > 1) {
                if pid == own {
                    return true;
                }
                above = parent(pid);
            }
            false
        };
        all.into_iter().filter(descends).collect()
    }
}

#[test]
#[ignore = "needs /dev/kvm and what `cargo xtask test` prepares"]
fn the_first_restore_is_recorded_and_later_ones_go_by_it() {
    let home = snapshotted();
    assert!(problem(&home).unwrap().contains("nothing has been recorded"));
    let first = home.run(&["invoke", "f"]);
    assert_eq!((first.err.as_str(), first.status), ("", Some(0)));
    assert_eq!(problem(&home), None);
    let second: Value = serde_json::from_str(&home.run(&["invoke", "f", "--json"]).good()).unwrap();
    let timeline = &second["timeline"];
    assert_eq!(
        (&timeline["strategy"], &timeline["fell_back"], &timeline["recorded"]),
        (&"faasnap".into(), &Value::Null, &false.into())
    );
    // An invocation that reads and writes much more makes the next of its kind be recorded, too, and added.
    let size = || shown(&home)["classes"]["loading_set"].as_u64().unwrap();
    let recorded = |more: &[&str]| -> bool {
        let line = [&["invoke", "f", "--json"][..], more].concat();
        let report: Value = serde_json::from_str(&home.run(&line).good()).unwrap();
        report["timeline"]["recorded"].as_bool().unwrap()
    };
    let before = size();
    let other = ["--payload", r#"{"write":true}"#];
    assert_eq!([recorded(&other), recorded(&other), recorded(&other)], [false, true, false]);
    assert!(size() > before + (4 << 20), "{before} {}", size());
    // Asked for, it is recorded again in any case.
    assert!(recorded(&["--record"]));
    assert!(size() > before + (4 << 20));
    let picture = home.0.path().join("memory.svg");
    home.run(&["snapshot", "show", "f", "--svg", picture.to_str().unwrap()]).good();
    assert!(fs::read_to_string(picture).unwrap().starts_with("<svg"));
}

#[test]
#[ignore = "needs /dev/kvm and what `cargo xtask test` prepares"]
fn every_way_gives_the_same_memory() {
    let home = snapshotted();
    for strategy in ["reap", "faasnap"] {
        home.run(&["invoke", "f", "--strategy", strategy]).good();
    }
    for more in [
        &["--strategy", "on-demand"][..],
        &["--strategy", "cached"],
        &["--strategy", "eager"],
        &["--strategy", "reap"],
        &["--strategy", "faasnap"],
        &["--without", "weighing"],
        &["--without", "concurrent-paging,neighbours-ahead"],
        &["--without", "populate,per-region-mapping"],
    ] {
        // More memory than was recorded.
        let payload = ["invoke", "f", "--verify-memory", "--payload", r#"{"megabytes":48}"#];
        let ran = home.run(&[&payload[..], more].concat());
        assert!(ran.err.contains("memory verified: "), "{more:?}: {}{}", ran.out, ran.err);
        assert_eq!(ran.good(), format!("{}\n", 48 << 20), "{more:?}");
        // Memory that was given back and mapped again.
        let freed = home.run(&[&["invoke", "f", "--payload", r#"{"free":true}"#][..], more].concat());
        assert_eq!(freed.good(), format!("{}\n", 8 << 20), "{more:?}");
    }
    assert_eq!(home.run(&["invoke", "f", "--strategy", "warm"]).good(), "0\n");
    assert_eq!(home.run(&["invoke", "f", "--strategy", "cold"]).good(), "0\n");
    let refused = home.run(&["invoke", "f", "--strategy", "cold", "--verify-memory"]);
    assert!(refused.err.contains("this boots"), "{}", refused.err);
}

#[test]
#[ignore = "needs /dev/kvm and what `cargo xtask test` prepares"]
fn blocks_that_are_known_nearly_whole_are_huge_pages() {
    let home = snapshotted();
    let write = ["invoke", "f", "--payload", r#"{"write":true}"#];
    home.run(&write).good();
    let report = |more: &[&str]| -> Value {
        let line = [&write[..], &["--json"], more].concat();
        serde_json::from_str(&home.run(&line).good()).unwrap()
    };
    let huge = |report: &Value| report["timeline"]["loading_set"]["huge_bytes"].as_u64().unwrap();
    // Of 8 MiB three blocks are whole, wherever they begin.
    assert!(huge(&report(&[])) >= 6 << 20);
    assert_eq!(huge(&report(&["--without", "huge-blocks"])), 0);
    let decoded = |report: &Value| report["timeline"]["loading_set"]["decoded_bytes"].as_u64().unwrap();
    let compressed = &shown(&home)["recordings"][0]["compressed_bytes"];
    // By what the disk was found to be good at; what is in the page cache is not decoded.
    for name in ["loading-set", "memory"] {
        let file = fs::File::open(directory(&home).join(name)).unwrap();
        rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    }
    assert_eq!(decoded(&report(&[])) > 0, compressed.is_u64(), "{compressed}");
    assert_eq!(decoded(&report(&["--without", "compressed"])), 0);
    assert!(huge(&report(&["--verify-memory", "--without", "ready-memory"])) >= 6 << 20);
    for more in [&["--verify-memory"][..], &["--without", "late-blocks"]] {
        let ran = home.run(&[&write[..], more].concat());
        assert_eq!(ran.good(), "0\n", "{more:?}");
    }
    // Given back and mapped again.
    let freed = home.run(&["invoke", "f", "--payload", r#"{"free":true}"#]);
    assert_eq!(freed.good(), format!("{}\n", 8 << 20));
    // Damaged, it is never seen.
    let path = directory(&home).join("loading-set");
    let length = fs::metadata(&path).unwrap().len();
    (0..length).rev().step_by(1 << 20).for_each(|offset| damage(&path, offset));
    // Whatever the disk was found to be good at, it is read.
    let ran = home.run(&[&write[..], &["--without", "weighing,compressed"]].concat());
    assert!(matches!(ran.status, Some(1 | 3)), "{:?}", ran.status);
    assert!(path.with_file_name("loading-set.quarantined").exists());
    assert_eq!(home.run(&write).good(), "0\n");
}

#[test]
#[ignore = "needs /dev/kvm and what `cargo xtask test` prepares"]
fn a_recording_that_can_not_be_used_is_made_again() {
    let home = snapshotted();
    home.run(&["invoke", "f"]).good();
    let path = directory(&home).join("loading-set");
    let good = fs::read(&path).unwrap();
    // Of another snapshot of the same function.
    home.run(&["snapshot", "create", "f"]).good();
    home.run(&["invoke", "f"]).good();
    let stranger = directory(&home).join("loading-set");
    assert_ne!(stranger, path);
    let own = fs::read(&stranger).unwrap();
    let mut cut = own.clone();
    cut.truncate(own.len() / 2);
    let mut flipped = own.clone();
    flipped[70] ^= 1;
    for (content, why) in [(&good, "made for another snapshot"), (&cut, "damaged"), (&flipped, "damaged")] {
        fs::write(&stranger, content).unwrap();
        assert!(problem(&home).unwrap().contains(why), "{:?}", problem(&home));
        let ran = home.run(&["invoke", "f"]);
        assert!(ran.err.contains("restoring on demand instead of by faasnap"), "{}", ran.err);
        assert_eq!(ran.good(), "0\n");
        assert_eq!(problem(&home), None, "it was recorded again");
    }
    fs::write(&stranger, &cut).unwrap();
    let ran = home.run(&["invoke", "f", "--no-record"]);
    assert!(ran.err.contains("restoring on demand"), "{}", ran.err);
    assert!(problem(&home).unwrap().contains("damaged"));
}

/// Changes a byte of every 64 KiB of a loading-set file but for its head and table: pages, whether they are there compressed as
/// well or not.
fn damage_pages(path: &Path) {
    let length = fs::metadata(path).unwrap().len();
    (length / 4..length).rev().step_by(64 << 10).for_each(|offset| damage(path, offset));
}

#[test]
#[ignore = "needs /dev/kvm and what `cargo xtask test` prepares"]
fn a_chunk_that_is_not_what_it_was_ends_the_call_and_the_file_is_set_aside() {
    let home = snapshotted();
    home.run(&["invoke", "f"]).good();
    let path = directory(&home).join("loading-set");
    damage_pages(&path);
    let slow = ["invoke", "f", "--without", "weighing,compressed", "--payload", r#"{"seconds":2}"#];
    // Found while the instance was being restored, or while its function ran.
    let ran = home.run(&slow);
    assert!(matches!(ran.status, Some(1 | 3)), "{:?}", ran.status);
    let text = ran.out + &ran.err;
    assert!(text.contains("loading-set at byte") && text.contains("doesn't match its checksum"), "{text}");
    assert!(text.contains("quarantined"), "{text}");
    assert!(problem(&home).unwrap().contains("nothing has been recorded"));
    assert!(path.with_file_name("loading-set.quarantined").exists());
    assert_eq!(home.run(&["invoke", "f", "--verify-memory"]).good(), "0\n");
    assert_eq!(home.run(&["invoke", "f"]).good(), "0\n");
    assert_eq!(problem(&home), None);
}

#[test]
#[ignore = "needs /dev/kvm and what `cargo xtask test` prepares"]
fn a_wrong_page_is_found_by_comparing_all_of_memory() {
    let home = snapshotted();
    home.run(&["invoke", "f"]).good();
    // The compact file is mapped, and nobody compares its checksums before the guest runs: only the comparison can tell.
    let path = directory(&home).join("loading-set");
    damage_pages(&path);
    let ran = home.run(&["invoke", "f", "--without", "weighing,compressed", "--verify-memory"]);
    assert_ne!(ran.status, Some(0), "{}{}", ran.out, ran.err);
    let text = ran.out + &ran.err;
    assert!(text.contains("not what the snapshot says") || text.contains("its checksum"), "{text}");
}

#[test]
#[ignore = "needs /dev/kvm and what `cargo xtask test` prepares"]
fn files_that_vanish_under_an_instance_are_no_loss_to_it() {
    let home = snapshotted();
    home.run(&["invoke", "f"]).good();
    let running = Running::start(&home, &[]);
    for entry in fs::read_dir(directory(&home)).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    let ran = running.end(&home);
    assert_eq!((ran.out.as_str(), ran.status), ("0\n", Some(0)), "{}", ran.err);
}

#[test]
#[ignore = "needs /dev/kvm and what `cargo xtask test` prepares"]
fn recorders_that_die_or_meet_leave_the_snapshot_usable() {
    let home = snapshotted();
    let running = Running::start(&home, &[]);
    // A second one while the first records: it answers, unrecorded.
    let beside = home.run(&["invoke", "f"]);
    assert!(beside.err.contains("not recorded"), "{}", beside.err);
    assert_eq!(beside.good(), "0\n");
    let workers = running.workers();
    assert!(!workers.is_empty());
    let pids: Vec<String> = workers.iter().map(ToString::to_string).collect();
    assert!(Command::new("kill").arg("-9").args(&pids).status().unwrap().success());
    let killed = running.end(&home);
    assert_eq!(killed.status, Some(3), "{}{}", killed.out, killed.err);
    assert!(killed.err.contains("worker ended") || killed.err.contains("signal"), "{}", killed.err);
    // Nothing half-made is left, and nothing is locked.
    assert!(problem(&home).unwrap().contains("nothing has been recorded"));
    let next = home.run(&["invoke", "f"]);
    assert_eq!(next.err, "");
    assert_eq!(next.good(), "0\n");
    assert_eq!(problem(&home), None);
    home.run(&["snapshot", "verify", "f"]).good();
}

/// A file system of its own in the place of a folder, with what the folder held.
struct SmallDisk {
    mounted: PathBuf,
    _image: tempfile::TempDir,
}

impl SmallDisk {
    /// None where a file can't be mounted as a disk. `free` is its room beyond what the folder holds, in bytes.
    fn over(folder: &Path, free: u64) -> Option<Self> {
        let image = tempfile::tempdir_in(prepared("FAASNAP_TEST_HOME").parent().unwrap()).unwrap();
        let (file, copy) = (image.path().join("disk"), image.path().join("copy"));
        let run = |program: &str, arguments: &[&Path]| {
            Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
        };
        assert!(run("cp", &["--sparse=always".as_ref(), "-r".as_ref(), folder, &copy]));
        fs::File::create(&file).unwrap().set_len(64 << 20).unwrap();
        let options = ["-q", "-m", "0", "-O", "^has_journal", "-d"].map(Path::new);
        if !run("mkfs.ext4", &[&options[..], &[&copy, &file]].concat())
            || !run("mount", &["-o".as_ref(), "loop".as_ref(), &file, folder])
        {
            return None;
        }
        let disk = Self { mounted: folder.to_owned(), _image: image };
        let statistics = rustix::fs::statvfs(folder).unwrap();
        let filler = (statistics.f_bavail * statistics.f_frsize).checked_sub(free).unwrap();
        fs::write(folder.join("filler"), vec![1; usize::try_from(filler).unwrap()]).unwrap();
        Some(disk)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Command::new("umount").arg(&self.mounted).status().unwrap();
    }
}

#[test]
#[ignore = "needs /dev/kvm and what `cargo xtask test` prepares"]
fn a_disk_that_fills_up_while_it_is_recorded_loses_the_recording_only() {
    let home = snapshotted();
    let folder = directory(&home);
    let Some(_disk) = SmallDisk::over(&folder, 256 << 10) else {
        eprintln!("NOT TESTED: a file can't be mounted as a disk here (root and loop devices are needed)");
        return;
    };
    let names = || {
        let mut names: Vec<_> =
            fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = names();
    let full = home.run(&["invoke", "f"]);
    assert!(full.err.contains("was not kept") && full.err.contains("No space left"), "{}", full.err);
    assert_eq!(full.good(), "0\n");
    assert_eq!(names(), before, "something half-made was left");
    assert!(problem(&home).unwrap().contains("nothing has been recorded"));
    // With room again the next restore is recorded.
    fs::remove_file(folder.join("filler")).unwrap();
    assert_eq!(home.run(&["invoke", "f"]).good(), "0\n");
    assert_eq!(problem(&home), None);
    home.run(&["snapshot", "verify", "f"]).good();
}
