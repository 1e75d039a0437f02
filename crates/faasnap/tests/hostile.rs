//! Hostile programs in real guests: whatever they do, they end or are ended, and reach nothing of the host's.
//! What they do is in `guests/hostile.c`. The tests that need no more than KVM and a C compiler are not marked as ignored.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// A folder with a root that holds nothing but the program.
struct Prison {
    folder: tempfile::TempDir,
}

/// How a program ended, and what was said.
struct Ended {
    status: i32,
    out: String,
    err: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let status = output.status.code().expect("the worker itself was killed by a signal");
        Self { status, out: text(&output.stdout), err: text(&output.stderr) }
    }
}

impl Ended {
    /// The program came through and found nothing wrong.
    #[track_caller]
    fn through(self, what: &str) {
        assert_eq!(self.status, 0, "{}{}", self.out, self.err);
        assert!(self.out.contains(what), "{}{}", self.out, self.err);
    }

    /// The program was ended by this signal.
    #[track_caller]
    fn killed(self, signal: i32, message: &str) {
        assert_eq!(self.status, 128 + signal, "{}{}", self.out, self.err);
        assert!(self.err.contains(message), "{message:?} is missing in: {}", self.err);
    }
}

impl Prison {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        fs::create_dir(&root).unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests/hostile.c");
        let mut compiler = Command::new("cc");
        compiler.args(["-O1", "-Wall", "-Werror", "-static", "-pthread", "-o"]);
        let status = compiler.arg(root.join("hostile")).arg(source).status().unwrap();
        assert!(status.success(), "a C compiler with the static C library is needed");
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, memory: u32, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_faasnap"));
        command.arg("exec").arg("--memory").arg(memory.to_string()).arg("--root").arg(self.path("root"));
        command.args(["--", "/hostile"]).args(arguments).stdin(Stdio::null());
        command.env("FAASNAP_HOME", self.path("home"));
        command
    }

    fn run(&self, arguments: &[&str]) -> Ended {
        self.command(256, arguments).output().unwrap().into()
    }
}

#[test]
fn wild_pointers_in_every_system_call_harm_nobody() {
    Prison::new().run(&["wild"]).through("wild: ");
}

#[test]
fn unknown_system_calls_answer_enosys_and_are_summed_up() {
    let prison = Prison::new();
    prison.run(&["unknown"]).through("unknown: through");
    let said: Ended = prison.command(256, &["wild"]).arg("--verbose").output().unwrap().into();
    assert!(said.err.len() < 2000, "{}", said.err);
}

#[test]
fn an_endless_loop_ends_when_its_worker_is_told_to() {
    let prison = Prison::new();
    let mut child: Child = prison.command(64, &["loop"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "loop\n");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    // Whether by a handler or by the signal itself: it is gone.
    child.wait().unwrap();
}

#[test]
fn memory_has_its_limit_however_it_is_taken() {
    let prison = Prison::new();
    for way in ["mmap", "memfd"] {
        prison.run(&["memory", way]).killed(9, "it used more than 256 MB");
    }
    // These end by an errno: the size of /tmp, the number of descriptors, the number of areas.
    for way in ["file", "pipes", "sockets", "areas"] {
        let ended = prison.run(&["memory", way]);
        assert!(ended.status == 0 || ended.status == 137, "{way}: {}{}", ended.out, ended.err);
    }
}

#[test]
fn descriptors_end_with_emfile_and_come_back() {
    Prison::new().run(&["descriptors"]).through("descriptors: through");
}

#[test]
fn code_that_changes_runs_as_it_is_now() {
    Prison::new().run(&["code"]).through("code: through");
}

#[test]
fn a_bomb_of_threads_has_its_limit_and_goes_with_its_process() {
    Prison::new().run(&["threads"]).through("threads: 741");
}

#[test]
fn what_only_a_kernel_may_do_is_a_signal() {
    let prison = Prison::new();
    let (ill, trap, fpe, segv) = (4, 5, 8, 11);
    let expected = [
        &[segv][..],
        &[segv],
        &[segv],
        &[segv],
        &[trap],
        &[ill],
        // int 0x80: a guest has no 32-bit calls.
        &[segv, ill],
        &[segv],
        &[segv],
        // vmcall, vmmcall: another processor's is no instruction at all, and KVM refuses its own at CPL3.
        &[0, ill, segv],
        &[0, ill, segv],
        &[segv],
        &[segv],
        &[fpe],
        // sysenter
        &[ill, segv],
    ];
    for (number, signals) in expected.iter().enumerate() {
        let ended = prison.run(&["privileged", &number.to_string()]);
        let signal = if ended.status > 128 { ended.status - 128 } else { ended.status };
        assert!(signals.contains(&signal), "{number}: {} {}{}", ended.status, ended.out, ended.err);
    }
    assert_eq!(
        prison.run(&["privileged", &expected.len().to_string()]).status,
        77,
        "a case has no expectation"
    );
    prison.run(&["supervisor"]).through("fault at 0x7f8000001000");
    prison.run(&["own-memory"]).through("own memory: through");
}

#[test]
fn nothing_leads_out_of_a_guest() {
    let prison = Prison::new();
    let work = prison.path("work");
    fs::create_dir_all(work.join("folder")).unwrap();
    fs::create_dir_all(work.join("inside")).unwrap();
    fs::write(prison.path("secret"), "the host's secret").unwrap();
    symlink("../secret", work.join("upwards")).unwrap();
    symlink(prison.path("secret"), work.join("absolute")).unwrap();
    symlink("folder/../../secret", work.join("link")).unwrap();
    let _by_path = UnixListener::bind(work.join("socket")).unwrap();
    let name = format!("faasnap-test-{}", std::process::id());
    let abstract_name = SocketAddr::from_abstract_name(&name).unwrap();
    let _abstract = UnixListener::bind_addr(&abstract_name).unwrap();
    let tcp = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = tcp.local_addr().unwrap().port().to_string();
    let make = |name: &str, kind, device| {
        use rustix::fs::{CWD, Mode, mknodat};
        mknodat(CWD, work.join(name), kind, Mode::from_raw_mode(0o666), device)
    };
    make("fifo", rustix::fs::FileType::Fifo, 0).unwrap();
    // Only root can make one; then the guest must not open it.
    let _ = make("device", rustix::fs::FileType::CharacterDevice, rustix::fs::makedev(1, 8));

    let mut command = Command::new(env!("CARGO_BIN_EXE_faasnap"));
    command.args(["exec", "--memory", "256", "--root"]).arg(prison.path("root"));
    command.arg("--bind").arg(format!("{}:/work", work.display()));
    command.args(["--", "/hostile", "escape", &name, &port]).stdin(Stdio::null());
    let ended: Ended = command.env("FAASNAP_HOME", prison.path("home")).output().unwrap().into();
    ended.through("escape: through");
    // What it made in its own folder is the host's to judge: a link is a link, and the secret is where it was.
    assert_eq!(fs::read_to_string(prison.path("secret")).unwrap(), "the host's secret");
}
